//! Applications at both ends that do anything, over a transport that splits, flips bits, and ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use super::pair::Pair;
use crate::method::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicDeliver, BasicGet,
    BasicGetEmpty, BasicGetOk, BasicNack, BasicRecover, BasicRecoverOk, BasicReturn, ConfirmSelect,
    ConfirmSelectOk, Method, QueueDeclare, QueueDeclareOk,
};
use crate::{
    Channel, ChannelEvent, ChannelId, CommandError, ConnectionError, DeliveryTag, Event,
    Properties, PublishSeq, ReplyCode, RequestId, Route, ServerEvent, ShortStr,
};

/// One thing that happens.
#[derive(Debug, Clone, Arbitrary)]
enum Operation {
    // The client's application.
    Open,
    Close { channel: u8 },
    Declare { channel: u8, no_wait: bool, abandoned: bool },
    Get { channel: u8, no_ack: bool, abandoned: bool },
    Consume { channel: u8, no_ack: bool, abandoned: bool },
    Cancel { channel: u8, consumer: u8 },
    Discard { channel: u8, consumer: u8 },
    Confirm { channel: u8 },
    Recover { channel: u8 },
    Publish { channel: u8, size: u16, mandatory: bool },
    Settle { channel: u8, delivery: u8, how: Settlement },
    CloseConnection,
    // The broker.
    Answer { channel: u8, otherwise: bool },
    Deliver { channel: u8, consumer: u8, size: u16 },
    Verdict { channel: u8, ack: bool, multiple: bool, skip: u8 },
    Return { channel: u8 },
    CancelByBroker { channel: u8, consumer: u8 },
    CloseByBroker { channel: u8 },
    Block { on: bool },
    // The transport and the clock.
    Carry { up: bool, most: u16 },
    CarryAll,
    Flip { up: bool, at: u16, bit: u8 },
    Pass { milliseconds: u16 },
    End,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Settlement {
    Ack,
    AckUpTo,
    Reject,
    Nack,
    NackUpTo,
}

/// Anything that both applications may do. Where no bit was flipped, neither end finds fault with the other; and in any
/// case everything that was asked for has one end.
pub fn operations(data: &[u8]) {
    let mut stage =
        Stage { pair: Pair::new(), client: Client::default(), broker: Broker::default() };
    let mut data = Unstructured::new(data);
    while !data.is_empty() {
        let Ok(operation) = data.arbitrary() else { break };
        if !stage.happens(&operation) {
            break;
        }
        stage.listen();
    }
    stage.finish();
}

struct Stage {
    pair: Pair,
    client: Client,
    broker: Broker,
}

/// The things that the client's application waits for.
#[derive(Default)]
struct Client {
    channels: Vec<ChannelId>,
    asked: BTreeSet<(ChannelId, RequestId)>,
    published: BTreeSet<(ChannelId, PublishSeq)>,
    deliveries: Vec<(ChannelId, DeliveryTag)>,
    tags: Vec<(ChannelId, ShortStr)>,
    last_tag: u32,
    closed: bool,
}

#[derive(Default)]
struct Broker {
    channels: BTreeMap<ChannelId, BrokerChannel>,
}

#[derive(Default)]
struct BrokerChannel {
    /// Requests without a reply so far.
    owed: VecDeque<Method>,
    consumers: Vec<(ShortStr, bool)>,
    delivered: u64,
    unacked: BTreeSet<u64>,
    confirming: bool,
    published: u64,
    unconfirmed: BTreeSet<u64>,
    /// Mandatory messages that may be returned.
    mandatory: VecDeque<(u64, ShortStr)>,
}

fn pick<T>(from: &[T], index: u8) -> Option<&T> {
    from.get(usize::from(index).checked_rem(from.len())?)
}

impl Stage {
    /// Returns false when the transport has ended.
    fn happens(&mut self, operation: &Operation) -> bool {
        match *operation {
            Operation::Carry { up, most } => self.pair.carry(up, most.into()),
            Operation::CarryAll => self.pair.carry_all(),
            Operation::Flip { up, at, bit } => self.pair.flip(up, at.into(), bit),
            Operation::Pass { milliseconds } => {
                self.pair.pass(Duration::from_millis(milliseconds.into()));
            }
            Operation::End => return false,
            Operation::Block { on } => {
                self.pair.server.set_blocked(on.then_some("short of something"));
            }
            Operation::CloseConnection => {
                let now = self.pair.now;
                self.pair.client.close(now, ReplyCode::REPLY_SUCCESS, "fuzzed");
            }
            Operation::Open => self.client.channels.extend(self.pair.client.open_channel().ok()),
            _ => self.command(operation),
        }
        assert!(self.pair.client.queued() < 2 << 20, "too much waits for the transport");
        for end in [&self.pair.client, &self.pair.server] {
            let (counted, awaiting) = end.awaiting();
            assert_eq!(counted, awaiting, "channels on which the peer owes something");
        }
        true
    }

