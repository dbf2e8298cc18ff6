//! How a client connects and how long it waits.

use std::fmt;
use std::time::Duration;

use amqp_proto::ClientConfig;
use amqp_proto::session::Session;
use thiserror::Error;

/// How a client connects, and what bounds it afterwards.
///
/// ```
/// use amqp_client_core::Config;
/// use std::time::Duration;
///
/// let mut config = Config::default();
/// config.protocol.heartbeat = Duration::from_secs(10);
/// config.settings.call_timeout = Some(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Config {
    /// Login, virtual host, heartbeats and limits.
    pub protocol: ClientConfig,
    /// Deadlines and buffers of the handles.
    pub settings: Settings,
}

/// Deadlines and buffers of the handles. `Duration::MAX` and `usize::MAX` are no limit, where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long connecting may take in all: resolving the name, TCP, TLS and the handshake. More than zero; default 30 s.
    pub connect_timeout: Duration,
    /// How long the broker may take to answer a request; `None` waits for ever. Default 30 s.
    pub call_timeout: Option<Duration>,
    /// How long publishing may have to wait for the broker or the transport; `None` waits for ever. Default 30 s.
    pub publish_timeout: Option<Duration>,
    /// How long the broker may take to confirm a message that somebody waits for; `None` waits for ever. Default 60 s.
    pub confirm_timeout: Option<Duration>,
    /// How many bytes may be delivered to consumers that do not take them, before reading from the transport is suspended. At
    /// least 1, which lets one read through at a time. Prefetch should bound it long before. Default 16 MiB.
    ///
    /// While the broker owes an answer or a confirm, reading goes on, up to eight times as far: what it owes comes behind
    /// those deliveries, and whoever should take them may be the one who waits for it.
    ///
    /// A consumer that takes nothing for a second then is paused where that is possible, so that the others go on; see
    /// [`Consumer`](crate::Consumer#consumers-that-lag).
    ///
    /// Each time half a MiB of it is taken, consumers are given a millisecond to keep up before more is read, so that floods
    /// take no more memory than they have to.
    pub delivery_budget: usize,
    /// After how much silence, from 1 to 32767 s, the system asks whether the peer is there (`SO_KEEPALIVE`); after as much again without an
    /// answer it gives the connection up. `None` does not ask. Default 60 s. Beside heartbeats, this keeps routers on the
    /// way from forgetting the connection where heartbeats are off.
    pub keepalive: Option<Duration>,
    /// How long what was sent may stay unacknowledged by the peer's system, from 1 ms to 24 days, where the platform has such a limit
    /// (`TCP_USER_TIMEOUT`: Linux, Android). `None` is the system's own, on Linux about 15 minutes; heartbeats notice a
    /// dead peer much earlier. Default `None`: RabbitMQ stops reading from publishers while it is short of memory or disk,
    /// and Linux would count that as not acknowledged.
    pub user_timeout: Option<Duration>,
}

/// A setting with a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("settings.{setting} is {value}; it has to be {bounds}")]
#[non_exhaustive]
pub struct SettingError {
    /// The field of [`Settings`].
    pub setting: &'static str,
    /// The rejected value.
    pub value: String,
    /// The allowed values.
    pub bounds: String,
}

/// The values that systems allow for `TCP_KEEPIDLE`: whole seconds, 15 bits.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32_767));

/// The values that Linux allows for `TCP_USER_TIMEOUT`: milliseconds, 31 bits. 0 would mean its default.
const USER_TIMEOUT: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(i32::MAX.unsigned_abs() as u64));

/// The client reads up to this many times its budget while it waits for a reply or a confirm, or checks whether the broker is
/// alive.
const FOR_WHAT_IS_OWED: usize = 8;

