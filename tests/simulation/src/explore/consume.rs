//! Consuming, and settling in all the ways there are.

use std::rc::Rc;
use std::time::Duration;

use amqp_client_core::proto::ShortStr;
use amqp_client_core::proto::method::{BasicCancel, BasicConsume};
use amqp_client_core::{CallError, ConsumeOptions, Delivery};
use amqp_test_broker::Verdict;

use super::books::Books;
use super::client::{Desk, Held, Place, Start, Taker, Task};
use super::commands::{By, Cancelling, Kind, Name, Settling, TagBy};
use super::ledger::Id;

impl Task {
    pub(crate) async fn consume(&self, desk: &Rc<Desk>, queue: Name, kind: Kind, by: By) {
        let name = self.name(desk, queue);
        let options = ConsumeOptions::new().no_ack(kind.no_ack).exclusive(kind.exclusive);
        let options = match kind.tag {
            Some(tag) => options.consumer_tag(format!("tag-{tag}")),
            None => options,
        };
        let options = match kind.filler {
            0 => options,
            size => options.argument("x-filler", "f".repeat(size)),
        };
        let options = match kind.from.filter(|_| queue == Name::Stream) {
            Some(from) => options.stream_offset(from),
            None => options,
        };
        // The session knows only queues that were declared on the same connection.
        let options = match queue {
            Name::Shared(_) | Name::Quorum => options.pausable(true),
            _ => options,
        };
        // An odd limit is that of the consumer, and an even one that of the channel.
        let (own, channels) = match kind.prefetch {
            Some(prefetch) if prefetch % 2 == 1 => (Some(prefetch), None),
            prefetch => (None, prefetch),
        };
        let options = match own {
            Some(prefetch) => options.prefetch(prefetch),
            None => options,
        };
        let channel = &desk.channel;
        if let Some(prefetch) = channels {
            let reply = channel.basic_qos(prefetch);
            let place = self.note_limit(channel, prefetch);
            self.limited(place, self.perhaps("basic_qos", reply).await);
        }
        let since = self.world.history.borrow().mark();
        let number = channel.id().get();
        self.world.history.borrow_mut().consume(&name, self.number, number);
        let consumer = match by {
            By::Method => {
                self.perhaps("basic_consume", channel.basic_consume(&name, options)).await
            }
            By::CallNoWait => Some(channel.basic_consume_no_wait(&name, options)),
            By::Call => return self.consume_raw(desk, &name, kind).await,
        };
        if let Some(consumer) = consumer.and_then(|result| self.judge_call(result)) {
            let Kind { no_ack, exclusive, .. } = kind;
            let declared = self.has_declared(&name);
            let start = Start {
                tag: consumer.tag().clone(),
                name: queue,
                no_ack,
                exclusive,
                desk: desk.clone(),
                queue: name,
                declared,
                ran: by == By::Method,
                large: kind.filler > 0,
                since,
                asked: Rc::default(),
                last: Rc::default(),
            };
            self.consumers.borrow_mut().push(Taker { consumer, start });
        }
    }

    /// A consumer that no handle belongs to, which is refused.
    async fn consume_raw(&self, desk: &Rc<Desk>, name: &str, kind: Kind) {
        let method = BasicConsume {
            queue: ShortStr::truncated(name),
            no_ack: kind.no_ack,
            ..<_>::default()
        };
        let consumed = self.perhaps("call(BasicConsume)", desk.channel.call(method)).await;
        match consumed {
            None | Some(Err(CallError::NoConsumer)) => {}
            Some(other) => self.fail(format!("a consumer without a handle was started: {other:?}")),
        }
    }

    /// Takes a consumer out of the client, so that it can be used while others use the client.
    pub(crate) fn borrow_consumer(&self, number: usize) -> Option<Taker> {
        let mut consumers = self.consumers.borrow_mut();
        let len = consumers.len();
        (len > 0).then(|| consumers.swap_remove(number % len))
    }

    /// Takes up to `count` deliveries of a consumer, and waits up to `wait` for each.
    pub(crate) async fn take(&self, number: usize, count: usize, wait: Duration) {
        let Some(mut taker) = self.borrow_consumer(number) else { return };
        for _ in 0..count {
            let next = self.world.clock.within(wait, taker.consumer.next()).await;
            match next {
                None => break,
                Some(None) => return self.judge_end(&taker, None),
                Some(Some(Err(end))) => return self.judge_end(&taker, Some(&end)),
                Some(Some(Ok(delivery))) => self.hold_of(&taker, delivery),
            }
        }
        // The connection may be another one now: then it is of no use.
        self.consumers.borrow_mut().push(taker);
    }

