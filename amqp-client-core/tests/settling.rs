//! The methods that settle deliveries. RabbitMQ 4.3 counts `basic.reject` as a failed delivery, `basic.nack` not.

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use amqp_client_core::proto::method::{BasicCancel, BasicNack, BasicReject, Method};
use amqp_client_core::proto::{ClientConfig, Limits};
use amqp_client_core::{Channel, Config, ConsumeOptions, Consumer, OnPanic, QueueOptions};
use harness::ClientRig;

/// A consumer with these deliveries, of which it has seen none.
fn consuming(count: u64) -> (ClientRig, Channel, Consumer) {
    let mut rig = ClientRig::new(Config::default());
    rig.peer.record();
    let channel = rig.open_channel();
    let queue = rig.run(channel.queue_declare("queue", QueueOptions::new())).expect("declared");
    let consumer = rig.run(queue.consume(ConsumeOptions::new())).expect("consumes");
    rig.peer.deliver(channel.id(), consumer.tag(), count, b"body");
    rig.answer_all();
    rig.peer.methods.clear();
    (rig, channel, consumer)
}

/// Returns the methods of the client that settle deliveries.
fn settlements(rig: &mut ClientRig) -> Vec<Method> {
    rig.turn();
    let mut methods = std::mem::take(&mut rig.peer.methods);
    methods.retain(|method| {
        matches!(method, Method::BasicAck(_) | Method::BasicNack(_) | Method::BasicReject(_))
    });
    methods
}

fn nack(delivery_tag: u64, requeue: bool) -> Method {
    BasicNack { delivery_tag, multiple: false, requeue }.into()
}

fn reject(delivery_tag: u64, requeue: bool) -> Method {
    BasicReject { delivery_tag, requeue }.into()
}

#[test]
fn nack_is_a_nack_and_reject_a_reject() {
    let (mut rig, channel, mut consumer) = consuming(8);
    let mut next = || consumer.try_next().expect("it was delivered");
    next().nack(true).expect("it waits");
    next().nack(false).expect("it waits");
    next().reject(true).expect("it waits");
    next().reject(false).expect("it waits");
    channel.basic_nack(next().into_message().delivery_tag(), true).expect("it waits");
    channel.basic_reject(next().into_message().delivery_tag(), true).expect("it waits");
    drop(next().into_message());
    next().nack_up_to(true).expect("they wait");
    let all: Method = BasicNack { delivery_tag: 8, multiple: true, requeue: true }.into();
    let expected =
        [nack(1, true), nack(2, false), reject(3, true), reject(4, false), nack(5, true)];
    let expected: Vec<_> = expected.into_iter().chain([reject(6, true), all]).collect();
    assert_eq!(settlements(&mut rig), expected);
}

#[test]
fn untouched_deliveries_are_requeued_without_blame() {
    // Of three deliveries the first is taken and dropped, the second is taken from the channel but not handed out.
    let (mut rig, channel, mut consumer) = consuming(2);
    drop(consumer.try_next().expect("it was delivered"));
    rig.peer.deliver(channel.id(), &consumer.tag().clone(), 1, b"body");
    rig.answer_all();
    let tag = consumer.tag().clone();
    drop(consumer);
    // The broker had sent one more before.
    rig.peer.deliver(channel.id(), &tag, 1, b"body");
    rig.answer_all();
    let mut settled = settlements(&mut rig);
    settled.sort_by_key(|method| format!("{method:?}"));
    assert_eq!(settled, [1, 2, 3, 4].map(|tag| nack(tag, true)));
}

#[test]
fn a_shutdown_requeues_without_blame() {
    let (mut rig, channel, consumer) = consuming(2);
    let connection = rig.connection.clone();
    let mut shutdown = Box::pin(connection.shutdown(Duration::from_secs(1)));
    assert!(rig.poll(shutdown.as_mut()).is_none());
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    rig.answer_all();
    let mut settled = settlements(&mut rig);
    // At last, for whatever else the broker had sent.
    let all: Method = BasicNack { delivery_tag: 0, multiple: true, requeue: true }.into();
    assert_eq!(settled.pop(), Some(all));
    assert_eq!(settled, [1, 2, 3].map(|tag| nack(tag, true)));
}

