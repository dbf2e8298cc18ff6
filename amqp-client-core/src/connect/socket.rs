//! Options of the sockets of connections.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
#[cfg(not(windows))]
use std::os::fd::AsFd as AsSocket;
#[cfg(windows)]
use std::os::windows::io::AsSocket;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{SettingError, Settings};

/// Number of keepalive probes without a response before the system drops the connection.
const PROBES: u32 = 4;

/// Number of unsent bytes that the system may hold. That is enough to keep it busy while it waits for more, and on a slow link it
/// shows progress long before a timeout: 256 KiB in 30 s are 9 KiB/s.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MAX: u32 = 256 * 1024;

/// Connects a TCP socket with the options of `settings`.
///
/// Creates a socket that does not block, and calls `connect` with it. `connect` connects the socket to `addr` by the means of its
/// runtime, and returns the stream.
///
/// The receive buffer is set before the socket connects, because the first packet already limits how far the window of the
/// connection can grow. The [other options](set_options) are set afterwards.
///
/// # Errors
/// An error of the system, or a [setting](Settings::check) that cannot work.
pub async fn connect_socket<S, C>(
    addr: SocketAddr,
    settings: &Settings,
    connect: impl FnOnce(TcpStream) -> C,
) -> io::Result<S>
where
    S: AsSocket,
    C: Future<Output = io::Result<S>>,
{
    check(settings)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = settings.receive_buffer {
        socket
            .set_recv_buffer_size(bytes)
            .map_err(|error| receive_buffer_refused(bytes, &error))?;
    }
    let stream = connect(socket.into()).await?;
    set_options(&stream, settings)?;
    Ok(stream)
}

/// Returns the error for a receive buffer that the system refuses. Linux accepts each size, and BSD and macOS have a limit.
fn receive_buffer_refused(bytes: usize, error: &io::Error) -> io::Error {
    let bounds = format!(
        "smaller: the system refuses this size ({error}); on BSD and macOS, kern.ipc.maxsockbuf is the limit"
    );
    invalid(SettingError { setting: "receive_buffer", value: bytes.to_string(), bounds })
}

fn check(settings: &Settings) -> io::Result<()> {
    settings.check().map_err(invalid)
}

fn invalid(error: SettingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Configures a TCP socket for a connection. `TCP_NODELAY`: the socket sends at once, because small writes are already merged.
/// `TCP_NOTSENT_LOWAT` (Linux, Android): it accepts at most 256 KiB that it cannot send yet, so that
/// [timeouts](Settings#timeouts-on-slow-links) see the progress of a slow link. Keepalive is set as `settings` say.
/// This function does not set the receive buffer. [`connect_socket`] sets it, before the socket connects.
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
    use std::future::ready;
    use std::net::TcpListener;

    use amqp_proto::ConnectStep;
    use amqp_proto::uri::Endpoint;
    use futures_util::FutureExt as _;

    use crate::ConnectError;

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
    fn a_receive_buffer_that_the_system_refuses_is_an_invalid_setting() {
        let refused = receive_buffer_refused(1024 * 1024, &io::Error::other("no buffer space"));
        let error =
            ConnectError::unreachable(&Endpoint::new("rabbit", 5672), ConnectStep::Tcp, refused);
        assert!(matches!(error, ConnectError::Setting(_)), "{error:?}");
        assert!(!error.is_transient() && !error.is_about_the_node());
        assert_eq!(error.step(), ConnectStep::Configuration);
        assert_eq!(
            error.to_string(),
            "invalid setting: Settings::receive_buffer is 1048576; it has to be smaller: the system refuses this size (no buffer \
             space); on BSD and macOS, kern.ipc.maxsockbuf is the limit"
        );
    }

    #[test]
    fn a_socket_connects_with_the_configured_receive_buffer() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        // The size that the socket has when it connects, and afterwards.
        let size = |settings: Settings| -> io::Result<usize> {
            let mut size = 0;
            let mut connect = |socket: TcpStream| {
                size = SockRef::from(&socket).recv_buffer_size()?;
                SockRef::from(&socket).connect_timeout(&addr.into(), Duration::from_secs(30))?;
                Ok(socket)
            };
            let connected = connect_socket(addr, &settings, |socket| ready(connect(socket)));
            let stream = connected.now_or_never().expect("nothing to wait for")?;
            assert_eq!(SockRef::from(&stream).recv_buffer_size()?, size);
            Ok(size)
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
