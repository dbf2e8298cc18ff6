//! Configuration of both sides of a connection.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use thiserror::Error;

use crate::sasl::{AmqPlain, Anonymous, External, Mechanism, Plain};
use crate::uri::{Password, Uri};
use crate::wire::{FieldError, FieldTable, Secret, ShortStr, TooLong};

/// The largest frame that is ever accepted, whatever the peers negotiate: "no limit" (0) means this.
pub const FRAME_MAX_CAP: u32 = 16 * 1024 * 1024;

/// Adds a chained method for each field of a configuration.
#[doc(hidden)]
#[macro_export]
macro_rules! __setters {
    ($config:ident { $($field:ident: $type:ty,)* }) => {
        impl $config {$(
            #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
            #[must_use]
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field;
                self
            }
        )*}
    };
}
pub(crate) use __setters as setters;

/// Limits of a connection. Each limit is checked before memory is reserved.
///
/// ```
/// # use amqp_proto::{Limits, Oversized};
/// let limits = Limits::default()
///     .channel_max(64)
///     .body_max(16 * 1024 * 1024)
///     .oversized(Oversized::Reject);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The highest channel number to propose; 0 proposes no limit. Default 2047, as RabbitMQ.
    pub channel_max: u16,
    /// The largest frame to propose, in bytes; 0 proposes no limit. Values below
    /// [`FRAME_MIN_SIZE`](crate::frame::FRAME_MIN_SIZE) are raised to that, and values above [`FRAME_MAX_CAP`], including no limit,
    /// are lowered to that. Default 131072, as RabbitMQ. RabbitMQ 4.1 and later refuse less than 8192.
    ///
    /// Content headers that come from a server may be larger by [`HEADER_EXCESS`](crate::frame::HEADER_EXCESS): RabbitMQ ignores
    /// the limit for them.
    pub frame_max: u32,
    /// The largest message body to accept, in bytes. Default 128 MiB, as RabbitMQ's `max_message_size` up to 3.13.
    pub body_max: u64,
    /// Policy for a message whose body is larger. An event reports it in any case. Default [`Oversized::Hold`].
    pub oversized: Oversized,
    /// The maximum number of bytes of incomplete messages, on all channels together. One message with a body of
    /// [`body_max`](Self::body_max) is always allowed. A peer that exceeds this limit loses its connection: brokers send their
    /// messages one after the other, so that very few are incomplete at a time. Default 256 MiB.
    pub unfinished_max: u64,
    /// Number of bytes queued for the transport at which publishing has to wait. 0 counts as 1: a message waits until all others
    /// are written. Default 256 KiB: enough to keep a socket busy, and little to lose with a connection.
    pub transmit_high_water: usize,
}

setters! {
    Limits {
        channel_max: u16,
        frame_max: u32,
        body_max: u64,
        oversized: Oversized,
        unfinished_max: u64,
        transmit_high_water: usize,
    }
}

/// Policy for a message whose body is larger than [`Limits::body_max`]. If the message needs no acknowledgement, the broker
/// has already dropped it, and it is lost with all of these options.
///
/// RabbitMQ: a stream does not requeue; it closes the connection instead (540). So a delivery of a stream is acknowledged where a
/// delivery of a queue is requeued or rejected. The message stays in the stream.
///
/// ```
/// # use amqp_proto::{Limits, Oversized};
/// // A body of more than 1 MiB goes to the dead-letter exchange of its queue.
/// let limits = Limits::default().body_max(1024 * 1024).oversized(Oversized::Reject);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Oversized {
    /// The message stays unacknowledged, so it is not lost, and is not delivered again at once.
    ///
    /// It is requeued when its consumer is cancelled or its channel closes. The application can settle it earlier, by the
    /// delivery tag in the event. Acknowledging all deliveries up to a later one skips it. Until it is settled, it counts against
    /// the prefetch limit, and RabbitMQ closes the channel after its consumer timeout, by default 30 minutes.
    #[default]
    Hold,
    /// The message is held for a second and then requeued by `basic.reject`, together with all others that are held on the
    /// connection. The broker delivers it again, to this consumer or another.
    ///
    /// On a queue with a delivery limit, the message ends up in the dead-letter exchange. On any other queue, this repeats until a
    /// consumer with a higher limit accepts the message, with an event each time. While such messages fill the prefetch limit, their
    /// consumer gets no others: with a prefetch of 1 and no other consumer, forever.
    Requeue,
    /// The message is rejected without requeue: it goes to the dead-letter exchange, and is lost if its queue has none.
    Reject,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channel_max: 2047,
            frame_max: 131_072,
            body_max: 128 * 1024 * 1024,
            oversized: Oversized::Hold,
            unfinished_max: 256 * 1024 * 1024,
            transmit_high_water: 256 * 1024,
        }
    }
}

