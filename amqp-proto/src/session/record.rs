use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use bytes::Bytes;

use super::blame::Careful;
use super::consumers::Consumers;
use super::discard::Discard;
use super::in_flight::Requests;
use super::nodes::FAR;
use super::noted::Noted;
use super::pause::Pause;
use super::reopen::Reopened;
use super::streams::Streams;
use super::topology::queue_of;
use crate::method::{Arguments as _, BasicConsume, BasicQos, Method, MethodFacts};
use crate::time::Instant;
use crate::{
    ChannelError, ConsumerId, DeliveryTag, PublishSeq, RawProperties, RequestId, ShortStr,
};

/// The state of a channel that outlives a connection.
#[derive(Debug, Default)]
pub(super) struct ChannelRecord {
    /// Whether commands go to the connection's channel with this number. Otherwise they wait.
    pub(super) attached: bool,
    /// Whether `Opened` was emitted.
    pub(super) opened: bool,
    /// Whether the application has closed the channel.
    pub(super) closing: bool,
    pub(super) mode: Mode,
    /// The restored prefetch limit of consumers that start from now on.
    pub(super) qos: Option<BasicQos>,
    /// The prefetch limit in effect on the present channel, whether it will be restored or not.
    pub(super) prefetch_now: u16,
    /// Whether the application has paused deliveries (`channel.flow`).
    pub(super) paused: bool,
    /// The prefetch limit of the channel as a whole.
    pub(super) global_qos: Option<BasicQos>,
    pub(super) consumers: Consumers,
    /// Number of tags that were generated for them.
    pub(super) renames: u64,
    /// Consumers whose cancel is pending. They are not restored.
    pub(super) cancelling: BTreeSet<ConsumerId>,
    /// Consumers whose handle was dropped while they were being restored. Their deliveries are requeued.
    pub(super) orphans: Vec<ConsumerId>,
    pub(super) streams: Streams,
    /// The queue for which an empty queue name stands.
    pub(super) last_queue: ShortStr,
    /// Whether the broker does not know `last_queue` as the last one, because it was declared before the channel was reopened.
    pub(super) last_queue_unknown: bool,
    pub(super) in_flight: Requests,
    /// Requests that wait until the channel is restored, or until messages that are sent in groups are confirmed.
    pub(super) held: VecDeque<Held>,
    pub(super) kept: Kept,
    /// Set while one of the kept messages is suspected of having closed the channel.
    pub(super) careful: Option<Careful>,
    pub(super) reopened: Reopened,
    pub(super) seqs: Seqs,
    pub(super) tags: Tags,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Plain,
    Confirm,
    /// `dirty` while there is something to commit.
    Tx {
        dirty: bool,
        /// A part of the transaction is lost, so it must not be committed.
        lost: bool,
    },
}

impl Mode {
    /// Makes the channel transactional. Selecting again does not begin a new transaction.
    pub(super) const fn select(&mut self) {
        if !matches!(self, Self::Tx { .. }) {
            *self = Self::Tx { dirty: false, lost: false };
        }
    }

    /// Notes a publish or an acknowledgement.
    #[inline]
    pub(super) const fn work(&mut self) {
        if let Self::Tx { dirty, .. } = self {
            *dirty = true;
        }
    }

    /// Notes that a part of the transaction is lost.
    pub(super) const fn lose(&mut self) {
        if let Self::Tx { lost, .. } = self {
            *lost = true;
        }
    }

    /// Notes the loss of the channel, and so of everything uncommitted.
    pub(super) const fn interrupt(&mut self) {
        if let Self::Tx { dirty, lost } = self {
            *lost |= *dirty;
            *dirty = false;
        }
    }
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: ConsumerId,
    pub(super) consume: BasicConsume,
    /// The consumer's tag at the broker, if it differs from the application's: see [`pause`](super::pause).
    pub(super) renamed: Option<ShortStr>,
    /// The prefetch limit in effect when the consumer was started.
    pub(super) qos: Option<BasicQos>,
    /// Whether the consumer is restored after a loss.
    pub(super) recovers: bool,
    pub(super) pause: Pause,
}

