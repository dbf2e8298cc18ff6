//! Deadlines, in virtual time: the rig's server replies to what it knows, and to nothing else.

mod harness;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::{Arguments as _, QueuePurge};
use amqp_client_core::{
    CallError, Channel, ClientConfig, Config, ConfirmError, Confirmation, Gate, OnLoss,
    PublishError, Publisher, PublisherOptions, QueueOptions, Recovery, Settings,
};
use bytes::Bytes;
use harness::ClientRig;

/// A client whose server does not reply to `queue.purge`.
fn rig() -> (ClientRig, Channel) {
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    let settings =
        Settings::default().call_timeout(Some(10 * SECOND)).confirm_timeout(Some(5 * SECOND));
    let mut rig = ClientRig::new(Config::default().protocol(protocol).settings(settings));
    rig.peer.ignores_purges = true;
    let channel = rig.open_channel();
    (rig, channel)
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_request_without_reply_times_out_and_leaves_the_channel_usable() {
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
    // A late reply to it would not count for the next request.
    let (mut rig, channel) = self::rig();
    let declare = channel.queue_declare("q", QueueOptions::new());
    assert!(rig.run(declare).is_ok());
}

#[test]
fn an_explicit_deadline_counts_from_when_it_is_set() {
    let (mut rig, channel) = rig();
    let mut purge = channel.queue_purge("q");
    rig.advance(Duration::from_secs(5));
    purge = purge.timeout(Duration::from_secs(8));
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
fn a_publish_that_waits_too_long_for_the_window_names_the_window() {
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
    let expected = PublishError::TimedOut { gate: Gate::Window, after };
    assert_eq!(poll(&mut second).map(|result| result.map(|_| ())), Poll::Ready(Err(expected)));
}

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;

/// A link that takes this much a second, in pieces, and before each piece nothing.
fn pass(rig: &mut ClientRig, time: Duration, rate: usize) {
    const PIECES: usize = 10;
    for _ in 0..PIECES {
        rig.room = rate * time.as_secs() as usize / PIECES;
        rig.advance(time / PIECES as u32);
    }
    rig.room = 0;
}

/// A publisher whose body of 30 MiB is on a link that takes nothing yet, and another channel.
fn behind_a_body() -> (ClientRig, Publisher, Channel) {
    let (mut rig, channel) = rig();
    let other = rig.open_channel();
    let options = PublisherOptions::new().window(1000, usize::MAX).timeout(Some(5 * SECOND));
    let publisher = channel.default_exchange().publisher(options).expect("open");
    rig.turn();
    rig.room = 0;
    let _nobody_waits = publish(&publisher, 30 * MIB);
    (rig, publisher, other)
}

fn publish(publisher: &Publisher, size: usize) -> Confirmation {
    publisher.try_publish("q", Bytes::from(vec![7; size])).expect("there is room")
}

fn is_timed_out<T>(polled: &Poll<Result<T, CallError>>) -> bool {
    matches!(polled, Poll::Ready(Err(CallError::TimedOut { .. })))
}

#[test]
fn a_request_behind_a_large_body_gets_its_reply_however_long_that_takes() {
    for (rate, soon) in [(2 * MIB, 1), (100_000, 4)] {
        // Requests of other channels go ahead of the body.
        for is_ahead in [true, false] {
            let (mut rig, publisher, other) = behind_a_body();
            let channel = if is_ahead { &other } else { publisher.channel() };
            let mut asked = channel.queue_declare("q", QueueOptions::new()).timeout(5 * SECOND);
            let mut seconds = 0;
            let answer = loop {
                if let Poll::Ready(answer) = poll(&mut asked) {
                    break answer;
                }
                pass(&mut rig, SECOND, rate);
                seconds += 1;
            };
            assert!(answer.is_ok());
            assert!(if is_ahead { seconds <= soon } else { seconds >= 15 }, "{seconds}");
        }
    }
}

/// A message of another channel goes ahead of a request that waits behind a body, so the request has to wait for both.
#[test]
fn a_request_that_is_overtaken_gets_its_reply_however_long_that_takes() {
    for is_taken_with_the_body in [false, true] {
        let (mut rig, publisher, other) = behind_a_body();
        let ask =
            || publisher.channel().queue_declare("q", QueueOptions::new()).timeout(5 * SECOND);
        let early = is_taken_with_the_body.then(ask);
        rig.turn();
        let mut asked = early.unwrap_or_else(ask);
        let options = PublisherOptions::new().window(1000, usize::MAX);
        let overtaking = other.default_exchange().publisher(options).expect("open");
        let _nobody_waits = publish(&overtaking, 30 * MIB);
        let mut seconds = 0;
        let answer = loop {
            if let Poll::Ready(answer) = poll(&mut asked) {
                break answer;
            }
            pass(&mut rig, SECOND, MIB);
            seconds += 1;
        };
        assert!(answer.is_ok() && seconds >= 50, "{seconds} s");
    }
}

/// Once all is written that was queued with it, bytes that follow make no difference.
#[test]
fn a_request_that_has_overtaken_a_body_times_out() {
    let (mut rig, publisher, other) = behind_a_body();
    rig.turn();
    let options = PublisherOptions::new().window(1000, usize::MAX);
    let overtaking = other.default_exchange().publisher(options).expect("open");
    let _nobody_waits = publish(&overtaking, 200_000);
    let mut asked = other.queue_purge("q").timeout(10 * SECOND);
    rig.turn();
    rig.silence();
    rig.room = usize::MAX;
    rig.turn();
    let mut seconds = 0;
    while !is_timed_out(&poll(&mut asked)) {
        assert!(seconds < 12, "it waits for bytes that are not queued");
        let _nobody_waits = publish(&publisher, 10);
        rig.advance(SECOND);
        seconds += 1;
    }
    assert!(seconds >= 10, "{seconds} s");
}

#[test]
fn every_wait_for_the_broker_counts_from_when_it_can_know() {
    let (mut rig, publisher, other) = behind_a_body();
    let closing = publisher.channel().clone();
    let connection = rig.connection.clone();
    let mut purge = other.queue_purge("q");
    let mut open = rig.connection.open_channel();
    let mut close = Box::pin(async move { closing.close().await });
    let mut secret = Box::pin(connection.update_secret("secret", ""));
    assert!(poll(&mut close).is_pending() && poll(&mut secret).is_pending());
    rig.turn();
    // The server receives all of it and replies nothing.
    rig.silence();
    for _ in 0..29 {
        pass(&mut rig, SECOND, MIB);
        assert!(poll(&mut purge).is_pending() && poll(&mut open).is_pending());
        assert!(poll(&mut close).is_pending() && poll(&mut secret).is_pending());
    }
    pass(&mut rig, 2 * SECOND, MIB);
    rig.room = usize::MAX;
    rig.turn();
    rig.advance(9 * SECOND);
    assert!(poll(&mut purge).is_pending() && poll(&mut open).is_pending());
    assert!(poll(&mut close).is_pending() && poll(&mut secret).is_pending());
    rig.advance(SECOND);
    assert!(is_timed_out(&poll(&mut purge)) && is_timed_out(&poll(&mut close)));
    assert!(is_timed_out(&poll(&mut secret)) && matches!(poll(&mut open), Poll::Ready(Err(_))));
}

#[test]
fn a_request_ends_when_the_link_stops() {
    for stops_after in 0..3 {
        let (mut rig, _publisher, other) = behind_a_body();
        let mut asked = other.queue_purge("q").timeout(5 * SECOND);
        rig.turn();
        for _ in 0..stops_after {
            pass(&mut rig, 4 * SECOND, MIB);
            rig.advance(4 * SECOND);
            assert!(poll(&mut asked).is_pending());
        }
        rig.advance(SECOND - Duration::from_millis(1));
        let left = if stops_after == 0 { 4 * SECOND } else { Duration::ZERO };
        rig.advance(left);
        assert!(poll(&mut asked).is_pending(), "{stops_after}");
        rig.advance(Duration::from_millis(1));
        assert!(is_timed_out(&poll(&mut asked)), "{stops_after}");
    }
}

#[test]
fn publishes_behind_a_request_do_not_extend_its_deadline() {
    let (mut rig, publisher, other) = behind_a_body();
    let mut asked = other.queue_purge("q").timeout(5 * SECOND);
    for _ in 0..30 {
        pass(&mut rig, SECOND, MIB);
        assert!(poll(&mut asked).is_pending());
    }
    for _ in 0..5 {
        let _nobody_waits = publish(&publisher, MIB);
        assert!(poll(&mut asked).is_pending());
        pass(&mut rig, SECOND, MIB);
    }
    pass(&mut rig, SECOND, MIB);
    assert!(is_timed_out(&poll(&mut asked)));
}

#[test]
fn confirms_of_messages_being_written_are_awaited() {
    for moves in [true, false] {
        let (mut rig, publisher, _other) = behind_a_body();
        rig.room = usize::MAX;
        rig.turn();
        rig.room = 0;
        let mut confirmation = publish(&publisher, 30 * MIB);
        let mut drained = Box::pin(publisher.wait_for_confirms());
        let limit = if moves { 29 } else { 5 };
        for _ in 0..limit {
            assert!(poll(&mut confirmation).is_pending() && poll(&mut drained).is_pending());
            pass(&mut rig, SECOND, if moves { MIB } else { 0 });
        }
        pass(&mut rig, 2 * SECOND, if moves { MIB } else { 0 });
        let timed_out = Err(ConfirmError::TimedOut { after: 5 * SECOND });
        let expected = Poll::Ready(if moves { Ok(()) } else { timed_out });
        assert_eq!(poll(&mut confirmation), expected);
        assert_eq!(poll(&mut drained), expected);
    }
}

#[test]
fn publishes_wait_for_the_transport_as_long_as_it_moves() {
    for moves in [true, false] {
        let (mut rig, publisher, _other) = behind_a_body();
        // Those that wait in front of it are ahead as well.
        let mut waiting: Vec<_> = (0..10)
            .map(|_| Box::pin(publisher.publish("q", Bytes::from(vec![7; 10 * MIB]))))
            .collect();
        for one in &mut waiting {
            assert!(poll(one).is_pending());
        }
        // The driver takes the body, and there is room for one more.
        rig.turn();
        assert!(matches!(poll(&mut waiting.remove(0)), Poll::Ready(Ok(_))));
        for second in 0..140 {
            waiting.retain_mut(|one| match poll(one) {
                Poll::Pending => true,
                Poll::Ready(Ok(_)) if moves => false,
                Poll::Ready(Err(PublishError::TimedOut { gate: Gate::Full, .. })) => {
                    assert!(!moves && second >= 5);
                    false
                }
                Poll::Ready(result) => panic!("{result:?}"),
            });
            pass(&mut rig, SECOND, if moves { MIB } else { 0 });
        }
        assert!(waiting.is_empty());
    }
}

#[test]
fn a_close_is_waited_for_behind_a_large_body() {
    for rate in [MIB, 0] {
        let (mut rig, _publisher, _other) = behind_a_body();
        let connection = rig.connection.clone();
        let mut closing = Box::pin(async move { connection.close().await });
        assert!(poll(&mut closing).is_pending());
        for _ in 0..9 {
            pass(&mut rig, SECOND, rate);
        }
        assert!(poll(&mut closing).is_pending());
        for _ in 0..31 {
            pass(&mut rig, SECOND, rate);
        }
        let closed = poll(&mut closing);
        assert!(
            matches!(&closed, Poll::Ready(result) if result.is_ok() == (rate > 0)),
            "{closed:?}"
        );
    }
}

#[test]
fn a_shutdown_counts_all_its_grace() {
    let (mut rig, _publisher, _other) = behind_a_body();
    let connection = rig.connection.clone();
    let mut shutdown = Box::pin(async move { connection.shutdown(5 * SECOND).await });
    for second in 0..40 {
        let done = poll(&mut shutdown);
        if let Poll::Ready(left) = done {
            // The close is queued after the body, and the body is still written.
            assert!(second >= 30, "{second}");
            assert_eq!(left.expect("it closes").unconfirmed, 1);
            return;
        }
        pass(&mut rig, SECOND, MIB);
    }
    panic!("it does not end");
}

#[test]
fn dropping_requests_behind_a_body_leaves_nothing() {
    let (mut rig, _publisher, other) = behind_a_body();
    for _ in 0..5000 {
        let mut asked = other.queue_declare("q", QueueOptions::new());
        assert!(poll(&mut asked).is_pending());
        rig.turn();
    }
    let mut last = other.queue_declare("q", QueueOptions::new()).timeout(SECOND);
    for _ in 0..40 {
        pass(&mut rig, SECOND, MIB);
    }
    assert!(matches!(poll(&mut last), Poll::Ready(Ok(_))));
}

#[test]
fn without_time_a_request_ends_at_once_and_with_all_time_never() {
    let (mut rig, _publisher, other) = behind_a_body();
    let mut at_once = other.queue_purge("q").timeout(Duration::ZERO);
    let mut never = other.queue_purge("q").timeout(Duration::MAX);
    pass(&mut rig, SECOND, MIB);
    assert!(is_timed_out(&poll(&mut at_once)));
    rig.advance(Duration::from_secs(1_000_000_000));
    assert!(poll(&mut never).is_pending());
}

#[test]
fn a_message_that_is_sent_again_is_waited_for_while_it_is_written() {
    for moves in [true, false] {
        let (mut rig, channel) = rig();
        rig.recover();
        let options = PublisherOptions::new().on_loss(OnLoss::Keep);
        let publisher = channel.default_exchange().publisher(options).expect("open");
        rig.turn();
        rig.room = 0;
        let mut confirmation = publish(&publisher, 10 * MIB);
        for _ in 0..9 {
            assert!(poll(&mut confirmation).is_pending());
            pass(&mut rig, SECOND, MIB);
        }
        rig.lose();
        // It is open again, and has all of the body before it.
        rig.room = MIB;
        rig.turn();
        for _ in 0..9 {
            rig.room = 0;
            assert!(poll(&mut confirmation).is_pending());
            if !moves {
                break;
            }
            pass(&mut rig, SECOND, MIB);
        }
        if moves {
            rig.room = usize::MAX;
            rig.turn();
            assert_eq!(poll(&mut confirmation), Poll::Ready(Ok(())));
        } else {
            rig.advance(5 * SECOND);
            let timed_out = ConfirmError::TimedOut { after: 5 * SECOND };
            assert_eq!(poll(&mut confirmation), Poll::Ready(Err(timed_out)));
        }
    }
}

#[test]
fn an_outage_counts() {
    let (mut rig, channel) = rig();
    rig.recover_with(Recovery::default().delay_max(SECOND / 10));
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let publisher = channel.default_exchange().publisher(options).expect("open");
    rig.turn();
    rig.room = 0;
    let _nobody_waits = publish(&publisher, 10 * MIB);
    rig.turn();
    // The driver did not take this one, and never will.
    let mut confirmation = publish(&publisher, 5 * MIB);
    assert!(poll(&mut confirmation).is_pending());
    rig.turn();
    rig.lose();
    // The request waits until the channel is restored. Every connection moves a few bytes, and is lost again.
    let mut asked = channel.queue_purge("q").timeout(5 * SECOND);
    let begun = rig.now();
    let (mut answered, mut confirmed) = (false, false);
    while !answered || !confirmed {
        rig.room = 8;
        rig.turn();
        answered |= is_timed_out(&poll(&mut asked));
        confirmed |= matches!(poll(&mut confirmation), Poll::Ready(Err(_)));
        rig.advance(SECOND / 10);
        rig.lose();
    }
    let took = rig.now() - begun;
    assert!((5 * SECOND..6 * SECOND).contains(&took), "{took:?}");
}

#[test]
fn many_requests_behind_a_large_body_all_get_replies() {
    let (mut rig, publisher, _other) = behind_a_body();
    let channel = publisher.channel();
    let asked = |_| channel.queue_declare("q", QueueOptions::new());
    let mut replies: Vec<_> = (0..200).map(asked).collect();
    for _ in 0..29 {
        pass(&mut rig, SECOND, MIB);
        // Every other one is abandoned at some point, and a new one is made.
        let _given_up = replies.pop();
        replies.insert(0, channel.queue_declare("q", QueueOptions::new()).timeout(SECOND));
        assert!(replies.iter_mut().all(|reply| poll(reply).is_pending()));
    }
    pass(&mut rig, 2 * SECOND, MIB);
    assert!(replies.iter_mut().all(|reply| matches!(poll(reply), Poll::Ready(Ok(_)))));
}

/// The broker closes one channel over something else, and the connection goes on.
#[test]
fn a_channel_that_is_opened_again_is_waited_for_while_its_messages_are_written() {
    for moves in [true, false] {
        let (mut rig, channel) = rig();
        rig.recover_with(Recovery::default().reopen_channels(true));
        let options = PublisherOptions::new().on_loss(OnLoss::Keep);
        let publisher = channel.default_exchange().publisher(options).expect("open");
        let other = rig.open_channel();
        rig.turn();
        let mut confirmation = publish(&publisher, 10 * MIB);
        assert!(poll(&mut confirmation).is_pending());
        rig.write(true);
        let cause = (QueuePurge::CLASS_ID, QueuePurge::METHOD_ID);
        rig.peer.refuse(channel.id(), ReplyCode::NOT_FOUND, cause);
        // The session sends all of it again. A request waits behind it.
        let mut elsewhere = other.queue_purge("q").timeout(7 * SECOND);
        let mut asked = None;
        for _ in 0..10 {
            rig.answer_all();
            asked.get_or_insert_with(|| channel.basic_qos(10).timeout(5 * SECOND));
            rig.room = MIB / 10;
            rig.write(true);
        }
        let mut asked = asked.expect("asked");
        rig.room = 0;
        for second in 0..8 {
            assert!(poll(&mut confirmation).is_pending() && poll(&mut asked).is_pending());
            // A request on another channel has no reply yet, and is not affected.
            assert_eq!(poll(&mut elsewhere).is_ready(), second == 7);
            if !moves {
                break;
            }
            pass(&mut rig, SECOND, MIB);
        }
        if moves {
            rig.room = usize::MAX;
            rig.turn();
            assert!(matches!(poll(&mut confirmation), Poll::Ready(Ok(()))));
            assert!(matches!(poll(&mut asked), Poll::Ready(Ok(_))));
        } else {
            rig.advance(5 * SECOND);
            assert!(matches!(poll(&mut asked), Poll::Ready(Err(CallError::TimedOut { .. }))));
            let timed_out = ConfirmError::TimedOut { after: 5 * SECOND };
            assert_eq!(poll(&mut confirmation), Poll::Ready(Err(timed_out)));
        }
    }
}

#[test]
fn time_is_measured_from_the_call_and_through_outages() {
    let (mut rig, _channel) = rig();
    rig.recover_with(Recovery::default().delay_max(SECOND / 10));
    let mut never = rig.connection.after(Duration::MAX);
    let mut after = rig.connection.after(5 * SECOND);
    let begun = rig.now();
    assert_eq!((after.left(), never.left()), (5 * SECOND, Duration::MAX));
    rig.turn();
    rig.advance(2 * SECOND);
    assert_eq!((after.left(), never.left()), (3 * SECOND, Duration::MAX));
    // One that is polled for the first time only now has waited, too.
    assert!(poll(&mut after).is_pending() && poll(&mut never).is_pending());
    while poll(&mut after).is_pending() {
        rig.lose();
        rig.advance(SECOND / 100);
        assert_eq!(after.left(), (begun + 5 * SECOND).saturating_duration_since(rig.now()));
    }
    let took = rig.now() - begun;
    assert!((5 * SECOND..6 * SECOND).contains(&took), "{took:?}");
    rig.advance(Duration::from_secs(1_000_000_000));
    // Once ready, it stays ready.
    assert_eq!(poll(&mut after), Poll::Ready(Ok(())));
    assert_eq!((after.left(), never.left()), (Duration::ZERO, Duration::MAX));
    assert!(poll(&mut never).is_pending());
}

#[test]
fn without_a_driver_nothing_measures_time() {
    let (mut rig, channel) = rig();
    let connection = channel.connection().clone();
    let (mut passed, mut after) = (connection.after(SECOND), connection.after(2 * SECOND));
    assert!(poll(&mut passed).is_pending() && poll(&mut after).is_pending());
    rig.turn();
    rig.advance(SECOND);
    drop(rig);
    assert_eq!(poll(&mut passed), Poll::Ready(Ok(())));
    let Poll::Ready(Err(error)) = poll(&mut after) else { panic!("it waits for nobody") };
    assert_eq!(poll(&mut connection.after(Duration::ZERO)), Poll::Ready(Err(error)));
}

#[test]
fn waits_that_are_dropped_leave_neither_tasks_nor_timers() {
    struct Task;
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let (mut rig, channel) = rig();
    let task = Arc::new(Task);
    let waker = Waker::from(task.clone());
    for _ in 0..10_000 {
        let mut after = channel.connection().after(SECOND);
        assert!(Pin::new(&mut after).poll(&mut Context::from_waker(&waker)).is_pending());
        rig.turn();
    }
    drop(waker);
    assert_eq!(Arc::strong_count(&task), 1);
    // The only timer that is left is this one, and it is the next.
    let mut after = channel.connection().after(2 * SECOND);
    rig.turn();
    assert_eq!(rig.wake_at(), Some(rig.now() + 2 * SECOND));
    rig.advance(2 * SECOND);
    assert_eq!(poll(&mut after), Poll::Ready(Ok(())));
}
