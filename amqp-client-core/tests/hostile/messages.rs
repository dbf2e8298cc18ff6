//! Errors that affect one message at most: the connection continues.

use amqp_client_core::proto::method::{BasicAck, BasicCancel, BasicNack, Method};
use amqp_client_core::proto::{DecodeErrorKind, DeliveryTag, Unusable, Value};
use amqp_client_core::{
    ChannelEvent, ClientConfig, Config, ConfirmError, Limits, PublisherOptions,
};

use crate::harness::poll_once;
use crate::scene::{Scene, now, peak};
use crate::wire::{
    TAG, body, deliver, header, header_on, message, message_with_headers, method, nested_table,
    short,
};

#[test]
fn a_message_arrives_with_any_properties() {
    let propertied = |bytes: &[u8]| [deliver(1), header_on(1, 0, bytes)].concat();
    let tabled = |entries: &[u8]| message_with_headers(1, entries);
    let truncated = DecodeErrorKind::Truncated;
    for (name, sends, says) in [
        ("10,000 levels of tables", tabled(&nested_table(10_000)), DecodeErrorKind::TooDeep),
        ("a string past the headers", tabled(b"\x01kS\0\0\0\x09x"), truncated),
        ("a table past the headers", tabled(b"\x01kF\xff\xff\xff\xff"), truncated),
        ("an array past the headers", tabled(b"\x01kA\0\0\x10\0t"), truncated),
        ("bytes past the headers", tabled(b"\x01kx\0\0\x10\0t"), truncated),
        ("a name past the headers", tabled(b"\xffk"), truncated),
        ("half a decimal", tabled(b"\x01kD\xff\0"), truncated),
        ("headers past the frame", propertied(b"\x20\0\xff\xff\xff\xff"), truncated),
        ("a content type past the frame", propertied(b"\x80\0\xfftext"), truncated),
        ("a timestamp past the frame", propertied(b"\0\x40\0\0\0"), truncated),
        ("no flags", propertied(b""), truncated),
        ("flags without end", propertied(&[0, 1].repeat(1000)), truncated),
        ("an unknown property", propertied(b"\0\x02"), DecodeErrorKind::UnknownProperty(2)),
        ("bytes behind the properties", propertied(b"\0\0?"), DecodeErrorKind::Trailing(1)),
    ] {
        let mut scene = Scene::open(Config::default());
        let channel = scene.channel(1);
        let mut consumer = scene.consumer(&channel, TAG);
        let most = peak(|| {
            scene.feed(&sends);
        });
        // The largest of them takes 80 KB, in blocks that double.
        assert!(most < 512 * 1024, "{name}: {most}");
        let delivery = consumer.try_next().unwrap_or_else(|| panic!("{name}: it is lost"));
        let most = peak(|| {
            let properties = delivery.properties();
            let error = properties.decode().expect_err("malformed");
            assert_eq!(error.kind(), says, "{name}");
            assert_eq!(delivery.message_properties(), Err(error), "{name}");
            // One by one they can be read as far as they are well-formed.
            let trailing = matches!(says, DecodeErrorKind::Trailing(_));
            let one_by_one = [properties.headers().err(), properties.content_type().err()];
            let after = properties.timestamp().err();
            let first = one_by_one.into_iter().chain([after]).flatten().next();
            assert_eq!(first, (!trailing).then_some(error), "{name}");
            let _shown = format!("{delivery:?}");
        });
        assert!(most < 256 * 1024, "{name}: {most}");
        delivery.ack().expect("it waits for that");
        scene.feed(&message(2, b"good"));
        assert_eq!(consumer.try_next().expect("the next one").body(), b"good", "{name}");
    }
}