impl Consumer {
    /// Returns the consumer's tag at the broker.
    pub(super) fn tag(&self) -> &ShortStr {
        self.renamed.as_ref().unwrap_or(&self.consume.consumer_tag)
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: RequestId,
    /// What to note when the reply arrives.
    pub(super) note: Option<Box<Noted>>,
    /// For a new prefetch limit: the earlier limits.
    pub(super) before: Option<Box<Limits>>,
    /// Whether the effect of the request is restored after a loss.
    pub(super) recovers: bool,
    /// Whether the reply is not wanted.
    pub(super) abandoned: bool,
    /// See [`Held::ahead_of`].
    pub(super) ahead_of: u64,
}

/// The prefetch limits of a channel: for new consumers, and for all of it.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) qos: Option<BasicQos>,
    pub(super) global_qos: Option<BasicQos>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: RequestId,
    pub(super) method: Method,
    pub(super) facts: &'static MethodFacts,
    pub(super) answered: bool,
    pub(super) recovers: bool,
    /// The first publish after the request: kept messages with this number or a larger one are sent after the request, all others
    /// before it. So a message to a queue does not overtake the declaration of the queue.
    pub(super) ahead_of: u64,
}

impl ChannelRecord {
    /// Returns whether a request has to wait although the channel is open. A request that removes a queue, an exchange or a
    /// binding must not overtake messages that are sent in groups: they would be lost, or refused in their turn. The
    /// requests behind it wait as well.
    pub(super) fn waits_for_messages(&mut self, method: &Method) -> bool {
        if self.careful.is_none() {
            return false;
        }
        !self.held.is_empty() || removes(method) && self.kept.next_unsent().is_some()
    }

    /// Adds a request to those that wait.
    pub(super) fn hold(
        &mut self,
        id: RequestId,
        method: Method,
        facts: &'static MethodFacts,
        answered: bool,
        recovers: bool,
    ) {
        let ahead_of = self.seqs.next();
        self.held.push_back(Held { id, method, facts, answered, recovers, ahead_of });
    }

    /// Puts the name of the queue that was declared last where an empty one stands for it, if the broker does not know.
    pub(super) fn name_last_queue(&self, method: &mut Method) {
        if !self.last_queue_unknown {
            return;
        }
        // RabbitMQ: with an empty queue name an empty routing key stands for the same name.
        let routing_key = match method {
            Method::QueueBind(bind) if bind.queue.is_empty() => Some(&mut bind.routing_key),
            Method::QueueUnbind(unbind) if unbind.queue.is_empty() => Some(&mut unbind.routing_key),
            _ => None,
        };
        if let Some(routing_key) = routing_key.filter(|key| key.is_empty()) {
            *routing_key = self.last_queue.clone();
        }
        if let Some(queue) = queue_of(method).filter(|queue| queue.is_empty()) {
            *queue = self.last_queue.clone();
        }
    }

    /// Undoes a prefetch limit for which the broker closed the channel, so that it is not set again.
    pub(super) fn undo_guilty(&mut self, error: &ChannelError) {
        let cause = error.as_close().map(|close| (close.class_id, close.method_id));
        if cause != Some((BasicQos::CLASS_ID, BasicQos::METHOD_ID)) {
            return;
        }
        // The oldest, since those before it were answered.
        if let Some(before) = self.in_flight.iter_mut().find_map(|sent| sent.before.take()) {
            (self.qos, self.global_qos) = (before.qos, before.global_qos);
        }
    }

