//! Whether the peer has to reply: a client that reads no deliveries continues to read for that.

use amqp_proto::method::{
    BasicAck, BasicConsume, BasicConsumeOk, BasicDeliver, BasicGet, BasicGetOk, ChannelFlow,
    ConfirmSelect, ConfirmSelectOk, QueueDeclare, QueueDeclareOk, TxCommitOk, TxSelect, TxSelectOk,
};
use amqp_proto::{
    ChannelId, ClientConfig, Connection, DeliveryTag, Limits, Properties, RawProperties, ReplyCode,
    Route, ServerConfig, Settlement,
};

use crate::harness::{Pair, short};

fn declare() -> QueueDeclare {
    QueueDeclare { queue: short("queue"), ..QueueDeclare::default() }
}

fn consume(tag: &str) -> BasicConsume {
    BasicConsume { consumer_tag: short(tag), ..BasicConsume::default() }
}

/// Sends something that needs a reply, and checks that it is pending until the reply has come.
fn owed(pair: &mut Pair, what: &str, ask: impl FnOnce(&mut Pair), reply: impl FnOnce(&mut Pair)) {
    assert!(!pair.client.awaits_peer(), "{what}: before it is sent");
    ask(pair);
    assert!(pair.client.awaits_peer(), "{what}: when it is sent");
    pair.drive();
    assert!(pair.client.awaits_peer(), "{what}: when it has arrived");
    reply(pair);
    pair.drive();
    assert!(!pair.client.awaits_peer(), "{what}: when there is a reply");
}

fn send(method: impl Into<amqp_proto::method::Method>, id: ChannelId) -> impl FnOnce(&mut Pair) {
    let method = method.into();
    move |pair| pair.on_server(id).send(method).expect("it is sent")
}

#[test]
fn outstanding_replies_count_until_they_arrive() {
    let mut pair = Pair::open();
    // Another channel, on which nothing happens.
    let (_idle, id) = (pair.open_channel(), pair.open_channel());
    let asks = |pair: &mut Pair| drop(pair.on_client(id).request(declare()));
    owed(&mut pair, "a declaration", asks, send(QueueDeclareOk::default(), id));
    let get = |pair: &mut Pair| drop(pair.on_client(id).request(BasicGet::default()));
    owed(&mut pair, "a get", get, |pair| {
        let got = BasicGetOk { delivery_tag: 1, ..BasicGetOk::default() };
        pair.on_server(id).send_content(got, &Properties::default(), "body").expect("it is sent");
    });
    let starts = |pair: &mut Pair| drop(pair.on_client(id).request(consume("tag")));
    let started = BasicConsumeOk { consumer_tag: short("tag") };
    owed(&mut pair, "a consumer", starts, send(started, id));
    let discards = |pair: &mut Pair| pair.on_client(id).discard_consumer(&short("tag"));
    let cancelled = amqp_proto::method::BasicCancelOk { consumer_tag: short("tag") };
    owed(&mut pair, "a consumer that nobody listens to", discards, send(cancelled, id));
    let selects = |pair: &mut Pair| drop(pair.on_client(id).request(ConfirmSelect::default()));
    owed(&mut pair, "confirms", selects, send(ConfirmSelectOk {}, id));
    let publishes = |pair: &mut Pair| {
        let (route, none) = (Route::new("exchange", "key"), RawProperties::EMPTY);
        let prepared = amqp_proto::Prepared::new(id, &route, &none).expect("short");
        let mut channel = pair.on_client(id);
        channel.publish_prepared(&prepared, "one").expect("it is sent");
        channel.publish(&route, &none, "another").expect("it is sent");
    };
    owed(&mut pair, "two confirms", publishes, |pair| {
        pair.answer(id, BasicAck { delivery_tag: 2, multiple: false });
        assert!(pair.client.awaits_peer(), "the first is not confirmed");
        pair.answer(id, BasicAck { delivery_tag: 1, multiple: false });
    });
    let flow = |pair: &mut Pair, active| {
        let _asked = pair.on_server(id).request(ChannelFlow { active }).expect("it is sent");
        pair.drive();
    };
    let stops = |pair: &mut Pair| flow(pair, false);
    owed(&mut pair, "leave to publish", stops, |pair| flow(pair, true));
    pair.on_client(id).close(ReplyCode::REPLY_SUCCESS, "");
    assert!(pair.client.awaits_peer(), "a close");
    pair.drive();
    assert!(!pair.client.awaits_peer(), "a close");
}

#[test]
fn replies_to_internal_requests_count_as_outstanding() {
    let (mut pair, id) = Pair::with_channel();
    pair.call(id, TxSelect {}, TxSelectOk {});
    pair.call(id, consume("tag"), BasicConsumeOk { consumer_tag: short("tag") });
    let deliver =
        BasicDeliver { consumer_tag: short("tag"), delivery_tag: 1, ..BasicDeliver::default() };
    pair.on_server(id).send_content(deliver, &Properties::default(), "").expect("it is sent");
    pair.drive();
    let requeues = |pair: &mut Pair| {
        let requeue = Settlement::Nack { requeue: true };
        pair.on_client(id).settle_apart(DeliveryTag::new(1), requeue).expect("it waits");
        // The commit is sent at the end of the turn.
        pair.drive();
    };
    owed(&mut pair, "a commit", requeues, send(TxCommitOk {}, id));
}

#[test]
fn nothing_is_awaited_from_channels_that_have_ended() {
    let mut pair = Pair::open();
    let id = pair.open_channel();
    // A request without a reply does not count after the close.
    let _declaring = pair.on_client(id).request(declare()).expect("it is sent");
    pair.drive();
    assert!(pair.client.awaits_peer());
    pair.on_server(id).close(ReplyCode::NOT_FOUND, "no such thing");
    pair.drive();
    assert!(!pair.client.awaits_peer());
    let _again = pair.client.open_channel().expect("there is room");
    assert!(pair.client.awaits_peer());
    pair.drive();
    assert!(!pair.client.awaits_peer());
    let last = pair.open_channel();
    let _declaring = pair.on_client(last).request(declare()).expect("it is sent");
    pair.client.handle_eof(pair.now);
    assert!(!pair.client.awaits_peer());
}

/// So many channels, and so many looks, that it takes minutes if each look is at all of them.
#[test]
fn checking_for_outstanding_replies_costs_the_same_with_many_channels() {
    const CHANNELS: u16 = u16::MAX;
    const LOOKS: u32 = 300_000;
    let limits = Limits::default().channel_max(CHANNELS);
    let (config, server) = (ClientConfig::default(), ServerConfig::default());
    let mut pair = Pair::opened(config.limits(limits), server.limits(limits));
    let ids: Vec<_> = (0..CHANNELS).map(|_| pair.client.open_channel().expect("free")).collect();
    pair.drive();
    let looks = |client: &Connection| {
        (0..LOOKS).filter(|_| std::hint::black_box(client).awaits_peer()).count()
    };
    assert_eq!(looks(&pair.client), 0);
    let last = *ids.last().expect("there are many");
    let _declaring = pair.on_client(last).request(declare()).expect("it is sent");
    assert_eq!(looks(&pair.client), LOOKS as usize);
}
