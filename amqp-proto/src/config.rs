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
use crate::wire::{FieldError, FieldTable, LongStr, Secret, ShortStr, TooLong};

/// The largest frame that is ever accepted, whatever the peers negotiate: "no limit" (0) means this.
pub const FRAME_MAX_CAP: u32 = 16 * 1024 * 1024;

/// Adds a chained method for each field of a configuration, with its documentation.
#[doc(hidden)]
#[macro_export]
macro_rules! __setters {
    ($config:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        impl $config {$(
            $(#[$doc])*
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
pub struct Limits {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) body_max: u64,
    pub(crate) oversized: Oversized,
    pub(crate) unfinished_max: u64,
    pub(crate) body_chunks: bool,
    pub(crate) transmit_high_water: usize,
}

setters! {
    Limits {
        /// Sets the highest channel number to propose; 0 proposes no limit. Default 2047, as RabbitMQ.
        channel_max: u16,
        /// Sets the largest frame to propose, in bytes; 0 proposes no limit. Values below
        /// [`FRAME_MIN_SIZE`](crate::frame::FRAME_MIN_SIZE) are raised to that, and values above [`FRAME_MAX_CAP`], including no
        /// limit, are lowered to that. Default 131072, as RabbitMQ. RabbitMQ 4.1 and later refuse less than 8192.
        ///
        /// Content headers that come from a server may be larger by [`HEADER_EXCESS`](crate::frame::HEADER_EXCESS): RabbitMQ ignores
        /// the limit for them.
        frame_max: u32,
        /// Sets the largest message body to accept, in bytes. Default 128 MiB, as RabbitMQ's `max_message_size` up to 3.13.
        body_max: u64,
        /// Sets the policy for a message whose body is larger. An event reports it in any case. Default [`Oversized::Hold`].
        oversized: Oversized,
        /// Sets the maximum number of bytes of incomplete messages, on all channels together. One message with a body of
        /// [`body_max`](Self::body_max) is always allowed. A peer that exceeds this limit loses its connection: brokers send their
        /// messages one after the other, so that very few are incomplete at a time. Default 256 MiB.
        unfinished_max: u64,
        /// Sets the number of bytes queued for the transport at which publishing has to wait. 0 counts as 1: a message waits until
        /// all others are written. Default 256 KiB: enough to keep a socket busy, and little to lose with a connection.
        ///
        /// Frames that would wait for more than twice that many bytes [overtake](crate::Connection::take_transmit) large messages of
        /// other channels.
        transmit_high_water: usize,
    }
}

#[cfg(feature = "std")]
impl Limits {
    /// Sets whether deliveries keep the body of a message that arrives in several frames as the parts in which it arrived. Then
    /// [`Delivery::body_chunks`](crate::Delivery::body_chunks) returns these without a copy, for programs that write large bodies to a
    /// file or hash them. [`Delivery::body`](crate::Delivery::body) copies them together when it is called first. Default false: such
    /// bodies are copied together as they arrive, into memory that is used again.
    ///
    /// Each part keeps the read buffer alive in which it arrived, of up to 256 KiB, until the delivery and all parts are dropped. Only
    /// the parts themselves are counted, so a hostile broker can make the client hold many times their size: use this with brokers
    /// that you trust. Parts of less than 4 KiB are copied together, except for the last part of a body. Needs the feature `std`.
    #[must_use]
    pub const fn body_chunks(mut self, keep: bool) -> Self {
        self.body_chunks = keep;
        self
    }
}

/// Policy for a message whose body is larger than [`Limits::body_max`]. If the message needs no acknowledgement, the broker
/// has already dropped it, and it is lost with all of these options.
///
/// RabbitMQ: a stream does not requeue; it closes the connection instead (540). So a delivery of a stream is acknowledged where a
/// delivery of a queue is requeued or rejected. The message stays in the stream. After a loss, its consumer continues with the first
/// of its other deliveries that was not settled, or behind the last one. A message that is too large and comes before that is not
/// delivered again, even if it was held. To read it, start a consumer at its offset, on a connection with a larger limit.
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
            body_chunks: false,
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
pub struct ClientConfig {
    pub(crate) mechanisms: Vec<Arc<dyn Mechanism>>,
    pub(crate) virtual_host: ShortStr,
    pub(crate) client_properties: FieldTable,
    pub(crate) locale: ShortStr,
    pub(crate) heartbeat: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) limits: Limits,
}

setters! {
    ClientConfig {
        /// Sets the SASL mechanisms in order of preference: the first one that the server offers is used. Default `PLAIN` as guest.
        mechanisms: Vec<Arc<dyn Mechanism>>,
        /// Sets the client's properties, as it describes itself. `product`, `version`, `platform` and `capabilities` are filled in
        /// where missing.
        client_properties: FieldTable,
        /// Sets the heartbeat interval to propose, rounded up to seconds, at most 65535 s; zero turns heartbeats off. A heartbeat is
        /// sent after half the interval without other traffic. A peer that is silent for twice the interval counts as dead. Default
        /// 60 s, as RabbitMQ.
        heartbeat: Duration,
        /// Sets how long the handshake may take. Default 20 s.
        handshake_timeout: Duration,
        /// Sets how long the peer may take to reply to `connection.close`, from when the close is written. Before it is written, for
        /// example behind a large body on a slow link, the time runs from when the transport last accepted anything. Default 10 s.
        close_timeout: Duration,
        /// Sets the limits of the connection.
        limits: Limits,
    }
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
            config = config.virtual_host(virtual_host)?;
        }
        if let Some(locale) = &options.locale {
            config = config.locale(locale)?;
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

    /// Sets the user's name and password, for the mechanism `PLAIN`. Default `guest` and `guest`.
    #[must_use]
    pub fn login(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.mechanisms(vec![Arc::new(Plain::new(username, password))])
    }

    /// Sets the virtual host. Default `/`.
    ///
    /// # Errors
    /// [`TooLong`], if no virtual host can have that name.
    pub fn virtual_host(mut self, name: impl AsRef<[u8]>) -> Result<Self, TooLong> {
        self.virtual_host = ShortStr::named("virtual host", name)?;
        Ok(self)
    }

    /// Sets the locale of reply texts. Default `en_US`.
    ///
    /// # Errors
    /// [`TooLong`], if no locale can have that name.
    pub fn locale(mut self, name: impl AsRef<[u8]>) -> Result<Self, TooLong> {
        self.locale = ShortStr::named("locale", name)?;
        Ok(self)
    }

    /// Sets the name of the connection, for the broker's lists and logs.
    ///
    /// # Errors
    /// [`FieldError`], if the name does not fit the client properties.
    pub fn connection_name(mut self, name: impl AsRef<[u8]>) -> Result<Self, FieldError> {
        self.client_properties.insert("connection_name", LongStr::from(name.as_ref().to_vec()))?;
        Ok(self)
    }

    /// Returns the name of the connection, if it has one and it is UTF-8.
    ///
    /// ```
    /// use amqp_proto::ClientConfig;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = ClientConfig::default().connection_name("orders")?;
    /// assert_eq!(config.get_connection_name().as_deref(), Some("orders"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn get_connection_name(&self) -> Option<String> {
        let name = self.client_properties.get("connection_name")?;
        name.as_str().map(str::to_owned)
    }

    /// Returns the name of the user, from the first SASL mechanism that has one.
    ///
    /// ```
    /// use amqp_proto::ClientConfig;
    ///
    /// assert_eq!(ClientConfig::default().login("orders", "secret").get_username(), Some("orders"));
    /// ```
    #[must_use]
    pub fn get_username(&self) -> Option<&str> {
        self.mechanisms.iter().find_map(|mechanism| mechanism.username())
    }

    /// Returns the name of the virtual host.
    #[must_use]
    pub const fn get_virtual_host(&self) -> &ShortStr {
        &self.virtual_host
    }

    /// Returns how long the peer may take to reply to `connection.close`.
    #[must_use]
    pub const fn get_close_timeout(&self) -> Duration {
        self.close_timeout
    }

    /// Returns the limits of the connection, for example those of a URI, to change one of them.
    ///
    /// ```
    /// use amqp_proto::ClientConfig;
    ///
    /// let config = ClientConfig::from_uri(&"amqp://rabbit-1?frame_max=8192".parse()?)?;
    /// let limits = config.get_limits().body_max(1024 * 1024);
    /// let config = config.limits(limits);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn get_limits(&self) -> &Limits {
        &self.limits
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

/// The configuration of the server side of a connection, for brokers, proxies, mocks and tests.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub(crate) server_properties: FieldTable,
    pub(crate) mechanisms: String,
    pub(crate) heartbeat: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) limits: Limits,
}

setters! {
    ServerConfig {
        /// Sets the server's properties, as it describes itself, including `capabilities`. Default none.
        server_properties: FieldTable,
        /// Sets the heartbeat interval to propose; zero proposes none. Default 60 s.
        heartbeat: Duration,
        /// Sets how long the handshake may take. Default 10 s.
        handshake_timeout: Duration,
        /// Sets how long the peer may take to reply to `connection.close`, from when the close is written; see
        /// [`ClientConfig::close_timeout`]. Default 10 s.
        close_timeout: Duration,
        /// Sets the limits of the connection.
        limits: Limits,
    }
}

impl ServerConfig {
    /// Sets the SASL mechanisms to offer, separated by spaces. Default `PLAIN`.
    #[must_use]
    pub fn mechanisms(mut self, names: impl Into<String>) -> Self {
        self.mechanisms = names.into();
        self
    }

    /// Returns the server's properties, to change some of them.
    #[must_use]
    pub const fn get_server_properties(&self) -> &FieldTable {
        &self.server_properties
    }

    /// Returns the limits of the connection, to change some of them.
    #[must_use]
    pub const fn get_limits(&self) -> &Limits {
        &self.limits
    }
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
