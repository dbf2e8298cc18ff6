use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use amqp_client_core::{ConfirmError, Counters};

/// The state of each message.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// By publisher and number.
    messages: Vec<Vec<Message>>,
    /// The last probe that each consumer saw.
    probes: BTreeMap<String, u64>,
    stale: u64,
    /// What the publishers and consumers did, in numbers.
    done: Done,
    trouble: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Message {
    /// Number of times that it was sent, as far as its publisher knows.
    sent: u16,
    confirmed: bool,
    received: u16,
    /// A delivery was marked as possibly repeated. It need not be the last one: messages may arrive in another order.
    again: bool,
}

/// What clients did, in the terms of [`Counters`].
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) confirmed: u64,
    pub(crate) nacked: u64,
    pub(crate) returned: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) published_bytes: u64,
    pub(crate) publish_failed: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_bytes: u64,
    pub(crate) redelivered: u64,
    /// Acknowledgements, whether or not they were stale.
    pub(crate) settled: u64,
    /// Those that certainly were.
    pub(crate) stale: u64,
}

impl Done {
    /// A publish has ended.
    pub(crate) const fn concluded(&mut self, size: usize, outcome: Result<&(), &ConfirmError>) {
        *(match outcome {
            Ok(()) => &mut self.confirmed,
            Err(ConfirmError::Nacked) => &mut self.nacked,
            Err(ConfirmError::Returned(_)) => &mut self.returned,
            Err(_) => &mut self.unconfirmed,
        }) += 1;
        self.published_bytes += size as u64;
    }

    /// Compares with the counters of the connections at the end, when nothing is unconfirmed or unsettled.
    fn compare(&self, publishing: &Counters, consuming: &Counters) -> Result<(), String> {
        let published = self.confirmed + self.nacked + self.returned + self.unconfirmed;
        let settled = consuming.acked + consuming.stale;
        let equal = [
            ("published", published, publishing.published),
            ("published_bytes", self.published_bytes, publishing.published_bytes),
            ("publish_failed", self.publish_failed, publishing.publish_failed),
            ("confirmed", self.confirmed, publishing.confirmed),
            ("nacked", self.nacked, publishing.nacked),
            ("returned", self.returned, publishing.returned),
            ("unconfirmed", self.unconfirmed, publishing.unconfirmed),
            ("acked or stale", self.settled, settled),
            ("published by consumers", 0, consuming.published),
            ("delivered to publishers", 0, publishing.delivered + publishing.got),
        ];
        // The broker delivers again what was discarded at a loss. A loss may come between a look at a delivery and its
        // acknowledgement.
        let least = [
            ("delivered", self.delivered, consuming.delivered),
            ("delivered_bytes", self.delivered_bytes, consuming.delivered_bytes),
            ("redelivered", self.redelivered, consuming.redelivered),
            ("stale", self.stale, consuming.stale),
        ];
        let unequal = equal.into_iter().filter(|(_, own, count)| own != count);
        let less = least.into_iter().filter(|(_, own, count)| own > count);
        let wrong: Vec<_> = unequal
            .chain(less)
            .map(|(name, own, count)| format!("{name}: {own} in the ledger, {count} counted"))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

/// The totals.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) received: u64,
    /// Confirmed, and not received.
    pub(crate) lost: u64,
    /// Received more than once.
    pub(crate) duplicated: u64,
    /// Of those, the ones that nothing explains.
    pub(crate) unexplained: u64,
    pub(crate) stale: u64,
    /// Attempts of handlers, and messages that were parked.
    pub(crate) attempts: u64,
    pub(crate) parked: u64,
    /// Calls, and those that returned the result of their server.
    pub(crate) calls: u64,
    pub(crate) replies: u64,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sent(&self, publisher: usize, number: usize) {
        self.with(publisher, number, |message| message.sent += 1);
    }

    pub(crate) fn confirmed(&self, publisher: usize, number: usize) {
        self.with(publisher, number, |message| message.confirmed = true);
    }

    /// `again`: the delivery is marked as possibly repeated.
    pub(crate) fn received(&self, publisher: usize, number: usize, again: bool) {
        self.with(publisher, number, |message| {
            message.received += 1;
            message.again |= again;
        });
    }

    fn with(&self, publisher: usize, number: usize, change: impl FnOnce(&mut Message)) {
        let messages = &mut self.lock().messages;
        if messages.len() <= publisher {
            messages.resize_with(publisher + 1, Vec::new);
        }
        let own = &mut messages[publisher];
        if own.len() <= number {
            own.resize_with(number + 1, Message::default);
        }
        change(&mut own[number]);
    }

    pub(crate) fn probed(&self, consumer: &str, probe: u64) {
        let probes = &mut self.lock().probes;
        let seen = probes.entry(consumer.to_owned()).or_default();
        *seen = probe.max(*seen);
    }

    /// Returns how many consumers have seen that probe.
    pub(crate) fn saw(&self, probe: u64) -> usize {
        self.lock().probes.values().filter(|seen| **seen >= probe).count()
    }

    /// An acknowledgement came too late.
    pub(crate) fn stale(&self) {
        self.lock().stale += 1;
    }

    /// Notes what a client did.
    pub(crate) fn done(&self, note: impl FnOnce(&mut Done)) {
        note(&mut self.lock().done);
    }

    /// At the end, the counters of the connections are equal to what the clients did.
    pub(crate) fn compare(&self, publishing: &Counters, consuming: &Counters) {
        let compared = self.lock().done.compare(publishing, consuming);
        compared.err().into_iter().for_each(|text| self.trouble(text));
    }

    /// Something that must not happen.
    pub(crate) fn trouble(&self, what: String) {
        let trouble = &mut self.lock().trouble;
        if trouble.len() < 20 {
            trouble.push(what);
        }
    }

    pub(crate) fn take_trouble(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().trouble)
    }

    pub(crate) fn totals(&self) -> Totals {
        let entries = self.lock();
        let mut totals = Totals { stale: entries.stale, ..Totals::default() };
        for message in entries.messages.iter().flatten() {
            totals.published += u64::from(message.sent > 0);
            totals.confirmed += u64::from(message.confirmed);
            totals.received += u64::from(message.received > 0);
            totals.lost += u64::from(message.confirmed && message.received == 0);
            totals.duplicated += u64::from(message.received > 1);
            let explained = message.again || message.sent > 1;
            totals.unexplained += u64::from(message.received > 1 && !explained);
        }
        totals
    }
}
