//! A client: a connection, and the state that its tasks share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::proto::{ChannelError, ConnectionError, DeliveryTag, ShortStr};
use amqp_client_core::{
    CallError, Channel, ClientConfig, Config, Confirmation, Connection, Consumer, Delivery, Limits,
    Locked, OnCancel, Queue, Recovery, Settings,
};
use fastrand::Rng;

use super::World;
use super::audit::{Audit, Auditor};
use super::books::Books;
use super::commands::{BODY_MAX, Name, Policy};
use super::ends::{Asked, Shut};
use super::history::Mark;
use super::ledger::Id;
use super::tally::Tally;
use crate::executor::Flag;
use crate::network::HIGH_WATER;
use crate::pace::Pace;

/// Maximum number of channels of a client.
pub(crate) const SLOTS: usize = 4;

/// One seed in so many has interceptors.
const AUDITED_EVERY: u64 = 4;

/// The name of the stream.
pub(crate) const STREAM: &str = "stream";

/// The state that the tasks of a client share.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) world: Rc<World>,
    pub(crate) connection: RefCell<Option<Connected>>,
    /// Queues that were declared on the connection, to be recovered with it.
    pub(crate) declared: RefCell<BTreeSet<String>>,
    pub(crate) channels: RefCell<[Option<Rc<Desk>>; SLOTS]>,
    pub(crate) consumers: RefCell<Vec<Taker>>,
    pub(crate) deliveries: RefCell<Vec<Held>>,
    pub(crate) confirmations: RefCell<Vec<(Id, Confirmation)>>,
    /// What was done on the connection over which each message was published with confirms.
    pub(crate) tallies: RefCell<BTreeMap<Id, Rc<Tally>>>,
    /// Callbacks that were registered, and those that were called.
    pub(crate) callbacks: Cell<usize>,
    pub(crate) called: Arc<std::sync::atomic::AtomicUsize>,
    /// Callbacks own it that are called for recoveries, and handles with it.
    pub(crate) owned: Arc<()>,
    /// Number of requests to its token source.
    pub(crate) tokens: Cell<usize>,
    /// True if it has done everything.
    pub(crate) finished: Cell<bool>,
    /// Deliveries that were left unacknowledged on purpose.
    pub(crate) forgotten: Cell<usize>,
    /// What the interceptors of its connections have seen, if they have any.
    pub(crate) audit: Option<Arc<Audit>>,
}

#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    pub(crate) link: usize,
    /// The way in which the application has ended it.
    pub(crate) shut: Rc<Shut>,
    pub(crate) tally: Rc<Tally>,
}

/// A channel, and what is known about it.
pub(crate) struct Desk {
    pub(crate) channel: Channel,
    /// The queue that the broker has named for it.
    pub(crate) named: RefCell<Option<Queue>>,
    pub(crate) books: Rc<Books>,
    /// True if its effects are not restored after a loss.
    pub(crate) unrecovered: bool,
    /// When it was opened.
    pub(crate) since: Mark,
    /// True if the application has closed it.
    pub(crate) closed: Asked,
    /// The way in which the application has ended its connection.
    pub(crate) shut: Rc<Shut>,
    /// What was done on its connection.
    pub(crate) tally: Rc<Tally>,
    /// True if its end was looked at.
    pub(crate) judged: Cell<bool>,
    /// The tags that it has cancelled by hand, whichever consumers have them.
    pub(crate) cancelled: RefCell<BTreeSet<ShortStr>>,
    /// Number of declarations that were begun, and of those that are pending.
    pub(crate) declarations: Cell<(u32, u32)>,
    /// True if a queue was declared without a reply: that is not tried again.
    pub(crate) unanswered: Cell<bool>,
    /// The last delivery up to which all were settled at once.
    pub(crate) settled_up_to: Cell<Option<DeliveryTag>>,
}

impl Desk {
    pub(crate) fn new(
        channel: Channel,
        unrecovered: bool,
        since: Mark,
        connected: &Connected,
    ) -> Self {
        Self {
            channel,
            named: None.into(),
            books: Rc::default(),
            unrecovered,
            since,
            closed: Rc::default(),
            shut: connected.shut.clone(),
            tally: connected.tally.clone(),
            judged: Cell::new(false),
            cancelled: RefCell::default(),
            declarations: Cell::default(),
            unanswered: Cell::default(),
            settled_up_to: Cell::default(),
        }
    }
}

/// A consumer, and how it was started.
pub(crate) struct Taker {
    pub(crate) consumer: Consumer,
    pub(crate) start: Start,
}

/// The way in which a consumer was started.
pub(crate) struct Start {
    pub(crate) tag: ShortStr,
    pub(crate) name: Name,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) desk: Rc<Desk>,
    /// The queue that it was asked to consume from.
    pub(crate) queue: String,
    /// True if its queue was to be recovered when it was asked for.
    pub(crate) declared: bool,
    /// True if the broker has started it once.
    pub(crate) ran: bool,
    /// True if its request is too large for some nodes.
    pub(crate) large: bool,
    /// When it was asked for.
    pub(crate) since: Mark,
    /// True if the application has cancelled it.
    pub(crate) asked: Asked,
    /// The last delivery that was taken from it, if it consumes from a stream.
    pub(crate) last: LastTaken,
}

