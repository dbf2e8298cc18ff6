//! The state that all handles of a connection share, behind one lock.
//!
//! The lock is held for as long as it takes to encode a command or to take a result, never across an await, a system call or user
//! code. Wakers, callbacks and unused user values (wakers, bodies of messages) are collected under the lock. [`Guard`] wakes,
//! calls and drops them after the lock is released. There are two exceptions, which are documented: SASL mechanisms and
//! `Recovery::recovers`.

mod ages;
mod callbacks;
mod channel;
mod confirms;
mod counts;
mod deadlines;
mod dispatch;
#[cfg(test)]
mod ends;
mod health;
mod lag;
mod line;
mod listeners;
mod log;
mod queues;
mod requests;
mod shared;
mod starvation;
mod waiters;
mod waiting;
mod wake;
mod wakes;
mod watch;

pub(crate) use callbacks::OnRecover;
pub(crate) use callbacks::{Call, RunCall};
use callbacks::{Due, OnClose};
pub(crate) use channel::ChannelState;
pub(crate) use counts::Tally;
pub(crate) use deadlines::{Counts, Deadline, DeadlineId, Deadlines};
pub use health::{ClosedChannel, Health, ReadingPaused, Status};
pub(crate) use lag::LagWatch;
pub(crate) use line::{Line, Ticket};
pub(crate) use listeners::Listeners;
pub(crate) use queues::End;
pub(crate) use requests::PendingReply;
pub(crate) use shared::{Guard, Shared};
pub(crate) use starvation::{Starvation, StarvationWatch};
pub(crate) use waiters::{On, Task, WaiterId, Waiters, keep_clone};
pub(crate) use waiting::Waiting;
use wakes::Wakes;

use std::any::Any;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use amqp_proto::session::Session;
use amqp_proto::uri::Endpoint;
use amqp_proto::{
    ChannelError, ChannelId, ConnectStep, ConnectionError, ConsumerId, Delivery, Initiator,
    ReplyCode, ShortStr,
};

use crate::channel::Handle;
use crate::counters::Counters;
use crate::event::ConnectionEvent;
use crate::logs::{ChannelLog, Log};

/// A new secret that was sent, and its outcome once that is known.
pub(crate) type SecretUpdate = Arc<OnceLock<Result<(), ConnectionError>>>;

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) proto: Session,
    pub(crate) deadlines: Deadlines,
    /// The pace of all publishing tasks.
    starvation: StarvationWatch,
    pub(crate) listeners: Listeners<ConnectionEvent>,
    pub(crate) on_close: OnClose<ConnectionError>,
    /// Runs callbacks. If there is none, the thread that finds that they are due runs them.
    pub(crate) run_call: Option<RunCall>,
    /// The endpoints of the session's nodes, to name them in events. Empty if they are not known.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The node of the last attempt to connect.
    pub(crate) node: usize,
    /// Tasks that wait for the broker to unblock publishing.
    pub(crate) gate: Waiters,
    /// Tasks that wait for room in the outgoing buffer.
    pub(crate) full: Line,
    /// Tasks that wait for room among the kept messages.
    pub(crate) kept: Line,
    /// Tasks to wake when the connection is open or closed, or its secret was updated.
    pub(crate) watchers: Waiters,
    /// Tasks to wake with each turn of the driver.
    pub(crate) turns: Waiters,
    /// Callbacks to run after each recovery.
    pub(crate) on_recover: Vec<Arc<OnRecover>>,
    /// New secrets that were sent and have no reply, the oldest first.
    pub(crate) secrets: VecDeque<SecretUpdate>,
    /// The lifetime of the token with which the client logs in after a loss, until the renewal of tokens takes it.
    pub(crate) new_login: Option<Duration>,
    /// The address of the other end of the present transport or the last one, if an adapter has connected it.
    pub(crate) peer_addr: Option<SocketAddr>,
    /// Whether the present transport has TLS that is not established; see [`Transport`](crate::driver::Transport).
    pub(crate) tls_missing: Option<Arc<AtomicBool>>,
    /// When bytes arrived last.
    pub(crate) last_heard: Option<Instant>,
    /// The time that the driver passed last.
    pub(crate) now: Option<Instant>,
    /// What the connection itself has counted, and the channels that are gone.
    pub(crate) counters: Counters,
    /// Channels that have something to time at the next turn of the driver.
    untimed: Vec<u32>,
    /// Since when, and for what, the broker blocks publishing.
    pub(crate) blocked: Option<(Option<Instant>, ShortStr)>,
    /// Since when the driver does not read because of deliveries that are not taken.
    pub(crate) reading_paused: Option<Instant>,
    /// Recovery is there for the first connection only, and ends once the connection is open.
    pub(crate) recovers_until_open: bool,
    /// Bytes that were delivered and not taken by their consumers.
    pub(crate) delivered_bytes: usize,
    /// The close that a handle has asked for.
    closing: Option<Closing>,
    /// Before that, unsettled deliveries are requeued: no consumer runs any more.
    pub(crate) requeues: bool,
    /// The driver, when it waits for something to do.
    driver: Option<Waker>,
    channels: Vec<Option<Box<ChannelState>>>,
    /// The index in `channels` for each channel number in use.
    by_number: Vec<Option<u32>>,
    /// Channels without handles that are not being closed yet.
    released: Vec<ChannelId>,
    wakes: Wakes,
    pub(crate) log: Log,
    story: log::Story,
    watch: watch::Watch,
}