    /// Takes up to `count` deliveries of a consumer, waits up to `wait` for each, and settles each at once.
    pub(crate) async fn handle(&self, number: usize, count: usize, wait: Duration, how: Settling) {
        let Some(mut taker) = self.borrow_consumer(number) else { return };
        for _ in 0..count {
            let delivery = match self.world.clock.within(wait, taker.consumer.next()).await {
                None => break,
                Some(None) => return self.judge_end(&taker, None),
                Some(Some(Err(end))) => return self.judge_end(&taker, Some(&end)),
                Some(Some(Ok(delivery))) => delivery,
            };
            self.hold_of(&taker, delivery);
            let last = self.deliveries.borrow_mut().pop();
            last.into_iter().for_each(|held| self.settle(held, how));
        }
        self.consumers.borrow_mut().push(taker);
    }

    /// Keeps a delivery of a consumer. A stream skips nothing, neither before nor after a loss, except what was settled.
    pub(crate) fn hold_of(&self, taker: &Taker, delivery: Delivery) {
        taker.desk.tally.took(&delivery);
        let offset = delivery
            .message_properties()
            .ok()
            .and_then(|properties| properties.headers.as_ref()?.get("x-stream-offset")?.as_i64());
        let Some(offset) = offset else { return self.hold(&taker.desk, delivery, None) };
        // Bodies that are too large for the client are not delivered to it.
        let whole = self.policy().oversized.is_none();
        // Deliveries that were settled before they were taken do not come again after a loss.
        let settled_untaken = |last| taker.desk.settled_up_to.get() > Some(last);
        match taker.last.get() {
            Some((last, tag)) if whole && offset > last + 1 && !settled_untaken(tag) => {
                self.fail(format!("a stream's consumer went on with {offset} behind {last}"));
            }
            _ => {}
        }
        if !delivery.is_stale() {
            let settled = |held: &&Held| settled_untaken(held.delivery.delivery_tag());
            let deliveries = self.deliveries.borrow();
            let held = deliveries.iter().filter(|held| held.delivery.is_stale());
            // Another delivery may have settled all up to it.
            for held in held.filter(|held| !settled(held)) {
                let place = held.place.as_ref();
                let Some(place) = place.filter(|place| Rc::ptr_eq(&place.reader, &taker.last))
                else {
                    continue;
                };
                if offset <= place.offset {
                    place.again.set(true);
                } else if !place.again.get() {
                    let lost = place.offset;
                    self.fail(format!(
                        "a stream's consumer went on with {offset}, and {lost} was not settled"
                    ));
                }
            }
        }
        taker.last.set(Some((offset, delivery.delivery_tag())));
        let (reader, again) = (taker.last.clone(), Rc::default());
        self.hold(&taker.desk, delivery, Some(Place { offset, reader, again }));
    }

    /// Keeps a delivery, to be settled later.
    pub(crate) fn hold(&self, desk: &Rc<Desk>, delivery: Delivery, place: Option<Place>) {
        let identified = self.world.ledger.borrow().identify(delivery.body());
        if let Some(id) = self.check(identified) {
            self.deliveries.borrow_mut().push(Held { id, delivery, place, desk: desk.clone() });
        }
    }

    pub(crate) async fn cancel(&self, number: usize, how: Cancelling) {
        let (channel, tag, first, reply) = {
            let consumers = self.consumers.borrow();
            let len = consumers.len();
            let Some(taker) = (len > 0).then(|| &consumers[number % len]) else { return };
            let first = !taker.asked.replace(true);
            self.world.history.borrow_mut().leave(&taker.queue);
            let made = matches!(how, Cancelling::Await | Cancelling::Drop | Cancelling::Late(_));
            if !made {
                let tags = &taker.desk.cancelled;
                tags.borrow_mut().insert(taker.consumer.tag().clone());
            }
            let reply = made.then(|| taker.consumer.cancel());
            (taker.consumer.channel().clone(), taker.consumer.tag().clone(), first, reply)
        };
        let cancelled = match (how, reply) {
            (Cancelling::Await, Some(reply)) => self.perhaps("cancel", reply).await,
            (Cancelling::Late(time), Some(reply)) => {
                self.sleep(time).await;
                self.perhaps("cancel", reply).await
            }
            (Cancelling::Call, _) => {
                let method = BasicCancel { consumer_tag: tag, no_wait: false };
                let reply = self.perhaps("call(BasicCancel)", channel.call(method)).await;
                reply.map(|result| result.map(drop))
            }
            (Cancelling::CallNoWait, _) => {
                Some(channel.call_no_wait(BasicCancel { consumer_tag: tag, no_wait: true }))
            }
            _ => None,
        };
        let cancelled = cancelled.map(|result| self.judge_call(result).is_some());
        if first {
            self.end_cancelled(number, how, cancelled).await;
        }
    }

