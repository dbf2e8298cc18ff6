//! Users whose code does more than it should: wakers that panic or use handles, consumers that take nothing or everything.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use amqp_client_core::proto::method::BasicQos;
use amqp_client_core::{Connection, ConnectionEvent, ConnectionEvents, ConsumeOptions, Status};

use super::client::{Desk, Taker, Task, tried};
use crate::executor::Flag;

/// The time that a task waits for a loss.
const LOSS: Duration = Duration::from_secs(20);

/// The time that it waits for its next delivery before it checks its other work.
const TURN: Duration = Duration::from_secs(1);

/// The longest time for which a consumer waits for others that take nothing. They are paused after a second in which they did so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum number of deliveries that a consumer yields before it lets its driver run.
const GREED: u32 = 200;

/// A waker that panics.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics on purpose");
    }
}

/// A waker whose owner uses a handle when it is dropped.
struct Owner(Connection);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _open = (self.0.is_open(), self.0.health());
    }
}

impl Task {
    /// A waker that does more than to wake, now and then.
    pub(crate) fn odd_waker(&self) -> Option<Waker> {
        match self.random(|rng| rng.u8(..8)) {
            0 => Some(Arc::new(Panics).into()),
            1 => Some(Arc::new(Owner(self.connected()?.connection)).into()),
            _ => None,
        }
    }

    /// Waits until the connection is lost and has a transport again, and for a while.
    pub(crate) async fn await_recovery(&self, latencies: u32) {
        let until = self.world.clock.now() + LOSS;
        let step = self.world.script.conditions.latency.max(Duration::from_micros(100));
        while self.world.clock.now() < until {
            let Some(own) = self.connected() else { return };
            let recovering = own.connection.health().status == Status::Recovering;
            if recovering && !self.world.network.borrow().is_down(own.link) {
                return self.sleep(step * latencies / 2).await;
            }
            self.sleep(step.max(Duration::from_millis(u64::from(!recovering)))).await;
        }
    }

    /// Cancels a consumer while the broker does so, and reuses its name before the reply can have arrived.
    pub(crate) async fn usurp(&self, number: usize, slot: usize) {
        let Some(mut taker) = self.borrow_consumer(number) else { return };
        let (channel, tag) = (taker.consumer.channel().clone(), taker.consumer.tag().to_string());
        taker.asked.set(true);
        self.world.history.borrow_mut().leave(&taker.queue);
        self.cancel_at_broker(&taker);
        let reply = taker.consumer.cancel();
        // The broker's own notice ends it, or the reply.
        while let Some(Some(Ok(delivery))) =
            self.world.clock.within(LOSS, taker.consumer.next()).await
        {
            self.hold_of(&taker, delivery);
        }
        let queue = format!("shared-{}", slot % 2);
        self.world.unchanged.borrow_mut().reuse(&tag);
        let options = ConsumeOptions::new().consumer_tag(tag);
        let since = self.world.history.borrow().mark();
        self.world.history.borrow_mut().consume(&queue, self.number, channel.id().get());
        let consumed = self.perhaps("basic_consume", channel.basic_consume(&queue, options)).await;
        if let Some(consumer) = consumed.and_then(|result| self.judge_call(result)) {
            let taker = Taker::shared(consumer, slot % 2, &taker.desk, since);
            self.consumers.borrow_mut().push(taker);
        }
        self.perhaps("cancel", reply).await.and_then(|result| self.judge_call(result));
    }

    /// The broker cancels a consumer, as when the node of its queue goes.
    pub(crate) fn cancel_at_broker(&self, taker: &Taker) {
        let Some(own) = self.connected() else { return };
        let mut network = self.world.network.borrow_mut();
        let (session, tag) = (network.session(own.link), taker.consumer.tag());
        let channel = taker.consumer.channel().id();
        let mut views = network.engine.consumers();
        let view = views.find(|view| {
            Some(view.session) == session && view.channel == channel && view.tag == *tag
        });
        drop(views);
        if let Some(view) = view {
            network.cancel(self.world.clock.now(), &view);
        }
    }