    /// The consumer that this method cancels, if the broker does not have it: it waits for its queue, which is locked or is being
    /// declared again, or it is paused. The broker's reply says nothing about it then.
    pub(super) fn cancels_absent(
        &self,
        channel: &mut crate::Channel<'_>,
        method: &Method,
    ) -> Option<ConsumerId> {
        let Method::BasicCancel(cancel) = method else { return None };
        let own = self.consumers.at_broker(&cancel.consumer_tag)?;
        (channel.wanted_consumer(&cancel.consumer_tag) != Some(own.id)).then_some(own.id)
    }

    /// Returns the prefetch limit of the next consumer.
    pub(super) fn prefetch(&self) -> u16 {
        let held = self.held.iter().rev().find_map(|held| match &held.method {
            Method::BasicQos(qos) if !qos.global => Some(qos.prefetch_count),
            _ => None,
        });
        held.unwrap_or(self.prefetch_now)
    }

    /// Removes the consumer with this tag at the broker.
    pub(super) fn remove_consumer(&mut self, tag: &ShortStr) -> Option<Consumer> {
        let id = self.consumers.at_broker(tag)?.id;
        self.consumers.remove(id)
    }

    /// Returns the tag at the broker for one of the application's tags.
    pub(super) fn tag_at_broker(&self, tag: &ShortStr) -> ShortStr {
        self.consumers.named(tag).map_or_else(|| tag.clone(), |consumer| consumer.tag().clone())
    }

    /// Replaces the application's tag in a `basic.cancel` by the tag at the broker.
    pub(super) fn rename_consumer(&self, method: &mut Method) {
        if let Method::BasicCancel(cancel) = method {
            cancel.consumer_tag = self.tag_at_broker(&cancel.consumer_tag);
        }
    }
}

/// Returns whether the method removes messages, or a queue, exchange or binding that routes them.
pub(super) const fn removes(method: &Method) -> bool {
    matches!(
        method,
        Method::QueuePurge(_)
            | Method::QueueDelete(_)
            | Method::QueueUnbind(_)
            | Method::ExchangeDelete(_)
            | Method::ExchangeUnbind(_)
    )
}

/// Translates delivery tags. The session's tags continue to count when a channel is reopened, so that deliveries from before and
/// after are never confused.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// The offset between the session's tags and the broker's.
    before: u64,
    last: u64,
}

impl Tags {
    /// Returns the session's tag for one of the broker's.
    #[inline]
    pub(super) fn received(&mut self, tag: DeliveryTag) -> DeliveryTag {
        // The connection refuses tags that no server gets to, so the sum does not come near the end.
        debug_assert!(self.before.checked_add(tag.get()).is_some(), "{tag} behind {}", self.before);
        let tag = self.before.saturating_add(tag.get());
        // The tags of deliveries without acknowledgement need not grow. None of this time may be met again in the next.
        self.last = self.last.max(tag);
        DeliveryTag::new(tag)
    }

    /// Returns the last tag that was received since the channel was opened.
    pub(super) fn last(&self) -> Option<DeliveryTag> {
        (self.last > self.before).then(|| DeliveryTag::new(self.last))
    }

    /// Returns the broker's tag for one of the session's, or `None` if the broker has requeued that delivery.
    #[inline]
    pub(super) fn sent(&self, tag: DeliveryTag) -> Option<DeliveryTag> {
        match tag.get() {
            // Tag 0 means all deliveries.
            0 => Some(tag),
            tag => tag.checked_sub(self.before).filter(|tag| *tag > 0).map(DeliveryTag::new),
        }
    }

    /// Begins again for a reopened channel. Returns the last tag that is stale.
    pub(super) fn restart(&mut self) -> DeliveryTag {
        self.before = self.last;
        DeliveryTag::new(self.last)
    }
}

/// Translates publish numbers. A publish keeps its number in the session; the broker counts from 1 on each channel.
#[derive(Debug)]
pub(super) struct Seqs {
    /// The number of the next publish.
    next: u64,
    /// The numbers of messages that were sent again; they are the first on their channel.
    resent: Vec<u64>,
    /// The offset between all other numbers and the broker's.
    ahead: u64,
}