impl Settings {
    /// Checks that the settings can work. Opening a connection does this first; a connection that is begun over a transport
    /// of the caller's ends with the error.
    ///
    /// # Errors
    /// [`SettingError`], which names the setting.
    pub fn check(&self) -> Result<(), SettingError> {
        let outside = |setting, value: &dyn fmt::Debug, bounds: &str| {
            let (value, bounds) = (format!("{value:?}"), bounds.to_owned());
            Err(SettingError { setting, value, bounds })
        };
        if self.connect_timeout.is_zero() {
            return outside("connect_timeout", &self.connect_timeout, "more than zero");
        }
        if self.delivery_budget == 0 {
            // Nothing would ever be read.
            return outside("delivery_budget", &self.delivery_budget, "at least 1");
        }
        let times = [
            ("keepalive", self.keepalive, KEEPALIVE),
            ("user_timeout", self.user_timeout, USER_TIMEOUT),
        ];
        for (setting, value, (least, most)) in times {
            // The system would say `Invalid argument`, which names no setting.
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return outside(setting, &value, &format!("from {least:?} to {most:?}"));
            }
        }
        Ok(())
    }

    /// Whether to read once to see if the peer is alive, with so many bytes that consumers have not taken.
    pub(crate) const fn may_look(&self, delivered: usize) -> bool {
        delivered < self.delivery_budget.saturating_mul(FOR_WHAT_IS_OWED)
    }

    /// Whether to read on when consumers have not taken that many octets.
    pub(crate) fn may_read(&self, delivered: usize, proto: &Session) -> bool {
        let budget = self.delivery_budget;
        // A handshake brings no deliveries, and there may be many from before a loss that need no acknowledgement.
        proto.negotiated().is_none()
            || delivered < budget
            || delivered < budget.saturating_mul(FOR_WHAT_IS_OWED) && proto.awaits_peer()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            call_timeout: Some(Duration::from_secs(30)),
            publish_timeout: Some(Duration::from_secs(30)),
            confirm_timeout: Some(Duration::from_secs(60)),
            delivery_budget: 16 * 1024 * 1024,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        let fine = Settings::default();
        let (least, most) = (Duration::ZERO, Duration::MAX);
        for (setting, extreme) in [
            ("connect_timeout", Settings { connect_timeout: least, ..fine }),
            ("delivery_budget", Settings { delivery_budget: 0, ..fine }),
            ("keepalive", Settings { keepalive: Some(least), ..fine }),
            ("keepalive", Settings { keepalive: Some(Duration::from_millis(999)), ..fine }),
            ("keepalive", Settings { keepalive: Some(KEEPALIVE.1 + MILLISECOND), ..fine }),
            ("keepalive", Settings { keepalive: Some(most), ..fine }),
            ("user_timeout", Settings { user_timeout: Some(least), ..fine }),
            ("user_timeout", Settings { user_timeout: Some(USER_TIMEOUT.1 * 2), ..fine }),
            ("user_timeout", Settings { user_timeout: Some(most), ..fine }),
        ] {
            let error = extreme.check().expect_err("it cannot work");
            assert_eq!(error.setting, setting);
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("settings.{setting} is {}; ", error.value)),
                "{text}"
            );
        }
        let (some_least, some_most) = (Some(least), Some(most));
        for extreme in [
            fine,
            Settings { connect_timeout: most, delivery_budget: usize::MAX, ..fine },
            Settings { connect_timeout: MILLISECOND, delivery_budget: 1, ..fine },
            Settings { call_timeout: some_least, publish_timeout: some_least, ..fine },
            Settings { call_timeout: some_most, publish_timeout: some_most, ..fine },
            Settings { confirm_timeout: some_least, keepalive: None, ..fine },
            Settings { confirm_timeout: some_most, keepalive: Some(KEEPALIVE.0), ..fine },
            Settings { keepalive: Some(KEEPALIVE.1), user_timeout: Some(USER_TIMEOUT.0), ..fine },
            Settings { user_timeout: Some(USER_TIMEOUT.1), ..fine },
        ] {
            assert_eq!(extreme.check(), Ok(()), "{extreme:?}");
        }
    }

    const MILLISECOND: Duration = Duration::from_millis(1);
}
