//! The possible outcomes of each message, to compare with what the broker did and what was reported to the application.
//!
//! The broker's view comes as [`Note`]s, before the client learns of it. An upper bound is kept of everything that has to be
//! asked for: the broker may act on an acknowledgement at most as often as the application has acknowledged that message.

use std::collections::BTreeMap;

use amqp_test_broker::{Note, Verdict};
use bytes::Bytes;

use super::commands::{BODY_MAX, Exploration};

/// More often than any message is delivered: faults are few, and at the end everything is acknowledged.
const DELIVERIES: u32 = 2_000;

/// A message, by the order of all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u64);

impl Id {
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

/// The shortest body: the identity of the message, its size, and its pattern.
const HEAD: usize = 12;

#[derive(Debug, Default)]
struct Entry {
    /// It may be published more than once.
    kept: bool,
    mandatory: bool,
    confirmed: bool,
    /// Its queue is a stream: whatever is acknowledged, it is there still.
    streamed: bool,
    /// It must not become visible any more: its transaction was rolled back or abandoned, it was given up before it was sent, or
    /// it was returned.
    never: bool,
    /// It was taken while its connection was down, when there had been so many transports.
    outage: Option<u64>,
    accepted: u32,
    /// Accepted, and routed to a queue.
    routed: u32,
    delivered: u32,
    /// Number of times that the application has requested it, and that the broker has done it.
    granted: BTreeMap<Verdict, u32>,
    done: BTreeMap<Verdict, u32>,
}

/// The results of a run, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were handed to the client.
    pub published: u64,
    /// Messages that the broker accepted, each time.
    pub accepted: u64,
    /// Confirms that were reported to the application.
    pub confirmed: u64,
    /// Deliveries by the broker.
    pub delivered: u64,
    /// Settlements that the broker carried out.
    pub settled: u64,
    /// Requests that the broker refused.
    pub refused: u64,
    /// Channels that were opened.
    pub channels: u64,
    /// Transports that reached the broker.
    pub transports: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    /// Requests to purge or delete a queue, by name, that were not carried out yet.
    removals: BTreeMap<String, u32>,
    /// True if all nodes know `basic.nack`.
    nack: bool,
    /// True if there are streams.
    streams: bool,
    /// The number of failed deliveries that a message of the quorum queue survives, if nothing else counts.
    limit: Option<u32>,
    /// The way in which clients settle bodies above their limit.
    settles_large: Vec<Verdict>,
    pub(crate) counts: Counts,
}

impl Ledger {
    /// The empty ledger of a script.
    pub(crate) fn new(script: &Exploration) -> Self {
        let (limit, nack) = (script.blameless(), script.nodes.iter().all(|node| node.nack));
        let (streams, settles_large) = (script.has_streams(), script.settles_large().collect());
        Self { limit, nack, streams, settles_large, ..Self::default() }
    }

    /// A message that is about to be published, and its body.
    pub(crate) fn publish(&mut self, size: usize, kept: bool, mandatory: bool) -> (Id, Bytes) {
        let id = Id(self.entries.len() as u64);
        let mut granted = BTreeMap::new();
        if size > BODY_MAX {
            granted.extend(self.settles_large.iter().map(|verdict| (*verdict, DELIVERIES)));
        }
        self.entries.push(Entry { kept, mandatory, granted, ..Entry::default() });
        self.counts.published += 1;
        let mut body = id.0.to_be_bytes().to_vec();
        let size = size.max(HEAD);
        body.extend_from_slice(&(size as u32).to_be_bytes());
        body.resize(size, id.0 as u8);
        (id, body.into())
    }

    /// The message that has this body, which must be whole.
    pub(crate) fn identify(&self, body: &[u8]) -> Result<Id, String> {
        let (number, rest) = body.split_first_chunk().ok_or("a body is too short")?;
        let id = Id(u64::from_be_bytes(*number));
        let whole =
            rest.first_chunk().is_some_and(|size| u32::from_be_bytes(*size) as usize == body.len())
                && body[HEAD..].iter().all(|byte| *byte == id.0 as u8);
        if !whole {
            return Err(format!("the body of message {} came damaged", id.0));
        }
        if id.0 as usize >= self.entries.len() {
            return Err(format!("message {} was never published", id.0));
        }
        Ok(id)
    }

