use std::str::FromStr;
use std::sync::Arc;

use amqp_proto::config::ClientConfig;
use amqp_proto::session::Recovery;
use amqp_proto::uri::{Endpoint, Uri};

use super::ConnectError;
use crate::config::Config;
use crate::login::{self, TokenSource};
use crate::tls::TlsOptions;

/// The nodes to connect to, and how: the contents of an AMQP URI.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Target {
    /// The nodes to try, in this order; after a loss, in random order.
    pub endpoints: Vec<Endpoint>,
    /// The TLS configuration; `None` connects without TLS.
    pub tls: Option<TlsOptions>,
    /// How to recover a lost connection; `None` turns recovery off. Default [`Recovery::default`].
    pub recovery: Option<Recovery>,
    /// Whether to retry the first connection as `recovery` says. Set it for a program that may start before its broker. `open`
    /// then waits until it succeeds: limit that with [`give_up_after`](Recovery::give_up_after) or
    /// [`attempts_max`](Recovery::attempts_max), or drop its future. A [`token_source`](Self::token_source) that fails is retried
    /// as well. Errors that a retry cannot change, such as refused credentials, are returned at once. Default false.
    pub retry_open: bool,
    /// The source of tokens to log in with. If set, it replaces the configured mechanisms.
    pub token_source: Option<Arc<dyn TokenSource>>,
    /// Everything else.
    pub config: Config,
}

impl Target {
    /// Creates a target with one node and the defaults of [`Config`].
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

    /// Turns recovery off: a lost connection is closed for good.
    #[must_use]
    pub fn without_recovery(mut self) -> Self {
        self.recovery = None;
        self
    }

    /// Creates a target from a URI.
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

impl Target {
    pub(crate) fn endpoint(&self, node: usize) -> Result<&Endpoint, ConnectError> {
        self.endpoints.get(node).ok_or(ConnectError::NoEndpoint)
    }
}
