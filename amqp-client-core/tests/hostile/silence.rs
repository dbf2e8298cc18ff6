//! Servers that send nothing, or nothing useful, once the connection is open. Timeouts end everything that waits.

use std::time::Duration;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{ClientConfig, Config, ConfirmError, Gate, PublishError, PublisherOptions};

use crate::harness::poll_once;
use crate::scene::{Application, End, Scene, now};
use crate::wire::{HEARTBEAT, deliver, frame, header, open_ok, start, tune};

const SECOND: Duration = Duration::from_secs(1);

/// The default settings, and when their deadlines have all passed.
const CALL: Duration = Duration::from_secs(30);
const PUBLISH: Duration = Duration::from_secs(30);
const CONFIRM: Duration = Duration::from_secs(60);

fn scene(heartbeat: u16) -> (Scene, Application) {
    let protocol = ClientConfig::default().heartbeat(Duration::from_secs(heartbeat.into()));
    let mut scene = Scene::connecting(Config::default().protocol(protocol));
    scene.feed(&[start(), tune(2047, 131_072, heartbeat), open_ok()].concat());
    let application = scene.application();
    (scene, application)
}

/// Each request ends by its own deadline, and the connection stays.
fn assert_timed_out(application: &mut Application, publish_waits_for: Gate) {
    let said: Vec<_> = application
        .ends(&["queue.purge", "channel.open", "confirm", "publish"])
        .into_iter()
        .map(|end| match end {
            End::Other(text) => text,
            End::Over(reason) => panic!("{reason:?}"),
        })
        .collect();
    let expected = [
        format!("no reply to queue.purge within {CALL:?}"),
        format!("no reply to channel.open within {CALL:?}"),
        format!("{:?}", ConfirmError::TimedOut { after: CONFIRM }),
        format!("{:?}", PublishError::TimedOut { gate: publish_waits_for, after: PUBLISH }),
    ];
    assert_eq!(said, expected);
    application.assert_waits();
}

#[test]
fn without_heartbeats_each_request_to_a_silent_server_times_out() {
    let (mut scene, mut application) = scene(0);
    scene.advance(CALL - Duration::from_millis(1));
    application.assert_waits();
    scene.advance(Duration::from_secs(3600));
    assert_timed_out(&mut application, Gate::Window);
    assert!(scene.connection.is_open());
}

#[test]
fn with_heartbeats_a_silent_server_is_given_up_after_two_intervals() {
    for interval in [1, 10] {
        let (mut scene, mut application) = scene(interval);
        let timeout = 2 * u32::from(interval) * SECOND;
        scene.advance(timeout - Duration::from_millis(1));
        application.assert_waits();
        scene.advance(Duration::from_millis(1));
        application.assert_over(&ConnectionError::PeerSilent(timeout));
        assert!(scene.turn().is_done());
    }
}

/// The specification counts any byte as a sign of life (4.2.7), so the deadlines of the requests have to do.
#[test]
fn bytes_of_a_frame_that_never_ends_are_a_sign_of_life_and_nothing_more() {
    let (mut scene, mut application) = scene(10);
    // A delivery of which one byte comes a second: its method, its header, and then the head of a large frame.
    let slow = [&deliver(1)[..], &header(100_000), b"\x03\0\x01\0\x01\x86\xa0", &[0; 600]].concat();
    for byte in slow.chunks(1).take(600) {
        assert_eq!(scene.feed(byte), 1);
        scene.advance(SECOND);
    }
    assert_timed_out(&mut application, Gate::Window);
    assert!(scene.connection.is_open());
    // It stops, and time begins to run.
    scene.advance(20 * SECOND);
    assert_eq!(now(scene.connection.closed()), ConnectionError::PeerSilent(20 * SECOND));
}

#[test]
fn heartbeats_without_end_do_not_keep_requests_waiting() {
    let (mut scene, mut application) = scene(10);
    for _ in 0..120 {
        scene.feed(&frame(HEARTBEAT, 0, b"").repeat(1_000));
        scene.advance(SECOND);
    }
    assert_timed_out(&mut application, Gate::Window);
    assert!(scene.connection.is_open());
}

/// Heartbeats come, so the server lives; but it takes nothing any more.
#[test]
fn a_server_that_never_reads_makes_publishing_wait_and_then_fail() {
    let (mut scene, mut application) = scene(10);
    scene.server_reads = false;
    let options = PublisherOptions::new().window(usize::MAX, usize::MAX);
    let publisher = application.channel.default_exchange().publisher(options).expect("it is open");
    while publisher.try_publish("k", vec![0; 10_000]).is_ok() {
        scene.turn();
    }
    let mut waiting = Box::pin(publisher.publish("k", "m"));
    assert!(poll_once(waiting.as_mut()).is_none());
    for _ in 0..120 {
        scene.feed(&frame(HEARTBEAT, 0, b""));
        scene.advance(SECOND);
    }
    let full = PublishError::TimedOut { gate: Gate::Full, after: PUBLISH };
    assert_eq!(now(waiting).map(drop), Err(full));
    // Its window is full as well, and a publisher waits for that first.
    assert_timed_out(&mut application, Gate::Window);
    // It reads again, and all is as before.
    scene.server_reads = true;
    scene.turn();
    let written = scene.methods().len();
    assert!(written > 20, "{written}");
    assert!(poll_once(publisher.publish("k", "m")).is_some());
}