impl Deref for Taker {
    type Target = Start;

    fn deref(&self) -> &Start {
        &self.start
    }
}

impl Taker {
    /// A consumer of the shared queue with that number, which the broker has started.
    pub(crate) fn shared(consumer: Consumer, number: usize, desk: &Rc<Desk>, since: Mark) -> Self {
        let start = Start {
            tag: consumer.tag().clone(),
            name: Name::Shared(number),
            no_ack: false,
            exclusive: false,
            desk: desk.clone(),
            queue: format!("shared-{number}"),
            declared: false,
            ran: true,
            large: false,
            since,
            asked: Rc::default(),
            last: Rc::default(),
        };
        Self { consumer, start }
    }
}

impl Start {
    /// Returns whether the library pauses it when it takes nothing. Other consumers, if nobody takes their deliveries, stop the
    /// whole connection.
    pub(crate) fn can_be_paused(&self) -> bool {
        let lasts = matches!(self.name, Name::Shared(_) | Name::Quorum);
        lasts && !self.no_ack && !self.exclusive && !self.desk.books.may_be_kept()
    }
}

/// The offset and the tag of the last delivery of a stream that was taken from a consumer.
pub(crate) type LastTaken = Rc<Cell<Option<(i64, DeliveryTag)>>>;

/// A delivery that is not settled yet.
pub(crate) struct Held {
    pub(crate) id: Id,
    pub(crate) delivery: Delivery,
    pub(crate) place: Option<Place>,
    pub(crate) desk: Rc<Desk>,
}

/// The position of a delivery in a stream.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    /// Its consumer's last.
    pub(crate) reader: LastTaken,
    /// True if its consumer was there again after a loss.
    pub(crate) again: Rc<Cell<bool>>,
}

/// A task's view of its client.
pub(crate) struct Task {
    pub(crate) client: Rc<Client>,
    pub(crate) cancel: Option<u32>,
    pub(crate) rng: RefCell<Rng>,
    /// The transactional channel of this task.
    pub(crate) own: RefCell<Option<Rc<Desk>>>,
}

impl Deref for Task {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Client {
    pub(crate) fn new(number: usize, world: Rc<World>) -> Self {
        let audited = world.script.seed % AUDITED_EVERY == 0;
        Self {
            number,
            world,
            connection: RefCell::default(),
            declared: RefCell::default(),
            channels: RefCell::default(),
            consumers: RefCell::default(),
            deliveries: RefCell::default(),
            confirmations: RefCell::default(),
            tallies: RefCell::default(),
            callbacks: Cell::new(0),
            called: Arc::default(),
            owned: Arc::default(),
            tokens: Cell::new(0),
            finished: Cell::new(false),
            forgotten: Cell::new(0),
            audit: audited.then(Arc::default),
        }
    }

    /// Its number, and the state of its connection.
    pub(crate) fn describe(&self) -> String {
        let health = self.connection.borrow().as_ref().map(|own| own.connection.health());
        format!("client {} ({health:?})", self.number)
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.world.script.clients[self.number]
    }

    /// Returns whether consumers that take nothing may fill the budget, and be paused.
    pub(crate) fn pauses(&self) -> bool {
        self.policy().delivery_budget < 1 << 20
    }

    pub(crate) fn fail(&self, text: impl Into<String>) {
        self.world.fail(|| text.into());
    }

