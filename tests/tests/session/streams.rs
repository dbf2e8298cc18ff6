//! The offset at which consumers of streams resume after a loss.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use amqp_client_core::proto::method::{
    BasicCancel, BasicConsume, BasicGet, BasicQos, QueueDeclare, TxCommit, TxRollback, TxSelect,
};
use amqp_client_core::proto::session::{OnCancel, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, CommandError, ConsumerId, Delivery, DeliveryTag,
    FieldTable, GetReply, Limits, Misuse, Oversized, Reply, Settlement, ShortStr, Timestamp, Value,
};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, short, text};

fn stream() -> QueueDeclare {
    let arguments = FieldTable::new().with("x-queue-type", "stream").expect("it fits");
    QueueDeclare { arguments, ..durable("log") }
}

/// Another client publishes these numbers.
fn publish(rig: &mut SessionRig<Broker>, numbers: std::ops::Range<u32>) {
    rig.elsewhere(|other, id| {
        for number in numbers {
            other.publish(id, "", "log", &number.to_string());
        }
    });
    rig.run();
}

fn read(rig: &mut SessionRig<Broker>, id: ChannelId, offset: Option<Value>) -> ConsumerId {
    read_as(rig, id, ShortStr::EMPTY, offset)
}

fn read_as(
    rig: &mut SessionRig<Broker>,
    id: ChannelId,
    tag: ShortStr,
    offset: Option<Value>,
) -> ConsumerId {
    let mut arguments = FieldTable::new();
    if let Some(offset) = offset {
        arguments.insert("x-stream-offset", offset).expect("it fits");
    }
    let consume =
        BasicConsume { queue: short("log"), consumer_tag: tag, arguments, ..<_>::default() };
    let request = rig.send(id, consume);
    rig.run();
    rig.answer(request).expect("it has started");
    request.into()
}

/// Operations for which the broker would close the channel or the connection are refused at the call, with the reason.
#[test]
fn unsupported_operations_on_streams_have_no_effect() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, stream());
    let consume = || BasicConsume { queue: short("log"), ..<_>::default() };
    let refused = |rig: &mut SessionRig<Broker>, method: BasicConsume| {
        let refused = rig.channel(id).request(method);
        refused.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let no_ack = BasicConsume { no_ack: true, ..consume() };
    let last = BasicConsume { queue: ShortStr::EMPTY, ..consume() };
    let offset = FieldTable::new().with("x-stream-offset", "first").expect("it fits");
    let elsewhere = BasicConsume { queue: short("elsewhere"), arguments: offset, ..consume() };
    for cut in [false, true] {
        if cut {
            rig.cut();
        }
        assert!(refused(&mut rig, consume()).contains("prefetch limit"));
        assert!(refused(&mut rig, last.clone()).contains("prefetch limit"));
        assert!(refused(&mut rig, elsewhere.clone()).contains("prefetch limit"));
        assert!(refused(&mut rig, no_ack.clone()).contains("acknowledged"));
        let get = BasicGet { queue: short("log"), no_ack: false, ..<_>::default() };
        let got = rig.channel(id).request(get);
        assert_eq!(got.err(), Some(CommandError::Misuse(Misuse::StreamHasNoGet)));
    }
    // A limit that waits for the connection counts, and one that is not restored counts until it is removed.
    let unlimited = BasicQos { prefetch_count: 0, ..<_>::default() };
    let limit = || BasicQos { prefetch_count: 5, ..<_>::default() };
    rig.send(id, limit());
    assert_eq!(refused(&mut rig, consume()), "");
    rig.recover();
    assert_eq!(refused(&mut rig, consume()), "");
    rig.send(id, unlimited);
    assert!(refused(&mut rig, consume()).contains("prefetch limit"));
    let channel = rig.channel(id);
    channel.unrecovered().request(limit()).expect("it is sent");
    assert_eq!(refused(&mut rig, consume()), "");
    rig.run();
    rig.cut();
    assert!(refused(&mut rig, consume()).contains("prefetch limit"));
    rig.recover();
    assert!(rig.session.is_open());
}

