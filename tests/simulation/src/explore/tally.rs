//! The number of things that a client has done on a connection, to compare with the connection's counters.
//!
//! The application knows what it published, took and settled. It does not know what became of a reply whose future it dropped, and
//! the client requeues deliveries on its own. So each counter has a lower bound, and those that only the application moves have an
//! upper bound as well.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use amqp_client_core::proto::Delivery;
use amqp_client_core::{
    Channel, ConfirmError, Connection, ConnectionEvent, ConnectionEvents, Counters,
};
use futures_util::FutureExt as _;

use super::client::{Client, Connected};

/// The counters that only the application moves.
const BOUNDED: [&str; 10] = [
    "published",
    "published_bytes",
    "publish_failed",
    "got",
    "acked",
    "rejected",
    "stale",
    "channels_opened",
    "losses",
    "recoveries",
];

impl Client {
    /// Compares the connection's counters with what was done on it.
    pub(crate) fn compare_counters(&self) {
        let connected = self.connection.borrow().clone();
        if let Some(Connected { connection, tally, .. }) = connected {
            self.check(tally.compare(&connection));
            let channels = self.channels.borrow();
            let own = channels.iter().flatten().filter(|desk| Rc::ptr_eq(&desk.tally, &tally));
            let own = own.map(|desk| &desk.channel);
            self.check(Tally::compare_channels(&connection, own));
        }
    }
}

/// The operations of a client on one connection.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    bounds: RefCell<BTreeMap<&'static str, Bounds>>,
    /// Publishes with confirms.
    watched: Cell<u64>,
    /// The broker was asked to deliver the unsettled messages again. From then on, only the client knows which deliveries are stale.
    redelivers: Cell<bool>,
    events: RefCell<Option<ConnectionEvents>>,
    before: RefCell<Counters>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bounds {
    least: u64,
    /// Beyond `least`.
    perhaps: u64,
    /// There is no upper bound any more.
    open: bool,
}

impl Tally {
    pub(crate) fn of(connection: &Connection) -> Self {
        Self { events: Some(connection.events()).into(), ..Self::default() }
    }

    fn bounds(&self, name: &'static str, change: impl FnOnce(&mut Bounds)) {
        change(self.bounds.borrow_mut().entry(name).or_default());
    }

    /// This has certainly happened.
    pub(crate) fn add(&self, name: &'static str, count: usize) {
        self.bounds(name, |bounds| bounds.least += count as u64);
    }

    /// This is about to happen, or not.
    pub(crate) fn perhaps(&self, name: &'static str, count: usize) {
        self.bounds(name, |bounds| bounds.perhaps += count as u64);
    }

    /// Records whether something that [`perhaps`](Self::perhaps) announced has happened.
    pub(crate) fn decide(&self, name: &'static str, count: usize, happened: bool) {
        self.bounds(name, |bounds| {
            bounds.perhaps -= count as u64;
            bounds.least += if happened { count as u64 } else { 0 };
        });
    }

    /// More than the application knows may happen.
    pub(crate) fn lose_track(&self, name: &'static str) {
        self.bounds(name, |bounds| bounds.open = true);
    }

    /// A message of that size is about to be published.
    pub(crate) fn publishing(&self, size: usize) {
        self.perhaps("published", 1);
        self.perhaps("published_bytes", size);
    }

    /// The message was published, or it was not.
    pub(crate) fn published(&self, size: usize, happened: bool, watched: bool) {
        self.decide("published", 1, happened);
        self.decide("published_bytes", size, happened);
        self.watched.set(self.watched.get() + u64::from(happened && watched));
    }

    /// The outcome of a publish is known.
    pub(crate) fn concluded(&self, outcome: &Result<(), ConfirmError>) {
        match outcome {
            Ok(()) => self.add("confirmed", 1),
            Err(ConfirmError::Nacked) => self.add("nacked", 1),
            Err(ConfirmError::Returned(_)) => self.add("returned", 1),
            // The message is still waiting for its confirm.
            Err(ConfirmError::TimedOut { .. }) => {}
            Err(_) => self.add("unconfirmed", 1),
        }
    }

