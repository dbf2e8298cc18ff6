//! The driver is woken only when there is work: a turn costs more than a message.

mod harness;

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{Config, QueueOptions};
use harness::ClientRig;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_consumer_that_always_has_a_delivery_lets_the_driver_run() {
    // With the driver on the same thread, and on another.
    for shared in [true, false] {
        let mut rig = ClientRig::new(Config::default());
        let channel = rig.open_channel();
        let mut consumer = rig.consume(&channel);
        rig.peer.deliver(channel.id(), consumer.tag(), 1000, b"work");
        rig.turn();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let (mut taken, mut streak, mut yields) = (0, 0, 0);
        while taken < 1000 {
            if !shared {
                rig.write(true);
            }
            let polled = pin!(consumer.next()).poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                taken += 1;
                streak += 1;
                assert!(!shared || streak <= 130, "the driver waits forever");
            } else {
                yields += 1;
                assert_eq!(count.0.load(Ordering::Relaxed), yields, "it comes back by itself");
                streak = 0;
                rig.write(true);
            }
        }
        assert_eq!(yields > 0, shared);
    }
}

#[test]
fn a_reply_that_was_taken_leaves_no_work() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    assert!(rig.is_wanted(), "there is a request to write");
    rig.run(declaring).expect("it is declared");
    assert!(!rig.is_wanted());
    // An abandoned request is different: its reply may have an effect that has to be undone.
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    rig.write(true);
    assert!(!rig.is_wanted());
    drop(declaring);
    assert!(rig.is_wanted());
}

/// Nobody else ends the wait: the grace is timed by the driver.
#[test]
fn a_shutdown_is_woken_when_the_driver_is_dropped() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"work");
    rig.turn();
    let unsettled = consumer.try_next().expect("it was delivered");
    let connection = rig.connection.clone();
    let mut shutdown = pin!(connection.shutdown(Duration::from_secs(60)));
    rig.turn();
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    assert!(shutdown.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(rig);
    assert!(count.0.load(Ordering::Relaxed) > 0, "nobody wakes it any more");
    let Poll::Ready(ended) = shutdown.as_mut().poll(&mut Context::from_waker(&waker)) else {
        panic!("it goes on without a driver");
    };
    assert_eq!(ended.expect_err("it was not closed"), ConnectionError::DriverGone);
    drop(unsettled);
}