/// Takes the deliveries. Returns their numbers and their tags.
fn delivered(rig: &mut SessionRig<Broker>) -> (Vec<u32>, Vec<DeliveryTag>) {
    let deliveries = rig.deliveries().into_iter();
    let one = |delivery: Delivery| {
        (text(&delivery).parse::<u32>().expect("a number"), delivery.delivery_tag())
    };
    deliveries.map(|(_, delivery)| one(delivery)).unzip()
}

fn numbers(rig: &mut SessionRig<Broker>) -> Vec<u32> {
    delivered(rig).0
}

fn ack(rig: &mut SessionRig<Broker>, id: ChannelId, tag: DeliveryTag) {
    rig.channel(id).ack(tag).expect("it was delivered");
}

fn cancel(tag: &str) -> BasicCancel {
    BasicCancel { consumer_tag: short(tag), no_wait: false }
}

/// A session with a channel, and a stream with these numbers.
fn with_stream(
    recovery: Recovery,
    numbers: std::ops::Range<u32>,
) -> (SessionRig<Broker>, ChannelId) {
    let mut rig = SessionRig::new(recovery);
    let id = rig.open();
    rig.queue(id, stream());
    publish(&mut rig, numbers);
    (rig, id)
}

/// A session with a channel with this prefetch limit, a stream with the numbers from 0 to 9, and a reader.
fn reading(prefetch: u16, recovery: Recovery) -> (SessionRig<Broker>, ChannelId, Vec<DeliveryTag>) {
    let (mut rig, id) = with_stream(recovery, 0..10);
    rig.limit(id, prefetch);
    read(&mut rig, id, Some("first".into()));
    let (numbers, tags) = delivered(&mut rig);
    assert!(numbers.into_iter().eq(0..u32::from(prefetch)));
    (rig, id, tags)
}

/// It is no longer known, and its deliveries are on their way.
#[test]
fn requeueing_all_behind_a_dropped_reader_costs_no_connection() {
    for declared in [false, true] {
        let (mut rig, id) = with_stream(Recovery::default(), 0..10);
        let other = rig.open();
        let id = if declared { id } else { other };
        rig.limit(id, 5);
        let mut arguments = FieldTable::new();
        arguments.insert("x-stream-offset", "first").expect("it fits");
        let consumer_tag = short("reader");
        let consume =
            BasicConsume { queue: short("log"), consumer_tag, arguments, ..<_>::default() };
        let request = rig.send(id, BasicConsume { no_wait: true, ..consume });
        rig.eager = true;
        let mut channel = rig.channel(id);
        channel.discard_consumer(request.into());
        channel.requeue_all();
        rig.run();
        assert!(rig.session.is_open(), "{declared}: {:?}", rig.events);
    }
}

#[test]
fn a_reader_resumes_at_the_first_unsettled_message() {
    // The settled messages of 0 to 4, and the message at which the reader resumes.
    let cases: &[(&[usize], u32)] = &[
        (&[], 0),
        (&[0], 1),
        (&[0, 1, 2], 3),
        (&[0, 1, 3], 2),
        (&[4], 0),
        (&[2, 1, 0], 3),
        (&[0, 1, 2, 3, 4], 5),
    ];
    for (settled, first) in cases {
        let (mut rig, id, tags) = reading(5, Recovery::default());
        settled.iter().for_each(|index| ack(&mut rig, id, tags[*index]));
        rig.run();
        let _later = numbers(&mut rig);
        // As often as it is lost.
        for _ in 0..3 {
            rig.cut();
            assert!(rig.recover().failed.is_empty());
            assert!(numbers(&mut rig).into_iter().eq(*first..first + 5), "{settled:?}");
        }
    }
}

