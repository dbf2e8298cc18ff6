//! Configuration of a client: login, limits, deadlines.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use amqp_proto::ClientConfig;
use amqp_proto::session::Session;
use thiserror::Error;

use crate::intercept::{Intercept, Interceptor};
use crate::logs::Log;
use crate::tap::{Tap, Taps};

/// The configuration of a connection and of its handles.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{ClientConfig, Config, Settings};
/// use std::time::{Duration, Instant};
///
/// let config = Config::default()
///     .protocol(ClientConfig::default().heartbeat(Duration::from_secs(10)))
///     .settings(Settings::default().call_timeout(Some(Duration::from_secs(5))));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub(crate) protocol: ClientConfig,
    pub(crate) settings: Settings,
    pub(crate) taps: Taps,
    pub(crate) interceptor: Option<Interceptor>,
    /// The log of the next connection, if one of its attempts has already written lines.
    pub(crate) log: Option<Log>,
}

amqp_proto::__setters! {
    Config {
        /// Sets login, virtual host, heartbeats and limits.
        protocol: ClientConfig,
        /// Sets the deadlines and buffers of the handles.
        settings: Settings,
    }
}

impl Config {
    /// Returns the log of a connection that begins at `now`.
    pub(crate) fn begin_log(&self, now: Instant) -> Log {
        let log = self.log.clone().unwrap_or_else(|| Log::new(&self.protocol));
        log.begin(now);
        log
    }

    /// Adds a tap, which sees each frame that is sent and received; see [`tap`](crate::tap).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{Config, tap};
    ///
    /// let config = Config::default().tap(tap::Lines::new(std::io::stderr()));
    /// ```
    #[must_use]
    pub fn tap(mut self, tap: impl Tap) -> Self {
        self.taps.add(tap);
        self
    }

    /// Adds an interceptor, which sees the connection's messages; see [`intercept`](crate::intercept). If there are several,
    /// they are called in the order in which they were added.
    #[must_use]
    pub fn intercept(mut self, intercept: impl Intercept) -> Self {
        self.interceptor = Some(match self.interceptor {
            Some(first) => first.and(intercept),
            None => Interceptor::new(intercept),
        });
        self
    }

    /// Returns login, virtual host, heartbeats and limits.
    #[must_use]
    pub const fn get_protocol(&self) -> &ClientConfig {
        &self.protocol
    }

    /// Returns the deadlines and buffers of the handles.
    #[must_use]
    pub const fn get_settings(&self) -> &Settings {
        &self.settings
    }
}

/// Deadlines and buffers of the handles. `Duration::MAX` and `usize::MAX` mean no limit, unless a method says otherwise.
///
/// # Timeouts on slow links
///
/// A request is written behind everything that its channel has queued before it. If more than 512 KiB are queued, it goes ahead of
/// the messages of other channels. `call_timeout`, `publish_timeout` and `confirm_timeout` bound the time in which neither the broker
/// replies nor the transport accepts bytes, not the time that a link needs for a large body. Until the request and all bytes queued
/// before it are written, the timeout restarts each time the transport accepts bytes. Once they are written, the broker has the whole
/// timeout to reply.
///
/// For example, with a `call_timeout` of 5 s, a request behind a body of 30 MiB of its own channel, on a link of 2 MiB/s, is written
/// after 15 s, and fails 5 s later if the broker does not reply. If the link stops after 3 s, the request fails 5 s after that.
///
/// Bytes that are queued later make no difference, unless they go ahead of the request. Time without a connection counts in full.
/// Bytes count as written once the operating system has taken them into its buffers. On Linux and Android, the client
/// [limits](crate::adapter::set_options) what the system holds unsent to 256 KiB. Elsewhere, and over your own transport, the system
/// may take megabytes at once, and a slow link has to send them within the timeout.
///
/// To bound the whole time, wait with a timer of the runtime (`tokio::time::timeout`, for threads `.wait_timeout(..)`).
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Settings, Target};
/// use std::time::{Duration, Instant};
///
/// let settings = Settings::default()
///     .connect_timeout(Duration::from_secs(5))
///     .call_timeout(Some(Duration::from_secs(10)))
///     .delivery_budget(64 * 1024 * 1024);
/// let target = Target::new("localhost", 5672).settings(settings);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) publish_timeout: Option<Duration>,
    pub(crate) confirm_timeout: Option<Duration>,
    pub(crate) delivery_budget: usize,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) receive_buffer: Option<usize>,
}

