//! The end of transactions: the rest is committed or rolled back, and nothing stays unacknowledged.

use std::rc::Rc;

use super::client::{Desk, Held, Task};
use super::commands::{Ending, Step};
use super::finish::QUIET;
use super::ledger::Id;

/// The number of checks whether dropped deliveries were requeued. The connection may be found lost between two checks.
pub(crate) const LOOKS: u32 = 30;

impl Task {
    /// Commits all transactions. What the one before has rolled back is settled first.
    pub(crate) async fn commit_all(&self) {
        for desk in self.transactional_desks() {
            if !desk.books.are_kept() {
                self.step(&desk, Step::Select, Ending::Await).await;
                if !desk.books.are_kept() {
                    // A commit would close a channel without a transaction.
                    continue;
                }
            }
            // A stream cannot deliver anything again. What is asked for again while some of it waits to be taken is stale when it is
            // taken, and costs the next transaction: doing that each time would have no end.
            let again = !desk.books.are_clear() && !self.world.script.has_streams();
            if again && desk.books.ask_again(self.losses()) {
                desk.tally.redeliver();
                let recovered = desk.channel.basic_recover().await;
                self.judge_call(recovered);
                desk.books.take_again();
            }
            self.settle_again(&desk);
            self.step(&desk, Step::Commit, Ending::Await).await;
        }
    }

    fn transactional_desks(&self) -> Vec<Rc<Desk>> {
        let (channels, consumers) = (self.channels.borrow(), self.consumers.borrow());
        let deliveries = self.deliveries.borrow();
        let desks = channels.iter().flatten();
        let desks = desks.chain(consumers.iter().map(|taker| &taker.desk));
        let desks = desks.chain(deliveries.iter().map(|held| &held.desk));
        let mut kept: Vec<Rc<Desk>> = Vec::new();
        for desk in desks.filter(|desk| desk.books.may_be_kept() && desk.channel.is_open()) {
            if !kept.iter().any(|known| Rc::ptr_eq(known, desk)) {
                kept.push(desk.clone());
            }
        }
        kept
    }

    /// Drops the deliveries of transactional channels: they are requeued at once if nothing else is to be committed, and
    /// otherwise with the rollback.
    pub(crate) async fn let_go(&self, link: usize) {
        for desk in self.transactional_desks() {
            // Deliveries whose redelivery was requested are already requeued at the broker, although the client still lists them.
            if desk.books.are_clear() && self.random(|rng| rng.u8(..3)) > 0 {
                self.let_go_of(&desk, link).await;
            }
        }
    }

    async fn let_go_of(&self, desk: &Rc<Desk>, link: usize) {
        // Recent settlements are in flight.
        self.sleep(QUIET).await;
        let all = std::mem::take(&mut *self.deliveries.borrow_mut());
        let (held, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|held| Rc::ptr_eq(&held.desk, desk));
        self.deliveries.borrow_mut().extend(others);
        let waits = |held: &&Held| {
            held.place.is_none() && !held.delivery.is_stale() && !held.delivery.no_ack()
        };
        let dropped: Vec<_> = held.iter().filter(waits).map(|held| held.id).collect();
        let before = self.unsettled(link, desk);
        // Of two deliveries of the same message, which can be if it was kept, one may stay.
        let alike = |id| before.iter().filter(|(_, own)| *own == id).count();
        let waits = |(tag, id): &(u64, Id)| {
            dropped.contains(id) && alike(*id) == 1 && before.contains(&(*tag, *id))
        };
        let losses = self.losses();
        drop(held);
        if !desk.books.are_empty() {
            self.step(desk, Step::Rollback, Ending::Await).await;
        }
        for _ in 0..LOOKS {
            self.sleep(QUIET).await;
            let left = self.unsettled(link, desk).into_iter().filter(waits).count();
            if left == 0 || !desk.channel.is_open() || self.losses() != losses {
                return;
            }
        }
        self.fail("deliveries were dropped on a transactional channel, and stay unacknowledged");
    }

    /// Number of times that the connection was lost, if there is one.
    pub(crate) fn losses(&self) -> Option<u64> {
        self.connected().map(|own| own.connection.health().losses)
    }

    /// The deliveries of a channel that the broker waits for, by their tags.
    fn unsettled(&self, link: usize, desk: &Desk) -> Vec<(u64, Id)> {
        let network = self.world.network.borrow();
        let Some(session) = network.session(link) else { return Vec::new() };
        let ledger = self.world.ledger.borrow();
        let unsettled = network.engine.unacknowledged(session);
        let own = unsettled.filter(|(channel, ..)| *channel == desk.channel.id());
        own.filter_map(|(_, tag, body)| Some((tag, ledger.identify(&body).ok()?))).collect()
    }
}