    /// All that is not settled is requested again.
    pub(crate) fn redeliver(&self) {
        self.redelivers.set(true);
    }

    /// A delivery was settled, or if there are `several`, all up to that one.
    pub(crate) fn settled(&self, counter: &'static str, several: bool, stale: bool) {
        if several {
            self.lose_track(counter);
        }
        match stale {
            true => self.add("stale", 1),
            false if self.redelivers.get() => {
                self.perhaps(counter, 1);
                self.perhaps("stale", 1);
            }
            false => self.add(counter, 1),
        }
    }

    /// The application took a message from a consumer.
    pub(crate) fn took(&self, delivery: &Delivery) {
        self.add("delivered", 1);
        self.add("delivered_bytes", delivery.body().len());
        self.add("redelivered", usize::from(delivery.redelivered()));
    }

    /// A message was fetched, or there was none.
    pub(crate) fn fetched(&self, delivery: Option<&Delivery>) {
        self.decide("got", 1, delivery.is_some());
        self.add("redelivered", usize::from(delivery.is_some_and(Delivery::redelivered)));
    }

    /// Compares with the counters, while the connection is used.
    pub(crate) fn compare(&self, connection: &Connection) -> Result<(), String> {
        if let Some(events) = &mut *self.events.borrow_mut() {
            while let Some(Some(event)) = events.next().now_or_never() {
                match event {
                    ConnectionEvent::Lost { .. } => self.add("losses", 1),
                    ConnectionEvent::Recovered(_) => self.add("recoveries", 1),
                    ConnectionEvent::Missed(_) => {
                        self.lose_track("losses");
                        self.lose_track("recoveries");
                    }
                    _ => {}
                }
            }
        }
        let (counters, health) = (connection.counters(), connection.health());
        let mut before = self.before.borrow_mut();
        for ((name, value), (_, before)) in counters.iter().zip(before.iter()) {
            if value < before {
                return Err(format!("the counter {name} fell from {before} to {value}"));
            }
            let bounds = self.bounds.borrow().get(name).copied().unwrap_or_default();
            let most = bounds.least + bounds.perhaps;
            let bounded = BOUNDED.contains(&name) && !bounds.open;
            if value < bounds.least || bounded && value > most {
                return Err(format!(
                    "the counter {name} is {value}, and the ledger has {bounds:?}"
                ));
            }
        }
        *before = counters;
        let ended = outcomes(&counters) + health.unconfirmed as u64;
        if ended > counters.published {
            return Err(format!("more outcomes than publishes: {counters:?}"));
        }
        let answered = counters.request_times.count() + counters.requests_failed;
        if answered > counters.requests {
            return Err(format!("more replies than requests: {counters:?}"));
        }
        if counters.channels_closed > counters.channels_opened {
            return Err(format!("more channels closed than opened: {counters:?}"));
        }
        Ok(())
    }

    /// No counter of a connection is less than the sum of its open channels: the connection also counts the closed ones.
    pub(crate) fn compare_channels<'a>(
        connection: &Connection,
        channels: impl Iterator<Item = &'a Channel>,
    ) -> Result<(), String> {
        let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (name, count) in channels.flat_map(|channel| channel.counters().iter()) {
            *sums.entry(name).or_default() += count;
        }
        for (name, count) in connection.counters().iter() {
            let sum = sums.get(name).copied().unwrap_or_default();
            if sum > count {
                return Err(format!("the channels have {name} {sum}, and the connection {count}"));
            }
        }
        Ok(())
    }

    /// Compares with the counters of a connection that has ended, and whose handles are dropped.
    pub(crate) fn compare_at_end(&self, connection: &Connection) -> Result<(), String> {
        self.compare(connection)?;
        let counters = connection.counters();
        if outcomes(&counters) < self.watched.get() {
            let watched = self.watched.get();
            return Err(format!("{watched} publishes with confirms, and {counters:?}"));
        }
        if counters.channels_closed != counters.channels_opened {
            return Err(format!("not all channels are closed: {counters:?}"));
        }
        Ok(())
    }
}

/// Publishes that have ended.
const fn outcomes(counters: &Counters) -> u64 {
    counters.confirmed + counters.nacked + counters.returned + counters.unconfirmed
}
