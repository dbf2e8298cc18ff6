//! The reported outcomes of each message, to compare with the real ones.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;

/// The longest body.
pub(crate) const BODY_MAX: usize = 300_000;

/// A message, by the order of all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u64);

/// The channel of a publisher, in the order of all of them.
pub(crate) type Publisher = u64;

#[derive(Debug)]
struct Entry {
    queue: usize,
    publisher: Publisher,
    confirmed: bool,
    /// It may have been published more than once.
    again: bool,
    /// The link over which it was acknowledged, or rejected for good.
    settled: Option<usize>,
    deliveries: u32,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    publishers: u64,
    /// The longest body of this run.
    body_max: usize,
}

/// The results of a run, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that were published.
    pub published: u64,
    /// Messages that were confirmed.
    pub confirmed: u64,
    /// Messages that a consumer settled for good.
    pub settled: u64,
    /// Deliveries.
    pub deliveries: u64,
}

impl Ledger {
    pub(crate) const fn new(body_max: usize) -> Self {
        Self { entries: Vec::new(), publishers: 0, body_max }
    }

    /// A new channel to publish on: order is kept within it.
    pub(crate) const fn publisher(&mut self) -> Publisher {
        self.publishers += 1;
        self.publishers
    }

    /// A message that is about to be published, and its body.
    pub(crate) fn publish(&mut self, queue: usize, publisher: Publisher) -> (Id, Bytes) {
        let id = Id(self.entries.len() as u64);
        self.entries.push(Entry {
            queue,
            publisher,
            confirmed: false,
            again: false,
            settled: None,
            deliveries: 0,
        });
        (id, self.body(id))
    }

    /// It is published as often as it takes.
    pub(crate) fn publish_kept(&mut self, queue: usize, publisher: Publisher) -> (Id, Bytes) {
        let (id, body) = self.publish(queue, publisher);
        self.entry(id).again = true;
        (id, body)
    }

    /// Returns whether it may have been published more than once.
    pub(crate) fn may_come_again(&self, id: Id) -> bool {
        self.entries[id.0 as usize].again
    }

    /// The broker has taken it over.
    pub(crate) fn confirm(&mut self, id: Id) {
        self.entry(id).confirmed = true;
    }

    /// It was delivered over a link. Returns its publisher.
    pub(crate) fn deliver(
        &mut self,
        body: &[u8],
        queue: usize,
        link: usize,
    ) -> Result<(Id, Publisher), String> {
        let id = self.identify(body)?;
        if id.0 as usize >= self.entries.len() {
            return Err(format!("message {} was never published", id.0));
        }
        let entry = self.entry(id);
        entry.deliveries += 1;
        if entry.queue != queue {
            return Err(format!("message {} came from queue {queue}, not {}", id.0, entry.queue));
        }
        if entry.settled == Some(link) && !entry.again {
            return Err(format!("message {} was settled before on the same connection", id.0));
        }
        Ok((id, entry.publisher))
    }

    /// A consumer is done with it.
    pub(crate) fn settle(&mut self, id: Id, link: usize) {
        self.entry(id).settled = Some(link);
    }

    fn entry(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// Compares with the messages that are left in the queues at the end.
    pub(crate) fn audit(&self, left: &BTreeMap<Id, u32>, calm: bool) -> Result<Totals, String> {
        let mut totals = Totals::default();
        for (number, entry) in self.entries.iter().enumerate() {
            let copies = left.get(&Id(number as u64)).copied().unwrap_or(0);
            if entry.confirmed && entry.settled.is_none() && copies == 0 {
                return Err(format!("message {number} was confirmed and not settled, but is lost"));
            }
            if copies > 1 && !entry.again {
                return Err(format!("message {number} is in its queue {copies} times"));
            }
            if calm && entry.settled.is_some() && copies > 0 && !entry.again {
                return Err(format!("message {number} was settled, and is still there"));
            }
            totals.published += 1;
            totals.confirmed += u64::from(entry.confirmed);
            totals.settled += u64::from(entry.settled.is_some());
            totals.deliveries += u64::from(entry.deliveries);
        }
        Ok(totals)
    }

    /// The message that has this body, which must be whole.
    pub(crate) fn identify(&self, bytes: &[u8]) -> Result<Id, String> {
        let number = bytes.first_chunk().ok_or("a body is too short")?;
        let id = Id(u64::from_be_bytes(*number));
        if bytes != self.body(id) {
            return Err(format!("the body of message {} came damaged", id.0));
        }
        Ok(id)
    }

    /// The body of a message: its number, and bytes that follow from it. Most are short.
    fn body(&self, id: Id) -> Bytes {
        let mut rng = Rng::with_seed(id.0);
        let most = match rng.u8(..50) {
            0..=45 => 20,
            46 => 0,
            47 => 3_000,
            48 => 30_000,
            _ => BODY_MAX,
        };
        let mut body = id.0.to_be_bytes().to_vec();
        body.resize(8 + rng.usize(0..=most).min(self.body_max).saturating_sub(8), 0);
        rng.fill(&mut body[8..]);
        body.into()
    }
}