#[test]
fn all_ways_to_settle_count() {
    for way in 0..5 {
        let (mut rig, id, tags) = reading(5, Recovery::default());
        let channel = &mut rig.channel(id);
        let done = match way {
            0 => channel.ack_up_to(tags[2]),
            1 => channel.nack_up_to(tags[2], true),
            2 => channel.ack_up_to(DeliveryTag::new(0)),
            3 => (0..3).try_for_each(|index| channel.reject(tags[index], index % 2 == 0)),
            // A second time is an error, and changes nothing.
            _ => channel.ack_up_to(tags[2]).map(|()| assert!(channel.ack(tags[1]).is_err())),
        };
        done.expect("they were delivered");
        rig.run();
        let _later = numbers(&mut rig);
        rig.cut();
        rig.recover();
        let first = if way == 2 { 5 } else { 3 };
        assert_eq!(numbers(&mut rig).first(), Some(&first), "{way}");
    }
}

#[test]
fn a_transaction_settles_when_it_is_committed() {
    for end in 0..4 {
        let (mut rig, id) = with_stream(Recovery::default(), 0..10);
        rig.ask(id, TxSelect {}).expect("it is selected");
        rig.limit(id, 5);
        read(&mut rig, id, Some("first".into()));
        let (_, tags) = delivered(&mut rig);
        tags[..2].iter().for_each(|tag| ack(&mut rig, id, *tag));
        match end {
            0 => drop(rig.ask(id, TxCommit {}).expect("it is committed")),
            1 => drop(rig.ask(id, TxRollback {}).expect("it is rolled back")),
            // It is lost in transit.
            2 => drop(rig.send(id, TxCommit {})),
            _ => {}
        }
        if end == 0 {
            // This one belongs to the next transaction.
            ack(&mut rig, id, tags[2]);
        }
        rig.events.clear();
        rig.cut();
        rig.recover();
        let first = if end == 0 { 2 } else { 0 };
        assert_eq!(numbers(&mut rig).first(), Some(&first), "{end}");
    }
}

#[test]
fn a_commit_settles_nothing_of_a_transaction_that_was_rolled_back() {
    let (mut rig, id) = with_stream(Recovery::default(), 0..10);
    rig.ask(id, TxSelect {}).expect("it is selected");
    rig.limit(id, 5);
    read(&mut rig, id, Some("first".into()));
    let (_, tags) = delivered(&mut rig);
    ack(&mut rig, id, tags[0]);
    rig.ask(id, TxRollback {}).expect("it is rolled back");
    ack(&mut rig, id, tags[1]);
    rig.ask(id, TxCommit {}).expect("it is committed");
    rig.events.clear();
    rig.cut();
    rig.recover();
    assert_eq!(numbers(&mut rig).first(), Some(&0));
}

#[test]
fn a_stream_is_known_by_its_deliveries() {
    let mut rig = SessionRig::new(Recovery::default());
    // Somebody else has declared it.
    rig.elsewhere(|other, id| other.queue(id, stream()));
    let id = rig.open();
    rig.limit(id, 5);
    rig.queue(id, durable("q"));
    let beside = rig.consume(id, &short("q"), "beside");
    read(&mut rig, id, None);
    publish(&mut rig, 0..2);
    let (numbers_, tags) = delivered(&mut rig);
    assert_eq!(numbers_, [0, 1]);
    tags.iter().for_each(|tag| ack(&mut rig, id, *tag));
    rig.run();
    rig.cut();
    publish(&mut rig, 2..4);
    rig.recover();
    assert_eq!(numbers(&mut rig), [2, 3]);
    // A queue goes on as queues do.
    rig.publish(id, "", "q", "queued");
    rig.run();
    assert_eq!(rig.texts(beside), ["queued"]);
    rig.cut();
    rig.recover();
    assert_eq!(rig.texts(beside), ["queued"]);
}

