//! Servers that send without end. Memory stays far below what they send, and untaken data stops reading.

use amqp_client_core::proto::method::{
    BasicCancel, BasicReturn, ChannelClose, ChannelFlow, ConnectionBlocked, ConnectionUnblocked,
};
use amqp_client_core::proto::{ConnectionError, Violation};
use amqp_client_core::{
    ChannelEvent, ClientConfig, Config, Gate, Limits, PublishError, PublisherOptions, Settings,
};
use bytes::Bytes;

use crate::harness::poll_once;
use crate::scene::{Scene, now, peak, uncounted};
use crate::wire::{
    BODY, TAG, body, channel_open_ok, consume_ok, deliver_to, frame, header, header_on, message,
    method, short,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Input without a receiver, or with no lasting effect, 20,000 times: the client keeps nothing of it.
#[test]
fn floods_of_frames_that_need_no_memory_take_none() {
    let cancel = |no_wait| BasicCancel { consumer_tag: short("stranger"), no_wait };
    let blocked = ConnectionBlocked { reason: short(&"memory ".repeat(30)) };
    let reply_text = short(&"x".repeat(200));
    let returned = BasicReturn { reply_code: 312, reply_text, ..BasicReturn::default() };
    let flow = |active| method(1, ChannelFlow { active });
    for (name, sends) in [
        ("blocked and unblocked", [method(0, blocked), method(0, ConnectionUnblocked {})].concat()),
        ("pauses and resumes", [flow(false), flow(true)].concat()),
        ("cancels of strangers", method(1, cancel(false))),
        ("cancels that want no answer", method(1, cancel(true))),
        ("returns", [method(1, returned), header(100), body(&[7; 100])].concat()),
        ("heartbeats", frame(8, 0, b"")),
    ] {
        // In large reads, and one by one.
        for at_once in [500, 1] {
            let mut scene = Scene::open(Config::default());
            let mut application = scene.application();
            // Listeners that are never read.
            let _events = (scene.connection.events(), application.channel.events());
            let part = sends.repeat(at_once);
            let most = peak(|| {
                for _ in 0..20_000 / at_once {
                    scene.feed(&part);
                    uncounted(|| scene.written.clear());
                }
            });
            assert!(most < 2 * MIB, "{name}, {at_once}: {most}");
            application.assert_waits();
        }
    }
}

/// 100 MB are returned, and a listener is never read.
#[test]
fn a_flood_of_large_returns_is_kept_up_to_a_limit() {
    let mut scene = Scene::open(Config::default());
    let mut application = scene.application();
    let mut events = application.channel.events();
    let sends = [method(1, BasicReturn::default()), header(100_000), body(&[7; 100_000])].concat();
    let most = peak(|| {
        for _ in 0..1_000 {
            scene.feed(&sends);
        }
    });
    assert!(most < 20 * MIB, "{most}");
    assert!(poll_once(events.next()).is_some());
    application.assert_waits();
}

/// Whole messages that nobody takes, until the client reads no more.
#[test]
fn untaken_deliveries_stop_reading() {
    // Sizes of body; and of reads, where 0 is one for each message.
    for (size, read) in
        [(0, 65_536), (0, 0), (100, 65_536), (100, 0), (50_000, 65_536), (50_000, 0)]
    {
        let settings = Settings::default().delivery_budget(1024 * 1024);
        let mut scene = Scene::open(Config::default().settings(settings));
        let channel = scene.channel(1);
        let mut consumer = scene.consumer(&channel, TAG);
        let (mut tag, mut sent) = (0, 0);
        let most = peak(|| {
            // Read pauses let the consumer take its deliveries, before there are too many.
            while scene.advance(std::time::Duration::from_millis(1)).reads() && sent < 64 * MIB {
                let part = uncounted(|| {
                    tag += 1;
                    message(tag, &vec![7; size])
                });
                sent += part.len() as u64;
                scene.feed_by(if read == 0 { part.len() } else { read }, &part);
                uncounted(|| drop(part));
            }
        });
        assert!(sent < 64 * MIB, "{size}, {read}: it still reads");
        assert!(most < 3 * MIB, "{size}, {read}: {most}");
        // The server is not silent because nobody listens.
        scene.heartbeats = true;
        scene.advance(std::time::Duration::from_secs(3600));
        assert_eq!(poll_once(scene.connection.closed()), None, "{size}, {read}");
        let mut taken = 0;
        while let Some(delivery) = consumer.try_next() {
            taken += 1;
            delivery.ack().expect("it waits");
        }
        assert!(taken > 0 && scene.turn().reads(), "{size}, {read}: {taken}");
    }
}

/// Each read brings a small delivery that nobody takes, and much else that is over at once. The delivery is a slice of the
/// block that was read to, and would keep all of it.
#[test]
fn small_deliveries_do_not_keep_their_read_buffer() {
    let returned = [method(1, BasicReturn::default()), header(60_000), body(&[7; 60_000])].concat();
    let heartbeats = frame(8, 0, b"").repeat(1_000);
    for (name, with, most_sent) in
        [("returns", returned, 160 * MIB), ("heartbeats", heartbeats, 48 * MIB)]
    {
        // Whether a task takes deliveries now and then, and then stops.
        for taken in [false, true] {
            let mut scene = Scene::open(Config::default());
            let channel = scene.channel(1);
            let mut consumer = scene.consumer(&channel, TAG);
            let (mut tag, mut sent) = (0, 0);
            let mut kept = uncounted(Vec::new);
            let most = peak(|| {
                // Read pauses let the consumer take its deliveries, before there are too many.
                while scene.advance(std::time::Duration::from_millis(1)).reads() && sent < most_sent
                {
                    let part = uncounted(|| {
                        tag += 1;
                        [&message(tag, b"small")[..], &with].concat()
                    });
                    sent += scene.feed(&part) as u64;
                    uncounted(|| drop(part));
                    if taken && tag % 500 == 0 {
                        uncounted(|| kept.reserve(1));
                        kept.extend(consumer.try_next());
                    }
                }
            });
            assert!(sent >= most_sent, "{name}, {taken}: it reads no more after {sent}");
            assert!(most < 12 * MIB, "{name}, {taken}: {most} of {sent}");
            let delivery = consumer.try_next().expect("they are there");
            assert_eq!((delivery.body(), delivery.routing_key().len()), (&b"small"[..], 0));
        }
    }
}

/// Each read brings a small returned message, which a listener or a confirmation keeps, and much other data that is dropped at
/// once. The message is a slice of the read buffer, and would keep all of it alive.
#[test]
fn small_returns_do_not_keep_their_read_buffer() {
    let returned = [method(1, BasicReturn::default()), header(5), body(b"small")].concat();
    let part = [returned, frame(8, 0, b"").repeat(30_000)].concat();
    let mut scene = Scene::open(Config::default());
    let mut application = scene.application();
    let mut events = application.channel.events();
    let most = peak(|| {
        for _ in 0..500 {
            scene.feed(&part);
        }
    });
    assert!(most < 4 * MIB, "{most}");
    let Some(Some(ChannelEvent::Returned(returned))) = poll_once(events.next()) else {
        panic!("they are there")
    };
    assert_eq!(returned.body, "small");
    application.assert_waits();
}

/// Channels that are closed as soon as they are open, and those that hold one keep it.
#[test]
fn channels_that_the_server_closes_keep_only_the_reason_and_their_counters() {
    let mut scene = Scene::open(Config::default());
    let reply_text = short(&"no ".repeat(80));
    let close = ChannelClose { reply_code: 541, reply_text, ..ChannelClose::default() };
    let mut channels = Vec::new();
    let most = peak(|| {
        for _ in 0..20_000 {
            let channel = scene.channel(1);
            let sends = uncounted(|| method(1, close.clone()));
            scene.feed(&sends);
            uncounted(|| {
                drop(sends);
                scene.written.clear();
            });
            assert!(!channel.is_open());
            if channels.len() < 2_000 {
                channels.push(channel);
            }
        }
    });
    // The reason alone has 240 bytes, and the counters have 224. The list of channels has the old and the new size while it grows.
    assert!(most < 2_000 * 1_900, "{most}");
    assert!(scene.connection.is_open());
}

fn crowd(config: Config) -> (Scene, Vec<amqp_client_core::Consumer>) {
    let mut scene = Scene::open(config);
    let consumers = (1..=2047)
        .map(|number| {
            let channel = scene.channel(number);
            scene.consumer(&channel, TAG)
        })
        .collect();
    (scene, consumers)
}

/// On each of 2047 channels, a message begins and does not go on, and much else comes in the same read. What is there of the
/// message would keep all of the block that was read to.
#[test]
fn incomplete_messages_do_not_keep_their_read_buffer() {
    let heartbeats = frame(8, 0, b"").repeat(8_000);
    let begins = |number| {
        let deliver = deliver_to(number, TAG, 1);
        let header = header_on(number, 5, &[0, 0]);
        [deliver, header]
    };
    // The method alone; the header in the same read, or in the next.
    for parts in [&[(0, 1)][..], &[(0, 2)], &[(0, 1), (1, 2)]] {
        let (mut scene, mut consumers) = crowd(Config::default());
        let mut sent = 0;
        let most = peak(|| {
            for number in 1..=2047 {
                for &(from, to) in parts {
                    let part = uncounted(|| {
                        [&begins(number)[from..to].concat()[..], &heartbeats].concat()
                    });
                    sent += scene.feed(&part);
                    uncounted(|| drop(part));
                }
            }
        });
        assert!(sent as u64 > 120 * MIB, "{parts:?}: {sent}");
        assert!(most < 4 * MIB, "{parts:?}: {most}");
        // They are whole when the rest comes.
        let header = if parts.last() == Some(&(0, 1)) { &begins(7)[1][..] } else { &[] };
        scene.feed(&[header, &frame(BODY, 7, b"small")].concat());
        let delivery = consumers[6].try_next().expect("it is whole");
        assert_eq!((delivery.body(), delivery.delivery_tag().get()), (&b"small"[..], 1));
    }
}

/// The same with returns, which have texts of their own.
#[test]
fn incomplete_returns_do_not_keep_their_read_buffer() {
    let heartbeats = frame(8, 0, b"").repeat(8_000);
    let (mut scene, _consumers) = crowd(Config::default());
    let most = peak(|| {
        for number in 1..=2047 {
            let part = uncounted(|| {
                let reply_text = short("no route");
                let returned = BasicReturn { reply_code: 312, reply_text, ..<_>::default() };
                [method(number, returned), header_on(number, 5, &[0, 0]), heartbeats.clone()]
                    .concat()
            });
            scene.feed(&part);
            uncounted(|| drop(part));
        }
    });
    assert!(most < 4 * MIB, "{most}");
    assert!(scene.connection.is_open());
}

/// Properties that wait for their message's body count like parts of bodies.
#[test]
fn properties_of_messages_that_only_begin_end_the_connection_at_a_limit() {
    let limits = Limits::default().body_max(MIB).unfinished_max(8 * MIB);
    let protocol = ClientConfig::default().limits(limits);
    let (mut scene, _consumers) = crowd(Config::default().protocol(protocol));
    // Flags, and a table of headers that nobody looks at.
    let properties = [&[0x20, 0][..], &100_000u32.to_be_bytes(), &[0; 100_000]].concat();
    let mut sent = 0;
    let most = peak(|| {
        for number in 1..=2047 {
            let part = uncounted(|| {
                [deliver_to(number, TAG, 1), header_on(number, 5, &properties)].concat()
            });
            sent += scene.feed(&part);
            uncounted(|| drop(part));
        }
    });
    let expected = Violation::TooMuchUnfinished { limit: 8 * MIB };
    assert_eq!(now(scene.connection.closed()), ConnectionError::Violation(expected));
    assert!(sent as u64 <= 9 * MIB, "{sent}");
    assert!(most < 12 * MIB, "{most}");
}

/// 256 GiB are announced on 2047 channels, and next to nothing comes.
#[test]
fn bodies_that_are_only_announced_take_no_memory() {
    let (mut scene, _consumers) = crowd(Config::default());
    let most = peak(|| {
        for number in 1..=2047 {
            for part in uncounted(|| {
                let header = header_on(number, 128 * MIB, &[0, 0]);
                [deliver_to(number, TAG, 1), header, frame(BODY, number, &[7; 100])]
            }) {
                scene.feed(&part);
            }
        }
    });
    assert!(most < MIB, "{most}");
    assert!(scene.connection.is_open());
}

/// And then it does come, without end.
#[test]
fn bodies_that_are_never_finished_end_the_connection_at_a_limit() {
    let limits = Limits::default().body_max(MIB).unfinished_max(8 * MIB);
    let protocol = ClientConfig::default().limits(limits);
    let (mut scene, _consumers) = crowd(Config::default().protocol(protocol));
    let mut sent = 0;
    let most = peak(|| {
        for number in 1..=2047 {
            let header = uncounted(|| header_on(number, MIB, &[0, 0]));
            let begin = uncounted(|| [deliver_to(number, TAG, 1), header].concat());
            let part = uncounted(|| frame(BODY, number, &[7; 100_000]).repeat(10));
            sent += scene.feed(&begin) + scene.feed(&part);
        }
    });
    let expected = Violation::TooMuchUnfinished { limit: 8 * MIB };
    assert_eq!(now(scene.connection.closed()), ConnectionError::Violation(expected));
    assert!(sent as u64 <= 9 * MIB, "{sent}");
    assert!(most < 12 * MIB, "{most}");
}

/// The server triggers replies, and reads none.
#[test]
fn answers_that_the_server_does_not_read_end_the_connection() {
    let mut scene = Scene::open(Config::default());
    let application = scene.application();
    scene.server_reads = false;
    let part = method(1, ChannelFlow { active: true }).repeat(10_000);
    let mut sent = 0;
    let most = peak(|| {
        while scene.connection.is_open() && sent < 512 * MIB {
            sent += scene.feed(&part) as u64;
        }
    });
    let error = now(scene.connection.closed());
    let ConnectionError::Violation(Violation::RepliesNotRead { .. }) = error else {
        panic!("{error:?}")
    };
    assert!(most < 64 * MIB, "{most}");
    application.assert_over(&error);
}

/// Publishing stops when as much waits as may.
#[test]
fn a_server_that_never_reads_is_published_to_up_to_a_limit() {
    for size in [10, 1_000, 100_000] {
        let mut scene = Scene::open(Config::default());
        let channel = scene.channel(1);
        let options = PublisherOptions::new().window(usize::MAX, usize::MAX);
        let publisher = channel.default_exchange().publisher(options).expect("it is open");
        scene.server_reads = false;
        let body = Bytes::from(vec![7; size]);
        let mut confirmations = uncounted(Vec::new);
        let mut refused = None;
        let most = peak(|| {
            while refused.is_none() && confirmations.len() < 100_000 {
                match publisher.try_publish("k", body.clone()) {
                    Ok(confirmation) => uncounted(|| confirmations.push(confirmation)),
                    Err(error) => refused = Some(error.error),
                }
                scene.turn();
            }
        });
        let full = Gate::Full;
        assert_eq!(refused, Some(PublishError::Gated(full)), "{size}");
        let bytes = scene.unwritten();
        assert!(bytes < 400_000, "{size}: {bytes}");
        assert!(most < 2 * MIB, "{size}: {most}");
        uncounted(|| drop(confirmations));
    }
}

/// Replies to requests that were never made, again and again.
#[test]
fn one_reply_too_many_ends_it_at_once() {
    let mut scene = Scene::open(Config::default());
    let application = scene.application();
    let sends = [channel_open_ok(2), consume_ok(2, TAG)].concat();
    let taken = scene.feed_by(sends.len(), &sends.repeat(1_000));
    assert_eq!(taken, sends.len());
    let misplaced = Violation::UnexpectedMethod { method: "basic.consume-ok" };
    drop(application);
    assert_eq!(now(scene.connection.closed()), misplaced.into());
}