impl Default for Seqs {
    fn default() -> Self {
        Self { next: 1, resent: Vec::new(), ahead: 0 }
    }
}

impl Seqs {
    /// A message was sent for the first time, the broker's number is that.
    #[inline]
    pub(super) fn published(&mut self, sent: PublishSeq) -> PublishSeq {
        self.next = sent.get() + self.ahead + 1;
        PublishSeq(sent.get() + self.ahead)
    }

    /// Reserves the number of a message that is sent later.
    pub(super) const fn reserve(&mut self) -> PublishSeq {
        let seq = self.next;
        self.next += 1;
        self.ahead += 1;
        PublishSeq(seq)
    }

    /// The number of the next publish.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Begins again for a reopened channel: the broker counts from 1.
    pub(super) fn restart(&mut self) {
        self.ahead = self.next - 1;
        self.resent.clear();
    }

    /// A message that has this number already was sent on the new channel. Only messages that were really sent count: the
    /// broker numbers what it gets, and knows nothing of the others.
    pub(super) fn resent(&mut self, seq: u64) {
        debug_assert_eq!(
            self.ahead + self.resent.len() as u64,
            self.next - 1,
            "nothing is published for the first time before all that is kept is sent"
        );
        self.resent.push(seq);
        self.ahead = self.ahead.saturating_sub(1);
    }

    /// Returns the session's numbers for a range of the broker's, in runs.
    pub(super) fn of(
        &self,
        sent: &RangeInclusive<PublishSeq>,
        mut run: impl FnMut(RangeInclusive<PublishSeq>),
    ) {
        let (first, last) = (sent.start().get(), sent.end().get());
        let count = self.resent.len() as u64;
        let mut open: Option<(u64, u64)> = None;
        for sent in first..=last.min(count) {
            let seq = self.one(sent);
            match &mut open {
                Some((_, end)) if *end + 1 == seq => *end = seq,
                _ => {
                    if let Some((start, end)) = open.replace((seq, seq)) {
                        run(PublishSeq(start)..=PublishSeq(end));
                    }
                }
            }
        }
        if let Some((start, end)) = open {
            run(PublishSeq(start)..=PublishSeq(end));
        }
        if last > count {
            let first = first.max(count + 1);
            run(PublishSeq(first + self.ahead)..=PublishSeq(last + self.ahead));
        }
    }

    pub(super) fn one(&self, sent: u64) -> u64 {
        let resent = sent.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        resent.and_then(|index| self.resent.get(index).copied()).unwrap_or(sent + self.ahead)
    }
}

/// Messages that are kept until they are confirmed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    messages: VecDeque<KeptMessage>,
}

#[derive(Debug, Clone)]
pub(super) struct KeptMessage {
    pub(super) seq: u64,
    pub(super) exchange: ShortStr,
    pub(super) routing_key: ShortStr,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
    pub(super) properties: RawProperties,
    pub(super) body: Bytes,
    /// When the message expires.
    pub(super) expires: Option<Expires>,
    /// Whether it was sent before. If so, it is sent again with the header `x-republished`.
    pub(super) sent: bool,
    /// Whether it was sent on the present channel. Sent messages are in front of those that were not sent.
    pub(super) here: bool,
    /// How often the channel was closed for no known reason when this was the only unconfirmed message.
    pub(super) coincidences: u8,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Expires {
    /// After this time, counted from the next time that the session is given.
    After(Duration),
    At(Instant),
}

impl KeptMessage {
    /// Returns the number of bytes that the message counts for against the limit.
    pub(super) fn octets(&self) -> usize {
        let names = self.exchange.len() + self.routing_key.len();
        Self::octets_of(names, &self.properties, self.body.len())
    }

