use std::io;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::config::{ClientConfig, ConfigError};
use amqp_proto::method::{Arguments as _, ConnectionOpen};
use amqp_proto::uri::{Endpoint, UriError};
use amqp_proto::{
    __common_methods as common_methods, __debug_shows_chain as debug_shows_chain, ConnectStep,
    ConnectionError,
};
use thiserror::Error;

use super::check;
use crate::config::SettingError;
use crate::login::TokenError;
use crate::tls::TlsError;

/// Connecting failed.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::ConnectError;
///
/// # fn example(error: ConnectError) -> Result<(), Box<dyn std::error::Error>> {
/// match error {
///     ConnectError::Unreachable { endpoint, .. } => println!("no broker at {endpoint}"),
///     ConnectError::Refused { error, .. } => println!("the broker refuses the connection: {error}"),
///     error if error.is_transient() => println!("try again later: {error}"),
///     error => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Error)]
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
    #[error("no host to connect to; add an endpoint to the target")]
    NoEndpoint,
    /// The TLS configuration is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token source returned no token.
    #[error("the token source returned no token")]
    NoToken(#[source] TokenError),
    /// The node cannot be reached.
    #[error("cannot reach {endpoint} (step: {step}{})", check::unreachable(*step, error))]
    Unreachable {
        /// The node.
        endpoint: Endpoint,
        /// The step that failed.
        step: ConnectStep,
        /// The system's error.
        #[source]
        error: Arc<io::Error>,
    },
    /// Connecting took too long.
    #[error("connecting to {endpoint} timed out after {after:?} (step: {step}{})", check::late(*step))]
    TimedOut {
        /// The node.
        endpoint: Endpoint,
        /// The step that was not completed.
        step: ConnectStep,
        /// The timeout.
        after: Duration,
    },
    /// The node was reached, but the handshake failed.
    #[error("cannot connect to {endpoint} (step: {step}{})", check::refused(*step, error))]
    Refused {
        /// The node.
        endpoint: Endpoint,
        /// The step that failed.
        step: ConnectStep,
        /// The reason why the handshake failed.
        #[source]
        error: ConnectionError,
    },
    /// The node refused a virtual host with an empty name. A URI that ends in `/` names that virtual host.
    #[error(
        "{endpoint} refused the virtual host with the empty name, which a URI that ends in `/` selects; to use the virtual host \
         `/`, end the URI in `/%2f` or remove its final `/`"
    )]
    EmptyVirtualHost {
        /// The node.
        endpoint: Endpoint,
        /// The broker's refusal.
        #[source]
        error: ConnectionError,
    },
}

common_methods! {
    ConnectError {
        Self::Refused { error, .. } | Self::EmptyVirtualHost { error, .. } => error
    }
    transient Self::Unreachable { .. } | Self::TimedOut { .. } | Self::NoToken(_)
}
debug_shows_chain! { ConnectError }

impl ConnectError {
    pub(crate) fn unreachable(endpoint: &Endpoint, step: ConnectStep, error: io::Error) -> Self {
        match error.downcast::<SettingError>() {
            // The system refuses a setting, for each node.
            Ok(error) => Self::Setting(error),
            Err(error) => {
                Self::Unreachable { endpoint: endpoint.clone(), step, error: Arc::new(error) }
            }
        }
    }

    /// Returns the step that failed.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{ConnectError, ConnectStep};
    ///
    /// # fn example(error: ConnectError) {
    /// match error.step() {
    ///     ConnectStep::Dns | ConnectStep::Tcp => println!("the network: {error}"),
    ///     ConnectStep::Sasl | ConnectStep::VirtualHost => println!("the permissions: {error}"),
    ///     step => println!("{step}: {error}"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub const fn step(&self) -> ConnectStep {
        match self {
            Self::Uri(_) | Self::Config(_) | Self::Setting(_) | Self::NoEndpoint | Self::Tls(_) => {
                ConnectStep::Configuration
            }
            Self::NoToken(_) => ConnectStep::Token,
            Self::Unreachable { step, .. } | Self::TimedOut { step, .. } => *step,
            Self::Refused { step, .. } => *step,
            Self::EmptyVirtualHost { .. } => ConnectStep::VirtualHost,
        }
    }

    /// Creates the error of a handshake with this configuration that failed at this step.
    #[must_use]
    pub fn refused(
        endpoint: Endpoint,
        step: ConnectStep,
        error: ConnectionError,
        config: &ClientConfig,
    ) -> Self {
        let opening = error
            .as_close()
            .is_some_and(|close| close.method() == Some(ConnectionOpen::FACTS.name));
        if opening && config.get_virtual_host().is_empty() && !error.is_transient() {
            return Self::EmptyVirtualHost { endpoint, error };
        }
        Self::Refused { endpoint, step, error }
    }

    /// Returns the reason why the handshake failed, if it did.
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
