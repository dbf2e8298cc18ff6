//! Closes and broken transports at the worst times: everything that waits ends, with the right reason.

use std::io;
use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicCancel, ChannelClose, ChannelCloseOk, ConnectionClose, ConnectionCloseOk, Method,
};
use amqp_client_core::proto::{ChannelError, ConnectionError, Initiator, Violation};
use amqp_client_core::{CallError, Config, ConsumerEnd, Settings};

use crate::harness::poll_once;
use crate::scene::{End, Scene, now};
use crate::wire::{TAG, body, deliver, frame, header, message, method, short};

/// Returns the bytes that the server has sent when it ends.
fn moments() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("with requests and confirms pending", Vec::new()),
        ("within a frame's head", body(b"bytes")[..5].to_vec()),
        ("within a frame", deliver(1)[..15].to_vec()),
        ("behind a delivery's method", deliver(1)),
        ("behind its header", [deliver(1), header(10)].concat()),
        ("amid its body", [deliver(1), header(10), body(b"half")].concat()),
        ("behind a message", message(1, b"whole")),
    ]
}

fn connection_close() -> Vec<u8> {
    let close = ConnectionClose {
        reply_code: 320,
        reply_text: short("CONNECTION_FORCED - now"),
        ..ConnectionClose::default()
    };
    method(0, close)
}

fn channel_close() -> Vec<u8> {
    let close = ChannelClose {
        reply_code: 406,
        reply_text: short("PRECONDITION_FAILED - no"),
        ..ChannelClose::default()
    };
    method(1, close)
}

#[test]
fn the_transport_ends_at_any_moment() {
    for (name, sends) in moments() {
        let mut scene = Scene::open(Config::default());
        let application = scene.application();
        scene.feed(&sends);
        scene.eof();
        application.assert_over(&ConnectionError::Eof);
        assert!(scene.turn().is_done(), "{name}");
    }
}

#[test]
fn the_transport_breaks_at_any_moment() {
    for (name, sends) in moments() {
        for kind in
            [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::TimedOut]
        {
            let mut scene = Scene::open(Config::default());
            let application = scene.application();
            scene.feed(&sends);
            let error = io::Error::from(kind);
            scene.transport_error(&error);
            application.assert_over(&ConnectionError::transport(&error));
            assert!(scene.turn().is_done(), "{name}");
        }
    }
}

/// Bytes that cannot be written any more do not keep a driver from being done.
#[test]
fn the_transport_ends_while_bytes_are_queued() {
    let mut scene = Scene::open(Config::default());
    let application = scene.application();
    scene.server_reads = false;
    let publishing = application.channel.queue_purge("q");
    scene.turn();
    assert!(scene.unwritten() > 0);
    scene.eof();
    assert!(scene.turn().is_done());
    let over = ChannelError::Connection(ConnectionError::Eof);
    assert_eq!(now(publishing), Err(CallError::Ended(over)));
    application.assert_over(&ConnectionError::Eof);
}

#[test]
fn deliveries_before_the_end_can_still_be_taken() {
    let mut scene = Scene::open(Config::default());
    let channel = scene.channel(1);
    let mut consumer = scene.consumer(&channel, TAG);
    scene.feed(&[message(1, b"one"), message(2, b"two"), deliver(3)].concat());
    scene.eof();
    for expected in ["one", "two"] {
        let delivery = now(consumer.next()).expect("a message").expect("not the end yet");
        assert_eq!(delivery.body(), expected.as_bytes());
        assert!(delivery.ack().is_err());
    }
    let over = ConsumerEnd::Ended(ConnectionError::Eof.into());
    assert_eq!(now(consumer.next()).map(|end| end.map(drop)), Some(Err(over)));
    assert!(now(consumer.next()).is_none());
}

#[test]
fn the_server_closes_the_connection_at_any_moment() {
    for (name, sends) in moments() {
        // There is no way to say anything within a frame.
        if name.starts_with("within") {
            continue;
        }
        let mut scene = Scene::open(Config::default());
        let application = scene.application();
        scene.feed(&[sends, connection_close()].concat());
        let error = now(scene.connection.closed());
        let close = error.as_close().unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert_eq!((close.by, close.reply_code.0), (Initiator::Peer, 320), "{name}");
        application.assert_over(&error);
        assert!(matches!(scene.methods().pop(), Some(Method::ConnectionCloseOk(_))), "{name}");
        assert!(scene.turn().is_done(), "{name}");
    }
}

const ON_CHANNEL: [&str; 5] = ["queue.purge", "confirm", "publish", "consumer", "channel.closed"];

