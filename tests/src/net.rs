//! Local ports that are safe to use for a server.
//!
//! The kit's servers live below the range from which the system picks the ports of outgoing
//! connections (32768 and up on Linux). A server that is down for a while thus finds its port free
//! again, and a client that keeps trying to connect to it can't end up connected to itself, which
//! happens when the system picks the very port that is being connected to.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

const LOWEST: u16 = 10_000;
const HIGHEST: u16 = 32_000;
const TRIES: usize = 1_000;

/// A local server that takes longer to accept is there, and busy.
const CONNECT: Duration = Duration::from_secs(1);

/// A listener on a free port of 127.0.0.1.
///
/// # Errors
///
/// When no port can be bound.
pub fn listen() -> io::Result<TcpListener> {
    let mut last = None;
    for _ in 0..TRIES {
        let offset = random() % u64::from(HIGHEST - LOWEST);
        let port = LOWEST + u16::try_from(offset).unwrap_or_default();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// `N` different ports of 127.0.0.1 that nobody listens on right now.
///
/// Nothing keeps others from taking them before the caller does: be ready to try again.
///
/// # Errors
///
/// When no port can be bound.
pub fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    // All are held until the last one is found, so that they differ.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = listen()?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Returns whether nobody listens on this address now.
///
/// It tries to connect. Listening for a moment would show the same, but others could connect to that.
#[must_use]
pub fn is_free(addr: SocketAddr) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    TcpStream::connect_timeout(&addr, CONNECT).is_err_and(refused)
}

/// Makes the close of this socket a reset: the peer sees an error instead of the end of the stream.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

/// The address for a client, with RabbitMQ's usual user and virtual host.
pub(crate) fn amqp_uri(addr: SocketAddr) -> String {
    format!("amqp://guest:guest@{addr}/%2f")
}

/// A unique number: good enough for names, ports and cookies of temporary servers.
pub(crate) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_stay_out_of_the_range_of_outgoing_connections() {
        let ports: [u16; 8] = free_ports().unwrap();
        for (at, port) in ports.iter().enumerate() {
            assert!((LOWEST..HIGHEST).contains(port));
            assert!(!ports[at + 1..].contains(port));
        }
    }

    #[test]
    fn a_port_is_free_only_without_a_listener() {
        let listener = listen().unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(!is_free(addr));
        drop(listener);
        assert!(is_free(addr));
    }
}
