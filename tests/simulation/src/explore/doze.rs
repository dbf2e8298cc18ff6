//! Parts of bursts: a consumer that is paused and resumed, and a message that nobody awaits.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::proto::{Oversized, RawProperties, Route};
use amqp_client_core::{ConsumeOptions, QueueOptions};

use super::burst::{Asked, Burst, Open, What};
use super::client::{Desk, Taker, Task};
use super::commands::{BODY_MAX, Name};
use super::finish::QUIET;
use super::release::LOOKS;

/// The time after which a client that holds more than it should has paused a consumer.
const DOZE: Duration = Duration::from_secs(3);

impl Burst<'_> {
    /// Starts a consumer of a queue of its own, which has more messages than the client holds at once. Another consumer, which
    /// gets none, is the reason to pause it.
    pub(super) async fn doze(&mut self) {
        let (task, desk) = (self.task, self.desk);
        let budget = task.policy().delivery_budget;
        let small = task.world.script.conditions.piece < 100;
        if small && budget > 8 * 1024 || budget > 1 << 20 {
            return;
        }
        if self.start_own("lull").await.is_none() {
            return;
        }
        let Some(queue) = self.start_own("doze").await else { return };
        let size = (budget / 6).clamp(12, 30_000);
        task.feed_queue(desk, &queue, budget * 3 / 2 / size, size).await;
        task.sleep(DOZE).await;
    }

    /// Starts a consumer of a new queue, and returns the queue.
    async fn start_own(&mut self, kind: &str) -> Option<String> {
        let (task, desk) = (self.task, self.desk);
        let tag = task.world.unchanged.borrow_mut().name();
        let queue = format!("{kind}-{tag}");
        let declare = desk.channel.queue_declare(&queue, QueueOptions::new().durable(true));
        task.judge_call(declare.await)?;
        task.world.history.borrow_mut().name(task.number, desk.channel.id().get());
        let limit = task.random(|rng| rng.u8(..4) > 0).then_some(0);
        let start = self.start((&tag, limit), Name::Shared(2), &queue, true);
        let options = ConsumeOptions::new().consumer_tag(&tag).pausable(true);
        let options = match limit {
            Some(limit) => options.prefetch(limit),
            None => options,
        };
        let consumer = task.judge_call(desk.channel.basic_consume(&queue, options).await)?;
        let asked = Asked { tag: start.tag.clone(), queue: queue.clone() };
        let what = What::Consumer(Box::new(Taker { consumer, start }));
        self.open.push(Open { what, consumer: Some(asked), limits: None });
        Some(queue)
    }

    /// Takes everything from the last consumer, without waiting. Acknowledges it at once, or keeps it.
    pub(super) fn wake(&mut self, acks: bool) {
        let task = self.task;
        let Some(taker) = self.last_taker() else { return };
        loop {
            let mut cx = Context::from_waker(Waker::noop());
            let next = pin!(taker.consumer.next()).poll(&mut cx);
            let Poll::Ready(next) = next else { return };
            match next {
                Some(Ok(delivery)) => {
                    task.hold_of(taker, delivery);
                    if acks {
                        task.settle_newest();
                    }
                    continue;
                }
                Some(Err(end)) => task.judge_end(taker, Some(&end)),
                None => task.judge_end(taker, None),
            }
            break;
        }
        if let Some(last) = self.last() {
            self.open.remove(last);
        }
    }

    /// A fetched message that nobody gets is requeued.
    pub(super) async fn fetch(&mut self, latencies: u32) {
        let (task, desk) = (self.task, self.desk);
        let small = task.world.script.conditions.piece < 100;
        if task.policy().oversized != Some(Oversized::Hold) || small {
            return;
        }
        let queue = format!("fetch-{}", task.world.unchanged.borrow_mut().name());
        let declare = desk.channel.queue_declare(&queue, QueueOptions::new().durable(true));
        if task.judge_call(declare.await).is_none() {
            return;
        }
        task.world.history.borrow_mut().name(task.number, desk.channel.id().get());
        let losses = task.losses();
        task.feed_queue(desk, &queue, 1, BODY_MAX + 100).await;
        task.sleep(QUIET).await;
        if task.world.network.borrow().engine.ready_count(&queue) != Some(1) {
            return;
        }
        desk.tally.perhaps("got", 1);
        let reply = desk.channel.basic_get(&queue);
        self.wait(latencies).await;
        drop(reply);
        for _ in 0..LOOKS {
            task.sleep(QUIET).await;
            let ready = task.world.network.borrow().engine.ready_count(&queue);
            if ready != Some(0) || task.losses() != losses || !desk.channel.is_open() {
                return;
            }
        }
        task.fail("a message was fetched, and its reply was dropped: it stays unacknowledged");
    }
}

impl Task {
    /// Publishes messages to a queue.
    pub(crate) async fn feed_queue(&self, desk: &Desk, queue: &str, count: usize, size: usize) {
        let route = Route::new("", queue);
        for _ in 0..count {
            let (id, body) = self.world.ledger.borrow_mut().publish(size, false, false);
            let size = body.len();
            desk.tally.publishing(size);
            let published = desk.channel.basic_publish(&route, &RawProperties::EMPTY, body).await;
            desk.tally.published(size, published.is_ok(), false);
            if let Err(error) = published {
                desk.tally.add("publish_failed", 1);
                return self.judge_publish(id, &error);
            }
        }
    }
}
