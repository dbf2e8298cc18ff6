use crate::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{Connection, ConnectionPhase};
use crate::event::{Event, ServerEvent};
use crate::frame::{FrameHead, FrameKind, PROTOCOL_HEADER};
use crate::method::{
    Arguments as _, ChannelCloseOk, ChannelOpenOk, ConnectionClose, ConnectionCloseOk,
    ConnectionUpdateSecretOk, Method,
};
use crate::outbound::Role;
use crate::{
    ChannelEvent, ChannelId, Close, ConnectionError, Initiator, LoginError, ReplyCode, Violation,
    WrongProtocol,
};

impl Connection {
    /// Takes complete frames from `input`.
    pub(super) fn receive(&mut self, now: Instant, input: &mut BytesMut) -> Received {
        if self.state.is_err() {
            input.clear();
            return Ok(());
        }
        if self.awaits_first_bytes() && !self.check_first_bytes(input)? {
            return Ok(());
        }
        let (whole, broken) = self.whole_frames(input);
        let chunk = input.split_to(whole).freeze();
        self.receive_frames(now, &chunk)?;
        broken
    }

    /// Returns the number of bytes of `input` that are whole frames, and the error in the frame behind them, if any.
    fn whole_frames(&self, input: &BytesMut) -> (usize, Received) {
        let header_max = self.outbound.header_max();
        let mut whole = 0;
        loop {
            let rest = input.get(whole..).unwrap_or_default();
            match FrameHead::peek(rest, self.outbound.frame_max, header_max) {
                Ok(Some(head)) => whole += head.whole_len(),
                Ok(None) => return (whole, Ok(())),
                Err(error) => return (whole, Err(error.into())),
            }
        }
    }

    /// Handles the frames that `chunk` consists of.
    fn receive_frames(&mut self, now: Instant, chunk: &Bytes) -> Received {
        let mut start = 0;
        while self.state.is_ok() {
            let rest = chunk.get(start..).unwrap_or_default();
            let Some(head) = FrameHead::again(rest) else {
                break;
            };
            let payload = head.payload(start);
            let next = start + head.whole_len();
            start = match (head.channel, head.kind) {
                (0, FrameKind::Method) => {
                    let method = Method::decode(&chunk.slice(payload))?;
                    self.receive_own(now, method)?;
                    next
                }
                // On any channel: some brokers send them so, and it does no harm.
                (_, FrameKind::Heartbeat) => next,
                (0, kind) => {
                    let expected = "a method frame on channel 0";
                    return Err(Violation::UnexpectedFrame { kind: kind.name(), expected }.into());
                }
                (channel, kind) => self.receive_for(channel, kind, chunk, payload, next)?,
            };
        }
        self.detach_contents()
    }

    /// All complete frames of a read were processed. Copies incomplete messages, so that they do not keep the read buffer alive.
    fn detach_contents(&mut self) -> Received {
        while let Some(id) = self.outbound.attached.pop() {
            if let Some(channel) = self.channels.get(id.0) {
                channel.detach_content(&mut self.outbound)?;
            }
        }
        Ok(())
    }

    /// A frame for a channel. Returns where the next one starts.
    fn receive_for(
        &mut self,
        number: u16,
        kind: FrameKind,
        chunk: &Bytes,
        payload: core::ops::Range<usize>,
        next: usize,
    ) -> Result<usize, ConnectionError> {
        match &self.state {
            Ok(ConnectionPhase::Open) => {}
            // Between close and close-ok everything else is dropped (spec 1.4.2.9).
            Ok(ConnectionPhase::Closing(_)) | Err(_) => return Ok(next),
            Ok(ConnectionPhase::Handshake(_)) => {
                return Err(Violation::ChannelNotOpen { channel: number }.into());
            }
        }
        let Some(channel) = self.channels.receiving(number) else {
            return self.receive_for_nobody(number, kind, chunk.slice(payload)).map(|()| next);
        };
        let outbound = &mut self.outbound;
        match kind {
            FrameKind::Method => return channel.receive_method(outbound, chunk, payload, next),
            FrameKind::Header => channel.receive_header(outbound, &chunk.slice(payload))?,
            FrameKind::Body => channel.receive_body(outbound, chunk.slice(payload))?,
            FrameKind::Heartbeat => {}
        }
        Ok(next)
    }

    /// A frame for a channel that is not open: only a server has a use for one, the opening.
    fn receive_for_nobody(&mut self, number: u16, kind: FrameKind, payload: Bytes) -> Received {
        let not_open = Violation::ChannelNotOpen { channel: number };
        if kind != FrameKind::Method || self.outbound.role == Role::Client {
            return Err(not_open.into());
        }
        match Method::decode(&payload)? {
            Method::ChannelOpen(_) => {
                self.channels.accept(number)?;
                self.outbound.reply(number, &ChannelOpenOk::default())?;
                self.outbound.emit(ChannelId(number), ChannelEvent::Opened);
                Ok(())
            }
            // Both ends closed the channel at the same time, and the reply to this end's close came first.
            Method::ChannelClose(_) => Ok(self.outbound.reply(number, &ChannelCloseOk {})?),
            _ => Err(not_open.into()),
        }
    }