/// The configuration of a client's connection.
///
/// ```
/// # use amqp_proto::{ClientConfig, FieldTable};
/// use std::time::Duration;
///
/// let config = ClientConfig::default()
///     .client_properties(FieldTable::new().with("product", "billing")?)
///     .heartbeat(Duration::from_secs(10))
///     .handshake_timeout(Duration::from_secs(5))
///     .connection_name("billing worker 7")?;
/// # Ok::<(), amqp_proto::FieldError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// SASL mechanisms in order of preference: the first one that the server offers is used. Default `PLAIN` as guest.
    pub mechanisms: Vec<Arc<dyn Mechanism>>,
    /// The virtual host. Default `/`.
    pub virtual_host: ShortStr,
    /// The client's properties, as it describes itself. `product`, `version`, `platform` and `capabilities` are filled in where
    /// missing.
    pub client_properties: FieldTable,
    /// The locale of reply texts. Default `en_US`.
    pub locale: ShortStr,
    /// The heartbeat interval to propose, rounded up to seconds, at most 65535 s; zero turns heartbeats off. A heartbeat is sent
    /// after half the interval without other traffic. A peer that is silent for twice the interval counts as dead. Default 60 s, as
    /// RabbitMQ.
    pub heartbeat: Duration,
    /// How long the handshake may take. Default 20 s.
    pub handshake_timeout: Duration,
    /// How long the peer may take to reply to `connection.close`, from when the close is written. Before it is written, for
    /// example behind a large body on a slow link, the time runs from when the transport last accepted anything. Default 10 s.
    pub close_timeout: Duration,
    /// The limits of the connection.
    pub limits: Limits,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            mechanisms: vec![Arc::new(Plain::new("guest", "guest"))],
            virtual_host: ShortStr::truncated("/"),
            client_properties: FieldTable::new(),
            locale: ShortStr::truncated("en_US"),
            heartbeat: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

impl ClientConfig {
    /// Creates a configuration from a URI: login, virtual host, heartbeat, limits, locale, connection name. Everything else has its
    /// default.
    ///
    /// # Errors
    /// [`ConfigError`], if a value does not fit the protocol.
    pub fn from_uri(uri: &Uri) -> Result<Self, ConfigError> {
        Self::from_uri_with(uri, |_, _, _| None)
    }

    /// Like [`from_uri`](Self::from_uri), with more SASL mechanisms. `mechanism` is called for mechanisms that this crate does not
    /// have, with the name from the URI's `auth_mechanism` in capitals, the user's name and the password.
    ///
    /// # Errors
    /// [`ConfigError`], if a value does not fit the protocol.
    pub fn from_uri_with(
        uri: &Uri,
        mechanism: impl Fn(&str, &str, &Password) -> Option<Arc<dyn Mechanism>>,
    ) -> Result<Self, ConfigError> {
        let options = &uri.options;
        let mut config = Self { mechanisms: mechanisms(uri, mechanism)?, ..Self::default() };
        if let Some(virtual_host) = &uri.virtual_host {
            config.virtual_host = ShortStr::named("virtual host", virtual_host.clone())?;
        }
        if let Some(locale) = &options.locale {
            config.locale = ShortStr::named("locale", locale.clone())?;
        }
        config.heartbeat = options.heartbeat.unwrap_or(config.heartbeat);
        config.limits.channel_max = options.channel_max.unwrap_or(config.limits.channel_max);
        config.limits.frame_max = options.frame_max.unwrap_or(config.limits.frame_max);
        match &options.connection_name {
            Some(name) => Ok(config.connection_name(name)?),
            None => Ok(config),
        }
    }

    /// Returns the same configuration with that secret in all mechanisms that have one.
    pub(crate) fn with_secret(&self, secret: &Secret) -> Self {
        let renewed = |mechanism: &Arc<dyn Mechanism>| {
            mechanism.with_secret(secret).unwrap_or_else(|| mechanism.clone())
        };
        Self { mechanisms: self.mechanisms.iter().map(renewed).collect(), ..self.clone() }
    }