    fn command(&mut self, operation: &Operation) {
        let Self { pair, client, broker } = self;
        match *operation {
            Operation::Answer { channel, .. }
            | Operation::Deliver { channel, .. }
            | Operation::Verdict { channel, .. }
            | Operation::Return { channel }
            | Operation::CancelByBroker { channel, .. }
            | Operation::CloseByBroker { channel } => {
                let ids: Vec<_> = broker.channels.keys().copied().collect();
                let Some(id) = pick(&ids, channel) else { return };
                let Ok(channel) = pair.server.channel(*id) else { return };
                if let Some(state) = broker.channels.get_mut(id) {
                    // It is not an error that the channel or the connection is closing.
                    let _closing = state.act(channel, operation);
                }
            }
            Operation::Close { channel }
            | Operation::Declare { channel, .. }
            | Operation::Get { channel, .. }
            | Operation::Consume { channel, .. }
            | Operation::Cancel { channel, .. }
            | Operation::Discard { channel, .. }
            | Operation::Confirm { channel }
            | Operation::Recover { channel }
            | Operation::Publish { channel, .. }
            | Operation::Settle { channel, .. } => {
                let Some(id) = pick(&client.channels, channel).copied() else { return };
                if let Ok(channel) = pair.client.channel(id) {
                    let _refused = client.act(id, channel, operation);
                }
            }
            _ => {}
        }
    }

    /// Takes the events of both ends.
    fn listen(&mut self) {
        while let Some(event) = self.pair.client.poll_event() {
            self.client.hear(event);
        }
        while let Some(event) = self.pair.server.poll_event() {
            match event {
                Event::Channel(id, event) => self.broker.hear(id, event, self.pair.is_whole()),
                Event::Server(ServerEvent::UpdateSecret { .. }) => {}
                Event::Closed(error) => self.pair.judge(&error),
                _ => {}
            }
        }
    }

    /// All of it ends with the transport.
    fn finish(&mut self) {
        self.pair.carry_all();
        self.listen();
        self.pair.end();
        self.listen();
        if let Err(error) = self.pair.client.check() {
            self.pair.judge(&error);
        }
        for end in [&self.pair.client, &self.pair.server] {
            assert_eq!(end.unfinished(), 0, "bodies are counted that are gone");
        }
        assert!(self.client.closed, "the connection is not over");
        assert!(self.client.asked.is_empty(), "requests without an end: {:?}", self.client.asked);
        assert!(self.client.channels.is_empty(), "channels without an end");
    }
}

impl Client {
    fn act(
        &mut self,
        id: ChannelId,
        mut channel: Channel<'_>,
        operation: &Operation,
    ) -> Result<(), CommandError> {
        let mut asked = None;
        match *operation {
            Operation::Close { .. } => channel.close(ReplyCode::REPLY_SUCCESS, "fuzzed"),
            Operation::Declare { no_wait, abandoned, .. } => {
                let request = channel.request(QueueDeclare { no_wait, ..<_>::default() })?;
                asked = (!no_wait).then_some((request, abandoned));
            }
            Operation::Get { no_ack, abandoned, .. } => {
                let request = channel.request(BasicGet { no_ack, ..<_>::default() })?;
                asked = Some((request, abandoned));
            }
            Operation::Consume { no_ack, abandoned, .. } => {
                self.last_tag += 1;
                let consumer_tag = ShortStr::truncated(&self.last_tag.to_string());
                let consume =
                    BasicConsume { consumer_tag: consumer_tag.clone(), no_ack, ..<_>::default() };
                asked = Some((channel.request(consume)?, abandoned));
                self.tags.push((id, consumer_tag));
            }
            Operation::Cancel { consumer, .. } => {
                let Some(consumer_tag) = self.tag(id, consumer) else { return Ok(()) };
                let cancel = BasicCancel { consumer_tag, no_wait: false };
                asked = Some((channel.request(cancel)?, false));
            }
            Operation::Discard { consumer, .. } => {
                if let Some(tag) = self.tag(id, consumer) {
                    channel.discard_consumer(&tag);
                }
            }
            Operation::Confirm { .. } => {
                asked = Some((channel.request(ConfirmSelect { no_wait: false })?, false));
            }
            Operation::Recover { .. } => {
                self.deliveries.retain(|(other, _)| *other != id);
                asked = Some((channel.request(BasicRecover { requeue: true })?, false));
            }
            Operation::Publish { size, mandatory, .. } => {
                let mut route = Route::queue("q");
                route.mandatory = mandatory;
                let body = vec![7; size.into()];
                if let Ok(Some(seq)) = channel.publish(&route, &Properties::default(), body) {
                    assert!(self.published.insert((id, seq)), "{seq:?} twice");
                }
            }
            Operation::Settle { delivery, how, .. } => {
                let own = self.deliveries.iter().filter(|(other, _)| *other == id);
                let own: Vec<_> = own.map(|(_, tag)| *tag).collect();
                let Some(tag) = pick(&own, delivery).copied() else { return Ok(()) };
                match how {
                    Settlement::Ack => channel.ack(tag)?,
                    Settlement::AckUpTo => channel.ack_up_to(tag)?,
                    Settlement::Reject => channel.reject(tag, false)?,
                    Settlement::Nack => channel.nack(tag, true)?,
                    Settlement::NackUpTo => channel.nack_up_to(tag, true)?,
                }
            }
            _ => {}
        }
        if let Some((request, abandoned)) = asked {
            match abandoned {
                true => channel.abandon(request),
                false => assert!(self.asked.insert((id, request)), "{request:?} twice"),
            }
        }
        Ok(())
    }