    /// A consumer was cancelled. If the reply is not awaited, the consumer ends after the deliveries that it holds.
    async fn end_cancelled(&self, number: usize, how: Cancelling, done: Option<bool>) {
        let alone = match how {
            Cancelling::Drop => true,
            // Without a connection, it waits until there is one.
            Cancelling::CallNoWait => done == Some(true) && self.is_settled(),
            _ => false,
        };
        if !alone || self.random(|rng| rng.bool()) {
            return;
        }
        let Some(mut taker) = self.borrow_consumer(number) else { return };
        // One whose start waits for a connection may wait for that first. What it had on a transactional channel has to be
        // committed, and nothing but the consumer may lead to its channel. While the channel closes, nothing can be cancelled: it
        // ends with the channel.
        let own = &taker.desk;
        let apart = !taker.asked.get() || !taker.ran || own.books.may_be_kept() || own.closed.get();
        // A cancel without a reply waits for the start of a consumer that was paused and is being started again.
        let resumes = how == Cancelling::CallNoWait && taker.can_be_paused() && self.pauses();
        let apart = apart || resumes;
        let goes_on = apart || !self.ends_at_once(&mut taker).await;
        if goes_on {
            self.consumers.borrow_mut().push(taker);
        }
    }

    pub(crate) fn drop_consumer(&self, number: usize) {
        let Some(taker) = self.borrow_consumer(number) else { return };
        self.world.history.borrow_mut().leave(&taker.queue);
        drop(taker);
    }

    pub(crate) async fn get(&self, desk: &Rc<Desk>, queue: Name, no_ack: bool) {
        let name = self.name(desk, queue);
        let reply = match no_ack {
            true => desk.channel.basic_get_no_ack(&name),
            false => desk.channel.basic_get(&name),
        };
        desk.tally.perhaps("got", 1);
        // A reply that was dropped may have come.
        let Some(got) = self.perhaps("basic_get", reply).await else { return };
        let got = self.judge_call(got).flatten();
        desk.tally.fetched(got.as_ref().map(|got| &*got.delivery));
        if let Some(got) = got {
            self.hold(desk, got.delivery, None);
        }
    }

    /// Settles some of the deliveries, beginning anywhere.
    pub(crate) fn settle_some(&self, count: usize, pick: usize, how: Settling) {
        for _ in 0..count {
            let held = {
                let mut deliveries = self.deliveries.borrow_mut();
                let len = deliveries.len();
                if len == 0 {
                    return;
                }
                deliveries.swap_remove(pick % len)
            };
            self.settle(held, how);
        }
    }

    pub(crate) fn settle(&self, held: Held, how: Settling) {
        let Held { id, delivery, place, desk } = held;
        let (books, tally) = (&desk.books, &desk.tally);
        let multiple = matches!(how, Settling::Tag { multiple: true, .. });
        if multiple || matches!(how, Settling::AckUpTo | Settling::NackUpTo) {
            let before = desk.settled_up_to.get();
            desk.settled_up_to.set(before.max(Some(delivery.delivery_tag())));
        }
        // A stream still has the messages that it delivered, so the client acknowledges whatever is settled.
        let of_stream = place.is_some();
        if let Settling::Tag { multiple, by } = how {
            let by = if of_stream && books.may_be_kept() { TagBy::Ack } else { by };
            return self.settle_by_number(id, &desk, &delivery, multiple, by);
        }
        let verdict = match how {
            Settling::Ack | Settling::AckUpTo => Some(Verdict::Acked),
            Settling::Drop | Settling::IntoMessage => None,
            _ if of_stream => Some(Verdict::Acked),
            Settling::NackForGood | Settling::RejectForGood => Some(Verdict::Rejected),
            Settling::Reject => Some(Verdict::Blamed),
            Settling::Nack | Settling::NackUpTo => Some(Verdict::Requeued),
            Settling::Tag { .. } => None,
        };
        match verdict {
            // A stale delivery is redelivered: this settlement, or a transaction that contains it, must not settle it.
            Some(verdict) if delivery.is_stale() => books.stale(&delivery, verdict),
            Some(_) if how == Settling::AckUpTo => self.grant_up_to(books, id),
            Some(_) if how == Settling::NackUpTo => books.lose_track(),
            Some(verdict) => self.granted(books, id, &delivery, verdict),
            None => {}
        }
        let stale = delivery.is_stale();
        let counted = !delivery.no_ack();
        let settled = match how {
            Settling::Ack => delivery.ack(),
            Settling::AckUpTo => delivery.ack_up_to(),
            Settling::Nack => delivery.nack(true),
            Settling::NackUpTo => delivery.nack_up_to(true),
            Settling::NackForGood => delivery.nack(false),
            Settling::Reject => delivery.reject(true),
            Settling::RejectForGood => delivery.reject(false),
            Settling::Drop | Settling::Tag { .. } => Ok(()),
            Settling::IntoMessage => {
                self.forgotten.set(self.forgotten.get() + 1);
                drop(delivery.into_message());
                Ok(())
            }
        };
        let counter = match how {
            Settling::Ack | Settling::AckUpTo => "acked",
            Settling::Nack | Settling::NackUpTo | Settling::Reject => "requeued",
            Settling::NackForGood | Settling::RejectForGood => "rejected",
            Settling::Drop | Settling::Tag { .. } | Settling::IntoMessage => "",
        };
        if counted && !counter.is_empty() && settled.is_ok() {
            tally.settled(counter, matches!(how, Settling::AckUpTo | Settling::NackUpTo), stale);
        }
        self.judge_settled(settled);
    }

