use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
