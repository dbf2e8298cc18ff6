//! The positions of consumers of streams.
//!
//! RabbitMQ keeps no position for the consumer of a stream: each `basic.consume` sets where to begin (`x-stream-offset`), and
//! each delivery has its own offset in a header of that name. So a consumer that is restored has to begin where it was.
//!
//! It begins with the first delivery that was not settled, or after the last one if all were. Settled means acknowledged or
//! rejected, on a transactional channel once that is committed. Deliveries that were dropped unread with the connection come
//! again, and nothing is skipped. A delivery that was settled after an unsettled one comes twice.
//!
//! | deliveries | settled | the next begins with |
//! |---|---|---|
//! | 5 6 7 | none | 5 |
//! | 5 6 7 | 5 7 | 6 |
//! | 5 6 7 | 5 6 7 | 8 |
//! | none | | its original offset, see [`Streams::resume`] |

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;
use core::mem;

use crate::delivery::STREAM_OFFSET as OFFSET;
use crate::method::BasicConsume;
use crate::time::Instant;
use crate::{ConsumerId, Delivery, DeliveryTag, Value};

/// The consumers of a channel that read streams, or may.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Consumers whose deliveries are looked at, by number: of streams, and those that have had no delivery yet, whose
    /// queue may be one. Those that have ended are left out sooner or later.
    watched: Vec<Watched>,
    /// The consumers that had a delivery with an offset.
    readers: Vec<Reader>,
    /// Deliveries from before their readers started again on the same channel, until they are settled for good. They have no effect
    /// on positions, but they must not be rejected.
    former: BTreeMap<DeliveryTag, SettleState>,
    /// A consumer of a stream was started. It may have been dropped since, and its first deliveries may be on their way.
    started_any: bool,
}

#[derive(Debug)]
struct Watched {
    consumer: ConsumerId,
    /// When the reply to its start arrived; without a reply, when it was sent.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Reader {
    consumer: ConsumerId,
    /// Deliveries, from the first unsettled one on.
    open: VecDeque<Open>,
    /// Behind the last delivery; after a loss, the offset to go on with.
    next: i64,
}

#[derive(Debug)]
struct Open {
    tag: DeliveryTag,
    offset: i64,
    state: SettleState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SettleState {
    Unsettled,
    /// By a transaction that is not committed.
    InTransaction,
    /// The commit is sent.
    Committing,
    Settled,
}

/// Consumers that have ended and stay in the list, beyond twice those that run. They are removed together, so each costs little.
const ENDED_READERS_MAX: usize = 16;

impl Streams {
    /// Returns whether deliveries of the consumer are to be [looked at](Self::delivered).
    #[inline]
    pub(crate) fn watches(&self, consumer: ConsumerId) -> bool {
        !self.watched.is_empty() && self.find(consumer).is_ok()
    }

    /// A consumer was started whose queue is known to be a stream.
    pub(crate) fn starts_reader(&mut self) {
        self.started_any = true;
    }

    /// Returns whether deliveries on their way may be of a stream, although none of a stream has arrived.
    pub(crate) fn may_bring(&self) -> bool {
        self.started_any
    }

    /// Returns whether settling deliveries is to be [noted](Self::settled).
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !(self.readers.is_empty() && self.former.is_empty())
    }

    /// Returns whether the delivery comes from a stream and is unsettled.
    #[inline]
    pub(crate) fn holds(&self, tag: DeliveryTag) -> bool {
        let of_reader = self.readers.iter().any(|reader| {
            let found = reader.open.binary_search_by_key(&tag, |open| open.tag).ok();
            found.and_then(|index| reader.open.get(index)).is_some_and(Open::is_unsettled)
        });
        of_reader || self.former.get(&tag) == Some(&SettleState::Unsettled)
    }