    fn tag(&self, id: ChannelId, index: u8) -> Option<ShortStr> {
        let own = self.tags.iter().filter(|(other, _)| *other == id);
        let own: Vec<_> = own.map(|(_, tag)| tag.clone()).collect();
        pick(&own, index).cloned()
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Channel(id, event) => self.hear_of(id, event),
            Event::Closed(_) => {
                assert!(!self.closed, "the connection is over twice");
                self.closed = true;
            }
            _ => {}
        }
    }

    fn hear_of(&mut self, id: ChannelId, event: ChannelEvent) {
        match event {
            ChannelEvent::Reply { request, .. } => {
                assert!(self.asked.remove(&(id, request)), "an answer to nothing: {request:?}");
            }
            ChannelEvent::Delivery { delivery, .. } => {
                let _read = (delivery.properties().decode(), delivery.exchange());
                self.deliveries.push((id, delivery.delivery_tag()));
            }
            ChannelEvent::Confirmed { publishes, .. } => {
                let published = &mut self.published;
                let before = published.len();
                published.retain(|(other, seq)| *other != id || !publishes.contains(seq));
                let count = publishes.end().get() - publishes.start().get() + 1;
                assert_eq!((before - published.len()) as u64, count, "confirmed twice");
            }
            ChannelEvent::Returned { publish: Some(seq), .. } => {
                assert!(self.published.contains(&(id, seq)), "{seq:?} came back late");
            }
            ChannelEvent::Closed(_) => {
                self.channels.retain(|other| *other != id);
                self.asked.retain(|(other, _)| *other != id);
                self.published.retain(|(other, _)| *other != id);
                self.deliveries.retain(|(other, _)| *other != id);
                self.tags.retain(|(other, _)| *other != id);
            }
            _ => {}
        }
    }
}

impl Broker {
    fn hear(&mut self, id: ChannelId, event: ChannelEvent, whole: bool) {
        match event {
            ChannelEvent::Opened => {
                self.channels.insert(id, BrokerChannel::default());
            }
            ChannelEvent::Closed(_) => {
                self.channels.remove(&id);
            }
            ChannelEvent::Method(method) => {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.asked(method, whole);
                }
            }
            ChannelEvent::Published(published) => {
                let Some(channel) = self.channels.get_mut(&id) else { return };
                channel.published += 1;
                if channel.confirming {
                    channel.unconfirmed.insert(channel.published);
                }
                if published.method.mandatory {
                    let size = ShortStr::truncated(&published.body.len().to_string());
                    channel.mandatory.push_back((channel.published, size));
                }
            }
            _ => {}
        }
    }
}

impl BrokerChannel {
    fn asked(&mut self, method: Method, whole: bool) {
        match method {
            Method::BasicAck(ack) => self.settled(ack.delivery_tag, ack.multiple, whole),
            Method::BasicNack(nack) => self.settled(nack.delivery_tag, nack.multiple, whole),
            Method::BasicReject(reject) => self.settled(reject.delivery_tag, false, whole),
            Method::QueueDeclare(QueueDeclare { no_wait: true, .. }) => {}
            Method::BasicCancel(BasicCancel { no_wait: true, consumer_tag }) => {
                self.consumers.retain(|(tag, _)| *tag != consumer_tag);
            }
            Method::ConfirmSelect(_) => {
                if !self.confirming {
                    self.published = 0;
                }
                self.confirming = true;
                self.owed.push_back(method);
            }
            other => self.owed.push_back(other),
        }
    }