    /// Notes a failure, if there is one.
    pub(crate) fn check<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.fail(text)).ok()
    }

    /// The connection, if there is one that is not over.
    pub(crate) fn connected(&self) -> Option<Connected> {
        let connected = self.connection.borrow().clone()?;
        let over =
            matches!(connected.connection.health().status, amqp_client_core::Status::Closed(_));
        (!over).then_some(connected)
    }

    /// A channel that there is, by its number modulo the number of slots.
    pub(crate) fn desk(&self, slot: usize) -> Option<Rc<Desk>> {
        let channels = self.channels.borrow();
        let slots = (0..SLOTS).map(|next| (slot + next) % SLOTS);
        slots.filter_map(|slot| channels[slot].clone()).find(|desk| desk.channel.check().is_ok())
    }

    /// Drops everything that belongs to the connection.
    pub(crate) fn forget(&self) {
        self.declared.borrow_mut().clear();
        let channels = std::mem::take(&mut *self.channels.borrow_mut());
        let consumers = std::mem::take(&mut *self.consumers.borrow_mut());
        let deliveries = std::mem::take(&mut *self.deliveries.borrow_mut());
        let confirmations = std::mem::take(&mut *self.confirmations.borrow_mut());
        drop((channels, consumers, deliveries, confirmations));
    }

    /// The name of a queue on a channel.
    pub(crate) fn name(&self, desk: &Desk, name: Name) -> String {
        match name {
            Name::Shared(number) => format!("shared-{number}"),
            Name::Quorum => "quorum".to_owned(),
            Name::AutoDelete(number) => format!("auto-{number}"),
            Name::Stream => STREAM.to_owned(),
            Name::Exclusive => format!("own-{}", self.number),
            Name::Foreign => {
                format!("own-{}", (self.number + 1) % self.world.script.clients.len())
            }
            Name::ServerNamed => {
                let named = desk.named.borrow();
                let name = named.as_ref().map(Queue::current_name);
                name.unwrap_or(ShortStr::EMPTY).to_string()
            }
            Name::Last => {
                self.world.history.borrow_mut().guess(self.number, desk.channel.id().get());
                String::new()
            }
            Name::Missing => "missing".to_owned(),
        }
    }

    pub(crate) fn config(&self) -> Config {
        let policy = self.policy();
        // With a small limit, frames of the channels overtake each other.
        let high_water = if policy.frame_max < 131_072 { 16 * 1024 } else { HIGH_WATER };
        let mut limits =
            Limits::default().transmit_high_water(high_water).frame_max(policy.frame_max);
        if let Some(oversized) = policy.oversized {
            limits = limits.body_max(BODY_MAX as u64).oversized(oversized);
        }
        let heartbeat = self.world.script.heartbeat;
        let settings = Settings::default()
            .call_timeout(policy.timeout)
            .publish_timeout(policy.timeout)
            .confirm_timeout(policy.timeout)
            .delivery_budget(policy.delivery_budget);
        let config = Config::default()
            .protocol(ClientConfig::default().heartbeat(heartbeat).limits(limits))
            .settings(settings);
        match &self.audit {
            Some(audit) => config.intercept(Auditor(audit.clone())),
            None => config,
        }
    }

    pub(crate) fn recovery(&self) -> Option<(Recovery, Pace)> {
        let recovering = self.policy().recovery.clone()?;
        let mut recovery = Recovery::default()
            .seed(Some(self.world.script.seed | 1))
            .reopen_channels(recovering.reopen_channels)
            .locked(recovering.locked.map_or(Locked::Fail, Locked::Retry))
            .keep_max(recovering.keep_max)
            .retry_locked(recovering.retry_locked)
            .give_up_after(recovering.give_up_after)
            .attempts_max(recovering.attempts_max);
        if recovering.resubscribe {
            recovery = recovery.on_cancel(OnCancel::Resubscribe);
        }
        let delays = recovering.delays.unwrap_or(Pace::DEFAULT);
        if recovering.delays.is_some() {
            recovery = recovery.delay_min(delays.0).delay_max(delays.1);
        }
        Some((recovery, Pace::new(delays, self.world.script.nodes.len())))
    }

    /// Errors are expected, except those that report a violation of the protocol.
    pub(crate) fn judge(&self, error: &ChannelError) {
        if let ChannelError::Connection(error) = error {
            self.judge_connection(error);
        }
    }

    pub(crate) fn judge_connection(&self, error: &ConnectionError) {
        if matches!(error, ConnectionError::Violation(_) | ConnectionError::Decode(_)) {
            self.fail(format!("a connection ended: {error}"));
        }
    }

    pub(crate) fn judge_call<T>(&self, result: Result<T, CallError>) -> Option<T> {
        result
            .map_err(|error| match &error {
                CallError::Ended(error) => self.judge(error),
                CallError::TimedOut { .. } if self.policy().timeout.is_none() => {
                    self.fail(format!("{error}, and it may take any time"));
                }
                _ => {}
            })
            .ok()
    }
}

impl Task {
    pub(crate) fn random<T>(&self, pick: impl FnOnce(&mut Rng) -> T) -> T {
        pick(&mut self.rng.borrow_mut())
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.world.clock.sleep(time).await;
    }

    /// Returns the result of a future, unless it is dropped before: unpolled, or after some polls. A dropped future must not keep
    /// the waker of its task.
    pub(crate) async fn perhaps<T>(
        &self,
        what: &'static str,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let drops = self.cancel.is_some_and(|times| self.random(|rng| rng.u32(..times)) == 0);
        if !drops {
            return Some(future.await);
        }
        let mut future = Box::pin(future);
        let flag = Flag::raised();
        let polls = self.random(|rng| rng.u8(..4));
        let odd = self.odd_waker();
        for _ in 0..polls {
            let waker = odd.clone().unwrap_or_else(|| Waker::from(flag.clone()));
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(value);
            }
            drop(waker);
            self.sleep(self.world.script.conditions.latency).await;
        }
        drop(future);
        self.world.leak(what, &flag);
        None
    }
}

/// Polls a future once.
pub(crate) async fn polled_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Polls a future once, and drops it.
pub(crate) async fn tried<T>(future: impl Future<Output = T>) -> Option<T> {
    polled_once(pin!(future)).await
}