/// Otherwise, messages delivered to that consumer between the last nack and the close would stay unsettled.
#[test]
fn a_consumer_that_is_started_during_the_grace_of_a_shutdown_is_stopped_as_well() {
    // While the shutdown waits, and when it has waited for as long as it may.
    for in_time in [true, false] {
        let (mut rig, channel, mut consumer) = consuming(1);
        let taken = consumer.try_next().expect("it was delivered");
        let connection = rig.connection.clone();
        let mut shutdown = Box::pin(connection.shutdown(Duration::from_secs(1)));
        assert!(rig.poll(shutdown.as_mut()).is_none());
        let mut late = rig.consume(&channel);
        rig.peer.deliver(channel.id(), late.tag(), 2, b"body");
        rig.turn();
        rig.peer.methods.clear();
        if in_time {
            assert!(rig.poll(shutdown.as_mut()).is_none(), "a delivery is not settled");
            assert!(matches!(rig.poll(pin!(late.next())), Some(None)), "it ends as all others");
            taken.ack().expect("it waits");
        } else {
            rig.advance(Duration::from_secs(2));
        }
        let left = rig.run(shutdown).expect("it is closed");
        assert_eq!((left.unsettled > 0, left.is_nothing()), (!in_time, in_time));
        let is_cancel = |method: &Method| matches!(method, Method::BasicCancel(_));
        let all: Method = BasicNack { delivery_tag: 0, multiple: true, requeue: true }.into();
        let cancelled = rig.peer.methods.iter().position(is_cancel).expect("it is cancelled");
        let requeued = rig.peer.methods.iter().position(|method| *method == all);
        assert!(requeued.is_none_or(|at| at > cancelled), "{:?}", rig.peer.methods);
    }
}

/// The number of its channel may belong to another one, whose deliveries have the same numbers.
#[test]
fn a_shutdown_returns_nothing_of_a_channel_that_is_closed() {
    let (mut rig, channel, _consumer) = consuming(2);
    rig.run(channel.close()).expect("it is closed");
    rig.peer.methods.clear();
    let connection = rig.connection.clone();
    let left = rig.run(connection.shutdown(Duration::ZERO)).expect("it is closed");
    assert_eq!(left.untaken, 0, "the broker has requeued them");
    assert_eq!(settlements(&mut rig), []);
}

#[test]
fn deliveries_in_flight_to_a_dropped_channel_are_requeued_without_blame() {
    let all = || -> Method { BasicNack { delivery_tag: 0, multiple: true, requeue: true }.into() };
    let ends = |rig: &mut ClientRig| {
        rig.turn();
        let ends = |method: &Method| {
            *method == all() || matches!(method, Method::BasicCancel(_)) || *method == nack(1, true)
        };
        std::mem::take(&mut rig.peer.methods).into_iter().filter(ends).collect::<Vec<_>>()
    };
    // The broker has sent a second delivery, but it is not here yet: tag 0 speaks for it as well.
    let (mut rig, channel, consumer) = consuming(1);
    let tag = consumer.tag().clone();
    rig.peer.deliver(channel.id(), &tag, 1, b"body");
    drop((channel, consumer));
    let cancel: Method = BasicCancel { consumer_tag: tag.clone(), no_wait: false }.into();
    assert_eq!(ends(&mut rig), [cancel.clone(), nack(1, true), all()]);

    let (mut rig, channel, consumer) = consuming(1);
    rig.peer.deliver(channel.id(), &tag, 1, b"body");
    let connection = rig.connection.clone();
    rig.run(connection.shutdown(Duration::ZERO)).expect("it closes");
    assert_eq!(ends(&mut rig), [cancel, nack(1, true), all()]);
    drop(consumer);

    // On a channel without deliveries, nothing is sent.
    let mut rig = ClientRig::new(Config::default());
    drop(rig.open_channel());
    assert_eq!(ends(&mut rig), []);
}

#[test]
fn a_handler_that_panics_is_to_blame() {
    for (on_panic, requeue) in
        [(OnPanic::Propagate, true), (OnPanic::Requeue, true), (OnPanic::Reject, false)]
    {
        let (mut rig, _channel, consumer) = consuming(2);
        let handling =
            Box::pin(consumer.on_panic(on_panic).for_each_concurrent(1, async |delivery| {
                match delivery.delivery_tag().get() {
                    1 => panic!("the handler fails"),
                    // Given up, but nothing was wrong with it.
                    _ => drop(delivery),
                }
            }));
        let mut handling = handling;
        let polled = catch_unwind(AssertUnwindSafe(|| rig.poll(handling.as_mut())));
        assert_eq!(polled.is_err(), on_panic == OnPanic::Propagate);
        drop(handling);
        assert_eq!(settlements(&mut rig), [reject(1, requeue), nack(2, true)], "{on_panic:?}");
    }
}

/// A panic that propagates drops the other handlers. They have not failed.
#[test]
fn handlers_beside_one_that_panics_are_not_blamed() {
    for at_once in [false, true] {
        let (mut rig, _channel, consumer) = consuming(2);
        let mut handling = Box::pin(consumer.for_each_concurrent(0, |delivery| {
            let panics = delivery.delivery_tag().get() == 2;
            assert!(!(panics && at_once), "the handler fails");
            async move {
                assert!(!panics, "the handler fails");
                std::future::pending::<()>().await;
                drop(delivery);
            }
        }));
        let polled = catch_unwind(AssertUnwindSafe(|| rig.poll(handling.as_mut())));
        assert!(polled.is_err());
        drop(handling);
        let mut settled = settlements(&mut rig);
        settled.sort_by_key(|method| format!("{method:?}"));
        assert_eq!(settled, [nack(1, true), reject(2, true)], "{at_once}");
    }
}