    /// One consumer takes nothing, although there is more for it than the client buffers; another one still gets its messages.
    pub(crate) async fn starve(&self, idle: usize, busy: usize) {
        let (Some(idle), Some(busy)) = (self.desk(idle), self.desk(busy)) else { return };
        if idle.books.may_be_kept() || busy.books.may_be_kept() {
            return;
        }
        let budget = self.policy().delivery_budget;
        let size = (budget / 6).clamp(12, 30_000);
        if self.world.script.conditions.piece < 100 && budget > 8 * 1024 || budget > 1 << 20 {
            return;
        }
        let mut events = idle.channel.connection().events();
        let lazy = self.starving(&idle, 0).await;
        self.feed(&busy, 0, 2 * budget / size + 4, size).await;
        let eager = self.starving(&busy, 1).await;
        self.feed(&busy, 1, 3, 12).await;
        let (Some(lazy), Some(mut eager)) = (lazy, eager) else { return };
        let mut waiting = Duration::ZERO;
        let mut told = false;
        while waiting < PATIENCE {
            let before = self.world.clock.now();
            let next = self.world.clock.within(TURN, eager.consumer.next()).await;
            told |= names_idle(&mut events).await;
            match next {
                Some(Some(Ok(delivery))) => {
                    self.hold_of(&eager, delivery);
                    self.settle_newest();
                    waiting = Duration::ZERO;
                }
                Some(None) => return self.judge_end(&eager, None),
                Some(Some(Err(end))) => return self.judge_end(&eager, Some(&end)),
                // A clock that jumps takes no time from the library.
                None if self.is_starved(&eager) => {
                    waiting += (self.world.clock.now() - before).min(TURN);
                }
                None => break,
            }
        }
        let full = self.connected().is_some_and(|own| {
            own.connection.health().delivered_bytes >= self.policy().delivery_budget
        });
        if waiting >= PATIENCE && full {
            self.fail("a consumer that takes nothing stops another one");
        }
        // A clock that has just jumped gave the library no time to notice.
        self.sleep(TURN).await;
        told |= names_idle(&mut events).await;
        if full && !told && self.is_quiet() && self.consumers.borrow().is_empty() {
            self.fail("a consumer takes nothing, and no event names it");
        }
        self.consumers.borrow_mut().extend([lazy, eager]);
    }

    async fn starving(&self, desk: &Rc<Desk>, number: usize) -> Option<Taker> {
        let queue = format!("shared-{number}");
        let since = self.world.history.borrow().mark();
        self.world.history.borrow_mut().consume(&queue, self.number, desk.channel.id().get());
        let options = ConsumeOptions::new().pausable(true);
        let consumer = self.judge_call(desk.channel.basic_consume(&queue, options).await)?;
        Some(Taker::shared(consumer, number, desk, since))
    }

    async fn feed(&self, desk: &Rc<Desk>, queue: usize, count: usize, size: usize) {
        self.feed_queue(desk, &format!("shared-{queue}"), count, size).await;
    }

    /// Returns whether nothing goes wrong, and has not for a while.
    fn is_quiet(&self) -> bool {
        self.world.since_start() > self.world.faults_end.get() + LOSS
            && self.connected().is_some_and(|own| own.connection.is_open())
    }

    /// Returns whether messages wait for a consumer that the broker knows, and it is not because of anything that went wrong.
    fn is_starved(&self, taker: &Taker) -> bool {
        let Some(own) = self.connected().filter(|_| self.is_quiet()) else { return false };
        let network = self.world.network.borrow();
        let (session, tag) = (network.session(own.link), taker.consumer.tag());
        let known = network.engine.consumers().any(|view| {
            Some(view.session) == session
                && view.channel == taker.consumer.channel().id()
                && view.tag == *tag
        });
        // Others may be with other tasks.
        let count = network.engine.consumers().filter(|view| Some(view.session) == session).count();
        let alone = count <= 2 && self.policy().recovery.is_none();
        known && alone && self.consumers.borrow().iter().all(|taker| taker.can_be_paused())
    }

    /// Settles the delivery that was taken last.
    pub(crate) fn settle_newest(&self) {
        let newest = self.deliveries.borrow_mut().pop();
        if let Some(held) = newest {
            self.settle(held, super::commands::Settling::Ack);
        }
    }

    /// Takes many messages without ever waiting: the driver still has its turns.
    pub(crate) async fn feast(&self, desk: &Rc<Desk>) {
        if desk.books.may_be_kept() || self.world.script.conditions.piece < 100 {
            // Work on a transactional channel has to be committed.
            return;
        }
        let Some(mut taker) = self.starving(desk, 0).await else { return };
        self.feed(desk, 0, 400, 12).await;
        self.sleep(Duration::from_secs(5)).await;
        let flag = Flag::raised();
        let waker = Waker::from(flag);
        let mut row = 0;
        loop {
            let next = pin!(taker.consumer.next()).poll(&mut Context::from_waker(&waker));
            match next {
                Poll::Ready(Some(Ok(delivery))) => self.hold_of(&taker, delivery),
                Poll::Ready(Some(Err(end))) => return self.judge_end(&taker, Some(&end)),
                Poll::Ready(None) => return self.judge_end(&taker, None),
                Poll::Pending => break,
            }
            row += 1;
            if row > GREED {
                self.fail(format!(
                    "a consumer yields {row} deliveries without letting other tasks run"
                ));
                break;
            }
        }
        self.consumers.borrow_mut().push(taker);
    }

    /// Asks for a limit in bytes, which costs the connection: once.
    pub(crate) async fn limit_size(&self, desk: &Rc<Desk>) {
        let method = BasicQos { prefetch_size: 1000, ..<_>::default() };
        let limited = self.perhaps("call(BasicQos)", desk.channel.call(method)).await;
        limited.and_then(|result| self.judge_call(result));
    }
}

/// Returns whether one of the waiting events names a consumer that takes nothing.
async fn names_idle(events: &mut ConnectionEvents) -> bool {
    let mut told = false;
    while let Some(Some(event)) = tried(events.next()).await {
        told |= matches!(event, ConnectionEvent::ConsumerLags { .. });
    }
    told
}
