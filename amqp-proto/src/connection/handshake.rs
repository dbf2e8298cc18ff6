use alloc::borrow::ToOwned as _;
use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::time::Instant;

use super::{Connection, ConnectionPhase, Side};
use crate::event::{Event, Negotiated, ServerEvent};
use crate::method::{
    ConnectionOpen, ConnectionOpenOk, ConnectionSecure, ConnectionSecureOk, ConnectionStart,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk, Method,
};
use crate::outbound::effective_frame_max;
use crate::sasl::SaslExchange;
use crate::wire::{FieldTable, LongStr, ShortStr};
use crate::{
    CommandError, ConnectStep, ConnectionError, FRAME_MIN_SIZE, LoginError, Misuse, SaslError,
    Violation,
};

/// No mechanism needs more rounds; a server that continues to ask is broken or hostile.
const MAX_CHALLENGES: u32 = 16;

/// The state of the handshake: the next method that is expected.
pub(super) enum Handshake {
    // The client's side.
    AwaitStart,
    AwaitTune {
        login: Login,
        server_properties: FieldTable,
    },
    AwaitOpenOk(Agreed),
    // The server's side.
    AwaitHeader,
    AwaitStartOk,
    /// The application decides about the credentials.
    Deciding {
        client_properties: FieldTable,
    },
    AwaitSecureOk {
        client_properties: FieldTable,
    },
    AwaitTuneOk {
        client_properties: FieldTable,
    },
    AwaitOpen(Agreed),
    /// The application decides about the virtual host.
    Opening(Agreed),
}

/// The client's SASL exchange.
pub(super) struct Login {
    mechanism: String,
    exchange: Box<dyn SaslExchange>,
    challenges: u32,
}

/// The result of tuning.
pub(super) struct Agreed {
    peer_properties: FieldTable,
    channel_max: u16,
    frame_max: u32,
    heartbeat: Duration,
}

impl Handshake {
    pub(super) const fn waiting_for(&self) -> &'static str {
        match self {
            Self::AwaitStart => "connection.start",
            Self::AwaitTune { .. } => "connection.tune",
            Self::AwaitOpenOk(_) => "connection.open-ok",
            Self::AwaitHeader => "the protocol header",
            Self::AwaitStartOk => "connection.start-ok",
            Self::Deciding { .. } => "a decision about the login",
            Self::AwaitSecureOk { .. } => "connection.secure-ok",
            Self::AwaitTuneOk { .. } => "connection.tune-ok",
            Self::AwaitOpen(_) => "connection.open",
            Self::Opening(_) => "a decision about the virtual host",
        }
    }

    /// Returns the step of connecting that this is a part of.
    const fn connect_step(&self) -> ConnectStep {
        match self {
            Self::AwaitStart | Self::AwaitHeader => ConnectStep::ProtocolHeader,
            Self::AwaitTune { .. } | Self::AwaitStartOk => ConnectStep::Sasl,
            Self::Deciding { .. } | Self::AwaitSecureOk { .. } => ConnectStep::Sasl,
            Self::AwaitTuneOk { .. } => ConnectStep::Tune,
            Self::AwaitOpenOk(_) | Self::AwaitOpen(_) | Self::Opening(_) => {
                ConnectStep::VirtualHost
            }
        }
    }

    /// A client that waits for the verdict on its credentials.
    pub(super) const fn credentials_sent(&self) -> bool {
        matches!(self, Self::AwaitTune { .. })
    }

    /// Returns whether `connection.close` may be sent at this point: each end must have received something from the other.
    pub(super) const fn may_close(&self) -> bool {
        !matches!(self, Self::AwaitStart | Self::AwaitHeader)
    }
}

impl Connection {
    /// Returns whether nothing is known of the peer yet: it may speak another protocol.
    pub(super) const fn awaits_first_bytes(&self) -> bool {
        matches!(
            &self.state,
            Ok(ConnectionPhase::Handshake(Handshake::AwaitStart | Handshake::AwaitHeader))
        )
    }