/// The broker does not say where a reader begins before the first delivery.
#[test]
fn a_reader_from_next_misses_nothing_during_an_outage() {
    for offset in [None, Some("next")] {
        let (mut rig, id) = with_stream(Recovery::default(), 0..10);
        rig.pass(Duration::from_secs(5));
        rig.limit(id, 5);
        read(&mut rig, id, offset.map(Value::from));
        assert_eq!(numbers(&mut rig), [0_u32; 0]);
        rig.pass(Duration::from_secs(30));
        for _ in 0..2 {
            rig.cut();
            rig.pass(Duration::from_secs(100));
            rig.recover();
            assert_eq!(numbers(&mut rig), [0_u32; 0]);
        }
        rig.cut();
        publish(&mut rig, 10..12);
        rig.pass(Duration::from_secs(1000));
        rig.recover();
        assert_eq!(numbers(&mut rig), [10, 11], "{offset:?}");
    }
}

/// There is no reply to show when it has started, either.
#[test]
fn a_reader_that_waits_for_no_reply_misses_nothing_that_came_while_it_was_away() {
    for held in [false, true] {
        let (mut rig, id) = with_stream(Recovery::default(), 0..10);
        rig.pass(Duration::from_secs(5));
        rig.limit(id, 5);
        if held {
            rig.cut();
        }
        let (queue, consumer_tag) = (short("log"), short("reader"));
        let consume = BasicConsume { queue, consumer_tag, no_wait: true, ..<_>::default() };
        rig.send(id, consume);
        if held {
            // It has waited for that long.
            rig.pass(Duration::from_secs(1000));
            rig.recover();
        }
        rig.run();
        assert_eq!(numbers(&mut rig), [0_u32; 0]);
        rig.pass(Duration::from_secs(30));
        rig.cut();
        publish(&mut rig, 10..12);
        rig.pass(Duration::from_secs(1000));
        rig.recover();
        assert_eq!(numbers(&mut rig), [10, 11], "{held}");
    }
}

#[test]
fn a_reader_without_deliveries_begins_as_it_did() {
    let past = SystemTime::now() - Duration::from_secs(1000);
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    let cases: [(Value, &[u32]); 5] = [
        ("first".into(), &[0, 1, 2]),
        ("last".into(), &[2]),
        (1i64.into(), &[1, 2]),
        (Timestamp::from(past).into(), &[0, 1, 2]),
        (Timestamp::from(future).into(), &[]),
    ];
    for (offset, expected) in cases {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, stream());
        rig.limit(id, 5);
        let consumer = read(&mut rig, id, Some(offset.clone()));
        rig.cut();
        publish(&mut rig, 0..3);
        rig.recover();
        let found = rig.deliveries();
        assert!(found.iter().all(|(own, _)| *own == consumer));
        let found: Vec<u32> =
            found.iter().map(|(_, delivery)| text(delivery).parse().expect("a number")).collect();
        assert_eq!(found, expected, "{offset:?}");
    }
}

#[test]
fn readers_of_one_channel_have_their_own_positions() {
    let (mut rig, id) = with_stream(Recovery::default(), 0..6);
    rig.limit(id, 3);
    let consumers = [0i64, 2].map(|offset| read(&mut rig, id, Some(offset.into())));
    let tags: Vec<_> = rig.deliveries().into_iter().map(|(_, one)| one.delivery_tag()).collect();
    // 0 1 2, then 2 3 4: the second of each.
    for index in [1, 3, 4] {
        ack(&mut rig, id, tags[index]);
    }
    rig.run();
    rig.events.clear();
    rig.cut();
    rig.recover();
    let found = rig.deliveries();
    let first = |consumer| {
        let own = found.iter().find(|(own, _)| *own == consumer);
        own.map(|(_, delivery)| text(delivery))
    };
    assert_eq!(consumers.map(first), [Some("0".to_owned()), Some("4".to_owned())]);
}

#[test]
fn a_reader_that_the_broker_cancels_resumes() {
    let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
    let (mut rig, id, tags) = reading(5, recovery);
    tags[..3].iter().for_each(|tag| ack(&mut rig, id, *tag));
    rig.run();
    rig.events.clear();
    rig.peer.engine.cancel_consumers("log");
    rig.run();
    let (found, again) = delivered(&mut rig);
    assert_eq!(found.first(), Some(&3));
    // Late, and harmless.
    ack(&mut rig, id, tags[3]);
    ack(&mut rig, id, again[0]);
    rig.run();
    rig.cut();
    rig.recover();
    let _later = numbers(&mut rig);
    assert!(rig.session.is_open());
}

