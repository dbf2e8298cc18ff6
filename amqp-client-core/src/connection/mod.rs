mod after;
mod events;
mod monitor;
mod open_channel;
mod shutdown;

pub use after::After;
pub use events::ConnectionEvents;
pub use monitor::Monitor;
pub use open_channel::OpenChannel;
pub use shutdown::Leftovers;

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::Poll;

use amqp_proto::session::RecoveryReport;
use amqp_proto::{ChannelError, ConnectStep, ConnectionError, Negotiated, ReplyCode, Secret};

use crate::broker_version::BrokerVersion;
use crate::counters::Counters;
use crate::error::CallError;
use crate::state::Deadline;
use crate::state::{Health, On, OnRecover, SecretUpdate, Shared, Waiting};

/// A connection to a broker.
///
/// Clones are handles of the same connection. The connection closes when [`close`](Self::close) is called or when its last handle
/// is dropped. Channels, and everything created from them, are handles too.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use amqp_client_tokio::QueueOptions;
///
/// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
/// let channel = connection.open_channel().await?;
/// let queue = channel.queue_declare("hello", QueueOptions::new()).await?;
/// println!("{} messages wait in {}", queue.message_count(), queue.name());
/// connection.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

/// The shared part of all handles of a connection. The driver does not hold it.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.close(ReplyCode::REPLY_SUCCESS, "connection dropped", (0, 0));
    }
}

/// A handle that does not keep the connection open.
pub(crate) struct WeakConnection {
    handle: Weak<Handle>,
    shared: Arc<Shared>,
}

impl WeakConnection {
    pub(crate) fn upgrade(&self) -> Option<Connection> {
        Some(Connection { handle: self.handle.upgrade()? })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Connection {
    pub(crate) fn downgrade(&self) -> WeakConnection {
        WeakConnection { handle: Arc::downgrade(&self.handle), shared: self.shared().clone() }
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle { shared }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Waits until the connection is open for the first time. The adapters' `connect` does so by itself. After `connect_over`, call
    /// this method first. After `connect_in_background`, it waits for as long as the client goes on trying.
    ///
    /// # Errors
    /// [`ConnectionError`]: the reason why the connection has ended.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), ConnectionError> {
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        poll_fn(|cx| {
            self.shared().poll(cx, |state, task| {
                if let Err(error) = state.proto.check() {
                    return Poll::Ready(Err(error));
                }
                if state.proto.negotiated().is_some() {
                    return Poll::Ready(Ok(()));
                }
                waiting.wait(state, task)
            })
        })
        .await
    }

    /// Returns the step that the present attempt to connect has reached, or at which the last attempt failed. `None` once the connection
    /// is open.
    ///
    /// After `connect_over`, this shows the step at which [`ready`](Self::ready) failed. While the client reconnects, an attempt is
    /// visible here only once its transport is connected. Until then, the result is that of the attempt before; see
    /// [`ConnectionEvent::AttemptFailed`](crate::ConnectionEvent::AttemptFailed) for each attempt.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// # async fn example(connection: Connection) {
    /// if let Err(error) = connection.ready().await {
    ///     println!("{:?}: {error}", connection.connect_step());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn connect_step(&self) -> Option<ConnectStep> {
        self.shared().lock().connect_step()
    }

    /// Closes the connection and waits for the broker's reply. Everything that is queued is written first. All pending calls fail.
    ///
    /// The broker has its [`close_timeout`](amqp_proto::ClientConfig::close_timeout) to reply, counted from when all of that is
    /// written; writing may take longer. If the transport accepts nothing for that long, the connection ends without a reply.
    ///
    /// # Errors
    /// [`ConnectionError`], if the connection ended for another reason.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close(&self) -> Result<(), ConnectionError> {
        self.close_with(ReplyCode::REPLY_SUCCESS, "Goodbye").await
    }