    pub(super) fn receive_in_handshake(
        &mut self,
        now: Instant,
        method: Method,
    ) -> Result<(), ConnectionError> {
        let misplaced = Violation::UnexpectedMethod { method: method.facts().name };
        let Ok(ConnectionPhase::Handshake(step)) =
            core::mem::replace(&mut self.state, Ok(ConnectionPhase::Open))
        else {
            return Err(misplaced.into());
        };
        let next = match (step, method) {
            (Handshake::AwaitStart, Method::ConnectionStart(start)) => self.start_ok(start)?,
            (
                Handshake::AwaitTune { login, server_properties },
                Method::ConnectionSecure(secure),
            ) => self.secure_ok(login, server_properties, &secure)?,
            (Handshake::AwaitTune { server_properties, .. }, Method::ConnectionTune(tune)) => {
                self.tune_ok(now, server_properties, &tune)?
            }
            (Handshake::AwaitOpenOk(agreed), Method::ConnectionOpenOk(_)) => {
                self.opened(agreed);
                return Ok(());
            }
            (Handshake::AwaitStartOk, Method::ConnectionStartOk(start_ok)) => {
                let client_properties = start_ok.client_properties;
                self.outbound.events.push(Event::Server(ServerEvent::Login {
                    mechanism: start_ok.mechanism,
                    response: start_ok.response,
                    client_properties: client_properties.clone(),
                }));
                Handshake::Deciding { client_properties }
            }
            (
                Handshake::AwaitSecureOk { client_properties },
                Method::ConnectionSecureOk(secure_ok),
            ) => {
                let response = secure_ok.response;
                let event = ServerEvent::LoginResponse { response };
                self.outbound.events.push(Event::Server(event));
                Handshake::Deciding { client_properties }
            }
            (Handshake::AwaitTuneOk { client_properties }, Method::ConnectionTuneOk(tune_ok)) => {
                self.tuned(now, client_properties, &tune_ok)?
            }
            (Handshake::AwaitOpen(agreed), Method::ConnectionOpen(open)) => {
                let virtual_host = open.virtual_host;
                self.outbound.events.push(Event::Server(ServerEvent::Open { virtual_host }));
                Handshake::Opening(agreed)
            }
            (step, _) => {
                self.state = Ok(ConnectionPhase::Handshake(step));
                return Err(misplaced.into());
            }
        };
        self.connect_step = Some(next.connect_step());
        self.state = Ok(ConnectionPhase::Handshake(next));
        Ok(())
    }

    /// Client: chooses a mechanism and logs in.
    fn start_ok(&mut self, start: ConnectionStart) -> Result<Handshake, ConnectionError> {
        let Side::Client(config) = &self.side else {
            return Err(Violation::UnexpectedMethod { method: "connection.start" }.into());
        };
        if (start.version_major, start.version_minor) != (0, 9) {
            return Err(crate::WrongProtocol::Version {
                id: 0,
                major: start.version_major,
                minor: start.version_minor,
                revision: 0,
            }
            .into());
        }
        let offered = start.mechanisms.to_string();
        let is_offered = |name: &str| offered.split(' ').any(|offer| offer == name);
        let Some(mechanism) = config.mechanisms.iter().find(|own| is_offered(own.name())) else {
            let configured: Vec<_> = config.mechanisms.iter().map(|own| own.name()).collect();
            let configured = configured.join(" ");
            return Err(LoginError::NoCommonMechanism { offered, configured }.into());
        };
        let mut login = Login {
            mechanism: mechanism.name().to_owned(),
            exchange: mechanism.begin(),
            challenges: 0,
        };
        let failed = |error| LoginError::Mechanism { mechanism: login.mechanism.clone(), error };
        let response = login.exchange.respond(None).map_err(failed)?;
        let start_ok = ConnectionStartOk {
            client_properties: config
                .announced_properties()
                .map_err(LoginError::ClientProperties)?,
            mechanism: ShortStr::named("mechanism name", login.mechanism.clone())
                .map_err(|error| failed(SaslError::Name(error)))?,
            response,
            locale: config.locale.clone(),
        };
        self.send_in_handshake(start_ok.into())?;
        self.outbound.transmit.holds_secret();
        let server_properties = start.server_properties;
        Ok(Handshake::AwaitTune { login, server_properties })
    }

