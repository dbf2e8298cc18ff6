//! Hints for failed attempts to connect: what to check, if the reason itself does not say so.

use std::io;

use amqp_proto::{ConnectStep, ConnectionError};

/// Returns the hint for an attempt that connected no stream.
pub(super) fn unreachable(step: ConnectStep, error: &io::Error) -> &'static str {
    match (step, error.kind()) {
        // No thread could be started to resolve the name, and the error says so.
        (ConnectStep::Dns, io::ErrorKind::WouldBlock) => "",
        (ConnectStep::Dns, _) => "; check the host name",
        (_, io::ErrorKind::ConnectionRefused) => {
            "; nothing listens there: check the port, and whether the broker runs"
        }
        (_, io::ErrorKind::TimedOut) => TOO_QUIET,
        (_, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            "; check the address and the network"
        }
        _ => "",
    }
}

const TOO_QUIET: &str = "; check the host, and whether a firewall drops packets";

const SLOW_BROKER: &str = "; the broker is slow or hangs: see its log";

/// Returns the hint for a step that took too long.
pub(super) const fn late(step: ConnectStep) -> &'static str {
    match step {
        ConnectStep::Dns => "; check the name servers of this machine",
        ConnectStep::Tcp => TOO_QUIET,
        ConnectStep::Tls => "; check the port: one without TLS needs amqp://",
        ConnectStep::ProtocolHeader => {
            "; check the port: one for TLS needs amqps://, and a broker that starts may reply late"
        }
        ConnectStep::Sasl | ConnectStep::Tune | ConnectStep::VirtualHost => SLOW_BROKER,
        _ => "",
    }
}

/// Returns the hint for a handshake that failed. Empty for most errors: their own texts say what to do.
pub(super) const fn refused(step: ConnectStep, error: &ConnectionError) -> &'static str {
    match (step, error) {
        (_, ConnectionError::HandshakeTimeout { .. }) => late(step),
        (ConnectStep::Tls, ConnectionError::Eof) => {
            "; check the port: one without TLS needs amqp://, and a proxy needs a broker behind it"
        }
        (ConnectStep::ProtocolHeader, ConnectionError::Eof) => {
            "; check the port: one for TLS needs amqps://, and a proxy needs a broker behind it"
        }
        (ConnectStep::Tune | ConnectStep::VirtualHost, ConnectionError::Eof) => {
            "; see the broker's log"
        }
        _ => "",
    }
}