    fn entry_of(&self, id: Id) -> &Entry {
        &self.entries[id.0 as usize]
    }

    fn entry(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// The application asks for something that settles a delivery.
    pub(crate) fn grant(&mut self, id: Id, verdict: Verdict) {
        *self.entry(id).granted.entry(verdict).or_default() += 1;
    }

    /// Number of times that the broker has settled it in this way.
    pub(crate) fn done(&self, id: Id, verdict: Verdict) -> u32 {
        self.entry_of(id).done.get(&verdict).copied().unwrap_or(0)
    }

    /// From now on it must not become visible.
    pub(crate) fn roll_back(&mut self, id: Id) {
        self.entry(id).never = true;
    }

    /// The commit of the transaction that published it was reported to the application.
    pub(crate) fn is_accepted(&self, id: Id) -> Result<(), String> {
        match self.entry_of(id).accepted {
            0 => Err(format!("message {} was committed, and the broker never had it", id.0)),
            _ => Ok(()),
        }
    }

    /// The commit of the transaction that settled it was reported to the application.
    pub(crate) fn is_settled(&self, id: Id, verdict: Verdict) -> Result<(), String> {
        match self.entry_of(id).done.get(&verdict) {
            None => Err(format!(
                "that message {} is {verdict:?} was committed, and the broker does not know it",
                id.0
            )),
            Some(_) => Ok(()),
        }
    }

    /// The rollback of the transaction that published it was reported to the application.
    pub(crate) fn is_invisible(&self, id: Id) -> Result<(), String> {
        match self.entry_of(id).accepted {
            0 => Ok(()),
            _ => Err(format!("message {} was rolled back, and the broker has it", id.0)),
        }
    }

    /// It was dropped before it was sent.
    pub(crate) fn give_up(&mut self, id: Id) {
        self.entry(id).never = true;
    }

    /// Its return was reported to the application: it is not sent again.
    pub(crate) fn returned(&mut self, id: Id) -> Result<(), String> {
        let entry = self.entry(id);
        entry.never = true;
        match entry.mandatory && entry.accepted > entry.routed {
            true => Ok(()),
            false => Err(format!(
                "message {} was reported as returned, and the broker did not return it",
                id.0
            )),
        }
    }

    /// It is published to a stream.
    pub(crate) fn stream(&mut self, id: Id) {
        self.entry(id).streamed = true;
    }

    /// It is kept, and its connection is down.
    pub(crate) fn outage(&mut self, id: Id) {
        let transports = self.counts.transports;
        self.entry(id).outage = Some(transports);
    }

    /// The expiry of a kept message was reported to the application. It cannot have been sent if there was no connection since it
    /// was taken.
    pub(crate) fn expire(&mut self, id: Id) -> Result<(), String> {
        let transports = self.counts.transports;
        let entry = self.entry(id);
        if entry.outage != Some(transports) {
            return Ok(());
        }
        entry.never = true;
        self.not_sent(id)
    }

    /// The application asks for a queue to be purged or deleted.
    pub(crate) fn remove(&mut self, queue: &str) {
        *self.removals.entry(key(queue)).or_default() += 1;
    }

    /// Its confirm was reported to the application.
    pub(crate) fn confirm(&mut self, id: Id) -> Result<(), String> {
        self.counts.confirmed += 1;
        let entry = self.entry(id);
        entry.confirmed = true;
        if entry.accepted == 0 {
            return Err(format!("message {} was confirmed, and the broker never had it", id.0));
        }
        if entry.mandatory && entry.routed == 0 {
            return Err(format!(
                "message {} is mandatory, reached no queue, and was confirmed",
                id.0
            ));
        }
        Ok(())
    }

    /// It was reported to the application that the message was not sent.
    pub(crate) fn not_sent(&mut self, id: Id) -> Result<(), String> {
        match self.entry(id).accepted {
            0 => Ok(()),
            _ => Err(format!("message {} was said not to be sent, and the broker has it", id.0)),
        }
    }

    /// The broker did something.
    pub(crate) fn note(&mut self, note: &Note) -> Result<(), String> {
        match note {
            Note::Connected => self.counts.transports += 1,
            Note::ChannelOpened { .. } => self.counts.channels += 1,
            Note::Refused { .. } => self.counts.refused += 1,
            Note::Accepted { body, queues } => self.accepted(body, *queues)?,
            Note::Delivered { body } => {
                self.counts.delivered += 1;
                let id = self.identify(body)?;
                let entry = self.entry(id);
                entry.delivered += 1;
                if entry.delivered > DELIVERIES {
                    return Err(format!("message {} is delivered again and again", id.0));
                }
            }
            Note::LimitReached { body } => self.limit_reached(body)?,
            Note::Abandoned { body, text, .. } => self.abandoned(body, text)?,
            Note::Settled { body, verdict } => self.settled(body, *verdict)?,
            Note::Purged { queue } | Note::Deleted { queue } => {
                let queue = key(&queue.to_string());
                match self.removals.get_mut(&queue).filter(|asked| **asked > 0) {
                    Some(asked) => *asked -= 1,
                    None => {
                        return Err(format!("queue {queue} was emptied without a request"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn accepted(&mut self, body: &Bytes, queues: usize) -> Result<(), String> {
        self.counts.accepted += 1;
        let id = self.identify(body)?;
        let entry = self.entry(id);
        entry.accepted += 1;
        entry.routed += u32::from(queues > 0);
        if entry.accepted > 1 && !entry.kept {
            return Err(format!("message {} was published twice", id.0));
        }
        if entry.confirmed {
            return Err(format!("message {} was confirmed, and is published again", id.0));
        }
        if entry.never {
            return Err(format!(
                "message {} was rolled back, given up or returned, and the broker has it",
                id.0
            ));
        }
        Ok(())
    }

    /// A message was removed because its deliveries failed: it was rejected, or a channel ended.
    fn limit_reached(&mut self, body: &Bytes) -> Result<(), String> {
        let Some(limit) = self.limit else { return Ok(()) };
        let (id, channels) = (self.identify(body)?, self.counts.channels);
        let blamed = self.entry(id).done.get(&Verdict::Blamed).copied().unwrap_or(0);
        match u64::from(blamed) + channels > u64::from(limit) {
            true => Ok(()),
            false => Err(format!(
                "message {} was dropped after {limit} failures; it was rejected {blamed} times, on {channels} channels",
                id.0
            )),
        }
    }

    /// A delivery was unacknowledged when the client closed its channel: it counts as failed. What nobody has failed at is
    /// requeued before that, if there is a way to, unless the application itself closes the channel or the connection.
    fn abandoned(&self, body: &Bytes, text: &str) -> Result<(), String> {
        let id = self.identify(body)?;
        let requeued = match text {
            "channel dropped" => true,
            "shut down" => !self.streams,
            _ => false,
        };
        match requeued && self.nack {
            true => Err(format!("message {} is left unacknowledged: {text}", id.0)),
            false => Ok(()),
        }
    }

    fn settled(&mut self, body: &Bytes, verdict: Verdict) -> Result<(), String> {
        self.counts.settled += 1;
        let id = self.identify(body)?;
        let nack = self.nack;
        let entry = self.entry(id);
        let done = entry.done.entry(verdict).or_default();
        *done += 1;
        let granted = entry.granted.get(&verdict).copied().unwrap_or(0);
        let judged = match verdict {
            Verdict::Requeued => false,
            // Without `basic.nack`, there is no way to requeue without blame.
            Verdict::Blamed => nack && !entry.streamed,
            Verdict::Acked | Verdict::Rejected => !entry.streamed,
        };
        if judged && *done > granted {
            return Err(format!(
                "message {} was {verdict:?} {done} times, and the application asked for it {granted} times",
                id.0
            ));
        }
        Ok(())
    }
}

/// Queues that the broker names get other names after a loss: they count as one.
pub(crate) fn key(queue: &str) -> String {
    if queue.starts_with("amq.gen") { "amq.gen".to_owned() } else { queue.to_owned() }
}
