//! Options of the sockets of connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
#[cfg(not(windows))]
use std::os::fd::AsFd as AsSocket;
#[cfg(windows)]
use std::os::windows::io::AsSocket;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::Settings;

/// Number of keepalive probes without a response before the system drops the connection.
const PROBES: u32 = 4;

/// Number of unsent bytes that the system may hold. That is enough to keep it busy while it waits for more, and on a slow link it
/// shows progress long before a timeout: 256 KiB in 30 s are 9 KiB/s.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MAX: u32 = 256 * 1024;

/// Connects a TCP socket, with all options that `settings` say, and waits for it: at most the connect timeout.
///
/// # Errors
/// An error of the system, or a [setting](Settings::check) that cannot work.
pub fn connect_socket(addr: SocketAddr, settings: &Settings) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    set_receive_buffer(&socket, settings)?;
    socket.connect_timeout(&addr.into(), settings.connect_timeout)?;
    set_options(&socket, settings)?;
    Ok(socket.into())
}

/// Sets the receive buffer of a TCP socket that is not connected yet: when it connects, it tells the peer how far its window can
/// grow.
///
/// # Errors
/// An error of the system, or a [setting](Settings::check) that cannot work.
pub fn set_receive_buffer(socket: &impl AsSocket, settings: &Settings) -> io::Result<()> {
    check(settings)?;
    match settings.receive_buffer {
        Some(bytes) => SockRef::from(socket).set_recv_buffer_size(bytes),
        None => Ok(()),
    }
}

fn check(settings: &Settings) -> io::Result<()> {
    settings.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Configures a TCP socket for a connection. `TCP_NODELAY`: the socket sends at once, because small writes are already merged.
/// `TCP_NOTSENT_LOWAT` (Linux, Android): it accepts at most 256 KiB that it cannot send yet, so that
/// [timeouts](Settings#timeouts-on-slow-links) see the progress of a slow link. Keepalive is set as `settings` say.
/// The receive buffer has to be [set earlier](set_receive_buffer).
///
/// # Errors
/// An error of the system, or a [setting](Settings::check) that cannot work.
pub fn set_options(socket: &impl AsSocket, settings: &Settings) -> io::Result<()> {
    check(settings)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // Systems that only look like Linux may not know it, and connections work without.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _unknown = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    if let Some(after) = settings.keepalive {
        let keepalive = TcpKeepalive::new().with_time(after);
        #[cfg(any(target_vendor = "apple", target_os = "linux", windows))]
        let keepalive = keepalive.with_interval((after / PROBES).max(Duration::from_secs(1)));
        #[cfg(any(target_vendor = "apple", target_os = "linux"))]
        let keepalive = keepalive.with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(timeout) = settings.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_gets_the_configured_options() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let socket = SockRef::from(&stream);
        let none = Settings { keepalive: None, ..Settings::default() };
        set_options(&stream, &none)?;
        assert!(socket.tcp_nodelay()? && !socket.keepalive()?);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat()?, UNSENT_MAX);
        let refused = set_options(&stream, &Settings { keepalive: Some(Duration::MAX), ..none });
        let error = refused.expect_err("the system takes no such value");
        assert!(error.to_string().contains("Settings::keepalive"), "{error}");
        let limits = Settings {
            keepalive: Some(Duration::from_secs(1)),
            user_timeout: Some(Duration::from_millis(1)),
            ..none
        };
        set_options(&stream, &limits)?;
        let limits = Settings {
            keepalive: Some(Duration::from_secs(32_767)),
            user_timeout: Some(Duration::from_millis(i32::MAX.unsigned_abs().into())),
            ..none
        };
        set_options(&stream, &limits)?;
        let all = Settings {
            keepalive: Some(Duration::from_secs(40)),
            user_timeout: Some(Duration::from_secs(20)),
            ..none
        };
        set_options(&stream, &all)?;
        assert!(socket.keepalive()?);
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time()?, Duration::from_secs(40));
            assert_eq!(socket.tcp_keepalive_interval()?, Duration::from_secs(10));
            assert_eq!(socket.tcp_user_timeout()?, Some(Duration::from_secs(20)));
        }
        Ok(())
    }

    #[test]
    fn a_socket_connects_with_the_configured_receive_buffer() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let size = |settings: Settings| {
            SockRef::from(&connect_socket(addr, &settings)?).recv_buffer_size()
        };
        let small = Settings { receive_buffer: Some(24 * 1024), ..Settings::default() };
        // Linux doubles the value.
        assert!([24 * 1024, 48 * 1024].contains(&size(small)?));
        assert_ne!(size(Settings::default())?, size(small)?);
        let most = Settings { receive_buffer: Some(1024 * 1024 * 1024), ..small };
        // Linux limits the value without an error; other systems refuse it.
        assert!(cfg!(not(target_os = "linux")) || size(most)? > size(small)?);
        let refused = size(Settings { receive_buffer: Some(0), ..small });
        let error = refused.expect_err("a socket without a buffer receives nothing");
        assert!(error.to_string().contains("Settings::receive_buffer is 0"), "{error}");
        Ok(())
    }
}