    /// Client: replies to a challenge.
    fn secure_ok(
        &mut self,
        mut login: Login,
        server_properties: FieldTable,
        secure: &ConnectionSecure,
    ) -> Result<Handshake, ConnectionError> {
        login.challenges += 1;
        if login.challenges > MAX_CHALLENGES {
            return Err(Violation::TooManyChallenges { limit: MAX_CHALLENGES }.into());
        }
        let response = login.exchange.respond(Some(secure.challenge.as_bytes()));
        let failed = |error| LoginError::Mechanism { mechanism: login.mechanism.clone(), error };
        let response = response.map_err(failed)?;
        self.send_in_handshake(ConnectionSecureOk { response }.into())?;
        self.outbound.transmit.holds_secret();
        Ok(Handshake::AwaitTune { login, server_properties })
    }

    /// Client: settles the limits, and goes on to open the virtual host without waiting.
    fn tune_ok(
        &mut self,
        now: Instant,
        server_properties: FieldTable,
        tune: &ConnectionTune,
    ) -> Result<Handshake, ConnectionError> {
        let Side::Client(config) = &self.side else {
            return Err(Violation::UnexpectedMethod { method: "connection.tune" }.into());
        };
        if tune.frame_max != 0 && tune.frame_max < FRAME_MIN_SIZE {
            let (value, bound) = (tune.frame_max, FRAME_MIN_SIZE);
            return Err(Violation::BadTune { what: "frame_max", value, bound }.into());
        }
        let own = whole_seconds(config.heartbeat);
        let heartbeat = if own == 0 { 0 } else { lower(tune.heartbeat, own) };
        let limits = config.limits;
        let tune_ok = ConnectionTuneOk {
            channel_max: lower(tune.channel_max, limits.channel_max),
            frame_max: lower(tune.frame_max, effective_frame_max(limits.frame_max)),
            heartbeat,
        };
        let open = ConnectionOpen {
            virtual_host: config.virtual_host.clone(),
            ..ConnectionOpen::default()
        };
        self.outbound.send_small(0, &tune_ok);
        self.outbound.send_small(0, &open);
        Ok(Handshake::AwaitOpenOk(self.agree(now, server_properties, &tune_ok)))
    }