/// A close that a handle has requested.
#[derive(Debug)]
struct Closing {
    code: ReplyCode,
    text: String,
    /// The class and method that caused it, or 0.
    cause: (u16, u16),
}

impl State {
    /// Returns the step of connecting that the present attempt is at, or at which it failed.
    pub(crate) fn connect_step(&self) -> Option<ConnectStep> {
        self.refine(self.proto.connect_step())
    }

    /// Distinguishes between TLS and what follows, which are the same for the protocol.
    fn refine(&self, step: Option<ConnectStep>) -> Option<ConnectStep> {
        let missing = self.tls_missing.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed));
        match step {
            Some(ConnectStep::ProtocolHeader) if missing => Some(ConnectStep::Tls),
            step => step,
        }
    }

    fn new(mut proto: Session, log: Log) -> Self {
        proto.hold_discarded();
        Self {
            proto,
            deadlines: Deadlines::default(),
            starvation: StarvationWatch::default(),
            listeners: Listeners::default(),
            on_close: OnClose::default(),
            run_call: None,
            endpoints: Vec::new(),
            node: 0,
            gate: Waiters::default(),
            full: Line::default(),
            kept: Line::default(),
            watchers: Waiters::default(),
            turns: Waiters::default(),
            on_recover: Vec::new(),
            secrets: VecDeque::new(),
            new_login: None,
            peer_addr: None,
            tls_missing: None,
            last_heard: None,
            now: None,
            counters: Counters::default(),
            untimed: Vec::new(),
            blocked: None,
            reading_paused: None,
            recovers_until_open: false,
            delivered_bytes: 0,
            closing: None,
            requeues: false,
            driver: None,
            channels: Vec::new(),
            by_number: Vec::new(),
            released: Vec::new(),
            wakes: Wakes::default(),
            log,
            story: log::Story::default(),
            watch: watch::Watch::default(),
        }
    }

    /// Runs that once the lock is released.
    pub(crate) fn call(&mut self, call: Call) {
        let call = match self.run_call {
            Some(run) => {
                let due = Due(Some(call));
                Box::new(move || run(Box::new(move || due.run())))
            }
            None => call,
        };
        self.wakes.call(call);
    }

    /// Drops that once the lock is released, as dropping it may run code of the user's.
    pub(crate) fn bury(&mut self, buried: impl Any + Send) {
        self.wakes.bury(Box::new(buried));
    }

    /// Wakes the driver, because there is work. Only the first of a burst of commands finds it waiting.
    #[inline]
    pub(crate) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.wakes.push(driver);
        }
    }

    /// Returns whether there is something for the driver to do.
    pub(crate) const fn wants_driver(&self) -> bool {
        self.driver.is_none()
    }

    /// Requests the close of the connection. The driver closes it at its next turn, because the driver knows the time from which
    /// the broker's reply is due.
    pub(crate) fn close(&mut self, code: ReplyCode, text: &str, cause: (u16, u16)) {
        self.closing.get_or_insert_with(|| Closing { code, text: text.to_owned(), cause });
        self.wake_driver();
    }

    /// Carries out the requests since the driver's last turn.
    pub(crate) fn carry_out(&mut self, now: Instant) {
        self.close_released();
        if self.closing.is_none() {
            return;
        }
        // Only now: a delivery that arrived between this and the close would be settled twice.
        if std::mem::take(&mut self.requeues) {
            // A delivery that arrived after the requeueing would stay unsettled.
            self.stop_consumers();
            self.requeue_all();
        }
        if let Some(Closing { code, text, cause }) = &self.closing {
            self.proto.close_over(now, *code, text, *cause);
        }
    }

    /// Returns what counts for the deadline of something queued now, or of something that waits for it: time while it is being
    /// written does not count. `channel` is the place of the channel that the deadline concerns, if any.
    pub(crate) fn behind_queued(&self, channel: Option<u32>) -> Counts {
        Counts::Behind { queued: self.proto.queued(), channel }
    }

    /// The driver has written all that it took but `left` bytes, the last of it at `at`.
    #[inline]
    pub(crate) fn report_written(&mut self, at: Instant, left: usize) {
        self.deadlines.report_written(at, left);
        self.proto.handle_written(at, left);
    }

    /// Wakes those whose deadlines have passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        let Self { deadlines, wakes, .. } = self;
        deadlines.turn(now, |waker| wakes.push(waker));
    }

    /// Keeps a place for a channel that was just opened; returns where it is.
    pub(crate) fn add_channel(&mut self, id: ChannelId) -> u32 {
        let mut channel = ChannelState::new(id);
        channel.log = ChannelLog::new(&self.log, id);
        let channel = Some(Box::new(channel));
        let place = match self.channels.iter().position(Option::is_none) {
            Some(free) => {
                self.channels[free] = channel;
                free
            }
            None => {
                self.channels.push(channel);
                self.channels.len() - 1
            }
        };
        let number = usize::from(id.get());
        if self.by_number.len() <= number {
            self.by_number.resize(number + 1, None);
        }
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.by_number[number] = Some(place);
        place
    }

    /// Returns what the handles of the channel with that number share, and whether the channel is open. `None` if it is closed, or
    /// has no handles any more. The result must not be dropped under the lock.
    pub(crate) fn handle_of(&self, number: u16) -> Option<(Arc<Handle>, bool)> {
        let place = self.by_number.get(usize::from(number)).copied().flatten()?;
        let channel = self.channels.get(place as usize)?.as_ref()?;
        let open = channel.ended.is_none().then_some(channel.opened)?;
        Some((channel.handle.upgrade()?, open))
    }

    /// Those that wait for that.
    pub(crate) fn waiters(&mut self, on: On) -> Option<&mut Waiters> {
        match on {
            On::Connection => Some(&mut self.watchers),
            On::Turn => Some(&mut self.turns),
            On::Channel(place) => self.channel(place).map(|channel| &mut channel.watchers),
            On::Confirms(place) => self.channel(place).map(|channel| &mut channel.confirmed),
        }
    }

    /// Returns the channel at that place. Handles own their place, so it exists.
    pub(crate) fn channel(&mut self, place: u32) -> Option<&mut ChannelState> {
        self.channels.get_mut(place as usize)?.as_deref_mut()
    }

    /// The channels that the broker has closed and that still have handles.
    pub(crate) fn closed_channels(&self) -> Vec<ClosedChannel> {
        let closed =
            self.channels.iter().flatten().filter_map(|channel| match channel.ended.as_deref() {
                // A close by the application is not reported, and the end of the connection is reported elsewhere.
                Some(ChannelError::Closed(close)) if close.by == Initiator::Local => None,
                Some(ChannelError::Connection(_)) | None => None,
                Some(reason) => Some(ClosedChannel { id: channel.id, reason: reason.clone() }),
            });
        closed.collect()
    }

    /// The channel at that place, and the protocol.
    #[inline]
    pub(crate) fn channel_and_proto(
        &mut self,
        place: u32,
    ) -> Option<(&mut ChannelState, &mut Session)> {
        let channel = self.channels.get_mut(place as usize)?.as_mut()?;
        Some((channel, &mut self.proto))
    }

    /// The channel's handles were dropped: closes the channel.
    pub(crate) fn release_channel(&mut self, place: u32) {
        let Some(channel) = self.channel(place) else {
            return;
        };
        if channel.ended.is_some() {
            self.free_channel(place);
            return;
        }
        channel.abandoned = true;
        let id = channel.id;
        self.released.push(id);
        self.close_released();
        self.wake_driver();
    }

    /// Closes the channels whose handles were dropped.
    ///
    /// A consumer that is starting cannot be cancelled yet. If its channel were closed now, a quorum queue would count what it
    /// delivers to that consumer meanwhile as failed. So the close waits for the reply, and follows the cancel.
    fn close_released(&mut self) {
        let Self { released, proto, channels, .. } = self;
        released.retain(|id| {
            let Ok(mut channel) = proto.channel(*id) else { return false };
            if channel.starts_consumer() {
                return true;
            }
            Self::give_back_all(channels, *id, &mut channel);
            channel.close(amqp_proto::ReplyCode::REPLY_SUCCESS, "channel dropped");
            false
        });
    }

    fn free_channel(&mut self, place: u32) {
        if let Some(gone) = self.channels.get_mut(place as usize).and_then(Option::take) {
            self.counters.add(&gone.counters());
            self.bury(gone);
        }
    }

    /// Read buffers in use take `held` bytes. If the deliveries that consumers have not taken are only a small part of that,
    /// copies them, so that they no longer keep the buffers alive. Returns whether it did.
    ///
    /// Each delivery is copied at most once, and none while consumers keep up: buffers are released then.
    pub(crate) fn detach_if_sparse(&mut self, held: usize) -> bool {
        let channels = self.channels.iter_mut().flatten();
        let mut queues: Vec<_> = channels.flat_map(|channel| channel.queues.iter_mut()).collect();
        let attached: usize = queues.iter().map(|queue| queue.attached()).sum();
        // Slices that fill half of their blocks are cheaper to keep than to copy.
        let sparse = held / 2 > attached;
        if sparse {
            queues.iter_mut().for_each(|queue| queue.detach());
        }
        sparse
    }

    /// Returns the indices at which there may be channels.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.channels.len()).unwrap_or(u32::MAX)
    }

    /// Returns whether a consumer is starting on any channel.
    pub(crate) fn starts_consumer(&mut self) -> bool {
        let Self { channels, proto, .. } = self;
        let mut open = channels.iter().flatten().filter(|channel| channel.ended.is_none());
        open.any(|channel| proto.channel(channel.id).is_ok_and(|mut own| own.starts_consumer()))
    }

    /// Returns the numbers of unsettled deliveries and of unconfirmed publishes.
    pub(crate) fn in_flight(&mut self) -> (usize, usize) {
        let (mut unsettled, mut unconfirmed) = (0, 0);
        for channel in self.channels.iter().flatten().filter(|channel| channel.ended.is_none()) {
            unconfirmed += channel.unconfirmed().0;
            unsettled += self.proto.channel(channel.id).map_or(0, |channel| channel.unsettled());
        }
        (unsettled, unconfirmed)
    }

    /// Requeues unsettled deliveries on all channels.
    fn requeue_all(&mut self) {
        let channels = self.channels.iter_mut().flatten();
        for channel in channels.filter(|channel| channel.ended.is_none()) {
            if let Ok(mut protocol) = self.proto.channel(channel.id) {
                channel.give_back_all(&mut protocol);
            }
        }
    }

    /// Ends a consumer as if it had been cancelled, and requeues the deliveries that it has not taken. Returns the number of
    /// these, which includes those that need no acknowledgement and are lost. Does nothing while the reply to its start is pending:
    /// discarding the consumer would discard that reply, and its caller would wait for it.
    pub(crate) fn stop_consumer(&mut self, place: u32, consumer: ConsumerId) -> usize {
        let Some(channel) = self.channel(place) else { return 0 };
        if channel.ended.is_some() {
            // The broker has requeued what it had delivered, and the number may belong to another channel.
            return 0;
        }
        if channel.requests.starts(consumer) {
            return 0;
        }
        let holds = channel.holding;
        let Some(queue) = channel.queues.get(consumer) else { return 0 };
        if queue.end.is_some() && queue.deliveries.is_empty() {
            return 0;
        }
        let waiter = queue.end(End::Cancelled);
        queue.held = holds;
        let mut deliveries = VecDeque::new();
        let bytes = queue.take(&mut deliveries);
        self.delivered_bytes = self.delivered_bytes.saturating_sub(bytes);
        self.wake_driver();
        waiter.into_iter().for_each(|waker| self.wakes.push(waker));
        self.end_consumer(place, consumer, true, &deliveries);
        deliveries.len()
    }

    /// The handle of that consumer was dropped: requeues its deliveries, and cancels the consumer.
    pub(crate) fn drop_queue(&mut self, place: u32, consumer: ConsumerId) {
        let Some(channel) = self.channel(place) else {
            return;
        };
        let over = channel.ended.is_some();
        let Some(mut queue) = channel.queues.remove(consumer) else {
            return;
        };
        if queue.end.is_none() && !over {
            channel.log.consumer_cancelled(&queue.tag, "dropped");
        }
        if let Some(waker) = queue.waker.take() {
            self.bury(waker);
        }
        self.delivered_bytes = self.delivered_bytes.saturating_sub(queue.bytes);
        self.log_due();
        // The driver may have stopped reading for it.
        self.wake_driver();
        if over {
            return;
        }
        self.end_consumer(place, consumer, queue.end.is_none(), &queue.deliveries);
    }

    /// Cancels a consumer, if it `runs`, and requeues its deliveries. A channel that is holding does neither.
    fn end_consumer(
        &mut self,
        place: u32,
        consumer: ConsumerId,
        runs: bool,
        deliveries: &VecDeque<Delivery>,
    ) {
        let Some((channel, proto)) = self.channel_and_proto(place) else { return };
        let Ok(mut protocol) = proto.channel(channel.id) else { return };
        if runs && !channel.holding {
            protocol.discard_consumer(consumer);
        }
        for delivery in deliveries.iter().filter(|delivery| !delivery.no_ack()) {
            channel.give_back(&mut protocol, delivery.delivery_tag());
        }
    }
}
