use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;

use amqp_proto::session::RecoveryReport;
use amqp_proto::{ChannelError, ConnectionError, Negotiated, ReplyCode, Secret};

use crate::channel::Channel;
use crate::deadline::Deadline;
use crate::error::{CallError, CloseError, OpenError};
use crate::event::ConnectionEvents;
use crate::health::{Health, Status};
use crate::opening::OpenChannel;
use crate::state::{On, OnRecover, Shared, Waiting};

/// A connection to a broker.
///
/// Cloning gives one more handle of the same connection. It closes when it is [closed](Self::close), or when the last of
/// its handles is gone; channels, and what came from them, are handles too.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

/// What all handles of a connection hold; the driver does not.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.close(ReplyCode::REPLY_SUCCESS, "connection dropped");
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

    /// Waits until the handshake is over. Adapters' `open` has done so; after `open_with` it is the first thing to do.
    ///
    /// # Errors
    /// Why there is no connection: [`ConnectionError`] says who is to blame.
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

    /// Opens a channel. The request is queued at once; await the result.
    ///
    /// # Errors
    /// The future gives [`OpenError`](crate::OpenError): when all channels are in use, or the connection is over.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channel.
    #[must_use = "the channel closes when the future is dropped"]
    pub fn open_channel(&self) -> OpenChannel {
        OpenChannel::new(self, None)
    }

    /// Opens a channel with a number of one's own choice, from 1 up to the agreed `channel_max`.
    ///
    /// # Errors
    /// As [`open_channel`](Self::open_channel), and when the number is in use, or none that a channel can have.
    ///
    /// # Cancel safety
    /// Dropping the future closes the channel.
    #[must_use = "the channel closes when the future is dropped"]
    pub fn open_channel_numbered(&self, number: u16) -> OpenChannel {
        OpenChannel::new(self, Some(number))
    }

    /// Whether there is a queue of that name. Asks on a channel of its own, because the broker closes the one that asks for what
    /// is not there.
    ///
    /// # Errors
    /// [`CallError`]: it cannot be found out, as when the queue is another connection's own (405).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn queue_exists(&self, queue: impl AsRef<[u8]>) -> Result<bool, CallError> {
        let channel = self.probe().await?;
        found(channel.queue_declare_passive(queue).await)
    }

    /// Whether there is an exchange of that name. Asks on a channel of its own, because the broker closes the one that asks for
    /// what is not there.
    ///
    /// # Errors
    /// [`CallError`]: it cannot be found out.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn exchange_exists(&self, exchange: impl AsRef<[u8]>) -> Result<bool, CallError> {
        let channel = self.probe().await?;
        found(channel.exchange_declare_passive(exchange).await)
    }

    /// A channel that closes when it is dropped.
    async fn probe(&self) -> Result<Channel, CallError> {
        self.open_channel().await.map_err(|error| match error {
            OpenError::Refused(error) => error.into(),
            OpenError::Ended(error) => error.into(),
            OpenError::TimedOut { after } => CallError::TimedOut { method: "channel.open", after },
        })
    }

    /// Closes the connection and waits until the broker has agreed. What is queued is written before; everything that
    /// still waits gets an error.
    ///
    /// # Errors
    /// [`CloseError`], if the connection ended otherwise.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close(&self) -> Result<(), CloseError> {
        self.close_with(ReplyCode::REPLY_SUCCESS, "Goodbye").await
    }

    /// Closes the connection with a code and a text of one's own, which the broker logs.
    ///
    /// # Errors
    /// [`CloseError`], if the connection ended otherwise.
    ///
    /// # Cancel safety
    /// Once polled, the connection closes even if the future is dropped.
    pub async fn close_with(&self, code: ReplyCode, text: &str) -> Result<(), CloseError> {
        self.shared().lock().close(code, text);
        match self.closed().await {
            error if error.is_local_close() => Ok(()),
            error => Err(CloseError(error)),
        }
    }

    /// Waits until the connection is over, and says why.
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

    /// Has a callback run once the connection is over, however that comes about, with the reason; at once, if it is over. It
    /// does not keep the connection open.
    ///
    /// The callback has a task of its own, or a thread where there are no tasks, and may do anything. If the runtime ends, the
    /// thread that ends it runs the callback, which must not wait then. With a [`Driver`](crate::driver::Driver) of one's own,
    /// the driver runs it, and it must not wait either.
    pub fn on_close(&self, callback: impl FnOnce(ConnectionError) + Send + 'static) {
        let mut state = self.shared().lock();
        match state.proto.check() {
            Ok(()) => state.on_close.push(callback),
            Err(reason) => state.call(Box::new(move || callback(reason))),
        }
    }

    /// Has a callback run after each recovery, with what came of it. It does not keep the connection open.
    ///
    /// As with [`on_close`](Self::on_close), it has a task or thread of its own.
    #[doc(alias = "add_reconnect_callback")]
    pub fn on_recover(&self, callback: impl Fn(&RecoveryReport) + Send + Sync + 'static) {
        let callback = Arc::new(OnRecover(Box::new(callback)));
        self.shared().lock().on_recover.push(callback);
    }

    /// How the connection is, at this moment: for readiness probes and dashboards.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut guard = self.shared().lock();
        let state = &mut *guard;
        let (unsettled, unconfirmed) = state.in_flight();
        Health {
            status: match (state.proto.is_open(), state.proto.check()) {
                (true, _) => Status::Open,
                (false, Ok(())) if state.losses > 0 => Status::Recovering,
                (false, Ok(())) => Status::Connecting,
                (false, Err(error)) => Status::Closed(error),
            },
            blocked: state.proto.is_blocked(),
            losses: state.losses,
            stale: state.stale,
            unusable: state.unusable,
            channels: state.proto.channel_count(),
            closed_channels: state.closed_channels(),
            unconfirmed,
            unsettled,
            kept_octets: state.proto.kept(),
            queued_octets: state.proto.queued(),
            delivered_octets: state.delivered_octets,
        }
    }

    /// Whether the connection can be used right now. One that is being recovered is not open, and not over.
    #[doc(alias = "is_alive")]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared().lock().proto.is_open()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.shared().lock().proto.check().is_err()
    }

    /// Whether the broker has blocked publishing (`connection.blocked`); see [`ConnectionEvent::Blocked`](crate::ConnectionEvent::Blocked).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.shared().lock().proto.is_blocked()
    }

    /// Whether the broker announced a capability, as `consumer_cancel_notify`. What it says of itself beyond that is in
    /// [`negotiated`](Self::negotiated).
    #[doc(alias = "server_capabilities")]
    #[must_use]
    pub fn broker_can(&self, capability: &str) -> bool {
        self.negotiated().is_some_and(|negotiated| negotiated.peer_can(capability))
    }

    /// What both ends have agreed on, and what the broker says of itself. Nothing before the connection is open.
    #[must_use]
    pub fn negotiated(&self) -> Option<Arc<Negotiated>> {
        self.shared().lock().proto.negotiated().cloned()
    }

    /// What happens to the connection from now on.
    #[must_use]
    pub fn events(&self) -> ConnectionEvents {
        ConnectionEvents::new(self.shared().clone())
    }

    /// Replaces the password or token of the running connection, as before a token expires, and waits until the broker
    /// has taken it (`connection.update-secret`, RabbitMQ). After a loss the connection logs in with it, on whatever node; only a
    /// [`token_source`](crate::Target::token_source) goes first.
    ///
    /// # Errors
    /// [`CallError`]. A broker that does not accept the secret closes the connection, and the next logs in with the earlier one.
    /// If there is no connection at present, the next logs in with the new secret.
    ///
    /// # Cancel safety
    /// Once polled, the secret is sent even if the future is dropped.
    pub async fn update_secret(
        &self,
        secret: impl Into<Secret>,
        reason: &str,
    ) -> Result<(), CallError> {
        let secret = secret.into();
        let (awaited, deadline) = {
            let mut guard = self.shared().lock();
            guard.proto.update_secret(secret, reason)?;
            guard.secrets_sent += 1;
            let awaited = guard.secrets_sent;
            let deadline = Deadline::start(self.shared(), guard, |settings| settings.call_timeout);
            (awaited, deadline)
        };
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        poll_fn(|cx| {
            if deadline.expired(cx) {
                return Poll::Ready(Err(deadline.timed_out("connection.update-secret")));
            }
            self.shared().poll(cx, |state, task| {
                if state.secrets_updated >= awaited {
                    return Poll::Ready(Ok(()));
                }
                if let Some((lost, reason)) = &state.secrets_lost {
                    if awaited <= *lost {
                        return Poll::Ready(Err(ChannelError::from(reason.clone()).into()));
                    }
                }
                if let Err(error) = state.proto.check() {
                    return Poll::Ready(Err(ChannelError::from(error).into()));
                }
                waiting.wait(state, task)
            })
        })
        .await
    }

    /// Sends a heartbeat now. They are sent by themselves, too.
    pub fn send_heartbeat(&self) {
        let mut state = self.shared().lock();
        state.proto.send_heartbeat();
        state.wake_driver();
    }
}

/// Whether asking for something has found it.
fn found<T>(asked: Result<T, CallError>) -> Result<bool, CallError> {
    match asked {
        Ok(_) => Ok(true),
        Err(error) if error.reply_code() == Some(ReplyCode::NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared().lock();
        f.debug_struct("Connection")
            .field("open", &state.proto.is_open())
            .field("losses", &state.losses)
            .field("session", &state.proto)
            .finish_non_exhaustive()
    }
}