    pub(super) fn octets_of(names: usize, properties: &RawProperties, body: usize) -> usize {
        size_of::<Self>() + names + properties.as_encoded().len() + body
    }
}

impl Kept {
    pub(super) fn push(&mut self, message: KeptMessage) {
        self.messages.push_back(message);
    }

    /// Removes messages that were confirmed or refused. Returns the number of bytes that are free again.
    pub(super) fn settled(
        &mut self,
        seqs: &RangeInclusive<PublishSeq>,
        discard: &mut Discard,
    ) -> usize {
        let from = self.messages.partition_point(|message| message.seq < seqs.start().get());
        let to = self.messages.partition_point(|message| message.seq <= seqs.end().get());
        let mut freed = 0;
        for message in self.messages.drain(from..to) {
            freed += message.octets();
            discard.message(message);
        }
        freed
    }

    /// Calls back with those of these numbers that are not kept, in runs.
    pub(super) fn others(
        &self,
        seqs: &RangeInclusive<PublishSeq>,
        mut run: impl FnMut(RangeInclusive<PublishSeq>),
    ) {
        let mut first = seqs.start().get();
        for kept in self.messages.iter().map(|message| message.seq) {
            if kept < first || kept > seqs.end().get() {
                continue;
            }
            if kept > first {
                run(PublishSeq(first)..=PublishSeq(kept - 1));
            }
            first = kept + 1;
        }
        if first <= seqs.end().get() {
            run(PublishSeq(first)..=*seqs.end());
        }
    }

    /// Drops all messages. Returns the number of bytes that are free again.
    pub(super) fn clear(&mut self, discard: &mut Discard) -> usize {
        let mut freed = 0;
        for message in self.messages.drain(..) {
            freed += message.octets();
            discard.message(message);
        }
        freed
    }

    /// Marks all messages as not sent on the present channel, for a new channel.
    pub(super) fn restart(&mut self) {
        self.messages.iter_mut().for_each(|message| message.here = false);
    }

    /// Returns the oldest message that was not sent on the present channel.
    pub(super) fn next_unsent(&mut self) -> Option<&mut KeptMessage> {
        let sent = self.sent_here();
        self.messages.get_mut(sent)
    }