#[test]
fn a_decimal_of_any_scale_can_be_looked_at() {
    let mut scene = Scene::open(Config::default());
    let channel = scene.channel(1);
    let mut consumer = scene.consumer(&channel, TAG);
    scene.feed(&message_with_headers(1, b"\x01kD\xff\xff\xff\xff\xff"));
    let delivery = consumer.try_next().expect("it is a message");
    let headers = delivery.properties().headers().expect("well-formed").expect("headers");
    let value = headers.get("k").expect("an entry");
    let Value::Decimal(decimal) = value else { panic!("{value:?}") };
    assert_eq!((decimal.scale, decimal.value), (255, -1));
    assert_eq!(decimal.to_string(), format!("-0.{}1", "0".repeat(254)));
}

/// An announced size takes no memory, and the bytes that arrive are not kept.
#[test]
fn a_body_beyond_all_limits_is_waited_for_without_being_kept() {
    for announced in [1 << 28, 1 << 63, u64::MAX] {
        let mut scene = Scene::open(Config::default());
        let mut application = scene.application();
        let begin = [deliver(1), header(announced)].concat();
        let part = body(&[0; 100_000]);
        let most = peak(|| {
            scene.feed(&begin);
            for _ in 0..500 {
                scene.feed(&part);
            }
        });
        // 50 MB came, and went through two blocks.
        assert!(most < 512 * 1024, "{announced}: {most}");
        application.assert_waits();
    }
}

#[test]
fn an_oversized_body_is_reported_once_it_is_complete() {
    let protocol = ClientConfig::default().limits(Limits::default().body_max(1_000));
    let mut scene = Scene::open(Config::default().protocol(protocol));
    let channel = scene.channel(1);
    let mut consumer = scene.consumer(&channel, TAG);
    let mut events = channel.events();
    scene.written.clear();
    scene.feed(&[message(1, &[0; 1_001]), message(2, &[0; 1_000])].concat());
    let event = poll_once(events.next()).flatten().expect("an event");
    let why = Unusable::BodyTooLarge { size: 1_001, limit: 1_000 };
    let delivery_tag = DeliveryTag::new(1);
    assert_eq!(event, ChannelEvent::Unusable { consumer_tag: short(TAG), delivery_tag, why });
    let health = scene.connection.health();
    assert_eq!((health.unusable, health.unsettled), (1, 1));
    assert!(scene.methods().is_empty(), "it is held");
    channel.basic_reject(delivery_tag, false).expect("it is held");
    assert_eq!(consumer.try_next().expect("the next one").body().len(), 1_000);
}

#[test]
fn confirms_count_once_and_in_any_order() {
    let mut scene = Scene::open(Config::default());
    let channel = scene.channel(1);
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    let mut confirmations: Vec<_> =
        (0..6).map(|_| now(publisher.publish("k", "m")).expect("it is sent")).collect();
    let ack = |delivery_tag, multiple| method(1, BasicAck { delivery_tag, multiple });
    let nack =
        |delivery_tag, multiple| method(1, BasicNack { delivery_tag, multiple, requeue: false });
    // Backwards, twice, and with second thoughts.
    let sends = [
        [ack(5, false), ack(4, false), nack(4, false), nack(2, true), ack(2, true)].concat(),
        [ack(1, false), nack(3, false), ack(3, false), ack(5, true), nack(0, true)].concat(),
    ];
    scene.feed(&sends.concat());
    let outcomes: Vec<_> = confirmations.drain(..).map(now).collect();
    let refused = || Err(ConfirmError::Nacked);
    assert_eq!(outcomes, [refused(), refused(), refused(), Ok(()), Ok(()), refused()]);
    // There is nothing left that a multiple could mean, and that is no harm.
    scene.feed(&[ack(0, true), nack(0, true), ack(6, true)].concat());
    assert!(channel.is_open());
}

#[test]
fn a_cancel_of_an_unknown_consumer_gets_a_reply_and_has_no_effect() {
    let mut scene = Scene::open(Config::default());
    let mut application = scene.application();
    let cancel = BasicCancel { consumer_tag: short("stranger"), no_wait: false };
    scene.feed(&method(1, cancel));
    let answer = scene.methods().pop();
    assert!(matches!(answer, Some(Method::BasicCancelOk(ok)) if ok.consumer_tag == "stranger"));
    application.assert_waits();
}