#[test]
fn the_server_closes_a_channel_and_nothing_else_ends() {
    // A close in the middle of content is illegal, but it carries the real error.
    for sends in [Vec::new(), deliver(1), [deliver(1), header(9), body(b"short")].concat()] {
        let mut scene = Scene::open(Config::default());
        let mut application = scene.application();
        scene.feed(&[sends, channel_close()].concat());
        for end in application.ends(&ON_CHANNEL) {
            let End::Over(ChannelError::Closed(close)) = end else { panic!("{end:?}") };
            assert_eq!((close.by, close.reply_code.0), (Initiator::Peer, 406));
        }
        assert!(matches!(scene.methods().pop(), Some(Method::ChannelCloseOk(_))));
        scene.eof();
        application.assert_rest_is_over(&ConnectionError::Eof);
    }
}

/// Frames after the server's own close of a channel.
#[test]
fn a_channel_that_the_server_closed_takes_nothing_more() {
    for (name, sends) in [
        ("a message", message(1, b"late")),
        ("content that goes on", body(b"late")),
        ("a second close", channel_close()),
        ("close-ok", method(1, ChannelCloseOk {})),
    ] {
        let mut scene = Scene::open(Config::default());
        let _channel = scene.channel(1);
        scene.feed(&[channel_close(), sends].concat());
        let expected = Violation::ChannelNotOpen { channel: 1 };
        assert_eq!(now(scene.connection.closed()), expected.into(), "{name}");
    }
}

/// Until the close of a channel has its reply, frames for that channel may have been sent before.
#[test]
fn a_closing_channel_discards_frames_in_flight() {
    let mut scene = Scene::open(Config::default());
    let channel = scene.channel(1);
    let mut consumer = scene.consumer(&channel, TAG);
    let mut closing = Box::pin(channel.close());
    assert!(poll_once(closing.as_mut()).is_none());
    scene.feed(&[message(1, b"late"), channel_close()].concat());
    assert!(poll_once(closing.as_mut()).is_none());
    assert!(consumer.try_next().is_none());
    scene.feed(&method(1, ChannelCloseOk {}));
    assert_eq!(now(closing), Ok(()));
    // From now on, the channel belongs to no one.
    scene.feed(&message(1, b"too late"));
    let expected = Violation::ChannelNotOpen { channel: 1 };
    assert_eq!(now(scene.connection.closed()), expected.into());
}

#[test]
fn a_cancel_ends_its_consumer_only() {
    let mut scene = Scene::open(Config::default());
    let mut application = scene.application();
    let cancel = BasicCancel { consumer_tag: short(TAG), no_wait: true };
    scene.feed(&method(1, cancel));
    let ends = application.ends(&["consumer"]);
    assert_eq!(ends, [End::Other(format!("{:?}", ConsumerEnd::Cancelled))]);
}

#[test]
fn a_close_without_reply_ends_in_time_even_if_nothing_can_be_written() {
    for server_reads in [true, false] {
        let mut scene = Scene::open(Config::default());
        let application = scene.application();
        scene.server_reads = server_reads;
        let connection = scene.connection.clone();
        let mut closing = Box::pin(connection.close());
        assert!(poll_once(closing.as_mut()).is_none());
        let after = Duration::from_secs(10);
        scene.advance(after);
        let error = ConnectionError::CloseTimeout(after);
        assert_eq!(now(closing), Err(error.clone()));
        application.assert_over(&error);
        // The client waits for pending output once more, then gives it up.
        let turn = scene.advance(after);
        assert!(turn.is_done(), "{turn:?}");
    }
}

/// The reason is for a server that reads. One that does not must not keep the driver, and its socket, forever.
#[test]
fn a_violation_that_cannot_be_reported_to_the_peer_ends_in_time() {
    let mut scene = Scene::open(Config::default());
    let application = scene.application();
    scene.server_reads = false;
    scene.feed(&frame(7, 0, b""));
    let turn = scene.turn();
    assert!(turn.writes() && !turn.is_done(), "{turn:?}");
    let turn = scene.advance(Duration::from_secs(10) - Duration::from_millis(1));
    assert!(!turn.is_done() && turn.wake_at.is_some(), "{turn:?}");
    assert!(scene.advance(Duration::from_millis(1)).is_done());
    application.assert_over(&now(scene.connection.closed()));
}

/// Deliveries that nobody takes stop reading, and the reply to the close is behind them.
#[test]
fn a_connection_closes_even_if_its_deliveries_are_not_taken() {
    let config = Config::default().settings(Settings::default().delivery_budget(1_000));
    let mut scene = Scene::open(config);
    let channel = scene.channel(1);
    let consumer = scene.consumer(&channel, TAG);
    scene.feed(&message(1, &[0; 1_000]));
    assert!(!scene.turn().reads());
    let connection = scene.connection.clone();
    let mut closing = Box::pin(connection.close());
    assert!(poll_once(closing.as_mut()).is_none());
    scene.feed(&[message(2, &[0; 1_000]), method(0, ConnectionCloseOk {})].concat());
    assert_eq!(now(closing), Ok(()));
    drop(consumer);
}

#[test]
fn a_driver_that_is_dropped_ends_everything() {
    let mut scene = Scene::open(Config::default());
    let application = scene.application();
    drop(scene);
    application.assert_over(&ConnectionError::DriverGone);
}