amqp_proto::__setters! {
    Settings {
        /// Sets how long it may take to connect to a node for the first time: resolving the name, TCP, TLS and the handshake. More
        /// than zero; default 30 s. After a loss, the handshake is not included. It has its own
        /// [timeout](amqp_proto::ClientConfig::handshake_timeout).
        connect_timeout: Duration,
        /// Sets how long the broker may take to reply to a request, [from when it is written](#timeouts-on-slow-links); `None` waits
        /// forever. Default 30 s.
        call_timeout: Option<Duration>,
        /// Sets how long publishing may have to wait for the broker, or for a transport that [accepts
        /// nothing](#timeouts-on-slow-links); `None` waits forever. Default 30 s. Messages that wait before this one count as
        /// queued before it.
        publish_timeout: Option<Duration>,
        /// Sets how long the broker may take to confirm a message, from when a task waits for the confirm and everything
        /// published by then [is written](#timeouts-on-slow-links); `None` waits forever. Default 60 s.
        confirm_timeout: Option<Duration>,
        /// Sets the number of bytes, delivered to consumers and not taken by them, at which the client stops reading from the
        /// transport. A consumer takes up to half a MiB at a time. At least 1, which allows one read at a time. Prefetch limits
        /// should bound deliveries long before. Default 16 MiB.
        ///
        /// While a reply or a confirm is outstanding, the client reads up to eight times this budget. The reply arrives after
        /// those deliveries, and the task that should take them may be waiting for it.
        ///
        /// A consumer that then takes nothing for a second is paused where that is possible, so that the others can continue; see
        /// [`Consumer`](crate::Consumer#consumers-that-lag).
        ///
        /// For each half MiB of untaken deliveries, the client pauses reading for a millisecond, so that consumers can keep up and a
        /// flood takes no more memory than necessary.
        delivery_budget: usize,
        /// Sets the idle time, from 1 to 32767 s, after which the system probes the peer (`SO_KEEPALIVE`). If the peer does not
        /// respond for the same time again, the system drops the connection. `None` turns probes off. Default 60 s. Unlike
        /// heartbeats, probes are sent even where heartbeats are off, and keep routers on the path from forgetting the connection.
        keepalive: Option<Duration>,
        /// Sets the time that sent bytes may stay unacknowledged by the peer's system, from 1 ms to 24 days, where the platform has
        /// such a limit (`TCP_USER_TIMEOUT`: Linux, Android). `None` keeps the system's default, on Linux about 15 minutes;
        /// heartbeats detect a dead peer much earlier. Default `None`: RabbitMQ stops reading from publishers while it is short of
        /// memory or disk, and Linux would count that as not acknowledged.
        user_timeout: Option<Duration>,
        /// Sets the size of the system's receive buffer of a TCP socket in bytes, from 4 KiB to 1 GiB (`SO_RCVBUF`). `None`, the
        /// default, lets the system choose: Linux lets the buffer grow with the traffic, up to the third number of
        /// `net.ipv4.tcp_rmem`, often 6 or 32 MiB.
        ///
        /// A reply arrives after everything that the buffer already holds. So a small buffer makes replies faster while other
        /// channels of the connection receive large messages. But a small buffer also limits throughput: a connection receives at
        /// most one buffer in each round trip to the broker. With a buffer of 256 KiB, that is 12.5 MiB/s if a round trip takes
        /// 20 ms, and 500 MiB/s if it takes 0.5 ms, as in a data center. On loopback, a buffer of 256 KiB reduced the throughput of
        /// 1 MiB messages by a third. A packet on loopback has up to 64 KiB, and a buffer of that size made replies slower.
        ///
        /// A request also waits behind the messages that this connection has published, until the broker has read them. This setting
        /// does not limit these messages, because they are in the broker's receive buffer. To limit them, publish with confirms and
        /// a [window](crate::PublisherOptions::window) of a few MiB.
        ///
        /// Linux never refuses a value. It reduces a value above `net.core.rmem_max` to that limit, and then doubles it, because its
        /// own records take a part of the buffer. BSD and macOS refuse a value above `kern.ipc.maxsockbuf`, and connecting fails with
        /// [`ConnectError::Setting`](crate::ConnectError::Setting). The setting applies to the sockets that the client connects, and
        /// not to your own transports.
        receive_buffer: Option<usize>,
    }
}