    fn settled(&mut self, tag: u64, multiple: bool, whole: bool) {
        let known = self.unacked.contains(&tag) || multiple && tag == 0;
        assert!(known || !whole, "the client settles {tag}, which it does not have");
        match multiple {
            true => self.unacked.retain(|other| *other > tag),
            false => {
                self.unacked.remove(&tag);
            }
        }
    }

    fn act(&mut self, mut channel: Channel<'_>, operation: &Operation) -> Result<(), CommandError> {
        match *operation {
            Operation::Answer { otherwise, .. } => self.answer(channel, otherwise),
            Operation::Deliver { consumer, size, .. } => {
                let Some((consumer_tag, no_ack)) = pick(&self.consumers, consumer).cloned() else {
                    return Ok(());
                };
                let delivery_tag = self.next_delivery(no_ack);
                let deliver = BasicDeliver { consumer_tag, delivery_tag, ..<_>::default() };
                channel.send_content(deliver, &Properties::default(), vec![1; size.into()])
            }
            Operation::Verdict { ack, multiple, skip, .. } => {
                let all: Vec<_> = self.unconfirmed.iter().copied().collect();
                let Some(delivery_tag) = pick(&all, skip).copied() else { return Ok(()) };
                match multiple {
                    true => self.unconfirmed.retain(|other| *other > delivery_tag),
                    false => {
                        self.unconfirmed.remove(&delivery_tag);
                    }
                }
                self.mandatory.retain(|(number, _)| self.unconfirmed.contains(number));
                match ack {
                    true => channel.send(BasicAck { delivery_tag, multiple }),
                    false => channel.send(BasicNack { delivery_tag, multiple, requeue: false }),
                }
            }
            Operation::Return { .. } => {
                let Some((_, size)) = self.mandatory.pop_front() else { return Ok(()) };
                let size = size.to_string().parse().unwrap_or(0);
                let routing_key = ShortStr::truncated("q");
                let returned = BasicReturn { routing_key, ..<_>::default() };
                channel.send_content(returned, &Properties::default(), vec![7; size])
            }
            Operation::CancelByBroker { consumer, .. } => {
                let Some(index) = usize::from(consumer).checked_rem(self.consumers.len()) else {
                    return Ok(());
                };
                let (consumer_tag, _) = self.consumers.remove(index);
                channel.send(BasicCancel { consumer_tag, no_wait: true })
            }
            Operation::CloseByBroker { .. } => {
                channel.close(ReplyCode::NOT_FOUND, "fuzzed");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, mut channel: Channel<'_>, otherwise: bool) -> Result<(), CommandError> {
        let Some(request) = self.owed.pop_front() else { return Ok(()) };
        match request {
            Method::QueueDeclare(_) => channel.send(QueueDeclareOk::default()),
            Method::ConfirmSelect(_) => channel.send(ConfirmSelectOk {}),
            Method::BasicConsume(BasicConsume { consumer_tag, no_ack, .. }) => {
                self.consumers.push((consumer_tag.clone(), no_ack));
                channel.send(BasicConsumeOk { consumer_tag })
            }
            Method::BasicCancel(BasicCancel { consumer_tag, .. }) => {
                self.consumers.retain(|(tag, _)| *tag != consumer_tag);
                channel.send(BasicCancelOk { consumer_tag })
            }
            Method::BasicRecover(_) => {
                self.unacked.clear();
                channel.send(BasicRecoverOk {})
            }
            Method::BasicGet(_) if otherwise => channel.send(BasicGetEmpty::default()),
            Method::BasicGet(BasicGet { no_ack, .. }) => {
                let delivery_tag = self.next_delivery(no_ack);
                let got = BasicGetOk { delivery_tag, ..<_>::default() };
                channel.send_content(got, &Properties::default(), vec![2; 10])
            }
            _ => Ok(()),
        }
    }

    fn next_delivery(&mut self, no_ack: bool) -> u64 {
        self.delivered += 1;
        if !no_ack {
            self.unacked.insert(self.delivered);
        }
        self.delivered
    }
}

impl Pair {
    /// Neither end may report an error of the other, unless the transport has changed bytes.
    fn judge(&self, error: &ConnectionError) {
        let blames = matches!(error, ConnectionError::Decode(_) | ConnectionError::Violation(_));
        assert!(!blames || !self.is_whole(), "{error}");
    }
}