    /// The deliveries of streams up to that one that are not settled; tag 0 means all there are.
    pub(crate) fn held_up_to(&self, tag: DeliveryTag) -> Vec<DeliveryTag> {
        let open = self.readers.iter().flat_map(|reader| &reader.open);
        let former = self.former.iter().map(|(tag, state)| (*tag, *state));
        let all = open.map(|open| (open.tag, open.state)).chain(former);
        let unsettled = all.filter(|(_, state)| *state == SettleState::Unsettled);
        unsettled.map(|(own, _)| own).filter(|own| tag.get() == 0 || *own <= tag).collect()
    }

    fn find(&self, consumer: ConsumerId) -> Result<usize, usize> {
        self.watched.binary_search_by_key(&consumer, |watched| watched.consumer)
    }

    /// A consumer that acknowledges is started; streams have no others. `consumers` are those that there are.
    pub(crate) fn watch(
        &mut self,
        consumer: ConsumerId,
        consumers: impl ExactSizeIterator<Item = ConsumerId>,
    ) {
        if self.watched.len() > consumers.len() * 2 + ENDED_READERS_MAX {
            let mut present: Vec<_> = consumers.collect();
            present.sort_unstable();
            let is_there = |consumer| present.binary_search(&consumer).is_ok();
            self.watched.retain(|watched| is_there(watched.consumer));
            // The deliveries that it still holds must not be rejected.
            self.readers.retain(|reader| is_there(reader.consumer) || !reader.open.is_empty());
        }
        if let Err(index) = self.find(consumer) {
            self.watched.insert(index, Watched { consumer, since: None });
        }
    }

    /// The broker has started a consumer, or may have.
    pub(crate) fn started(&mut self, consumer: ConsumerId, now: Instant) {
        if let Some(watched) =
            self.find(consumer).ok().and_then(|index| self.watched.get_mut(index))
        {
            watched.since = Some(now);
        }
    }

    /// A [watched](Self::watches) consumer got a message. A message without an offset shows that its queue is no stream.
    pub(crate) fn delivered(&mut self, consumer: ConsumerId, delivery: &Delivery) {
        let known = self.readers.iter_mut().find(|reader| reader.consumer == consumer);
        let headers = delivery.properties().headers();
        let offset =
            headers.map(|headers| headers.and_then(|headers| headers.get(OFFSET)?.as_i64()));
        let (reader, offset) = match (known, offset) {
            (Some(reader), Ok(Some(offset))) => (reader, offset),
            // Its headers cannot be read. It counts as the next one; it may be a later one.
            (Some(reader), Err(_)) => {
                let offset = reader.next;
                (reader, offset)
            }
            (None, Ok(Some(offset))) => {
                let reader = Reader { consumer, open: VecDeque::new(), next: offset };
                self.readers.push(reader);
                let Some(reader) = self.readers.last_mut() else { return };
                (reader, offset)
            }
            (None, Err(_)) => return,
            (_, Ok(None)) => {
                if let Ok(index) = self.find(consumer) {
                    self.watched.remove(index);
                }
                return;
            }
        };
        let tag = delivery.delivery_tag();
        reader.open.push_back(Open { tag, offset, state: SettleState::Unsettled });
        reader.next = offset.saturating_add(1);
    }

    /// A delivery was settled, or all up to it; tag 0 means all there are.
    pub(crate) fn settled(&mut self, tag: DeliveryTag, up_to: bool, in_transaction: bool) {
        let state = if in_transaction { SettleState::InTransaction } else { SettleState::Settled };
        self.settle_former(tag, up_to, state);
        for reader in &mut self.readers {
            let end = match tag.get() {
                0 => reader.open.len(),
                _ => reader.open.partition_point(|open| open.tag <= tag),
            };
            let start = if up_to { 0 } else { end.saturating_sub(1) };
            for open in reader.open.range_mut(start..end) {
                if (up_to || open.tag == tag) && open.state == SettleState::Unsettled {
                    open.state = state;
                }
            }
            reader.shrink();
        }
    }

