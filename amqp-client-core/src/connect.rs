//! Where to connect to, and why that did not work.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::config::{ClientConfig, ConfigError};
use amqp_proto::method::{Arguments as _, ConnectionOpen};
use amqp_proto::session::Recovery;
use amqp_proto::uri::{Endpoint, Uri, UriError};
use amqp_proto::{ConnectionError, ReplyCode};
use thiserror::Error;

use crate::config::{Config, SettingError};
use crate::login::{self, TokenError, TokenSource};
use crate::tls::{TlsError, TlsOptions};

/// Where to connect to, and how: what an AMQP URI says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Target {
    /// The nodes to try, in this order; after a loss, in an order of chance.
    pub endpoints: Vec<Endpoint>,
    /// How to use TLS, if it is to be used.
    pub tls: Option<TlsOptions>,
    /// How to go on when the connection is lost; `None` does not. Default [`Recovery::default`].
    pub recovery: Option<Recovery>,
    /// Whether to retry the first connection as `recovery` says. Set it for a program that may start before its broker. `open`
    /// then waits until it succeeds: limit that with [`give_up_after`](Recovery::give_up_after) or
    /// [`attempts_max`](Recovery::attempts_max), or drop its future. A [`token_source`](Self::token_source) that fails is asked
    /// again as well. Errors that a retry cannot change, such as refused credentials, are returned at once. Default false.
    pub retry_open: bool,
    /// Where to get a token to log in with, in the place of the configured ways.
    pub token_source: Option<Arc<dyn TokenSource>>,
    /// What is said beyond that.
    pub config: Config,
}

impl Target {
    /// One node, with the defaults of [`Config`].
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let endpoints = vec![Endpoint::new(host, port)];
        Self {
            endpoints,
            tls: None,
            recovery: Some(Recovery::default()),
            retry_open: false,
            token_source: None,
            config: Config::default(),
        }
    }

    /// The same, but a connection that is lost is over.
    #[must_use]
    pub fn without_recovery(mut self) -> Self {
        self.recovery = None;
        self
    }

    /// Takes over what a URI says.
    ///
    /// # Errors
    /// [`ConnectError`], if its values do not fit the protocol.
    pub fn from_uri(uri: &Uri) -> Result<Self, ConnectError> {
        let protocol = ClientConfig::from_uri_with(uri, login::mechanism)?;
        let mut config = Config { protocol, ..Config::default() };
        if let Some(timeout) = uri.options.connection_timeout {
            config.settings.connect_timeout = timeout;
        }
        let tls = uri.tls.then(|| TlsOptions::from_uri(&uri.options)).transpose()?;
        Ok(Self {
            endpoints: uri.endpoints.clone(),
            tls,
            recovery: Some(Recovery::default()),
            retry_open: false,
            token_source: None,
            config,
        })
    }
}

impl FromStr for Target {
    type Err = ConnectError;

    fn from_str(uri: &str) -> Result<Self, ConnectError> {
        Self::from_uri(&uri.parse()?)
    }
}

/// There is no connection.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URI is wrong.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// What the URI says does not fit the protocol.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// There is no node to connect to.
    #[error("no host to connect to")]
    NoEndpoint,
    /// TLS cannot be used as it is set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no token to log in with.
    #[error("no token to log in with: {0}")]
    NoToken(TokenError),
    /// The node cannot be reached.
    #[error("{endpoint}: {error}")]
    Unreachable {
        /// Which node.
        endpoint: Endpoint,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// Connecting took too long.
    #[error("{endpoint}: not connected within {after:?}")]
    TimedOut {
        /// Which node was being tried.
        endpoint: Endpoint,
        /// The time it was given.
        after: Duration,
    },
    /// The node was reached, but would not have it.
    #[error("{endpoint}: {error}")]
    Refused {
        /// Which node.
        endpoint: Endpoint,
        /// Why the handshake failed.
        error: ConnectionError,
    },
    /// The node refused a virtual host with an empty name, which is what a URI that ends in `/` names.
    #[error(
        "{endpoint}: {error}; the virtual host has an empty name, as in a URI that ends in `/`: end it in `/%2f`, or leave \
         the `/` out, for the virtual host `/`"
    )]
    EmptyVirtualHost {
        /// Which node.
        endpoint: Endpoint,
        /// How the broker refused it.
        error: ConnectionError,
    },
}

impl Target {
    pub(crate) fn endpoint(&self, node: usize) -> Result<&Endpoint, ConnectError> {
        self.endpoints.get(node).ok_or(ConnectError::NoEndpoint)
    }
}

impl ConnectError {
    pub(crate) fn unreachable(endpoint: &Endpoint, error: io::Error) -> Self {
        Self::Unreachable { endpoint: endpoint.clone(), error: Arc::new(error) }
    }

    /// The handshake that was set up like this has failed.
    #[must_use]
    pub fn refused(endpoint: Endpoint, error: ConnectionError, config: &ClientConfig) -> Self {
        let opening = error
            .as_close()
            .is_some_and(|close| close.method() == Some(ConnectionOpen::FACTS.name));
        if opening && config.virtual_host.is_empty() && !error.is_transient() {
            return Self::EmptyVirtualHost { endpoint, error };
        }
        Self::Refused { endpoint, error }
    }

    /// The reply code that the broker closed the connection with during the handshake, if it did.
    #[must_use]
    pub fn reply_code(&self) -> Option<ReplyCode> {
        self.as_connection_error().and_then(ConnectionError::reply_code)
    }

    /// Why the handshake failed, if it came to one.
    #[must_use]
    pub const fn as_connection_error(&self) -> Option<&ConnectionError> {
        match self {
            Self::Refused { error, .. } | Self::EmptyVirtualHost { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether another node of the same broker may accept the connection: this one cannot be reached, or refuses it
    /// [for now](ConnectionError::is_transient), as when it shuts down or has reached a limit of connections.
    #[must_use]
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Refused { error: ConnectionError::Login(_), .. } => false,
            Self::Refused { error: error @ ConnectionError::Closed(_), .. } => error.is_transient(),
            Self::Refused { .. } => true,
            Self::Uri(_) | Self::Config(_) | Self::NoEndpoint | Self::Tls(_) | Self::NoToken(_) => {
                false
            }
            Self::EmptyVirtualHost { .. } | Self::Setting(_) => false,
        }
    }
}
