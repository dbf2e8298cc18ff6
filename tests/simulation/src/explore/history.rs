//! The ends that the broker caused, to be compared with the reasons that consumers and channels report.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use amqp_client_core::proto::{ChannelId, Close, ReplyCode};
use amqp_test_broker::{Note, SessionId};

use super::client::STREAM;

/// More channels of one number than are opened within a second, but by a client that does nothing else.
const OPENINGS: usize = 200;

/// `queue.declare`.
pub(crate) const DECLARE: (u16, u16) = (50, 10);

/// Until when something had happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    refusals: usize,
    cancels: usize,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    refusals: Vec<Refusal>,
    cancels: Vec<Cancel>,
    /// When each channel was opened lately.
    opened: BTreeMap<(SessionId, ChannelId), VecDeque<Instant>>,
    /// Channels on which a queue was declared, so that an empty name stands for that.
    named: BTreeSet<(usize, u16)>,
    /// Channels on which the broker has named a queue without saying how.
    blurred: BTreeSet<(usize, u16)>,
    /// The channels that consumed from each queue.
    consumed: BTreeMap<String, BTreeSet<(usize, u16)>>,
    /// Queues that were deleted by somebody, or whose consumers went before their channels.
    left: BTreeSet<String>,
}

/// A request that was refused.
#[derive(Debug)]
struct Refusal {
    client: usize,
    channel: u16,
    cause: (u16, u16),
    code: ReplyCode,
    text: String,
}

#[derive(Debug)]
struct Cancel {
    client: usize,
    channel: u16,
    tag: String,
}

impl History {
    pub(crate) fn mark(&self) -> Mark {
        Mark { refusals: self.refusals.len(), cancels: self.cancels.len() }
    }