/// Watching is for readers, and for those that may be.
#[test]
fn consumers_that_come_and_go_leave_nothing_behind() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("q"));
    let cycle = |rig: &mut SessionRig<Broker>| {
        rig.consume(id, &short("q"), "tag");
        rig.ask(id, cancel("tag")).expect("it is cancelled");
        rig.events.clear();
    };
    (0..100).for_each(|_| cycle(&mut rig));
    let ((), counted) = amqp_testkit::alloc::allocations(|| {
        (0..5000).for_each(|_| cycle(&mut rig));
    });
    assert!(counted.kept_bytes < 16 * 1024, "{} bytes are kept", counted.kept_bytes);
}

/// As documented at `Oversized`.
#[test]
fn a_message_that_is_too_large_is_skipped_after_a_loss_with_what_was_settled() {
    for (settled, again) in [(0, vec![9, 5]), (1, vec![5]), (2, vec![])] {
        let (mut rig, id) = with_stream(Recovery::default(), 9..11);
        publish(&mut rig, 5..6);
        rig.limit(id, 20);
        rig.cut();
        let limits = Limits::default().body_max(1).oversized(Oversized::Hold);
        rig.next_config = Some(Arc::new(ClientConfig::default().limits(limits)));
        rig.recover();
        read_as(&mut rig, id, short("reader"), Some("first".into()));
        let deliveries = rig.deliveries();
        assert_eq!((deliveries.len(), rig.channel_events().filter_map(unusable).count()), (2, 1));
        for (_, delivery) in &deliveries[..settled] {
            rig.channel(id).ack(delivery.delivery_tag()).expect("it was delivered");
        }
        rig.run();
        rig.cut();
        rig.events.clear();
        rig.recover();
        assert_eq!(numbers(&mut rig), again);
        let too_large = rig.channel_events().filter_map(unusable).count();
        assert_eq!(too_large, usize::from(settled == 0), "{settled}");
    }
}

/// RabbitMQ: a stream does not requeue, and responds by closing the connection (540).
#[test]
fn a_message_of_a_stream_that_is_too_large_costs_no_connection() {
    for oversized in [Oversized::Hold, Oversized::Requeue, Oversized::Reject] {
        for way in 0..7 {
            let (mut rig, id) = with_stream(Recovery::default(), 9..12);
            rig.limit(id, 20);
            rig.cut();
            let limits = Limits::default().body_max(1).oversized(oversized);
            rig.next_config = Some(Arc::new(ClientConfig::default().limits(limits)));
            assert!(rig.reconnect());
            rig.run();
            assert!(rig.session.is_open());
            let consumer = read_as(&mut rig, id, short("reader"), Some("first".into()));
            assert_eq!(numbers(&mut rig), [9]);
            let tags: Vec<_> = rig.channel_events().filter_map(unusable).collect();
            assert_eq!(tags.len(), 2);
            let mut channel = rig.channel(id);
            match way {
                0 => tags.iter().for_each(|tag| drop(channel.reject(*tag, true))),
                1 => tags.iter().for_each(|tag| drop(channel.nack(*tag, false))),
                2 => drop(channel.nack_up_to(DeliveryTag::new(0), true)),
                3 => channel.requeue_all(),
                4 => channel.discard_consumer(consumer),
                5 => tags.iter().for_each(|tag| {
                    drop(channel.settle_apart(*tag, Settlement::Nack { requeue: true }));
                }),
                _ => drop(channel.request(cancel("reader"))),
            }
            rig.run();
            assert!(rig.session.is_open(), "{oversized:?} {way}: {:?}", rig.events);
            let peer = rig.peer.client.expect("it is connected");
            let unacknowledged = rig.peer.engine.unacknowledged_count(peer);
            match (oversized, way) {
                // `multiple` skips held deliveries.
                (Oversized::Hold, 2 | 3) => assert_eq!(unacknowledged, 2),
                (_, 2 | 3) => assert_eq!(unacknowledged, 0),
                // The one that was delivered has its handle.
                _ => assert_eq!(unacknowledged, 1, "{oversized:?} {way} {consumer}"),
            }
            assert_eq!(rig.peer.engine.take_violation(), None);
        }
    }
}

