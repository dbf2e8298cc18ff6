//! What the sockets of connections are set to.

use std::io;
use std::time::Duration;

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
        check("keepalive", after, KEEPALIVE)?;
        let keepalive = TcpKeepalive::new().with_time(after);
        #[cfg(any(target_vendor = "apple", target_os = "linux", windows))]
        let keepalive = keepalive.with_interval((after / PROBES).max(Duration::from_secs(1)));
        #[cfg(any(target_vendor = "apple", target_os = "linux"))]
        let keepalive = keepalive.with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(timeout) = settings.user_timeout {
        check("user_timeout", timeout, USER_TIMEOUT)?;
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

/// What systems take for `TCP_KEEPIDLE`: whole seconds in 15 bits.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32_767));

/// What Linux takes for `TCP_USER_TIMEOUT`: milliseconds in 31 bits, where 0 is its default.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(i32::MAX.unsigned_abs() as u64));

/// The system would say `Invalid argument`, which names no option.
fn check(option: &str, value: Duration, (least, most): (Duration, Duration)) -> io::Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let text = format!("settings.{option} is {value:?}; it has to be from {least:?} to {most:?}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_is_set_to_what_the_settings_say() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let socket = SockRef::from(&stream);
        let none = Settings { keepalive: None, ..Settings::default() };
        set_options(&stream, &none)?;
        assert!(socket.tcp_nodelay()? && !socket.keepalive()?);
        for (option, extreme) in [
            ("keepalive", Settings { keepalive: Some(Duration::ZERO), ..none }),
            ("keepalive", Settings { keepalive: Some(Duration::from_millis(999)), ..none }),
            ("keepalive", Settings { keepalive: Some(Duration::MAX), ..none }),
            ("user_timeout", Settings { user_timeout: Some(Duration::ZERO), ..none }),
            ("user_timeout", Settings { user_timeout: Some(Duration::MAX), ..none }),
        ] {
            let refused = set_options(&stream, &extreme);
            if option == "keepalive" || cfg!(target_os = "linux") {
                let error = refused.expect_err("the system takes no such value");
                assert!(error.to_string().contains(option), "{error}");
            }
        }
        let limits = Settings {
            keepalive: Some(KEEPALIVE.0),
            user_timeout: Some(Duration::from_millis(1)),
            ..none
        };
        set_options(&stream, &limits)?;
        let limits = Settings {
            keepalive: Some(KEEPALIVE.1),
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
}
