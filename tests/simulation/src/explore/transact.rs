//! Transactions: what is rolled back or abandoned is never visible.

use std::cell::Cell;
use std::rc::Rc;

use amqp_client_core::proto::Route;
use amqp_client_core::{CallError, Channel};
use amqp_test_broker::Verdict;

use super::act::declared;
use super::client::{Connected, Desk, Task};
use super::commands::{End, Name};
use super::ledger::Id;
use super::publish::NO_PROPERTIES;

/// Why work failed.
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

/// What was done in a transaction.
#[derive(Default)]
struct Done {
    published: Vec<Id>,
    acked: Vec<Id>,
    /// The work is done: what follows is the commit.
    whole: Cell<bool>,
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
        let done = std::cell::RefCell::new(Done::default());
        let name = self.name(&desk, queue);
        let channel = &desk.channel;
        if !name.is_empty() && !by_hand {
            // A missing queue would close the channel.
            let queue = declared(channel, &name, queue, self.world.script.delivery_limit).await;
            if self.judge_call(queue).is_none() {
                return;
            }
        }
        let work = async |channel: &Channel| -> Result<(), Failed> {
            self.work(channel, &name, publishes, gets, &done).await?;
            if end == End::Drop {
                std::future::pending::<()>().await;
            }
            if end == End::Fail {
                return Err(Failed::OnPurpose);
            }
            done.borrow().whole.set(true);
            Ok(())
        };
        let result = match by_hand {
            true => self.by_hand(channel, work).await,
            false => match end {
                End::Drop => self.abandoned(channel.transaction(work)).await,
                _ => Some(channel.transaction(work).await),
            },
        };
        let done = done.into_inner();
        if !done.whole.get() && (!by_hand || result.is_some()) {
            let mut ledger = self.world.ledger.borrow_mut();
            done.published.iter().for_each(|id| ledger.roll_back(*id));
            done.acked.iter().for_each(|id| ledger.revoke(*id, Verdict::Acked));
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
        channel: &Channel,
        name: &str,
        publishes: usize,
        gets: usize,
        done: &std::cell::RefCell<Done>,
    ) -> Result<(), Failed> {
        for _ in 0..publishes {
            let (id, body) = self.world.ledger.borrow_mut().publish(20, false, false);
            done.borrow_mut().published.push(id);
            let route = Route::queue(name);
            if channel.basic_publish(&route, &NO_PROPERTIES, body).await.is_err() {
                return Err(Failed::OnPurpose);
            }
        }
        let mut got = Vec::new();
        for _ in 0..gets {
            got.extend(channel.basic_get(name, false).await?);
        }
        // In any order: some acknowledgements can be merged, others not.
        while !got.is_empty() {
            let index = self.random(|rng| rng.usize(..got.len()));
            let delivery = got.swap_remove(index).delivery;
            let identified = self.world.ledger.borrow().identify(delivery.body());
            let Some(id) = self.check(identified) else { return Err(Failed::OnPurpose) };
            if self.random(|rng| rng.u8(..4)) == 0 {
                // It goes back, or stays with the channel for the next transaction.
                self.hold(delivery, None);
                continue;
            }
            self.world.ledger.borrow_mut().grant(id, Verdict::Acked);
            done.borrow_mut().acked.push(id);
            delivery.ack()?;
        }
        Ok(())
    }

    /// The same by the methods of the protocol.
    async fn by_hand(
        &self,
        channel: &Channel,
        work: impl AsyncFnOnce(&Channel) -> Result<(), Failed>,
    ) -> Option<Result<(), Failed>> {
        let mut work = Box::pin(work(channel));
        let time = std::time::Duration::from_secs(30);
        let worked = self.world.clock.within(time, work.as_mut()).await;
        drop(work);
        Some(match worked {
            Some(Ok(())) => match self.perhaps("tx_commit", channel.tx_commit()).await {
                Some(result) => result.map_err(Failed::Call),
                None => Ok(()),
            },
            Some(Err(error)) => {
                self.judge_call(channel.tx_rollback().await);
                Err(error)
            }
            None => {
                self.judge_call(channel.tx_rollback().await);
                Err(Failed::OnPurpose)
            }
        })
    }

    /// The task's channel for transactions.
    async fn transactional(&self) -> Option<Rc<Desk>> {
        let Connected { connection, .. } = self.connect().await?;
        let books = self.books.borrow().clone();
        if let Some(desk) = books.filter(|desk| desk.channel.check().is_ok()) {
            return Some(desk);
        }
        let channel = connection.open_channel().await.ok()?;
        let selected = channel.tx_select().await;
        self.judge_call(selected)?;
        let desk = Rc::new(Desk { channel, named: None.into() });
        *self.books.borrow_mut() = Some(desk.clone());
        Some(desk)
    }
}