fn unusable(event: &ChannelEvent) -> Option<DeliveryTag> {
    match event {
        ChannelEvent::Unusable { delivery_tag, .. } => Some(*delivery_tag),
        _ => None,
    }
}

/// A `multiple` for deliveries in transit would reach the first delivery of a stream.
#[test]
fn requeueing_everything_before_the_first_delivery_costs_no_connection() {
    let (mut rig, id) = with_stream(Recovery::default(), 0..10);
    rig.limit(id, 20);
    let first = FieldTable::new().with("x-stream-offset", "first").expect("it fits");
    let consume = BasicConsume { queue: short("log"), arguments: first, ..<_>::default() };
    rig.send(id, consume);
    // The broker has the request, and its deliveries are in transit.
    rig.carry();
    rig.channel(id).requeue_all();
    rig.run();
    assert!(rig.session.is_open(), "{:?}", rig.events);
    assert_eq!(numbers(&mut rig).len(), 10);
}

#[test]
fn settling_a_message_of_a_queue_settles_none_of_a_stream() {
    let (mut rig, id, _) = reading(1, Recovery::default());
    rig.queue(id, durable("q"));
    rig.publish(id, "", "q", "m");
    rig.run();
    let get = BasicGet { queue: short("q"), ..<_>::default() };
    let get = rig.send(id, get);
    rig.run();
    let Some(Reply::Message(GetReply::Message { delivery, .. })) = rig.answer(get) else {
        panic!("{:?}", rig.events)
    };
    ack(&mut rig, id, delivery.delivery_tag());
    rig.run();
    rig.cut();
    rig.recover();
    assert_eq!(numbers(&mut rig), [0]);
}

#[test]
fn messages_settled_between_others_are_not_settled_twice() {
    let (mut rig, id, tags) = reading(3, Recovery::default());
    ack(&mut rig, id, tags[1]);
    let channel = &mut rig.channel(id);
    channel.nack_up_to(tags[2], true).expect("two are left");
    rig.run();
    rig.cut();
    rig.recover();
    assert_eq!(numbers(&mut rig).first(), Some(&3));
}

/// The next transaction has begun with it.
#[test]
fn settlements_after_a_commit_do_not_affect_it() {
    let (mut rig, id) = with_stream(Recovery::default(), 0..10);
    rig.ask(id, TxSelect {}).expect("it is selected");
    rig.limit(id, 5);
    read(&mut rig, id, Some("first".into()));
    let (_, tags) = delivered(&mut rig);
    ack(&mut rig, id, tags[0]);
    let commit = rig.send(id, TxCommit {});
    let channel = &mut rig.channel(id);
    channel.ack_up_to(tags[2]).expect("two are left");
    rig.run();
    assert!(rig.answer(commit).is_some());
    let _later = numbers(&mut rig);
    rig.cut();
    rig.recover();
    assert_eq!(numbers(&mut rig).first(), Some(&1));
}

/// RabbitMQ: a stream responds to a reject by closing the connection.
#[test]
fn deliveries_held_by_an_ended_reader_are_not_rejected() {
    let (mut rig, id) = with_stream(Recovery::default(), 0..1);
    rig.limit(id, 5);
    read_as(&mut rig, id, short("reader"), Some("first".into()));
    let (_, tags) = delivered(&mut rig);
    rig.ask(id, cancel("reader")).expect("it is cancelled");
    rig.queue(id, durable("q"));
    for _ in 0..100 {
        rig.consume(id, &short("q"), "other");
        rig.ask(id, cancel("other")).expect("it is cancelled");
    }
    let channel = &mut rig.channel(id);
    channel.reject(tags[0], true).expect("it was delivered");
    rig.run();
    assert!(rig.session.is_open(), "{:?}", rig.events);
}

