//! What the sockets of connections are set to.

use std::io;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Settings;

/// How often the system asks a silent peer before it gives it up.
const PROBES: u32 = 4;

/// Sets a TCP socket to what suits a connection: it sends at once what it is given (`TCP_NODELAY`), because small writes
/// are gathered before they get there, and it is kept alive as the settings say.
///
/// # Errors
/// What the system says.
pub fn set_options<'s>(socket: impl Into<SockRef<'s>>, settings: &Settings) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    if let Some(after) = settings.keepalive {
        let keepalive = TcpKeepalive::new().with_time(after);
        #[cfg(any(target_vendor = "apple", target_os = "linux", windows))]
        let keepalive = keepalive.with_interval(after / PROBES);
        #[cfg(any(target_vendor = "apple", target_os = "linux"))]
        let keepalive = keepalive.with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if settings.user_timeout.is_some() {
        socket.set_tcp_user_timeout(settings.user_timeout)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_is_set_to_what_the_settings_say() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let socket = SockRef::from(&stream);
        let none = Settings { keepalive: None, ..Settings::default() };
        set_options(&stream, &none)?;
        assert!(socket.tcp_nodelay()? && !socket.keepalive()?);
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
}
