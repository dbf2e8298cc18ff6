//! What the two sides of a connection can be told beforehand.

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

/// The largest frame that is ever accepted, whatever the peers agree on: "no limit" (0) means this.
pub const FRAME_MAX_CAP: u32 = 16 * 1024 * 1024;

/// What bounds a connection. Each limit is checked before memory is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The highest channel number to agree on; 0 proposes no limit. Default 2047, as RabbitMQ.
    pub channel_max: u16,
    /// The largest frame to agree on, in bytes; 0 proposes no limit. What is below
    /// [`FRAME_MIN_SIZE`](crate::frame::FRAME_MIN_SIZE) counts as that, and what is above [`FRAME_MAX_CAP`], no limit included, as
    /// that. Default 131072, as RabbitMQ. RabbitMQ 4.1 and later refuse less than 8192.
    ///
    /// Content headers that come from a server may be larger by [`HEADER_EXCESS`](crate::frame::HEADER_EXCESS): RabbitMQ ignores
    /// the limit for them.
    pub frame_max: u32,
    /// The largest message body that is taken in, in bytes. Default 128 MiB, as RabbitMQ's `max_message_size` up to 3.13.
    pub body_max: u64,
    /// What becomes of a message with a larger body. An event reports it in any case. Default [`Oversized::Hold`].
    pub oversized: Oversized,
    /// How many bytes of messages are kept whose rest has not come yet, on all channels together; one message with a body of
    /// [`body_max`](Self::body_max) always may be. More ends the connection: brokers send their messages one after the
    /// other, so that very few are unfinished at a time. Default 256 MiB.
    pub unfinished_max: u64,
    /// How many bytes may wait for the transport before publishing has to wait. 0 counts as 1: a message waits until all
    /// others are written. Default 256 KiB: enough to keep a socket busy, little to lose.
    pub transmit_high_water: usize,
}

/// What becomes of a message whose body is larger than [`Limits::body_max`]. If it needs no acknowledgement, the broker
/// has forgotten it, and none of this helps.
///
/// RabbitMQ: a stream takes nothing back, and answers by closing the connection (540). A delivery of a stream is acknowledged
/// where one of a queue is requeued or rejected; the message stays in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Oversized {
    /// It stays unacknowledged, so it is not lost, and does not come again at once.
    ///
    /// It is requeued when its consumer is cancelled or its channel closes. The application can settle it earlier, by the
    /// delivery tag in the event; acknowledging all deliveries up to a later one passes over it. Until then it counts
    /// against the prefetch limit, and RabbitMQ closes the channel when its consumer timeout, by default 30 minutes, is
    /// over.
    #[default]
    Hold,
    /// It is held for a second, then requeued by `basic.reject`, together with all others that are held on the connection.
    /// The broker delivers it again, to this consumer or another.
    ///
    /// On a queue with a delivery limit, that ends in the dead-letter exchange. On any other it goes on until a consumer with
    /// a higher limit takes the message, with an event each time. As long as such messages fill the prefetch limit, their
    /// consumer gets no others: with a prefetch of 1 and no other consumer, that is for good.
    Requeue,
    /// It is rejected without requeue: it goes to the dead-letter exchange, and is lost if its queue has none.
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

/// How a client connects.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Ways to log in, the best first: the first that the server offers is used. Default `PLAIN` as guest.
    pub mechanisms: Vec<Arc<dyn Mechanism>>,
    /// The virtual host. Default `/`.
    pub virtual_host: ShortStr,
    /// What the client says of itself. `product`, `version`, `platform` and `capabilities` are filled in where missing.
    pub client_properties: FieldTable,
    /// The locale of reply texts. Default `en_US`.
    pub locale: ShortStr,
    /// The heartbeat interval to propose, rounded up to seconds, of which there are at most 65535; zero turns heartbeats off. A
    /// heartbeat is sent after
    /// half the interval without other traffic, and the peer is given up after twice the interval of silence. Default
    /// 60 s, as RabbitMQ.
    pub heartbeat: Duration,
    /// How long the handshake may take. Default 20 s.
    pub handshake_timeout: Duration,
    /// How long the peer may take to answer `connection.close`, from when that is written. While it is not, as behind a large
    /// body on a slow link, the time runs from the last moment at which the transport took anything. Default 10 s.
    pub close_timeout: Duration,
    /// What bounds the connection.
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
    /// What a URI says about the protocol: login, virtual host, heartbeat, limits, locale, connection name. The rest is
    /// default.
    ///
    /// # Errors
    /// [`ConfigError`], if a value does not fit the protocol.
    pub fn from_uri(uri: &Uri) -> Result<Self, ConfigError> {
        Self::from_uri_with(uri, |_, _, _| None)
    }

    /// The same with more ways to log in. `mechanism` is asked for those that this crate does not have, by the name that the
    /// URI says in `auth_mechanism`, in capitals, with the user's name and password.
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
            Some(name) => Ok(config.with_connection_name(name)?),
            None => Ok(config),
        }
    }

    /// The same, logging in with that secret by those mechanisms that have one.
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
    pub fn with_connection_name(mut self, name: &str) -> Result<Self, FieldError> {
        self.client_properties.insert("connection_name", name)?;
        Ok(self)
    }

    /// What is sent as client properties: the configured ones, and what must not be missing.
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

/// The ways to log in that a URI allows; PLAIN unless it says otherwise.
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

/// A URI says something that does not fit the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The name of the virtual host, or of the locale, is too long.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// The connection's name does not fit the client properties.
    #[error("connection_name: {0}")]
    Field(#[from] FieldError),
    /// A way to log in that is not known.
    #[error(
        "unknown auth_mechanism {name}; known are PLAIN, AMQPLAIN, EXTERNAL, ANONYMOUS, and, to clients that are built with \
         the feature cram-md5, CRAM-MD5"
    )]
    UnknownMechanism {
        /// Its name.
        name: String,
    },
}

/// RabbitMQ's extensions that this client handles. The broker holds back what is not announced.
const CLIENT_CAPABILITIES: [&str; 7] = [
    "authentication_failure_close",
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "exchange_exchange_bindings",
    "per_consumer_qos",
    "publisher_confirms",
];

/// How the server side of a connection behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// What the server says of itself, `capabilities` included.
    pub server_properties: FieldTable,
    /// SASL mechanisms, separated by spaces. Default `PLAIN`.
    pub mechanisms: String,
    /// The heartbeat interval to propose; zero asks for none.
    pub heartbeat: Duration,
    /// How long the handshake may take.
    pub handshake_timeout: Duration,
    /// How long the peer may take to answer `connection.close`, from when that is written; see
    /// [`ClientConfig::close_timeout`].
    pub close_timeout: Duration,
    /// What bounds the connection.
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