    /// Server: sends `connection.start`.
    pub(super) fn start_as_server(&mut self) -> Result<(), ConnectionError> {
        let Side::Server(config) = &self.side else {
            return Ok(());
        };
        let start = ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: config.server_properties.clone(),
            mechanisms: LongStr::from(config.mechanisms.clone()),
            locales: LongStr::from("en_US"),
        };
        self.send_in_handshake(start.into())?;
        self.state = Ok(ConnectionPhase::Handshake(Handshake::AwaitStartOk));
        Ok(())
    }

    /// Servers: asks the client's mechanism for one more response.
    ///
    /// # Errors
    /// [`CommandError`], unless the client waits for a verdict on its credentials.
    pub fn challenge(&mut self, challenge: LongStr) -> Result<(), CommandError> {
        let client_properties = self.decide_login()?;
        self.outbound.send(0, &ConnectionSecure { challenge }.into())?;
        self.state = Ok(ConnectionPhase::Handshake(Handshake::AwaitSecureOk { client_properties }));
        Ok(())
    }

    /// Servers: the credentials are good. Goes on to tune.
    ///
    /// # Errors
    /// [`CommandError`], unless the client waits for a verdict on its credentials.
    pub fn accept_login(&mut self) -> Result<(), CommandError> {
        let client_properties = self.decide_login()?;
        let Side::Server(config) = &self.side else {
            return Err(Misuse::WrongSide("server").into());
        };
        let tune = ConnectionTune {
            channel_max: config.limits.channel_max,
            frame_max: config.limits.frame_max,
            heartbeat: whole_seconds(config.heartbeat),
        };
        self.outbound.send_small(0, &tune);
        self.state = Ok(ConnectionPhase::Handshake(Handshake::AwaitTuneOk { client_properties }));
        Ok(())
    }

    /// Servers: the virtual host is there, and the client may use it.
    ///
    /// # Errors
    /// [`CommandError`], unless the client waits for it.
    pub fn accept_open(&mut self) -> Result<(), CommandError> {
        match core::mem::replace(&mut self.state, Ok(ConnectionPhase::Open)) {
            Ok(ConnectionPhase::Handshake(Handshake::Opening(agreed))) => {
                self.outbound.send_small(0, &ConnectionOpenOk::default());
                self.opened(agreed);
                Ok(())
            }
            other => {
                self.state = other;
                Err(Misuse::NotAwaited.into())
            }
        }
    }

    fn decide_login(&self) -> Result<FieldTable, Misuse> {
        match &self.state {
            Ok(ConnectionPhase::Handshake(Handshake::Deciding { client_properties })) => {
                Ok(client_properties.clone())
            }
            _ => Err(Misuse::NotAwaited),
        }
    }

    /// Server: checks the limits that the client chose. It may lower them, not raise them.
    fn tuned(
        &mut self,
        now: Instant,
        client_properties: FieldTable,
        tune_ok: &ConnectionTuneOk,
    ) -> Result<Handshake, ConnectionError> {
        let limits = self.outbound.limits;
        let raises = |own: u32, theirs: u32| own != 0 && (theirs == 0 || theirs > own);
        let bad = |what, value, bound| Violation::BadTune { what, value, bound };
        let (channel_max, channels) = (tune_ok.channel_max.into(), limits.channel_max.into());
        if raises(channels, channel_max) {
            return Err(bad("channel_max", channel_max, channels).into());
        }
        let frame_max = tune_ok.frame_max;
        if raises(limits.frame_max, frame_max) {
            return Err(bad("frame_max", frame_max, limits.frame_max).into());
        }
        if (1..FRAME_MIN_SIZE).contains(&frame_max) {
            return Err(bad("frame_max", frame_max, FRAME_MIN_SIZE).into());
        }
        Ok(Handshake::AwaitOpen(self.agree(now, client_properties, tune_ok)))
    }

    /// The limits hold from here on.
    fn agree(
        &mut self,
        now: Instant,
        peer_properties: FieldTable,
        tune_ok: &ConnectionTuneOk,
    ) -> Agreed {
        let heartbeat = Duration::from_secs(tune_ok.heartbeat.into());
        self.channels.set_max(tune_ok.channel_max);
        self.outbound.frame_max = effective_frame_max(tune_ok.frame_max);
        self.timers.start_heartbeats(now, heartbeat);
        Agreed {
            peer_properties,
            channel_max: self.channels.max(),
            frame_max: self.outbound.frame_max,
            heartbeat,
        }
    }

    /// The handshake has completed.
    fn opened(&mut self, agreed: Agreed) {
        self.state = Ok(ConnectionPhase::Open);
        self.connect_step = None;
        self.timers.clear_deadline();
        let negotiated = Negotiated {
            peer_properties: agreed.peer_properties,
            channel_max: agreed.channel_max,
            frame_max: agreed.frame_max,
            heartbeat: agreed.heartbeat,
        };
        self.outbound.nacks = negotiated.peer_can("basic.nack");
        self.negotiated = Some(Arc::new(negotiated.clone()));
        self.outbound.events.push(Event::Opened(Box::new(negotiated)));
    }

    /// Queues a method whose size depends on what the application configured.
    fn send_in_handshake(&mut self, method: Method) -> Result<(), ConnectionError> {
        match self.outbound.send(0, &method) {
            Err(CommandError::Misuse(Misuse::TooLarge { method, size, frame_max })) => {
                Err(ConnectionError::HandshakeTooLarge { method, size, frame_max })
            }
            _ => Ok(()),
        }
    }
}

/// The lower of two limits, of which 0 means none.
fn lower<T: Ord + Default>(one: T, other: T) -> T {
    let none = T::default();
    match (one == none, other == none) {
        (true, _) => other,
        (_, true) => one,
        _ => one.min(other),
    }
}

/// Heartbeats travel as whole seconds; a fraction is rounded up, so that it does not turn into "off".
fn whole_seconds(interval: Duration) -> u16 {
    let seconds = interval.as_secs().saturating_add(u64::from(interval.subsec_nanos() > 0));
    u16::try_from(seconds).unwrap_or(u16::MAX)
}
