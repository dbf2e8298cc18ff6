//! Transactions: rolled back or abandoned work is never visible, and committed work is complete.

use std::cell::Cell;
use std::rc::Rc;

use amqp_client_core::proto::Route;
use amqp_client_core::{CallError, Channel, Reply};

use super::act::declared;
use super::books::Work;
use super::client::{Desk, Held, Task};
use super::commands::{End, Ending, Name, Settling, Step};
use super::publish::NO_PROPERTIES;

/// The reason why work failed.
#[derive(Debug)]
enum Failed {
    Call(#[expect(dead_code, reason = "seen in failures")] CallError),
    OnPurpose,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Task {
    pub(crate) async fn transact(
        &self,
        queue: Name,
        publishes: usize,
        gets: usize,
        end: End,
        by_hand: bool,
    ) {
        let Some(desk) = self.transactional().await else { return };
        let name = self.name(&desk, queue);
        let channel = &desk.channel;
        if !name.is_empty() && !by_hand {
            // A missing queue would close the channel.
            let queue = declared(channel, &name, queue, self.world.script.delivery_limit).await;
            if self.judge_call(queue).is_none() {
                return;
            }
        }
        let (began, work) = (Cell::new(false), Cell::new(None));
        let carry_out = async |_: &Channel| -> Result<(), Failed> {
            began.set(true);
            self.work(&desk, &name, publishes, gets).await?;
            if end == End::Drop {
                std::future::pending::<()>().await;
            }
            if end == End::Fail {
                return Err(Failed::OnPurpose);
            }
            if !by_hand {
                // The commit comes next.
                work.set(Some(self.commits(&desk)));
            }
            Ok(())
        };
        if by_hand {
            return self.by_hand(&desk, carry_out).await;
        }
        let result = match end {
            End::Drop => self.abandoned(channel.transaction(carry_out)).await,
            _ => Some(channel.transaction(carry_out).await),
        };
        match (work.take(), result) {
            (Some(work), Some(Ok(()))) => self.committed(&work),
            (Some(_), _) => {}
            (None, _) if began.get() => self.undone(&desk, &desk.books.end()),
            // Earlier work is still part of it.
            (None, _) => {}
        }
    }

    /// Polls a transaction until its work has nothing more to do, and drops it.
    async fn abandoned<T>(&self, transaction: impl Future<Output = T>) -> Option<T> {
        let time = std::time::Duration::from_secs(30);
        self.world.clock.within(time, transaction).await
    }

    /// Publishes some, gets and acknowledges some.
    async fn work(
        &self,
        desk: &Rc<Desk>,
        name: &str,
        publishes: usize,
        gets: usize,
    ) -> Result<(), Failed> {
        let channel = &desk.channel;
        for _ in 0..publishes {
            let (id, body) = self.world.ledger.borrow_mut().publish(20, false, false);
            let route = Route::queue(name);
            desk.tally.publishing(20);
            let published = channel.basic_publish(&route, &NO_PROPERTIES, body).await;
            desk.tally.published(20, published.is_ok(), false);
            if published.is_err() {
                desk.tally.add("publish_failed", 1);
                return Err(Failed::OnPurpose);
            }
            desk.books.published(id);
        }
        let mut got = Vec::new();
        for _ in 0..gets {
            desk.tally.perhaps("got", 1);
            let next = channel.basic_get(name).await?;
            desk.tally.fetched(next.as_ref().map(|got| &*got.delivery));
            got.extend(next);
        }
        // In any order: some acknowledgements can be merged, others not.
        while !got.is_empty() {
            let index = self.random(|rng| rng.usize(..got.len()));
            let delivery = got.swap_remove(index).delivery;
            let identified = self.world.ledger.borrow().identify(delivery.body());
            let Some(id) = self.check(identified) else { return Err(Failed::OnPurpose) };
            if self.random(|rng| rng.u8(..4)) == 0 {
                // It is requeued, or stays with the channel for the next transaction.
                self.hold(desk, delivery, None);
                continue;
            }
            let desk = desk.clone();
            self.settle(Held { id, delivery, place: None, desk }, Settling::Ack);
        }
        Ok(())
    }

    /// The same by the methods of the protocol.
    async fn by_hand(
        &self,
        desk: &Rc<Desk>,
        work: impl AsyncFnOnce(&Channel) -> Result<(), Failed>,
    ) {
        let mut work = Box::pin(work(&desk.channel));
        let time = std::time::Duration::from_secs(30);
        let worked = self.world.clock.within(time, work.as_mut()).await;
        drop(work);
        let step = match worked {
            Some(Ok(())) => Step::Commit,
            _ => Step::Rollback,
        };
        self.step(desk, step, Ending::Await).await;
    }

    /// One method of a transaction.
    pub(crate) async fn step(&self, desk: &Rc<Desk>, step: Step, how: Ending) {
        let channel = &desk.channel;
        match step {
            Step::Select => {
                desk.books.ask();
                // A task that is late or drops its future is not notified in time if it fails.
                let expects = how == Ending::Await && self.cancel.is_none();
                if expects {
                    desk.books.expect();
                }
                let selected = self.replied("tx_select", channel.tx_select(), how).await;
                if expects {
                    let work = desk.books.expected(selected == Some(true));
                    work.grant(&mut self.world.ledger.borrow_mut());
                }
                desk.books.select(selected);
            }
            Step::Commit => {
                let work = self.commits(desk);
                match self.replied("tx_commit", channel.tx_commit(), how).await {
                    Some(true) => self.committed(&work),
                    // If something of it was lost, it is rolled back.
                    Some(false) => desk.books.rolled_back(&work),
                    None => {}
                }
            }
            Step::Rollback => {
                let work = desk.books.end();
                match self.replied("tx_rollback", channel.tx_rollback(), how).await {
                    Some(true) => self.undone(desk, &work),
                    // It may not have been sent, and then the next commit is one of this, too.
                    _ => {
                        work.grant(&mut self.world.ledger.borrow_mut());
                        desk.books.perhaps_rolled_back(&work);
                    }
                }
            }
            Step::SettleAgain => self.settle_again(desk),
        }
    }

    /// Returns whether a request succeeded, unless its reply is not awaited.
    async fn replied(&self, what: &'static str, reply: Reply<()>, how: Ending) -> Option<bool> {
        match how {
            Ending::Drop => return None,
            Ending::Late(time) => self.sleep(time).await,
            Ending::Await => {}
        }
        let result = self.perhaps(what, reply).await?;
        Some(self.judge_call(result).is_some())
    }

    /// The commit is requested: its settlements may take effect from now on.
    fn commits(&self, desk: &Desk) -> Work {
        let work = desk.books.end();
        work.grant(&mut self.world.ledger.borrow_mut());
        work
    }

    fn committed(&self, work: &Work) {
        let checked = work.committed(&self.world.ledger.borrow());
        self.check(checked);
    }

    fn undone(&self, desk: &Desk, work: &Work) {
        let checked = work.undone(&mut self.world.ledger.borrow_mut());
        self.check(checked);
        desk.books.rolled_back(work);
    }

    /// Acknowledges by number what a rollback has made unsettled again.
    pub(crate) fn settle_again(&self, desk: &Desk) {
        for (id, tag) in desk.books.take_again() {
            // It may be stale, or settled with others: then this changes nothing, or at most returns an error.
            desk.tally.perhaps("acked", 1);
            desk.tally.perhaps("stale", 1);
            if desk.channel.basic_ack(tag).is_ok() {
                desk.books.settled_again(id, tag);
            }
        }
    }

    /// The task's channel for transactions.
    async fn transactional(&self) -> Option<Rc<Desk>> {
        let connected = self.connect().await?;
        let since = self.world.history.borrow().mark();
        let own = self.own.borrow().clone();
        if let Some(desk) = own.filter(|desk| desk.channel.check().is_ok()) {
            return Some(desk);
        }
        connected.tally.perhaps("channels_opened", 1);
        let channel = connected.connection.open_channel().await.ok()?;
        connected.tally.decide("channels_opened", 1, true);
        let selected = channel.tx_select().await;
        self.judge_call(selected)?;
        let desk = Rc::new(Desk::new(channel, false, since, &connected));
        desk.books.select(Some(true));
        *self.own.borrow_mut() = Some(desk.clone());
        Some(desk)
    }
}
