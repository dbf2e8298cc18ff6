//! The driver is woken for what there is to do, and for nothing else: a turn costs more than a message.

mod rig;

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use amqp_client_core::{Config, ConsumeOptions, QueueOptions};
use rig::Rig;

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
        let mut rig = Rig::new(Config::default());
        let opening = rig.connection.open_channel();
        let channel = rig.run(opening).expect("a channel");
        let consuming = channel.basic_consume("q", ConsumeOptions::new());
        let mut consumer = rig.run(consuming).expect("a consumer");
        rig.deliver(channel.id(), consumer.tag(), 1000, b"work");
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
                assert!(!shared || streak <= 130, "the driver waits for ever");
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
fn an_answer_that_was_taken_leaves_nothing_to_do() {
    let mut rig = Rig::new(Config::default());
    let opening = rig.connection.open_channel();
    let channel = rig.run(opening).expect("a channel");
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    assert!(rig.is_wanted(), "there is a request to write");
    rig.run(declaring).expect("it is declared");
    assert!(!rig.is_wanted());
    // One that nobody waits for any more is another matter: what it brings may have to be undone.
    let declaring = channel.queue_declare("queue", QueueOptions::new());
    rig.write(true);
    assert!(!rig.is_wanted());
    drop(declaring);
    assert!(rig.is_wanted());
}