/// A setting has a value that is not allowed.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::Settings;
///
/// let error = Settings::default().delivery_budget(0).check().unwrap_err();
/// assert_eq!(error.to_string(), "invalid setting: Settings::delivery_budget is 0; it has to be at least 1");
/// ```
#[derive(Clone, PartialEq, Eq, Error)]
#[error("invalid setting: Settings::{setting} is {value}; it has to be {bounds}")]
#[non_exhaustive]
pub struct SettingError {
    /// The method of [`Settings`].
    pub setting: &'static str,
    /// The rejected value.
    pub value: String,
    /// The allowed values.
    pub bounds: String,
}

amqp_proto::__debug_shows_chain! { SettingError }

/// The values that systems allow for `TCP_KEEPIDLE`: whole seconds, 15 bits.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32_767));

/// The values that Linux allows for `TCP_USER_TIMEOUT`: milliseconds, 31 bits. 0 would mean its default.
const USER_TIMEOUT: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(i32::MAX.unsigned_abs() as u64));

/// The sizes of receive buffers that make sense. Systems silently change smaller ones, or refuse larger ones.
const RECEIVE_BUFFER: RangeInclusive<usize> = 4 * 1024..=1024 * 1024 * 1024;

/// Number of undelivered bytes that triggers the next read pause. During a pause, consumers find their deliveries in the
/// processor's cache, and a flood takes no more memory than this.
pub(crate) const READ_PAUSE_EVERY: usize = 512 * 1024;

/// While the client waits for a reply or a confirm, or checks whether the broker is alive, it reads up to this many times its
/// budget. The reply is behind the deliveries that were sent before it; eight budgets let it through, and are still a limit.
const AWAITING_FACTOR: usize = 8;

impl Settings {
    /// Returns how long it may take to connect to a node, for code that connects.
    #[must_use]
    pub const fn get_connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Returns the size of the receive buffer, for code that connects; `None` if the system chooses.
    #[must_use]
    pub const fn get_receive_buffer(&self) -> Option<usize> {
        self.receive_buffer
    }

    /// Checks that the settings can work. Opening a connection does this first. A connection over the caller's own transport
    /// fails with the error.
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
            // With 0, nothing would ever be read.
            return outside("delivery_budget", &self.delivery_budget, "at least 1");
        }
        let times = [
            ("keepalive", self.keepalive, KEEPALIVE),
            ("user_timeout", self.user_timeout, USER_TIMEOUT),
        ];
        for (setting, value, (least, most)) in times {
            // The system's error would be `Invalid argument`, which names no setting.
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return outside(setting, &value, &format!("from {least:?} to {most:?}"));
            }
        }
        if let Some(bytes) = self.receive_buffer.filter(|bytes| !RECEIVE_BUFFER.contains(bytes)) {
            let (least, most) = (RECEIVE_BUFFER.start(), RECEIVE_BUFFER.end());
            return outside("receive_buffer", &bytes, &format!("from {least} to {most} bytes"));
        }
        Ok(())
    }

    /// Returns whether to read once to check that the peer is alive, while consumers have not taken `delivered` bytes.
    pub(crate) const fn may_look(&self, delivered: usize) -> bool {
        delivered < self.delivery_budget.saturating_mul(AWAITING_FACTOR)
    }

    /// Returns whether to continue reading, while consumers have not taken `delivered` bytes.
    pub(crate) fn may_read(&self, delivered: usize, proto: &Session) -> bool {
        let budget = self.delivery_budget;
        // A handshake brings no deliveries, but consumers may still hold many from before a loss, which need no acknowledgement.
        proto.negotiated().is_none()
            || delivered < budget
            || delivered < budget.saturating_mul(AWAITING_FACTOR) && proto.awaits_peer()
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
            receive_buffer: None,
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
            ("receive_buffer", Settings { receive_buffer: Some(0), ..fine }),
            ("receive_buffer", Settings { receive_buffer: Some(4095), ..fine }),
            ("receive_buffer", Settings { receive_buffer: Some(1024 * 1024 * 1024 + 1), ..fine }),
            ("receive_buffer", Settings { receive_buffer: Some(usize::MAX), ..fine }),
        ] {
            let error = extreme.check().expect_err("it cannot work");
            assert_eq!(error.setting, setting);
            let text = error.to_string();
            assert!(
                text.starts_with(&format!(
                    "invalid setting: Settings::{setting} is {}; ",
                    error.value
                )),
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
            Settings { receive_buffer: Some(4096), ..fine },
            Settings { receive_buffer: Some(1024 * 1024 * 1024), ..fine },
        ] {
            assert_eq!(extreme.check(), Ok(()), "{extreme:?}");
        }
    }

    const MILLISECOND: Duration = Duration::from_millis(1);
}