    /// A method on channel 0.
    fn receive_own(&mut self, now: Instant, method: Method) -> Received {
        match method {
            // This end also requested a close, and the reply to that is still outstanding.
            Method::ConnectionClose(_) if matches!(self.state, Ok(ConnectionPhase::Closing(_))) => {
                Ok(self.outbound.reply(0, &ConnectionCloseOk {})?)
            }
            Method::ConnectionClose(close) => {
                self.closed_by_peer(close);
                Ok(())
            }
            Method::ConnectionCloseOk(_) => match &self.state {
                Ok(ConnectionPhase::Closing(close)) => Err(ConnectionError::Closed(close.clone())),
                _ => Err(Violation::UnexpectedMethod { method: ConnectionCloseOk::NAME }.into()),
            },
            _ if matches!(self.state, Ok(ConnectionPhase::Closing(_))) => Ok(()),
            method if matches!(self.state, Ok(ConnectionPhase::Handshake(_))) => {
                self.receive_in_handshake(now, method)
            }
            method => self.receive_while_open(method),
        }
    }

    fn receive_while_open(&mut self, method: Method) -> Received {
        match (method, self.outbound.role) {
            (Method::ConnectionBlocked(blocked), Role::Client) => {
                self.outbound.blocked = true;
                let reason = blocked.reason.detached();
                self.outbound.events.push(Event::Blocked { reason });
            }
            (Method::ConnectionUnblocked(_), Role::Client) => {
                self.outbound.blocked = false;
                self.outbound.events.push(Event::Unblocked);
            }
            (Method::ConnectionUpdateSecretOk(_), Role::Client) if self.updating_secret > 0 => {
                self.updating_secret -= 1;
                self.outbound.events.push(Event::SecretUpdated);
            }
            (Method::ConnectionUpdateSecret(update), Role::Server) => {
                self.outbound.reply(0, &ConnectionUpdateSecretOk {})?;
                let (new_secret, reason) = (update.new_secret, update.reason);
                let event = ServerEvent::UpdateSecret { new_secret, reason };
                self.outbound.events.push(Event::Server(event));
            }
            (method, _) => {
                let facts = method.facts();
                return Err(if facts.id.0 == ConnectionClose::CLASS_ID {
                    Violation::UnexpectedMethod { method: facts.name }.into()
                } else {
                    Violation::WrongChannel { method: facts.name, channel: 0 }.into()
                });
            }
        }
        Ok(())
    }

    fn closed_by_peer(&mut self, close: ConnectionClose) {
        self.outbound.send_small(0, &ConnectionCloseOk {});
        let close = Close {
            by: Initiator::Peer,
            channel: None,
            reply_code: ReplyCode(close.reply_code),
            reply_text: close.reply_text.detached(),
            class_id: close.class_id,
            method_id: close.method_id,
        };
        let refused = close.reply_code == ReplyCode::ACCESS_REFUSED
            && matches!(&self.state, Ok(ConnectionPhase::Handshake(step)) if step.credentials_sent());
        self.fail(if refused {
            LoginError::Refused(close).into()
        } else {
            ConnectionError::Closed(close)
        });
    }

    /// Checks that the peer speaks AMQP 0-9-1. Returns false while too little has come to decide that.
    fn check_first_bytes(&mut self, input: &mut BytesMut) -> Result<bool, ConnectionError> {
        let Some(first) = input.first_chunk::<8>().copied() else {
            // TLS alerts are 7 bytes long, and the peer disconnects after them.
            return match input.first_chunk::<2>() {
                Some([0x15 | 0x16, 0x03]) => Err(WrongProtocol::Tls.into()),
                _ => Ok(false),
            };
        };
        match (self.outbound.role, first) {
            (Role::Server, PROTOCOL_HEADER) => {
                let _header = input.split_to(PROTOCOL_HEADER.len());
                self.start_as_server()?;
                Ok(true)
            }
            (Role::Server, _) => {
                // The reply to any other header is the supported one (spec 2.2.4).
                self.outbound.transmit.buffer().extend_from_slice(&PROTOCOL_HEADER);
                Err(wrong_protocol(first).into())
            }
            // The start of a method frame on channel 0.
            (Role::Client, [1, 0, 0, ..]) => Ok(true),
            (Role::Client, _) => Err(wrong_protocol(first).into()),
        }
    }
}

type Received = Result<(), ConnectionError>;

fn wrong_protocol(first: [u8; 8]) -> WrongProtocol {
    match first {
        [b'A', b'M', b'Q', b'P', id, major, minor, revision] => {
            WrongProtocol::Version { id, major, minor, revision }
        }
        [0x15 | 0x16, 0x03, ..] => WrongProtocol::Tls,
        [b'H', b'T', b'T', b'P', b'/', ..] => WrongProtocol::Http,
        other => WrongProtocol::Unknown(other),
    }
}
