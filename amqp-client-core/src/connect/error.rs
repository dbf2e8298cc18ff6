use std::io;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::config::{ClientConfig, ConfigError};
use amqp_proto::method::{Arguments as _, ConnectionOpen};
use amqp_proto::uri::{Endpoint, UriError};
use amqp_proto::{ConnectionError, ReplyCode};
use thiserror::Error;

use crate::config::SettingError;
use crate::login::TokenError;
use crate::tls::TlsError;

/// Connecting failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URI is malformed.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// A value of the URI does not fit the protocol.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting has a value that cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The target has no endpoints.
    #[error("no host to connect to")]
    NoEndpoint,
    /// The TLS configuration is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token source returned no token.
    #[error("no token to log in with: {0}")]
    NoToken(TokenError),
    /// The node cannot be reached.
    #[error("{endpoint}: {error}")]
    Unreachable {
        /// The node.
        endpoint: Endpoint,
        /// The system's error.
        error: Arc<io::Error>,
    },
    /// Connecting took too long.
    #[error("{endpoint}: not connected within {after:?}")]
    TimedOut {
        /// The node.
        endpoint: Endpoint,
        /// The time it was given.
        after: Duration,
    },
    /// The node was reached, but the handshake failed.
    #[error("{endpoint}: {error}")]
    Refused {
        /// The node.
        endpoint: Endpoint,
        /// The reason why the handshake failed.
        error: ConnectionError,
    },
    /// The node refused a virtual host with an empty name. A URI that ends in `/` names that virtual host.
    #[error(
        "{endpoint}: {error}; the virtual host has an empty name, as in a URI that ends in `/`: end it in `/%2f`, or leave \
         the `/` out, for the virtual host `/`"
    )]
    EmptyVirtualHost {
        /// The node.
        endpoint: Endpoint,
        /// The broker's refusal.
        error: ConnectionError,
    },
}

impl ConnectError {
    pub(crate) fn unreachable(endpoint: &Endpoint, error: io::Error) -> Self {
        Self::Unreachable { endpoint: endpoint.clone(), error: Arc::new(error) }
    }

    /// Makes the error of a failed handshake that used this configuration.
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

    /// The reason why the handshake failed, if there was one.
    #[must_use]
    pub const fn as_connection_error(&self) -> Option<&ConnectionError> {
        match self {
            Self::Refused { error, .. } | Self::EmptyVirtualHost { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Returns whether another node of the same broker may accept the connection: this one cannot be reached, or refuses the
    /// connection [for now](ConnectionError::is_transient), for example because it shuts down or has reached a connection limit.
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
