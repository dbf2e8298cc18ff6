//! The end of a client: when nothing goes wrong any more, everything has to come right in bounded time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amqp_client_core::proto::method::ChannelFlow;
use amqp_client_core::{CallError, Connection, Status};

use super::client::{Connected, STREAM, Start, Taker, Task};
use super::commands::{BODY_MAX, Name, Settling};
use super::history::own_tag;

/// Maximum time until a client is connected again and everything that waits has an outcome. Attempts to connect are a minute
/// apart, and a session that the broker believes in holds a queue for three heartbeats.
const BOUND: Duration = Duration::from_secs(15 * 60);

/// The time without a delivery after which a queue counts as drained.
pub(crate) const QUIET: Duration = Duration::from_secs(2);

impl Task {
    /// Waits until the client is well, drains its consumers, compares with the broker, and closes.
    pub(crate) async fn finish(&self) {
        let began = self.world.clock.now();
        while self.world.is_busy() {
            self.sleep(Duration::from_secs(1)).await;
            if self.world.clock.now() > began + BOUND && self.is_full_for_good() {
                self.take_all().await;
            }
        }
        let Some(Connected { connection, link, shut, tally }) = self.connection.borrow().clone()
        else {
            return;
        };
        if self.is_open_again(&connection).await {
            self.conclude_all().await;
            self.let_go(link).await;
            self.drain(link).await;
            self.probe_channels().await;
            self.judge_channels();
        }
        // The last confirmations and deliveries of a connection that has ended have outcomes, too.
        self.conclude_all().await;
        self.forget();
        if self.connected().is_some() {
            self.is_clean(&connection, link).await;
            self.has_fresh_tokens().await;
        }
        self.within(connection.after(Duration::from_secs(1)), "connection.after").await;
        let never = connection.after(Duration::MAX);
        shut.closed.set(true);
        if let Some(Err(error)) = self.within(connection.close(), "connection.close").await {
            self.judge_connection(&error);
        }
        self.within(connection.closed(), "connection.closed").await;
        self.within(never, "connection.after, without an end").await;
        let (registered, called) = (self.callbacks.get(), self.called.load(Ordering::Relaxed));
        if registered != called {
            self.fail(format!("{called} of {registered} callbacks were called at the end"));
        }
        if Arc::strong_count(&self.owned) > 1 {
            self.fail("callbacks for recoveries outlive their connection");
        }
        self.check(tally.compare_at_end(&connection));
        drop(connection);
        *self.connection.borrow_mut() = None;
        if let Some(audit) = &self.audit {
            self.check(audit.finish());
        }
    }

    async fn within<T>(&self, future: impl Future<Output = T>, what: &str) -> Option<T> {
        let value = self.world.clock.within(BOUND, future).await;
        if value.is_none() {
            self.fail(format!("{what} does not end"));
        }
        value
    }

    /// Returns whether what consumers have not taken keeps the connection from reading, and one of them cannot be paused. The tasks
    /// that still wait need the application to take something.
    fn is_full_for_good(&self) -> bool {
        let Some(Connected { connection, .. }) = self.connected() else { return false };
        let full = connection.health().delivered_bytes >= self.policy().delivery_budget;
        full && self.consumers.borrow().iter().any(|taker| !taker.can_be_paused())
    }

    /// Takes all deliveries: a client stops reading when too many are not taken.
    async fn take_all(&self) -> bool {
        let mut any = false;
        let mut takers = std::mem::take(&mut *self.consumers.borrow_mut());
        let mut index = 0;
        while let Some(taker) = takers.get_mut(index) {
            if self.drained(taker, &mut any).await {
                index += 1;
            } else {
                takers.remove(index);
            }
        }
        *self.consumers.borrow_mut() = takers;
        any
    }

