//! The steps of connecting.

use core::fmt;

use super::close::Close;
use super::connection::ConnectionError;
use super::explanation::Explanation;
use super::violation::Violation;
use crate::method::{Arguments as _, ConnectionTune, ConnectionTuneOk};

/// A step of connecting to a broker: the step at which an attempt failed, or which it has reached. The steps are in their order.
///
/// ```
/// use amqp_proto::ConnectStep;
///
/// assert!(ConnectStep::Tcp < ConnectStep::Tls);
/// assert_eq!(ConnectStep::VirtualHost.to_string(), "virtual host");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConnectStep {
    /// The configuration is read and checked.
    Configuration,
    /// A token to log in with is requested.
    Token,
    /// The host name is resolved.
    Dns,
    /// A stream is connected.
    Tcp,
    /// TLS is negotiated, and the certificates are verified.
    Tls,
    /// Both sides agree that they speak AMQP 0-9-1: protocol header and `connection.start`.
    ProtocolHeader,
    /// The client logs in: `connection.start-ok`, `secure` and `secure-ok`.
    Sasl,
    /// Limits are negotiated: `connection.tune` and `tune-ok`.
    Tune,
    /// The virtual host is opened: `connection.open` and `open-ok`.
    VirtualHost,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Token => "token",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::ProtocolHeader => "protocol header",
            Self::Sasl => "login",
            Self::Tune => "tuning",
            Self::VirtualHost => "virtual host",
        })
    }
}

impl ConnectStep {
    /// Returns the step at which a handshake failed, if it had reached this step. The client sends `connection.open` without waiting
    /// for the broker's reaction to its limits. So only the error shows whether the broker refused the limits or the virtual host.
    pub(crate) fn of_failure(self, error: &ConnectionError) -> Self {
        match error {
            ConnectionError::Login(_) | ConnectionError::HandshakeTooLarge { .. } => Self::Sasl,
            ConnectionError::Violation(Violation::BadTune { .. }) => Self::Tune,
            ConnectionError::Closed(close) if refuses_limits(close) => Self::Tune,
            _ => self,
        }
    }
}

fn refuses_limits(close: &Close) -> bool {
    let tuning = [ConnectionTune::NAME, ConnectionTuneOk::NAME];
    close.method().is_some_and(|method| tuning.contains(&method))
        || matches!(close.explanation(), Some(Explanation::Negotiation { .. }))
}
