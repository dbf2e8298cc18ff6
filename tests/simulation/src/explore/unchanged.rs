//! Facts that recovery must not change: the queue of a binding, and the queue and the prefetch limit of a consumer.
//!
//! Each binding and each consumer that is looked at here has a name that no other has. What the broker does first for a name is
//! what the application has requested. What it does later for the same name was requested by the session.

use std::collections::{BTreeMap, BTreeSet};

use amqp_client_core::proto::ChannelId;
use amqp_test_broker::{ConsumerView, Note, SessionId};

use super::history::own_tag;
use super::ledger::key;

/// The prefix of the names of the consumers that are looked at.
const PREFIX: &str = "burst-";

/// A channel of the broker, from its opening to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    session: SessionId,
    channel: ChannelId,
    opened: u32,
}

/// A start of a consumer.
#[derive(Debug)]
struct Started {
    life: Life,
    queue: String,
    prefetch: u16,
}

/// The limit with which a consumer has to start, if its channel lasts until then and the limit is not in doubt.
#[derive(Debug)]
struct Expected {
    life: Life,
    doubts: u32,
    prefetch: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Unchanged {
    opened: BTreeMap<(SessionId, ChannelId), u32>,
    /// The limit that the application has set last.
    limits: BTreeMap<(SessionId, ChannelId), (Life, u16)>,
    /// Number of requests for limits that were abandoned, so that nobody knows whether they are carried out.
    doubts: BTreeMap<(SessionId, ChannelId), u32>,
    expected: BTreeMap<String, Expected>,
    started: BTreeMap<String, Started>,
    /// Tags that consumers of several queues have had.
    reused: BTreeSet<String>,
    /// The queue of each binding, by its routing key.
    bound: BTreeMap<String, String>,
    /// The names that the broker chose for queues.
    named: BTreeSet<String>,
    names: u32,
}

impl Unchanged {
    /// Returns a name for a binding or a consumer.
    pub(crate) fn name(&mut self) -> String {
        self.names += 1;
        format!("{PREFIX}{}", self.names)
    }

    fn life(&self, session: SessionId, channel: ChannelId) -> Life {
        let opened = self.opened.get(&(session, channel)).copied().unwrap_or(0);
        Life { session, channel, opened }
    }

    /// The application requests a prefetch limit for later consumers.
    pub(crate) fn limit(&mut self, session: SessionId, channel: ChannelId, prefetch: u16) {
        let life = self.life(session, channel);
        self.limits.insert((session, channel), (life, prefetch));
    }

    /// A request for a limit was abandoned.
    pub(crate) fn doubt(&mut self, session: SessionId, channel: ChannelId) {
        *self.doubts.entry((session, channel)).or_default() += 1;
        self.limits.remove(&(session, channel));
    }

    /// The application requests a consumer, with the limit of the channel or with its own.
    pub(crate) fn expect(
        &mut self,
        tag: &str,
        (session, channel): (SessionId, ChannelId),
        own: Option<u16>,
    ) {
        let place = (session, channel);
        let own = own.map(|prefetch| (self.life(session, channel), prefetch));
        if let Some((life, prefetch)) = own.or_else(|| self.limits.get(&place).copied()) {
            let doubts = self.doubts.get(&place).copied().unwrap_or(0);
            self.expected.insert(tag.to_owned(), Expected { life, doubts, prefetch });
        }
    }

    /// The application uses the tag of a consumer again. The broker may be about to start the former one once more.
    pub(crate) fn reuse(&mut self, tag: &str) {
        self.reused.insert(tag.to_owned());
    }

    /// The broker has chosen a name for a new queue.
    pub(crate) fn named(&mut self, queue: &str) -> Result<(), String> {
        match self.named.insert(queue.to_owned()) {
            true => Ok(()),
            false => Err(format!("a queue was declared without a name, and {queue} is another")),
        }
    }

    /// The broker did something.
    pub(crate) fn note(&mut self, note: &Note) -> Result<(), String> {
        match note {
            Note::ChannelOpened { session, channel } => {
                *self.opened.entry((*session, *channel)).or_default() += 1;
                Ok(())
            }
            Note::Bound { queue, routing_key, .. } => {
                let routing_key = routing_key.to_string();
                if !routing_key.starts_with(PREFIX) {
                    return Ok(());
                }
                let queue = key(&queue.to_string());
                match self.bound.insert(routing_key.clone(), queue.clone()) {
                    Some(before) if before != queue => {
                        Err(format!("binding {routing_key} of {before} was restored with {queue}"))
                    }
                    _ => Ok(()),
                }
            }
            Note::Started { consumer, prefetch } => self.started(consumer, *prefetch),
            _ => Ok(()),
        }
    }

    fn started(&mut self, view: &ConsumerView, prefetch: u16) -> Result<(), String> {
        let tag = view.tag.to_string();
        let tag = own_tag(&tag);
        if !tag.starts_with(PREFIX) || self.reused.contains(tag) {
            return Ok(());
        }
        let life = self.life(view.session, view.channel);
        let start = Started { life, queue: key(&view.queue.to_string()), prefetch };
        let result = match self.started.get(tag) {
            None => self.judge_first(tag, &start),
            Some(before) => before.judge_next(tag, &start),
        };
        self.started.insert(tag.to_owned(), start);
        result
    }

    fn judge_first(&self, tag: &str, start: &Started) -> Result<(), String> {
        let Some(expected) = self.expected.get(tag) else { return Ok(()) };
        let place = (start.life.session, start.life.channel);
        let doubts = self.doubts.get(&place).copied().unwrap_or(0);
        if (expected.life, expected.doubts) != (start.life, doubts)
            || expected.prefetch == start.prefetch
        {
            return Ok(());
        }
        let (asked, got) = (expected.prefetch, start.prefetch);
        Err(format!("consumer {tag} was started behind a limit of {asked}, and has {got}"))
    }
}

impl Started {
    fn judge_next(&self, tag: &str, next: &Self) -> Result<(), String> {
        if self.queue != next.queue {
            let (before, now) = (&self.queue, &next.queue);
            return Err(format!("consumer {tag} of {before} was started again with {now}"));
        }
        if self.life == next.life && self.prefetch != next.prefetch {
            let (before, now) = (self.prefetch, next.prefetch);
            return Err(format!(
                "consumer {tag} was started again with a limit of {now}, not of {before}"
            ));
        }
        Ok(())
    }
}