    /// Returns the number of messages that were sent on the present channel.
    pub(super) fn sent_here(&self) -> usize {
        self.messages.partition_point(|message| message.here)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KeptMessage> {
        self.messages.iter()
    }

    pub(super) fn get(&self, index: usize) -> Option<&KeptMessage> {
        self.messages.get(index)
    }

    pub(super) fn first(&self) -> Option<&KeptMessage> {
        self.messages.front()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut KeptMessage> {
        self.messages.front_mut()
    }

    pub(super) fn find(&self, seq: u64) -> Option<&KeptMessage> {
        let index = self.messages.binary_search_by_key(&seq, |message| message.seq).ok()?;
        self.messages.get(index)
    }

    /// Starts the time to live of new messages.
    pub(super) fn arm(&mut self, now: Instant, mut arm: impl FnMut(Instant)) {
        for message in self.messages.iter_mut().rev() {
            match message.expires {
                Some(Expires::At(_)) => break,
                Some(Expires::After(time)) => {
                    // One that never expires gets a time as well, or all the older ones would be looked at each time.
                    let at = now.checked_add(time.min(FAR));
                    message.expires = at.map(Expires::At);
                    at.into_iter().for_each(&mut arm);
                }
                None => {}
            }
        }
    }

    /// Returns the messages that have expired; `later` gets the expiry times of the others.
    pub(super) fn expired(&self, now: Instant, mut later: impl FnMut(Instant)) -> Vec<u64> {
        let expired = self.messages.iter().filter(|message| match message.expires {
            Some(Expires::At(at)) if at <= now => true,
            Some(Expires::At(at)) => {
                later(at);
                false
            }
            _ => false,
        });
        expired.map(|message| message.seq).collect()
    }

    /// Drops one message. Returns the number of bytes that are free again.
    pub(super) fn give_up(&mut self, seq: u64, discard: &mut Discard) -> usize {
        self.settled(&(PublishSeq(seq)..=PublishSeq(seq)), discard)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    fn runs(seqs: &Seqs, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        seqs.of(&(PublishSeq(first)..=PublishSeq(last)), |run| {
            all.push((run.start().get(), run.end().get()));
        });
        all
    }

    #[test]
    fn numbers_of_publishes_go_on_over_a_restart() {
        let mut seqs = Seqs::default();
        for seq in 1..=10 {
            assert_eq!(seqs.published(PublishSeq(seq)).get(), seq);
        }
        assert_eq!(runs(&seqs, 3, 7), [(3, 7)]);
        // 4, 5 and 9 are sent again, and one that was never sent.
        let waiting = seqs.reserve().get();
        assert_eq!(waiting, 11);
        seqs.restart();
        [4, 5, 9, waiting].into_iter().for_each(|seq| seqs.resent(seq));
        assert_eq!(seqs.published(PublishSeq(5)).get(), 12);
        assert_eq!(runs(&seqs, 1, 6), [(4, 5), (9, 9), (11, 11), (12, 13)]);
        assert_eq!(runs(&seqs, 1, 4), [(4, 5), (9, 9), (11, 11)], "no empty run follows");
        assert_eq!(runs(&seqs, 2, 2), [(5, 5)]);
        seqs.restart();
        // 9 is sent again, and one more is taken before that.
        assert_eq!(seqs.reserve().get(), 13);
        seqs.resent(9);
        assert_eq!(seqs.published(PublishSeq(2)).get(), 14);
        assert_eq!(runs(&seqs, 1, 2), [(9, 9), (14, 14)]);
    }

    #[test]
    fn tags_of_different_times_are_never_the_same() {
        let mut tags = Tags::default();
        let first = tags.received(DeliveryTag::new(1));
        let second = tags.received(DeliveryTag::new(2));
        assert_eq!(tags.sent(second), Some(DeliveryTag::new(2)));
        assert_eq!(tags.restart(), second);
        assert_eq!((tags.sent(first), tags.sent(second)), (None, None));
        let later = tags.received(DeliveryTag::new(9));
        let smaller = tags.received(DeliveryTag::new(1));
        assert!(smaller > second);
        assert_eq!((tags.restart(), tags.sent(later), tags.sent(smaller)), (later, None, None));
        let third = tags.received(DeliveryTag::new(1));
        assert_eq!((third.get(), tags.sent(third)), (12, Some(DeliveryTag::new(1))));
        assert_eq!(tags.sent(DeliveryTag::new(0)), Some(DeliveryTag::new(0)));
    }

    #[test]
    fn what_is_not_kept_is_named_in_runs_between_what_is() {
        let others = |kept: &[u64], first, last| {
            let message = |seq: &u64| KeptMessage {
                seq: *seq,
                exchange: ShortStr::default(),
                routing_key: ShortStr::default(),
                mandatory: false,
                immediate: false,
                properties: RawProperties::EMPTY,
                body: Bytes::new(),
                expires: None,
                sent: true,
                here: true,
                coincidences: 0,
            };
            let kept = Kept { messages: kept.iter().map(message).collect() };
            let mut runs = Vec::new();
            kept.others(&(PublishSeq(first)..=PublishSeq(last)), |run| {
                runs.push((run.start().get(), run.end().get()));
            });
            runs
        };
        assert_eq!(others(&[], 2, 9), [(2, 9)]);
        assert_eq!(others(&[1, 10], 2, 9), [(2, 9)]);
        assert_eq!(others(&[1, 2, 5, 8, 10], 2, 9), [(3, 4), (6, 7), (9, 9)]);
        assert_eq!(others(&[2, 3, 4], 2, 4), []);
    }
}