    /// Closes the connection with the given reply code and text, which the broker logs.
    ///
    /// # Errors
    /// [`ConnectionError`], if the connection ended for another reason.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close_with(&self, code: ReplyCode, text: &str) -> Result<(), ConnectionError> {
        self.close_over(code, text, (0, 0)).await
    }

    /// Closes the connection because of a method of the broker, like [`close_with`](Self::close_with). `cause` is the method's class
    /// id and method id, which the broker logs.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{Connection, ReplyCode};
    /// use amqp_client_tokio::proto::method::{Arguments as _, BasicDeliver};
    ///
    /// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let cause = BasicDeliver::FACTS.id;
    /// connection.close_over(ReplyCode::INTERNAL_ERROR, "cannot use this message", cause).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectionError`], if the connection ended for another reason.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close_over(
        &self,
        code: ReplyCode,
        text: &str,
        cause: (u16, u16),
    ) -> Result<(), ConnectionError> {
        self.shared().lock().close(code, text, cause);
        match self.closed().await {
            error if error.is_local_close() => Ok(()),
            error => Err(error),
        }
    }

    /// Waits until the connection is closed, and returns the reason.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn closed(&self) -> ConnectionError {
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        poll_fn(|cx| {
            self.shared().poll(cx, |state, task| match state.proto.check() {
                Err(error) => Poll::Ready(error),
                Ok(()) => waiting.wait(state, task),
            })
        })
        .await
    }

    /// Registers a callback that runs once, with the reason, when the connection closes. If the connection is already closed, the
    /// callback runs at once. It does not keep the connection open.
    ///
    /// The callback runs in its own task, or on its own thread where there are no tasks, and may block. There are two exceptions, in
    /// which it must not block: if the runtime shuts down, the thread that shuts it down runs the callback; and if you use a
    /// [`Driver`](crate::adapter::Driver) directly, the driver runs it.
    pub fn on_close(&self, callback: impl FnOnce(ConnectionError) + Send + 'static) {
        let mut state = self.shared().lock();
        match state.proto.check() {
            Ok(()) => state.on_close.push(callback),
            Err(reason) => state.call(Box::new(move || callback(reason))),
        }
    }

    /// Registers a callback that runs after each recovery, with its report. It does not keep the connection open.
    ///
    /// As with [`on_close`](Self::on_close), it runs in its own task or on its own thread.
    #[doc(alias = "add_reconnect_callback")]
    pub fn on_recover(&self, callback: impl Fn(&RecoveryReport) + Send + Sync + 'static) {
        let callback = Arc::new(OnRecover(Box::new(callback)));
        let mut state = self.shared().lock();
        match state.proto.check() {
            Ok(()) => state.on_recover.push(callback),
            Err(_) => state.bury(callback),
        }
    }

    /// Returns a snapshot of the connection's state, for readiness probes and dashboards.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared().health()
    }

    /// Returns the counters of the connection since it was created: messages published, confirmed, delivered and acknowledged, bytes,
    /// losses, and how long confirms, requests and the processing of deliveries took. A call adds up the counters of the channels, so
    /// it can be made often.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// # fn example(connection: Connection) {
    /// let counters = connection.counters();
    /// println!("{} published, {} of them confirmed", counters.published, counters.confirmed);
    /// println!("{} bytes read in {} reads", counters.bytes_read, counters.reads);
    /// # }
    /// ```
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared().lock().counters()
    }

    /// Returns a handle that reads the counters and the health, and does not keep the connection open. Give it to a metrics exporter.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor::new(self.shared())
    }

    /// Returns the address that the connection leads to: that of the broker's node, or of a proxy in front of it. After a loss, it
    /// is the earlier address until another transport is connected. `None` before the first, and if the program has connected the
    /// transport itself, as for `connect_over`.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// # fn example(connection: Connection) {
    /// if let (Some(addr), Some(heard)) = (connection.peer_addr(), connection.health().last_heard) {
    ///     println!("{addr} was last heard {:?} ago", heard.elapsed());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared().lock().peer_addr
    }

    /// Returns whether the connection can be used right now. A connection that is being recovered is neither open nor closed.
    #[doc(alias = "is_alive")]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared().lock().proto.is_open()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.shared().lock().proto.check().is_err()
    }

    /// Returns whether the broker has blocked publishing (`connection.blocked`); see
    /// [`ConnectionEvent::Blocked`](crate::ConnectionEvent::Blocked).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.shared().lock().proto.is_blocked()
    }

    /// Returns the product and version of the broker, from its server properties. `None` before the connection is open, and if the
    /// broker does not say.
    ///
    /// The nodes of a cluster may have different versions while it is upgraded. After a recovery, this is the version of the node of
    /// the new connection.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// use amqp_client_tokio::{BrokerFeature, BrokerVersion};
    ///
    /// # fn example(connection: Connection) {
    /// if connection.broker_version() >= Some(BrokerVersion::rabbitmq(4, 3, 0)) {
    ///     println!("RabbitMQ 4.3 or later");
    /// }
    /// let version = connection.broker_version();
    /// if version.is_some_and(|version| version.has(BrokerFeature::DelayedRetry)) {
    ///     println!("no retry queues are needed");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn broker_version(&self) -> Option<BrokerVersion> {
        BrokerVersion::from_properties(&self.negotiated()?.peer_properties)
    }

    /// Returns whether the broker announced a capability, such as `consumer_cancel_notify`. False before the connection is open.
    /// [`negotiated`](Self::negotiated) has all of the broker's properties.
    #[doc(alias = "server_capabilities")]
    #[must_use]
    pub fn broker_can(&self, capability: &str) -> bool {
        self.negotiated().is_some_and(|negotiated| negotiated.peer_can(capability))
    }

    /// Returns the negotiated limits and the broker's properties. `None` before the connection is open.
    #[must_use]
    pub fn negotiated(&self) -> Option<Arc<Negotiated>> {
        self.shared().lock().proto.negotiated().cloned()
    }

    /// Replaces the password or token of the running connection, for example before a token expires, and waits until the broker
    /// has accepted it (`connection.update-secret`, RabbitMQ). After a loss, the client logs in with the new secret on all nodes,
    /// unless there is a [`token_source`](crate::Target::token_source), which takes precedence.
    ///
    /// # Errors
    /// [`CallError`]. A broker that does not accept the secret closes the connection, and the client then logs in with the earlier
    /// secret. If there is no connection at present, the client logs in with the new secret.
    ///
    /// # Cancel safety
    /// Once polled, the secret is sent even if the future is dropped.
    pub async fn update_secret(
        &self,
        secret: impl Into<Secret>,
        reason: &str,
    ) -> Result<(), CallError> {
        let secret = secret.into();
        let update = SecretUpdate::default();
        let deadline = {
            let mut guard = self.shared().lock();
            guard.proto.update_secret(secret, reason)?;
            guard.secrets.push_back(update.clone());
            Deadline::start(self.shared(), guard, None, |settings| settings.call_timeout)
        };
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        poll_fn(|cx| {
            if deadline.expired(cx) {
                return Poll::Ready(Err(deadline.timed_out("connection.update-secret")));
            }
            self.shared().poll(cx, |state, task| {
                if let Some(result) = update.get() {
                    let lost = |reason| ChannelError::from(reason).into();
                    return Poll::Ready(result.clone().map_err(lost));
                }
                if let Err(error) = state.proto.check() {
                    return Poll::Ready(Err(ChannelError::from(error).into()));
                }
                waiting.wait(state, task)
            })
        })
        .await
    }

    /// Sends a heartbeat now, in addition to the automatic ones.
    pub fn send_heartbeat(&self) {
        let mut state = self.shared().lock();
        state.proto.send_heartbeat();
        state.wake_driver();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared().lock();
        f.debug_struct("Connection")
            .field("open", &state.proto.is_open())
            .field("losses", &state.counters.losses)
            .field("channels", &state.proto.channel_count())
            .field("queued_bytes", &state.proto.queued())
            .finish_non_exhaustive()
    }
}
