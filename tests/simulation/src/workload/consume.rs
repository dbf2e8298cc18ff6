//! Consuming, getting, and settling in all the ways there are.

use std::collections::BTreeMap;
use std::time::Duration;

use amqp_client_core::{CallError, ConsumeOptions, Delivery};

use super::{declare, leave};
use crate::client::{Connected, Env, Try};
use crate::ledger::{Id, Publisher};
use crate::script::Job;

/// The time that a consumer waits for more once publishing has ended.
const IDLE: Duration = Duration::from_secs(1);

/// Deliveries over one channel.
struct Desk<'a> {
    env: &'a Env,
    queue: usize,
    link: usize,
    /// The unsettled deliveries.
    held: Vec<(Id, Delivery)>,
    /// The last message of each publisher that came for the first time.
    last: BTreeMap<Publisher, Id>,
    /// The connection may be lost, and recovers.
    endures: bool,
}

/// Consumes until publishing has ended and no more deliveries arrive.
pub(super) async fn run(env: &Env, job: &Job, queue: usize, prefetch: u16) -> Try<()> {
    let Connected { connection, link } = env.connect().await;
    let mut idle = false;
    while !idle {
        let channel = env.open(connection.open_channel().await)?;
        let declared = declare(env, &channel, queue).await?;
        env.call(channel.basic_qos(prefetch).await)?;
        let Some(consumer) = env.perhaps(declared.consume(ConsumeOptions::new())).await else {
            continue;
        };
        let mut consumer = env.call(consumer)?;
        let mut desk = Desk::new(env, queue, link);
        for _ in 0..job.count {
            let next = async { env.perhaps(consumer.next()).await };
            match env.within(IDLE, next).await {
                Some(Some(delivery)) => desk.take(env.consumed(delivery)?)?,
                Some(None) => {}
                // Unsettled deliveries may use up the prefetch limit.
                None if !desk.held.is_empty() => desk.settle_all()?,
                None if env.world.working.get() == 0 => {
                    idle = true;
                    break;
                }
                None => {}
            }
            env.pause(job.pause).await;
        }
        if env.one_in(2) {
            if let Some(cancelled) = env.perhaps(consumer.cancel()).await {
                env.call(cancelled)?;
            }
            // Deliveries that arrived before it was cancelled can still be taken.
            while let Some(delivery) = consumer.try_next() {
                desk.take(delivery)?;
            }
        }
        if env.one_in(2) {
            desk.settle_all()?;
        }
        drop((desk, consumer));
        if (idle || env.one_in(4)) && env.world.script.is_calm() {
            settled(env, link).await?;
        }
        if env.one_in(2) {
            env.call(channel.close().await)?;
        }
    }
    leave(env, connection).await
}

/// Everything was settled or requeued, whatever was dropped.
async fn settled(env: &Env, link: usize) -> Try<()> {
    // Long enough for anything in transit.
    env.sleep(Duration::from_secs(30)).await;
    match env.world.network.borrow().unacknowledged_count(link) {
        0 => Ok(()),
        count => Err(env.fail(format!("{count} deliveries were neither settled nor requeued"))),
    }
}

/// Consumes with one consumer, whatever happens to its connection, until publishing has ended and no more deliveries arrive.
pub(super) async fn endure(env: &Env, job: &Job, queue: usize, prefetch: u16) -> Try<()> {
    let Connected { connection, link } = env.connect_for_good().await;
    let channel = env.open(connection.open_channel().await)?;
    let declared = declare(env, &channel, queue).await?;
    env.call(channel.basic_qos(prefetch).await)?;
    let mut consumer = env.call(declared.consume(ConsumeOptions::new()).await)?;
    let mut desk = Desk { endures: true, ..Desk::new(env, queue, link) };
    loop {
        let next = async { env.perhaps(consumer.next()).await };
        match env.within(IDLE, next).await {
            Some(Some(delivery)) => desk.take(env.consumed(delivery)?)?,
            Some(None) => {}
            None if !desk.held.is_empty() => desk.settle_all()?,
            None if env.world.working.get() == 0 && connection.is_open() => break,
            None => {}
        }
        env.pause(job.pause).await;
    }
    drop((desk, consumer));
    leave(env, connection).await
}

