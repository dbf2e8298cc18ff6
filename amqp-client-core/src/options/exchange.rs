use std::fmt;

use amqp_proto::method::ExchangeDeclare;

use super::{Arguments, name, takes_arguments};
use crate::error::CallError;

/// The type of an exchange: how it routes messages.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{ExchangeKind, ExchangeOptions};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let kind = ExchangeKind::Other("x-consistent-hash".into());
/// let exchange = channel.exchange_declare("shards", kind, ExchangeOptions::new()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// Routes to bindings with an equal routing key.
    Direct,
    /// Routes to all bindings.
    Fanout,
    /// Routes by patterns of words: `*` matches one word, `#` any number of words.
    Topic,
    /// Routes by message headers.
    Headers,
    /// Routes by a plugin: `x-delayed-message`, `x-consistent-hash`...
    Other(String),
}

impl ExchangeKind {
    /// Returns the name that the protocol uses.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for ExchangeKind {
    fn from(name: &str) -> Self {
        match name {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Options of an exchange. Exchanges are durable by default.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::ExchangeOptions;
///
/// let options = ExchangeOptions::new().durable(false).auto_delete(true).alternate_exchange("unrouted");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct ExchangeOptions {
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Arguments,
}

impl ExchangeOptions {
    /// Creates the options of a durable exchange.
    pub fn new() -> Self {
        let arguments = Arguments::default();
        Self { durable: true, auto_delete: false, internal: false, arguments }
    }

    /// Sets whether the exchange survives a restart of the broker.
    pub const fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Sets whether the broker deletes the exchange when its last binding is removed.
    pub const fn auto_delete(mut self, auto_delete: bool) -> Self {
        self.auto_delete = auto_delete;
        self
    }

    /// Sets whether only other exchanges may publish to the exchange.
    pub const fn internal(mut self, internal: bool) -> Self {
        self.internal = internal;
        self
    }

    /// Sets the exchange that gets the messages that this exchange cannot route.
    pub fn alternate_exchange(mut self, exchange: impl AsRef<[u8]>) -> Self {
        self.arguments.set_name("alternate-exchange", exchange.as_ref());
        self
    }

    pub(crate) fn into_method(
        self,
        exchange: &[u8],
        kind: &ExchangeKind,
    ) -> Result<ExchangeDeclare, CallError> {
        Ok(ExchangeDeclare {
            exchange: name("exchange", exchange)?,
            kind: name("exchange type", kind.as_str())?,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.finish()?,
            ..ExchangeDeclare::default()
        })
    }
}

impl Default for ExchangeOptions {
    fn default() -> Self {
        Self::new()
    }
}

takes_arguments! { ExchangeOptions }
