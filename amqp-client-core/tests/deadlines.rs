//! Deadlines, in virtual time: the rig's server answers what it knows, and nothing else.

mod rig;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, Config, HeldBy, PublishError, PublisherOptions, QueueOptions,
};
use rig::Rig;

fn rig() -> (Rig, Channel) {
    let mut config = Config::default();
    config.protocol.heartbeat = Duration::ZERO;
    config.settings.call_timeout = Some(Duration::from_secs(10));
    let mut rig = Rig::new(config);
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    (rig, channel)
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_request_that_is_not_answered_ends_in_time_and_leaves_the_channel_usable() {
    let (mut rig, channel) = rig();
    let mut purge = channel.queue_purge("q");
    rig.turn();
    rig.advance(Duration::from_millis(9_999));
    assert!(poll(&mut purge).is_pending());
    rig.advance(Duration::from_millis(1));
    let after = Duration::from_secs(10);
    let expected = CallError::TimedOut { method: "queue.purge", after };
    assert_eq!(poll(&mut purge), Poll::Ready(Err(expected)));
    assert!(channel.is_open());
    // Its late answer, had it one, would not be that of the next request.
    let (mut rig, channel) = self::rig();
    let declare = channel.queue_declare("q", QueueOptions::new());
    assert!(rig.run(declare).is_ok());
}

#[test]
fn a_deadline_of_ones_own_counts_from_when_it_is_given() {
    let (mut rig, channel) = rig();
    let mut purge = channel.queue_purge("q");
    rig.advance(Duration::from_secs(5));
    purge = purge.within(Duration::from_secs(8));
    rig.turn();
    rig.advance(Duration::from_secs(7));
    assert!(poll(&mut purge).is_pending());
    rig.advance(Duration::from_secs(1));
    assert!(matches!(poll(&mut purge), Poll::Ready(Err(CallError::TimedOut { .. }))));
}

#[test]
fn opening_a_channel_and_closing_have_deadlines_too() {
    let (mut rig, channel) = rig();
    rig.silence();
    let mut opening = rig.connection.open_channel();
    let closing = channel.clone();
    let mut closing = Box::pin(async move { closing.close().await });
    assert!(poll(&mut opening).is_pending() && poll(&mut closing).is_pending());
    rig.turn();
    rig.advance(Duration::from_secs(10));
    assert!(matches!(poll(&mut opening), Poll::Ready(Err(_))));
    assert!(matches!(poll(&mut closing), Poll::Ready(Err(CallError::TimedOut { .. }))));
}

#[test]
fn a_publish_that_waits_too_long_for_the_window_says_so() {
    let (mut rig, channel) = rig();
    let after = Duration::from_secs(3);
    let options = PublisherOptions::new().window(1, usize::MAX).timeout(Some(after));
    let publisher = channel.default_exchange().publisher(options).expect("a publisher");
    rig.silence();
    let mut first = Box::pin(publisher.publish("q", "first"));
    assert!(matches!(poll(&mut first), Poll::Ready(Ok(_))));
    let mut second = Box::pin(publisher.publish("q", "second"));
    assert!(poll(&mut second).is_pending());
    rig.turn();
    rig.advance(after - Duration::from_millis(1));
    assert!(poll(&mut second).is_pending());
    rig.advance(Duration::from_millis(1));
    let expected = PublishError::TimedOut { by: HeldBy::Window, after };
    assert_eq!(poll(&mut second).map(|result| result.map(|_| ())), Poll::Ready(Err(expected)));
}