/// RabbitMQ: a stream responds to a reject by closing the connection.
#[test]
fn deliveries_from_before_a_cancel_by_the_broker_are_not_rejected() {
    for way in 0..4 {
        let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
        let (mut rig, id, tags) = reading(5, recovery);
        rig.peer.engine.cancel_consumers("log");
        rig.run();
        assert_eq!(numbers(&mut rig), [0, 1, 2, 3, 4]);
        let mut channel = rig.channel(id);
        match way {
            0 => channel.reject(tags[0], true).expect("it was delivered"),
            1 => channel.nack_up_to(tags[4], true).expect("they were delivered"),
            2 => channel.settle_apart(tags[0], Settlement::Nack { requeue: true }).expect("it was"),
            _ => channel.requeue_all(),
        }
        rig.run();
        assert!(rig.session.is_open(), "{way}: {:?}", rig.events);
        // These deliveries belong to the reader that was cancelled: they do not move the position of the next one.
        rig.deliveries();
        rig.cut();
        rig.recover();
        let first = if way == 3 { 5 } else { 0 };
        assert_eq!(numbers(&mut rig).first(), Some(&first), "{way}");
    }
}

/// They were settled in a transaction, before or after the reader was cancelled. After the rollback, they are unsettled again.
#[test]
fn deliveries_from_before_a_cancel_are_not_rejected_after_a_rollback() {
    for way in 0..8 {
        let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
        let (mut rig, id) = with_stream(recovery, 0..10);
        rig.ask(id, TxSelect {}).expect("it is selected");
        rig.limit(id, 5);
        read(&mut rig, id, Some("first".into()));
        let (_, tags) = delivered(&mut rig);
        let settled_before = way < 4;
        if settled_before {
            rig.channel(id).ack_up_to(tags[2]).expect("they were delivered");
        }
        rig.peer.engine.cancel_consumers("log");
        rig.run();
        if !settled_before {
            rig.channel(id).ack_up_to(tags[2]).expect("they were delivered");
        }
        rig.ask(id, TxRollback {}).expect("it is rolled back");
        let mut channel = rig.channel(id);
        match way % 4 {
            0 => channel.reject(tags[0], true).expect("it was delivered"),
            1 => channel.nack_up_to(tags[4], true).expect("they were delivered"),
            2 => channel.settle_apart(tags[0], Settlement::Nack { requeue: true }).expect("it was"),
            _ => channel.requeue_all(),
        }
        rig.ask(id, TxCommit {});
        assert!(rig.session.is_open(), "{way}: {:?}", rig.events);
    }
}

/// They were settled when they came.
#[test]
fn deliveries_of_a_dropped_reader_are_not_settled_again() {
    let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe);
    let (mut rig, id) = with_stream(recovery, 0..10);
    rig.limit(id, 5);
    let reader = read(&mut rig, id, Some("first".into()));
    rig.queue(id, durable("q"));
    let beside = rig.consume(id, &short("q"), "beside");
    let (_, tags) = delivered(&mut rig);
    rig.peer.engine.cancel_consumers("log");
    while !rig.channel(id).starts_consumer() {
        rig.round();
    }
    rig.channel(id).discard_consumer(reader);
    rig.run();
    rig.channel(id).ack_up_to(tags[4]).expect("they were delivered");
    rig.publish(id, "", "q", "m");
    rig.run();
    assert_eq!(rig.texts(beside), ["m"]);
    let nacked = rig.channel(id).nack_up_to(DeliveryTag::new(0), true);
    nacked.expect("one is unsettled");
    rig.run();
    assert_eq!(rig.texts(beside), ["m"]);
}