    /// The broker did something; `owner` returns the owner of a session.
    pub(crate) fn note(
        &mut self,
        note: &Note,
        owner: impl Fn(SessionId) -> Option<usize>,
        hasty: impl Fn(usize) -> bool,
        now: Instant,
    ) -> Result<(), String> {
        match note {
            Note::ChannelOpened { session, channel } => {
                let times = self.opened.entry((*session, *channel)).or_default();
                times.push_back(now);
                while times.front().is_some_and(|at| now - *at > Duration::from_secs(1)) {
                    times.pop_front();
                }
                let paced = owner(*session).is_some_and(|client| !hasty(client));
                if paced && times.len() > OPENINGS {
                    return Err(format!("channel {channel} is opened again without a pause"));
                }
            }
            Note::Cancelled(view) => {
                let Some(client) = owner(view.session) else { return Ok(()) };
                let (channel, tag) = (view.channel.get(), view.tag.to_string());
                self.cancels.push(Cancel { client, channel, tag });
            }
            Note::Refused { session, channel, cause, code, text } => {
                let Some(client) = owner(*session) else { return Ok(()) };
                let channel = channel.get();
                let known = self.named.contains(&(client, channel))
                    && !self.blurred.contains(&(client, channel));
                if text.contains("no queue ''") && known {
                    return Err(format!(
                        "the queue that was declared last on channel {channel} was forgotten"
                    ));
                }
                if text.contains("unknown delivery tag") {
                    return Err(format!(
                        "a delivery on channel {channel} was settled twice: {text}"
                    ));
                }
                if text.contains("basic.nack and basic.reject not supported") {
                    return Err(format!("a delivery of a stream was rejected: {text}"));
                }
                let (cause, code, text) = (*cause, *code, text.clone());
                self.refusals.push(Refusal { client, channel, cause, code, text });
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the broker has cancelled that consumer.
    pub(crate) fn cancelled(&self, since: Mark, client: usize, channel: u16, tag: &str) -> bool {
        self.cancels[since.cancels..]
            .iter()
            .any(|own| (own.client, own.channel, own_tag(&own.tag)) == (client, channel, tag))
    }

    /// Returns whether the broker has closed a channel like that.
    pub(crate) fn has_said(&self, since: Mark, client: usize, channel: u16, close: &Close) -> bool {
        let (cause, text) = ((close.class_id, close.method_id), close.reply_text.to_string());
        self.refusals[since.refusals..].iter().any(|own| {
            // Queues are declared again on any channel.
            let here = own.channel == channel || own.cause == DECLARE;
            here && (own.client, own.cause, own.code) == (client, cause, close.reply_code)
                && own.text.starts_with(&text)
        })
    }

    /// Returns how often the broker has closed a channel of a client.
    pub(crate) fn closes(&self, since: Mark, client: usize, channel: u16) -> usize {
        let own = |refusal: &&Refusal| (refusal.client, refusal.channel) == (client, channel);
        self.refusals[since.refusals..].iter().filter(own).count()
    }

    /// Returns whether anything was refused to a client.
    pub(crate) fn has_refused(&self, since: Mark, client: usize) -> bool {
        self.refusals[since.refusals..].iter().any(|own| own.client == client)
    }

    /// Returns whether anything was refused to a client on this channel, which closed it.
    pub(crate) fn has_refused_on(&self, since: Mark, client: usize, channel: u16) -> bool {
        self.closes(since, client, channel) > 0
    }

    /// Returns whether a request of a client was refused like that, on any channel at any time.
    pub(crate) fn has_refused_like(&self, client: usize, close: &Close) -> bool {
        let (cause, text) = ((close.class_id, close.method_id), close.reply_text.to_string());
        self.refusals.iter().any(|own| {
            (own.client, own.cause, own.code) == (client, cause, close.reply_code)
                && own.text.starts_with(&text)
        })
    }

    /// Returns whether a client has looked for a queue that does not exist, as it does before a paused consumer continues.
    pub(crate) fn misses(&self, since: Mark, client: usize, queue: &str) -> bool {
        self.refusals[since.refusals..].iter().any(|own| {
            (own.client, own.cause, own.code) == (client, DECLARE, ReplyCode::NOT_FOUND)
                && own.text.contains(&format!("'{queue}"))
        })
    }

    /// A queue was declared on a channel.
    pub(crate) fn name(&mut self, client: usize, channel: u16) {
        self.named.insert((client, channel));
    }

    /// The application uses the queue that was declared last on a channel, and has declared none there. Recovery may have.
    pub(crate) fn guess(&mut self, client: usize, channel: u16) {
        if !self.named.contains(&(client, channel)) {
            self.blur(client, channel);
        }
    }

    /// The broker names a queue on a channel, and does not say how.
    pub(crate) fn blur(&mut self, client: usize, channel: u16) {
        self.blurred.insert((client, channel));
    }

    /// A channel is there, on which nothing was declared.
    pub(crate) fn unname(&mut self, client: usize, channel: u16) {
        self.named.remove(&(client, channel));
    }

    pub(crate) fn consume(&mut self, queue: &str, client: usize, channel: u16) {
        self.consumed.entry(queue.to_owned()).or_default().insert((client, channel));
    }

    /// Returns whether the broker's note about a channel that reads a stream shows that deliveries were unsettled when it was
    /// closed: only those that had arrived are requeued then.
    pub(crate) fn excuses(&self, note: &Note, owner: impl Fn(SessionId) -> Option<usize>) -> bool {
        let Note::Abandoned { session, channel, .. } = note else { return false };
        let reads = |client| {
            self.consumed.get(STREAM).is_some_and(|own| own.contains(&(client, channel.get())))
        };
        owner(*session).is_some_and(reads)
    }

    /// A consumer of this queue goes, or the queue itself.
    pub(crate) fn leave(&mut self, queue: &str) {
        self.left.insert(queue.to_owned());
    }

    /// Returns whether nothing but the end of the only channel that ever consumed from this queue can have deleted it.
    pub(crate) fn is_untouched(&self, queue: &str) -> bool {
        !self.left.contains(queue)
            && self.consumed.get(queue).is_none_or(|channels| channels.len() <= 1)
    }
}

/// The tag that a consumer has at the client: one that was paused has a number in front of it at the broker.
pub(crate) fn own_tag(tag: &str) -> &str {
    let (number, rest) = tag.split_once('.').unwrap_or_default();
    if number.parse::<u64>().is_ok() { rest } else { tag }
}