/// Asks for messages one by one.
pub(super) async fn get(env: &Env, job: &Job, queue: usize, left: &mut u32) -> Try<()> {
    let Connected { connection, link } = env.connect().await;
    let channel = env.open(connection.open_channel().await)?;
    let declared = declare(env, &channel, queue).await?;
    let mut desk = Desk::new(env, queue, link);
    while *left > 0 {
        *left -= 1;
        if let Some(got) = env.perhaps(declared.get()).await {
            if let Some(got) = env.call(got)? {
                desk.take(got.delivery)?;
            }
        }
        env.pause(job.pause).await;
    }
    drop(desk);
    if env.world.script.is_calm() {
        settled(env, link).await?;
    }
    leave(env, connection).await
}

impl<'a> Desk<'a> {
    const fn new(env: &'a Env, queue: usize, link: usize) -> Self {
        Self { env, queue, link, held: Vec::new(), last: BTreeMap::new(), endures: false }
    }

    /// Checks a delivery, and does something about it or about others, or not yet.
    fn take(&mut self, delivery: Delivery) -> Try<()> {
        let transport = self.transport();
        let delivered =
            self.env.world.ledger.borrow_mut().deliver(delivery.body(), self.queue, transport);
        let (id, publisher) = delivered.map_err(|text| self.env.fail(text))?;
        let again = self.env.world.ledger.borrow().may_come_again(id);
        if !delivery.redelivered() && !again {
            let last = self.last.insert(publisher, id);
            if let Some(last) = last.filter(|last| *last >= id) {
                return Err(self.env.fail(format!("message {} came behind {}", id.0, last.0)));
            }
        }
        self.held.push((id, delivery));
        while !self.held.is_empty() && !self.env.one_in(3) {
            let index = self.env.random(|rng| rng.usize(..self.held.len()));
            self.settle(index)?;
        }
        Ok(())
    }

    fn settle_all(&mut self) -> Try<()> {
        while !self.held.is_empty() {
            self.settle(0)?;
        }
        Ok(())
    }

    /// Settles one that is held, and with it others, perhaps.
    fn settle(&mut self, index: usize) -> Try<()> {
        let (id, delivery) = self.held.remove(index);
        // They are delivered again, and settling others does not concern them.
        self.held.retain(|(_, other)| !other.is_stale());
        let tag = delivery.delivery_tag();
        let stale = delivery.is_stale();
        match self.env.random(|rng| rng.u8(..10)) {
            0..=4 => self.done(&[id], stale, delivery.ack()),
            5 => {
                let (before, held) =
                    self.held.drain(..).partition(|(_, other)| other.delivery_tag() < tag);
                self.held = held;
                let before: Vec<(Id, Delivery)> = before;
                let ids: Vec<_> = before.iter().map(|(id, _)| *id).chain([id]).collect();
                // These are settled now, so dropping them must not requeue them.
                self.done(&ids, stale, delivery.ack_up_to())
            }
            6 => self.done(&[id], stale, delivery.reject(false)),
            7 => self.done(&[], stale, delivery.nack(true)),
            8 => {
                self.held.retain(|(_, other)| other.delivery_tag() > tag);
                self.done(&[], stale, delivery.nack_up_to(true))
            }
            // It is dropped, and so requeued.
            _ => Ok(()),
        }
    }

    fn done(&self, ids: &[Id], stale: bool, result: Result<(), CallError>) -> Try<()> {
        self.env.call(result)?;
        // It comes again.
        if stale {
            return match self.endures {
                true => Ok(()),
                false => Err(self.env.fail("a delivery is stale, although nothing is restored")),
            };
        }
        let transport = self.transport();
        let mut ledger = self.env.world.ledger.borrow_mut();
        ids.iter().for_each(|id| ledger.settle(*id, transport));
        Ok(())
    }

    fn transport(&self) -> usize {
        self.env.world.network.borrow().transport(self.link)
    }
}