    /// Returns whether the connection can be used; that it never can again is for its error to explain.
    async fn is_open_again(&self, connection: &Connection) -> bool {
        let until = self.world.clock.now() + BOUND;
        loop {
            match connection.health().status {
                Status::Open => return true,
                Status::Closed(error) => {
                    self.judge_connection(&error);
                    return false;
                }
                status if self.world.clock.now() > until => {
                    self.fail(format!("a connection is {status:?} long after all faults ended"));
                    return false;
                }
                _ => {
                    self.take_all().await;
                    self.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Every confirmation has an outcome.
    async fn conclude_all(&self) {
        let confirmations = std::mem::take(&mut *self.confirmations.borrow_mut());
        for (id, confirmation) in confirmations {
            let outcome = self.within(confirmation, "a confirmation").await;
            outcome.into_iter().for_each(|outcome| self.judge_outcome(id, outcome));
        }
    }

    /// Every channel replies: none is still being opened again.
    async fn probe_channels(&self) {
        let desks: Vec<_> = self.channels.borrow().iter().flatten().cloned().collect();
        for desk in desks.iter().filter(|desk| desk.channel.check().is_ok()) {
            let flow = desk.channel.call(ChannelFlow { active: true }).timeout(BOUND);
            if let Err(CallError::TimedOut { .. }) = flow.await {
                self.fail(format!("channel {} does not reply", desk.channel.id()));
            }
        }
    }

    /// Takes and acknowledges everything, until each queue that somebody consumes from is empty and the broker has the
    /// consumers that the client has, and no others.
    async fn drain(&self, link: usize) {
        let until = self.world.clock.now() + BOUND;
        loop {
            self.settle_all();
            let any = self.take_all().await;
            if any {
                continue;
            }
            self.commit_all().await;
            self.sleep(QUIET).await;
            if self.take_all().await {
                continue;
            }
            let Err(text) = self.compare(link) else { return };
            if self.connected().is_none() {
                return;
            }
            if self.world.clock.now() > until {
                return self.fail(text);
            }
        }
    }

    fn settle_all(&self) {
        let deliveries = std::mem::take(&mut *self.deliveries.borrow_mut());
        for held in deliveries {
            self.settle(held, Settling::Ack);
        }
    }

    /// Takes all deliveries that a consumer has. Returns whether the consumer continues.
    async fn drained(&self, taker: &mut Taker, any: &mut bool) -> bool {
        loop {
            match self.world.clock.within(Duration::from_millis(1), taker.consumer.next()).await {
                None => return true,
                Some(None) => {
                    self.judge_end(taker, None);
                    return false;
                }
                Some(Some(Err(end))) => {
                    self.judge_end(taker, Some(&end));
                    return false;
                }
                Some(Some(Ok(delivery))) => {
                    *any = true;
                    self.hold_of(taker, delivery);
                    self.settle_all();
                }
            }
        }
    }

    /// Compares the client's consumers with the broker's.
    fn compare(&self, link: usize) -> Result<(), String> {
        let network = self.world.network.borrow();
        let Some(session) = network.session(link) else {
            return Err("a client is open, and the broker does not know it".to_owned());
        };
        let mut known: BTreeMap<(u16, String), String> = BTreeMap::new();
        for view in network.engine.consumers().filter(|view| view.session == session) {
            known.insert(
                (view.channel.get(), own_tag(&view.tag.to_string()).to_owned()),
                view.queue.to_string(),
            );
        }
        let consumers = self.consumers.borrow();
        for taker in consumers.iter() {
            let Taker { consumer, start } = taker;
            let Start { name, queue, no_ack, exclusive, last, asked, .. } = start;
            let key = (consumer.channel().id().get(), consumer.tag().to_string());
            let Some(queue) = known.remove(&key) else {
                // One that is exclusive is tried again until those that keep it from its queue are gone. Which queue that is,
                // the broker knows if it has named it.
                let own_name = !matches!(name, Name::ServerNamed | Name::Last);
                let mut others = network.engine.consumers();
                let held = others.any(|view| !own_name || view.queue.to_string() == *queue);
                let may_wait = *exclusive || *name == Name::Exclusive;
                // Each attempt needs a channel of its own.
                let no_room = uses_all_channels(consumer.channel().connection());
                let locked = *exclusive && held || no_room && may_wait;
                if locked && !asked.get() && self.retries_locked() {
                    continue;
                }
                return Err(format!("a consumer of {name:?} neither delivers nor ends"));
            };
            let ready = network.engine.ready_count(&queue).unwrap_or(0);
            let mut unsettled = network.engine.unacknowledged(session);
            let full = unsettled.any(|(own, ..)| own == consumer.channel().id())
                && self.leaves_some(taker);
            if queue == STREAM {
                // Messages above the limit are not delivered.
                let limit = match self.policy().oversized {
                    Some(_) => BODY_MAX,
                    None => usize::MAX,
                };
                let sizes: Vec<_> = network.engine.ready_sizes(&queue).collect();
                let ready =
                    sizes.iter().rposition(|size| *size <= limit).map_or(0, |last| last + 1);
                // One that has had none yet may have begun at the end.
                let had = last.get().map_or(ready as i64, |(last, _)| last + 1);
                // What was settled before it was taken does not come again after a loss.
                let settled_up_to = start.desk.settled_up_to.get();
                let settled = last.get().is_some_and(|(_, tag)| settled_up_to > Some(tag));
                if had < ready as i64 && !full && !settled {
                    return Err(format!(
                        "a consumer of a stream has had {had} of {ready} messages"
                    ));
                }
                continue;
            }
            if ready > 0 && !full {
                let kind = if *no_ack { " without acknowledgements" } else { "" };
                return Err(format!(
                    "{ready} messages wait in {queue}, and its consumer{kind} gets none"
                ));
            }
        }
        if !known.is_empty() {
            return Err(format!("the broker has consumers without handles: {known:?}"));
        }
        Ok(())
    }

    /// Returns whether deliveries may be unacknowledged on purpose: those that fill a prefetch limit keep others from coming.
    fn leaves_some(&self, taker: &Taker) -> bool {
        // The deliveries that a transaction has settled are no longer known, and a channel with a stream cannot request
        // redelivery.
        let books = &taker.desk.books;
        let lost = self.world.script.has_streams() && books.may_be_kept() && !books.are_clear();
        lost || self.forgotten.get() > 0 || self.policy().oversized.is_some()
    }

    /// Nothing is left over when all handles but the connection's are dropped.
    async fn is_clean(&self, connection: &Connection, link: usize) {
        let until = self.world.clock.now() + BOUND;
        loop {
            let channels = self.world.network.borrow().channel_count(link);
            let health = connection.health();
            let counts = [
                ("channels at the broker", channels),
                ("channels", health.channels),
                ("unconfirmed publishes", health.unconfirmed),
                ("unsettled deliveries", health.unsettled),
                ("bytes kept", health.kept_bytes),
                ("bytes delivered and not taken", health.delivered_bytes),
            ];
            let Some((what, count)) = counts.into_iter().find(|(_, count)| *count > 0) else {
                return;
            };
            if self.connected().is_none() {
                return;
            }
            if self.world.clock.now() > until {
                return self.fail(format!("{count} {what} are left when all handles are dropped"));
            }
            self.sleep(Duration::from_secs(1)).await;
        }
    }
}

fn uses_all_channels(connection: &Connection) -> bool {
    let agreed = connection.negotiated().map(|agreed| usize::from(agreed.channel_max));
    agreed.is_some_and(|most| connection.health().channels >= most)
}