/// A panic of something else in their task drops them. They have not failed.
#[test]
fn handlers_that_a_panic_elsewhere_drops_are_not_blamed() {
    let (mut rig, _channel, consumer) = consuming(2);
    let consumer = consumer.on_panic(OnPanic::Reject);
    let handling = Box::pin(consumer.for_each_concurrent(0, async |delivery| {
        std::future::pending::<()>().await;
        drop(delivery);
    }));
    let mut handling = handling;
    assert!(rig.poll(handling.as_mut()).is_none());
    let task = || {
        let _handling = handling;
        panic!("something else fails");
    };
    assert!(catch_unwind(AssertUnwindSafe(task)).is_err());
    let mut settled = settlements(&mut rig);
    settled.sort_by_key(|method| format!("{method:?}"));
    assert_eq!(settled, [nack(1, true), nack(2, true)]);
}

#[test]
fn a_fetched_message_that_nobody_awaits_is_requeued_without_blame() {
    let (mut rig, channel, consumer) = consuming(0);
    std::mem::forget(consumer);
    for answered in [false, true] {
        let get = channel.basic_get("queue");
        rig.peer.methods.clear();
        rig.turn();
        if answered {
            rig.peer.give(channel.id(), b"body");
            rig.answer_all();
            drop(get);
        } else {
            drop(get);
            rig.peer.give(channel.id(), b"body");
            rig.answer_all();
        }
        let tag = if answered { 2 } else { 1 };
        assert_eq!(settlements(&mut rig), [nack(tag, true)]);
    }
}

/// The same for one that is too large.
#[test]
fn an_oversized_message_that_nobody_awaits_is_requeued_without_blame() {
    for answered in [false, true] {
        let protocol = ClientConfig::default().limits(Limits::default().body_max(3));
        let mut rig = ClientRig::new(Config::default().protocol(protocol));
        rig.peer.record();
        let channel = rig.open_channel();
        let get = channel.basic_get("queue");
        let mut get = Some(get);
        rig.turn();
        rig.peer.methods.clear();
        get.take_if(|_| !answered);
        rig.peer.give(channel.id(), b"body");
        rig.answer_all();
        drop(get);
        assert_eq!(settlements(&mut rig), [nack(1, true)], "{answered}");
    }
}

/// A channel with a consumer that was dropped while it was starting.
fn with_dropped_start() -> (ClientRig, Channel) {
    let mut rig = ClientRig::new(Config::default());
    rig.peer.record();
    let channel = rig.open_channel();
    let mut consuming = Box::pin(channel.basic_consume("queue", ConsumeOptions::new()));
    assert!(rig.poll(consuming.as_mut()).is_none());
    rig.peer.methods.clear();
    drop(consuming);
    (rig, channel)
}

/// A broker may deliver to a consumer that is starting. The consumer can be cancelled only when it has started, and a close before
/// that would count the delivery as failed.
#[test]
fn a_dropped_channel_is_closed_behind_the_cancel_of_a_consumer_that_was_starting() {
    let (mut rig, channel) = with_dropped_start();
    drop(channel);
    rig.turn();
    let names: Vec<_> = rig.peer.methods.iter().map(|method| method.facts().name).collect();
    // The server reports no method behind a close.
    assert_eq!(names, ["basic.consume", "basic.cancel", "basic.nack"]);
    assert_eq!(rig.connection.health().channels, 0);
}

/// The same when the connection shuts down, even if nothing else is waited for.
#[test]
fn a_shutdown_waits_for_the_cancel_of_a_consumer_that_was_starting() {
    for grace in [Duration::ZERO, Duration::from_secs(1)] {
        let (mut rig, _channel) = with_dropped_start();
        let connection = rig.connection.clone();
        let left = rig.run(connection.shutdown(grace)).expect("it closes");
        assert!(left.is_nothing());
        let names: Vec<_> = rig.peer.methods.iter().map(|method| method.facts().name).collect();
        assert_eq!(names[..2], ["basic.consume", "basic.cancel"]);
    }
}

/// The shutdown is dropped while the start of a consumer has no reply. The caller of the start gets its reply all the same.
#[test]
fn a_dropped_shutdown_leaves_a_consumer_that_is_starting_alone() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let mut consuming = Box::pin(channel.basic_consume("queue", ConsumeOptions::new()));
    assert!(rig.poll(consuming.as_mut()).is_none());
    let connection = rig.connection.clone();
    let mut shutdown = Box::pin(connection.shutdown(Duration::from_secs(1)));
    assert!(rig.poll(shutdown.as_mut()).is_none());
    drop(shutdown);
    assert!(rig.run(consuming).is_ok());
}