    fn settle_former(&mut self, tag: DeliveryTag, up_to: bool, state: SettleState) {
        let first = if up_to { DeliveryTag(0) } else { tag };
        let last = if up_to && tag.get() == 0 { DeliveryTag(u64::MAX) } else { tag };
        let meant = self.former.range_mut(first..=last);
        let unsettled = meant.filter(|(_, own)| **own == SettleState::Unsettled);
        if state == SettleState::Settled {
            let settled: Vec<_> = unsettled.map(|(tag, _)| *tag).collect();
            for tag in settled {
                self.former.remove(&tag);
            }
        } else {
            unsettled.for_each(|(_, own)| *own = state);
        }
    }

    /// The transaction is being committed, or else rolled back.
    pub(crate) fn end_transaction(&mut self, commits: bool) {
        let state = if commits { SettleState::Committing } else { SettleState::Unsettled };
        self.change(SettleState::InTransaction, state);
    }

    /// The commit has succeeded: its settlements are final.
    pub(crate) fn committed(&mut self) {
        self.change(SettleState::Committing, SettleState::Settled);
    }

    fn change(&mut self, from: SettleState, to: SettleState) {
        for reader in &mut self.readers {
            let open = reader.open.iter_mut().filter(|open| open.state == from);
            open.for_each(|open| open.state = to);
            reader.shrink();
        }
        self.former.values_mut().filter(|state| **state == from).for_each(|state| *state = to);
        self.former.retain(|_, state| *state != SettleState::Settled);
    }

    /// All readers start again.
    pub(crate) fn interrupt(&mut self) {
        self.readers.iter_mut().for_each(Reader::interrupt);
        self.former.clear();
    }

    /// The consumer starts again on the same channel, where deliveries can still be settled.
    pub(crate) fn interrupt_one(&mut self, consumer: ConsumerId) {
        let mut readers = self.readers.iter_mut();
        if let Some(reader) = readers.find(|reader| reader.consumer == consumer) {
            // A rollback makes deliveries unsettled again that a transaction has settled.
            let kept = reader.open.iter().filter(|open| open.state != SettleState::Settled);
            self.former.extend(kept.map(|open| (open.tag, open.state)));
            reader.interrupt();
        }
    }

    /// Lets a consumer that starts again begin where it was. If it has had no delivery, it begins as it did the first time;
    /// but where that was the end of the stream (`next`, the default), messages that came since would be skipped, so it
    /// begins at that time instead. RabbitMQ takes a time as one that is so and so long ago, by its own clock.
    pub(crate) fn resume(
        &self,
        consumer: ConsumerId,
        consume: &mut BasicConsume,
        is_stream: bool,
        now: Instant,
    ) {
        let Some(watched) = self.find(consumer).ok().and_then(|index| self.watched.get(index))
        else {
            return;
        };
        let reader = self.readers.iter().find(|reader| reader.consumer == consumer);
        let configured = consume.arguments.get(OFFSET);
        let from_next = configured.map_or(is_stream, |offset| offset.as_str() == Some("next"));
        let offset = match (reader, watched.since) {
            (Some(reader), _) => Value::from(reader.next),
            // One second more than elapsed: the consumer had begun before the reply.
            (None, Some(since)) if from_next => {
                Value::from(format!("{}s", now.duration_since(since).as_secs() + 2))
            }
            (None, _) => return,
        };
        let before = consume.arguments.clone();
        consume.arguments.remove(OFFSET);
        if consume.arguments.insert(OFFSET, offset).is_err() {
            // The argument does not fit: the table has its maximum size.
            consume.arguments = before;
        }
    }
}

impl Open {
    fn is_unsettled(&self) -> bool {
        self.state == SettleState::Unsettled
    }
}

impl Reader {
    fn shrink(&mut self) {
        while self.open.front().is_some_and(|open| open.state == SettleState::Settled) {
            self.open.pop_front();
        }
    }

    fn interrupt(&mut self) {
        if let Some(first) = mem::take(&mut self.open).front() {
            self.next = first.offset;
        }
    }
}