    /// Settles a delivery by the methods, which go by numbers. Then its handle is dropped, and must not settle anything else.
    fn settle_by_number(
        &self,
        id: Id,
        desk: &Desk,
        delivery: &Delivery,
        multiple: bool,
        by: TagBy,
    ) {
        let Desk { books, tally, .. } = desk;
        if delivery.no_ack() {
            return;
        }
        let (channel, tag) = (delivery.channel(), delivery.delivery_tag());
        if by == TagBy::Ack && !delivery.is_stale() {
            match multiple {
                true => self.grant_up_to(books, id),
                false => self.granted(books, id, delivery, Verdict::Acked),
            }
        }
        if by == TagBy::Reject && !delivery.is_stale() {
            self.granted(books, id, delivery, Verdict::Rejected);
        }
        if by == TagBy::Nack {
            match multiple {
                true => books.lose_track(),
                false => self.granted(books, id, delivery, Verdict::Requeued),
            }
        }
        let stale = delivery.is_stale();
        let (counter, settled) = match (by, multiple) {
            (TagBy::Ack, false) => ("acked", channel.basic_ack(tag)),
            (TagBy::Ack, true) => ("acked", channel.basic_ack_up_to(tag)),
            (TagBy::Nack, false) => ("requeued", channel.basic_nack(tag, true)),
            (TagBy::Nack, true) => ("requeued", channel.basic_nack_up_to(tag, true)),
            (TagBy::Reject, _) => ("rejected", channel.basic_reject(tag, false)),
        };
        if settled.is_ok() {
            tally.settled(counter, multiple && by != TagBy::Reject, stale);
        }
        self.judge_settled(settled);
    }

    /// The application settles a delivery: it does so now, or if its transaction is committed.
    pub(crate) fn granted(&self, books: &Books, id: Id, delivery: &Delivery, verdict: Verdict) {
        if !books.settled(id, delivery, verdict) {
            self.world.ledger.borrow_mut().grant(id, verdict);
        }
    }

    pub(crate) fn judge_settled(&self, settled: Result<(), CallError>) {
        if let Err(CallError::Ended(error)) = settled {
            self.judge(&error);
        }
    }

    /// All deliveries of a channel up to that one are acknowledged: those that the broker knows of. Which of them the client
    /// knows is not known here, so a transaction may commit all of them at any time.
    fn grant_up_to(&self, books: &Books, id: Id) {
        books.lose_track();
        let Some(connected) = self.connected() else { return };
        let network = self.world.network.borrow();
        let Some(session) = network.session(connected.link) else { return };
        let mut ledger = self.world.ledger.borrow_mut();
        let unacked: Vec<_> = network
            .engine
            .unacknowledged(session)
            .filter_map(|(channel, tag, body)| Some((channel, tag, ledger.identify(&body).ok()?)))
            .collect();
        // A kept message can be there twice.
        let last = unacked.iter().filter(|(.., other)| *other == id);
        for (channel, tag, _) in last.copied().collect::<Vec<_>>() {
            let before = unacked.iter().filter(|(own, other, _)| *own == channel && *other <= tag);
            for (.., id) in before {
                ledger.grant(*id, Verdict::Acked);
            }
        }
    }
}
