use std::time::Duration;

use amqp_proto::ShortStr;

use crate::name::short;

/// The configuration of a broker.
///
/// ```
/// use amqp_test_broker::{Broker, Options};
///
/// let broker = Broker::start_with(Options::new().user("trader", "secret"))?;
/// assert!(broker.uri().starts_with("amqp://trader:secret@"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) users: Vec<(String, String)>,
    pub(crate) virtual_hosts: Vec<ShortStr>,
    pub(crate) heartbeat: Duration,
    pub(crate) max_message_size: u64,
    pub(crate) nondeterminism: Option<u64>,
    pub(crate) rabbitmq_4_3: bool,
}

impl Options {
    /// The user guest with the password guest, the virtual host `/`, heartbeats every 60 seconds, and messages of up to 128 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            users: Vec::new(),
            virtual_hosts: vec![ShortStr::truncated("/")],
            heartbeat: Duration::from_secs(60),
            max_message_size: 128 * 1024 * 1024,
            nondeterminism: None,
            rabbitmq_4_3: false,
        }
    }

    /// Adds a user. The first one replaces guest.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Adds a virtual host, with queues and exchanges of its own. `/` always exists. Every user may use every virtual host.
    #[must_use]
    pub fn virtual_host(mut self, name: impl AsRef<[u8]>) -> Self {
        let name = short(name);
        if !self.virtual_hosts.contains(&name) {
            self.virtual_hosts.push(name);
        }
        self
    }

    /// The heartbeat interval that the broker proposes; zero asks for none.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// The largest message body that the broker takes, in bytes: RabbitMQ's `max_message_size`. A larger one closes its
    /// channel (406).
    #[must_use]
    pub const fn max_message_size(mut self, bytes: u64) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Makes the broker choose at random where the protocol allows several behaviours. It confirms late, out of order, or several
    /// messages at once. It replies to `basic.consume` after later requests. A restart may lose messages that it had not
    /// confirmed. The same seed and the same input lead to the same choices.
    ///
    /// This finds clients that rely on what RabbitMQ usually does.
    #[must_use]
    pub const fn nondeterminism(mut self, seed: u64) -> Self {
        self.nondeterminism = Some(seed);
        self
    }

    /// Does as RabbitMQ 4.3, instead of as 3.10, where a client sees a difference: with failed deliveries and single active
    /// consumers of quorum queues, and with unknown types of exchanges, which cost the channel only.
    ///
    /// A delivery has failed if it was rejected and requeued (`basic.reject`), or was unacknowledged when its channel or
    /// connection ended. A delivery that was requeued by `basic.nack` or `basic.recover` has not failed. A message that fails
    /// more often than `x-delivery-limit`, by default 20, is dropped or dead-lettered. A negative limit is none.
    /// `x-delivery-count` is the number of failures, and `x-acquired-count` that of all returns.
    ///
    /// In 3.10, everything that is requeued counts, `x-acquired-count` does not exist, and there is no limit by default. Without
    /// a limit, messages that a client requeues go to the end of the queue, and with one they are delivered next.
    ///
    /// A quorum queue with a single active consumer makes the consumer with the highest priority active, once the active one has
    /// settled its deliveries. In 3.10, the active consumer stays active as long as it is there.
    ///
    /// Quorum queues delay requeued messages as `x-delayed-retry-type`, `-min` and `-max` say. 3.10 ignores these arguments.
    ///
    /// The server properties name the version: RabbitMQ 4.3.6 instead of RabbitMQ 3.10.8.
    #[must_use]
    pub const fn rabbitmq_4_3(mut self) -> Self {
        self.rabbitmq_4_3 = true;
        self
    }

    /// Name and password of the user that URIs mention.
    pub(crate) fn first_user(&self) -> (&str, &str) {
        match self.users.first() {
            Some((name, password)) => (name, password),
            None => ("guest", "guest"),
        }
    }

    pub(crate) fn knows(&self, name: &[u8], password: &[u8]) -> bool {
        let known =
            |user: &str, secret: &str| (user.as_bytes(), secret.as_bytes()) == (name, password);
        match self.users.as_slice() {
            [] => known("guest", "guest"),
            users => users.iter().any(|(user, secret)| known(user, secret)),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