    /// Names the connection, for the broker's lists and logs.
    ///
    /// # Errors
    /// [`FieldError`] if the name does not fit the client properties.
    pub fn connection_name(mut self, name: &str) -> Result<Self, FieldError> {
        self.client_properties.insert("connection_name", name)?;
        Ok(self)
    }

    /// Returns the client properties to send: the configured ones, and those that must not be missing.
    pub(crate) fn announced_properties(&self) -> Result<FieldTable, FieldError> {
        let mut properties = self.client_properties.clone();
        for (name, value) in [
            ("product", "amqp-client"),
            ("version", env!("CARGO_PKG_VERSION")),
            ("platform", "Rust"),
        ] {
            if properties.get(name).is_none() {
                properties.insert(name, value)?;
            }
        }
        let mut capabilities = match properties.get("capabilities") {
            Some(given) => given.as_table().cloned().unwrap_or_default(),
            None => FieldTable::new(),
        };
        for name in CLIENT_CAPABILITIES {
            if capabilities.get(name).is_none() {
                capabilities.insert(name, true)?;
            }
        }
        properties.insert("capabilities", capabilities)?;
        Ok(properties)
    }
}

setters! {
    ClientConfig {
        mechanisms: Vec<Arc<dyn Mechanism>>,
        virtual_host: ShortStr,
        client_properties: FieldTable,
        locale: ShortStr,
        heartbeat: Duration,
        handshake_timeout: Duration,
        close_timeout: Duration,
        limits: Limits,
    }
}

/// Returns the SASL mechanisms that a URI names, or PLAIN if it names none.
fn mechanisms(
    uri: &Uri,
    more: impl Fn(&str, &str, &Password) -> Option<Arc<dyn Mechanism>>,
) -> Result<Vec<Arc<dyn Mechanism>>, ConfigError> {
    let username = uri.username.as_deref().unwrap_or("guest");
    let guest = Password::from("guest".to_owned());
    let password = uri.password.as_ref().unwrap_or(&guest);
    let mechanism = |name: &String| -> Result<Arc<dyn Mechanism>, ConfigError> {
        Ok(match name.to_ascii_uppercase().as_str() {
            "PLAIN" => Arc::new(Plain::new(username, password.expose())),
            "AMQPLAIN" => Arc::new(AmqPlain::new(username, password.expose())),
            "EXTERNAL" => Arc::new(External),
            "ANONYMOUS" => Arc::new(Anonymous),
            other => more(other, username, password)
                .ok_or_else(|| ConfigError::UnknownMechanism { name: name.clone() })?,
        })
    };
    if uri.options.auth_mechanisms.is_empty() {
        return Ok(vec![Arc::new(Plain::new(username, password.expose()))]);
    }
    uri.options.auth_mechanisms.iter().map(mechanism).collect()
}

/// A value of a URI does not fit the protocol.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The name of the virtual host, or of the locale, is too long.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The connection's name does not fit the client properties.
    #[error("the connection name does not fit the client properties")]
    Field(#[from] FieldError),
    /// The SASL mechanism is not known.
    #[error(
        "unknown auth_mechanism {name}; supported are PLAIN, AMQPLAIN, EXTERNAL, ANONYMOUS, and CRAM-MD5 if the client is \
         built with the feature cram-md5"
    )]
    UnknownMechanism {
        /// The mechanism's name.
        name: String,
    },
}

crate::error::debug_shows_chain! { ConfigError }

/// RabbitMQ's extensions that this client handles. The broker does not use extensions that the client does not announce.
const CLIENT_CAPABILITIES: [&str; 7] = [
    "authentication_failure_close",
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "exchange_exchange_bindings",
    "per_consumer_qos",
    "publisher_confirms",
];

/// The configuration of the server side of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The server's properties, as it describes itself, including `capabilities`.
    pub server_properties: FieldTable,
    /// SASL mechanisms, separated by spaces. Default `PLAIN`.
    pub mechanisms: String,
    /// The heartbeat interval to propose; zero proposes none.
    pub heartbeat: Duration,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// How long the peer may take to reply to `connection.close`, from when the close is written; see
    /// [`ClientConfig::close_timeout`].
    pub close_timeout: Duration,
    /// The limits of the connection.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            server_properties: FieldTable::new(),
            mechanisms: "PLAIN".to_owned(),
            heartbeat: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}
