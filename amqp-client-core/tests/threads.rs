//! Handles in several threads, under every order of events that a random scheduler comes up with. Run as
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test -p amqp-client-core --test threads
//! ```
//!
//! with any number of `SHUTTLE_ITERATIONS`. A lost wake-up is a deadlock here, and found.

#![cfg(shuttle)]

mod harness;

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use amqp_client_core::{CallError, Channel, ClientConfig, Config, PublisherOptions, QueueOptions};
use harness::ClientRig;
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

/// Lets a thread go on that has parked.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok());
    shuttle::check_random(scenario, iterations.unwrap_or(2_000));
}

fn rig() -> (ClientRig, Channel) {
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    let mut rig = ClientRig::new(Config::default().protocol(protocol));
    let channel = rig.open_channel();
    (rig, channel)
}

/// Runs `clients` in threads of their own, and the driver in this one, until they are done.
fn run(mut rig: ClientRig, clients: Vec<Box<dyn FnOnce() + Send>>) {
    let driver = thread::current();
    rig.waker = Waker::from(Arc::new(Unpark(driver.clone())));
    let left = Arc::new(AtomicUsize::new(clients.len()));
    let threads: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let (left, driver) = (left.clone(), driver.clone());
            thread::spawn(move || {
                client();
                left.fetch_sub(1, Ordering::SeqCst);
                driver.unpark();
            })
        })
        .collect();
    while left.load(Ordering::SeqCst) > 0 {
        rig.turn();
        thread::park();
    }
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is done"));
}

fn declare(channel: &Channel, name: &'static str) -> Box<dyn FnOnce() + Send> {
    let channel = channel.clone();
    Box::new(move || {
        let declared = block_on(channel.queue_declare(name, QueueOptions::new()));
        assert_eq!(*declared.expect("it is answered").name(), *name);
    })
}

#[test]
fn each_caller_gets_its_own_reply() {
    check(|| {
        let (rig, channel) = rig();
        run(rig, vec![declare(&channel, "a"), declare(&channel, "b"), declare(&channel, "c")]);
    });
}

#[test]
fn an_abandoned_reply_disturbs_no_other_caller() {
    check(|| {
        let (rig, channel) = rig();
        let dropping = channel.clone();
        let drops = move || drop(dropping.queue_declare("dropped", QueueOptions::new()));
        run(rig, vec![Box::new(drops), declare(&channel, "kept")]);
    });
}

#[test]
fn publishers_wait_for_the_window_and_each_other() {
    check(|| {
        let (rig, channel) = rig();
        let publish = |count: usize| -> Box<dyn FnOnce() + Send> {
            let channel = channel.clone();
            Box::new(move || {
                let options = PublisherOptions::new().window(1, usize::MAX);
                let publisher = channel.default_exchange().publisher(options).expect("it is open");
                for _ in 0..count {
                    block_on(publisher.send("q", "message")).expect("it is confirmed");
                }
                block_on(publisher.wait_for_confirms()).expect("they are confirmed");
            })
        };
        let clients = vec![publish(2), publish(2)];
        run(rig, clients);
    });
}

/// It may have been called just before.
#[test]
fn a_publisher_that_gives_up_passes_on_its_turn() {
    check(|| {
        let (rig, channel) = rig();
        let options = PublisherOptions::new().window(1, usize::MAX);
        let publisher = channel.default_exchange().publisher(options).expect("it is open");
        let publish = || -> Box<dyn FnOnce() + Send> {
            let publisher = publisher.clone();
            Box::new(move || block_on(publisher.send("q", "message")).expect("it is confirmed"))
        };
        let giving_up = publisher.clone();
        let gives_up = move || {
            for _ in 0..2 {
                let mut published = pin!(giving_up.publish("q", "message"));
                let mut context = Context::from_waker(Waker::noop());
                let _maybe = published.as_mut().poll(&mut context);
                thread::yield_now();
            }
        };
        run(rig, vec![publish(), Box::new(gives_up), publish()]);
    });
}

/// A future that wakes up and waits again, with another waker each time.
#[test]
fn waiting_for_confirms_ends_with_the_last_one() {
    check(|| {
        let (rig, channel) = rig();
        let publisher = channel.default_exchange().publisher(PublisherOptions::new());
        let publisher = publisher.expect("it is open");
        let publish = || -> Box<dyn FnOnce() + Send> {
            let publisher = publisher.clone();
            Box::new(move || {
                drop(block_on(publisher.publish("q", "message")).expect("it is sent"));
                block_on(publisher.wait_for_confirms()).expect("they are confirmed");
            })
        };
        run(rig, vec![publish(), publish()]);
    });
}

/// Futures that come and go while another waits for the same thing.
#[test]
fn waiting_for_the_close_ends_whatever_others_do() {
    check(|| {
        let (rig, channel) = rig();
        let connection = rig.connection.clone();
        let looks = move || {
            for _ in 0..3 {
                let mut closed = pin!(connection.closed());
                let mut context = Context::from_waker(Waker::noop());
                let _maybe = closed.as_mut().poll(&mut context);
                thread::yield_now();
            }
        };
        let (looking, connection) = (thread::spawn(looks), rig.connection.clone());
        let waits = thread::spawn(move || {
            block_on(connection.closed());
        });
        drop(channel);
        drop(rig);
        looking.join().expect("the thread is done");
        waits.join().expect("the thread is done");
    });
}

#[test]
fn a_consumer_hears_of_every_delivery() {
    check(|| {
        let (mut rig, channel) = rig();
        let mut consumer = rig.consume(&channel);
        rig.peer.deliver(channel.id(), consumer.tag(), 3, b"message");
        let consume = move || {
            for _ in 0..3 {
                let delivery = block_on(consumer.next()).expect("not cancelled").expect("open");
                delivery.ack().expect("the channel is open");
            }
        };
        run(rig, vec![Box::new(consume), declare(&channel, "a")]);
    });
}

#[test]
fn every_waiting_task_is_notified_of_the_close() {
    check(|| {
        let (mut rig, channel) = rig();
        rig.silence();
        let dropped = Arc::new(AtomicBool::new(false));
        let client = |name: &'static str| {
            let (channel, dropped) = (channel.clone(), dropped.clone());
            thread::spawn(move || {
                let declared = block_on(channel.queue_declare(name, QueueOptions::new()));
                assert!(matches!(declared, Err(CallError::Ended(_))));
                assert!(dropped.load(Ordering::SeqCst));
            })
        };
        let threads = [client("a"), client("b")];
        dropped.store(true, Ordering::SeqCst);
        drop(rig);
        threads.into_iter().for_each(|thread| thread.join().expect("the thread is done"));
    });
}
