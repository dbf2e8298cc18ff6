//! User code that runs when a waker is dropped or woken, a body is dropped, or a callback is called. It may use any handle, so
//! none of it runs under the connection's lock. If it panics, nothing else is affected.

mod harness;

use std::future::Future;
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use amqp_client_core::{
    Channel, Config, Connection, OnLoss, Publisher, PublisherOptions, QueueOptions,
};
use bytes::Bytes;
use harness::ClientRig;

/// Runs a scenario that would wait for its own lock forever, if it was held.
fn in_time(scenario: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        scenario();
        let _gone = done.send(());
    });
    let waited = is_done.recv_timeout(Duration::from_secs(20));
    assert_ne!(
        waited,
        Err(mpsc::RecvTimeoutError::Timeout),
        "code of the user's ran under the lock"
    );
    thread.join().expect("the scenario succeeds");
}

fn rig() -> (ClientRig, Channel) {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    let channel = rig.open_channel();
    (rig, channel)
}

/// Uses handles when it is dropped.
struct Busy {
    channel: Channel,
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Busy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn use_handles(channel: &Channel) {
    let mut asked = pin!(channel.queue_declare_passive("log"));
    let _maybe = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(channel.queue_declare("log", QueueOptions::new()));
    let _health = channel.connection().health();
}

impl Drop for Busy {
    fn drop(&mut self) {
        use_handles(&self.channel);
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

/// Bodies that use a handle of another channel, which stays, when they are dropped.
struct Bodies {
    other: Channel,
    made: usize,
    drops: Arc<AtomicUsize>,
}

impl Bodies {
    fn new(rig: &mut ClientRig) -> Self {
        Self { other: rig.open_channel(), made: 0, drops: Arc::default() }
    }

    fn make(&mut self, size: usize) -> Bytes {
        self.made += 1;
        let (channel, drops) = (self.other.clone(), self.drops.clone());
        Bytes::from_owner(Busy { channel, bytes: vec![7; size], drops })
    }

    fn assert_dropped(&self) {
        assert_eq!(self.drops.load(Ordering::SeqCst), self.made, "of those that were made");
    }
}

/// Small ones are copied, large ones are not, the largest take several frames.
const SIZES: [usize; 3] = [1, 50_000, 300_000];

fn publisher(channel: &Channel, on_loss: OnLoss) -> Publisher {
    let options = PublisherOptions::new().on_loss(on_loss).mandatory(false);
    channel.default_exchange().publisher(options).expect("it is open")
}

#[test]
fn bodies_that_are_sent_and_confirmed() {
    in_time(|| {
        for on_loss in [OnLoss::Wait, OnLoss::Keep] {
            let (mut rig, channel) = rig();
            let mut bodies = Bodies::new(&mut rig);
            let publisher = publisher(&channel, on_loss);
            for size in SIZES {
                rig.run(publisher.send("q", bodies.make(size))).expect("it is confirmed");
                let several = publisher.prepare("q").expect("it is short");
                let all = [bodies.make(size), bodies.make(size)];
                let sent = rig.run(several.publish_all(all)).expect("they are sent");
                rig.run(sent).expect("they are confirmed");
                let sent = publisher.try_publish("q", bodies.make(size)).expect("it is sent");
                rig.run(sent).expect("it is confirmed");
            }
            bodies.assert_dropped();
        }
    });
}

#[test]
fn bodies_that_cannot_be_sent() {
    in_time(|| {
        let (mut rig, channel) = rig();
        let mut bodies = Bodies::new(&mut rig);
        for on_loss in [OnLoss::Wait, OnLoss::Keep] {
            let publisher = publisher(&channel, on_loss);
            for size in SIZES {
                let too_long = "k".repeat(300);
                let published = rig.run(publisher.publish(&too_long, bodies.make(size)));
                published.expect_err("no routing key is that long");
                drop(publisher.try_publish(&too_long, bodies.make(size)));
            }
        }
        bodies.assert_dropped();
        rig.run(channel.queue_declare("q", QueueOptions::new())).expect("nothing is broken");
    });
}

#[test]
fn bodies_that_wait_and_are_abandoned() {
    in_time(|| {
        let (mut rig, channel) = rig();
        let mut bodies = Bodies::new(&mut rig);
        let options = PublisherOptions::new().window(1, usize::MAX).mandatory(false);
        let narrow = channel.default_exchange().publisher(options).expect("it is open");
        let first = rig.run(narrow.publish("q", "first")).expect("it is sent");
        for size in SIZES {
            let mut waits = Box::pin(narrow.publish("q", bodies.make(size)));
            assert!(rig.poll(waits.as_mut()).is_none());
            drop(waits);
            drop(narrow.try_publish("q", bodies.make(size)));
        }
        bodies.assert_dropped();
        rig.run(first).expect("it is confirmed");
    });
}

#[test]
fn bodies_that_are_lost_with_the_connection() {
    in_time(|| {
        for on_loss in [OnLoss::Wait, OnLoss::Keep] {
            for written in [false, true] {
                let (mut rig, channel) = rig();
                let mut bodies = Bodies::new(&mut rig);
                let publisher = publisher(&channel, on_loss);
                let mut sent = Vec::new();
                for size in SIZES {
                    let body = bodies.make(size);
                    // The outgoing buffer may be full.
                    if let Ok(confirmation) = publisher.try_publish("q", body) {
                        sent.push(confirmation);
                    }
                }
                if written {
                    rig.write(false);
                }
                rig.lose();
                rig.turn();
                for confirmation in sent {
                    let confirmed = rig.run(confirmation);
                    assert_eq!(confirmed.is_ok(), on_loss == OnLoss::Keep);
                }
                bodies.assert_dropped();
            }
        }
    });
}

#[test]
fn bodies_that_are_never_sent() {
    in_time(|| {
        for on_loss in [OnLoss::Wait, OnLoss::Keep] {
            for written in [false, true] {
                let (mut rig, channel) = rig();
                let mut bodies = Bodies::new(&mut rig);
                let publisher = publisher(&channel, on_loss);
                for size in SIZES {
                    drop(publisher.try_publish("q", bodies.make(size)));
                }
                if written {
                    rig.write(false);
                }
                let closed = channel.connection().clone();
                drop(rig);
                assert!(!closed.is_open());
                let Bodies { other, made, drops } = bodies;
                drop((other, publisher, channel, closed));
                // The bodies that the session still held were dropped with the last handle.
                assert!(drops.load(Ordering::SeqCst) <= made);
            }
        }
    });
}

/// Its drop, and its wake, use a handle.
struct BusyTask {
    channel: Channel,
    wakes: Arc<AtomicUsize>,
}

impl Wake for BusyTask {
    fn wake(self: Arc<Self>) {
        use_handles(&self.channel);
        self.wakes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for BusyTask {
    fn drop(&mut self) {
        use_handles(&self.channel);
    }
}

type Pending<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Futures that wait for something that does not come.
fn pending<'a>(
    rig: &ClientRig,
    channel: &'a Channel,
    connection: &'a Connection,
    publisher: &'a Publisher,
) -> Vec<Pending<'a>> {
    assert!(rig.connection.is_open());
    let declare = channel.queue_declare("q", QueueOptions::new());
    let confirmation = publisher.try_publish("q", "m").expect("it is sent");
    let (mut events, mut happens) = (connection.events(), channel.events());
    vec![
        Box::pin(async { drop(connection.closed().await) }),
        Box::pin(async { drop(channel.closed().await) }),
        Box::pin(async { drop(declare.await) }),
        Box::pin(async { drop(confirmation.await) }),
        Box::pin(async { drop(publisher.wait_for_confirms().await) }),
        Box::pin(async { drop(publisher.publish("q", "m").await) }),
        Box::pin(async { drop(connection.open_channel().await) }),
        Box::pin(async move { drop(events.next().await) }),
        Box::pin(async move { drop(happens.next().await) }),
        Box::pin(async { drop(connection.update_secret("new", "why").await) }),
    ]
}

#[test]
fn wakers_that_are_replaced_dropped_or_woken() {
    in_time(|| {
        let (mut rig, channel) = rig();
        let other = rig.open_channel();
        let connection = rig.connection.clone();
        let options = PublisherOptions::new().window(1, usize::MAX).mandatory(false);
        let publisher = channel.default_exchange().publisher(options).expect("it is open");
        let wakes = Arc::new(AtomicUsize::new(0));
        let task = || -> Waker {
            Waker::from(Arc::new(BusyTask { channel: other.clone(), wakes: wakes.clone() }))
        };
        rig.silence();
        let mut futures = pending(&rig, &channel, &connection, &publisher);
        for (index, future) in futures.iter_mut().enumerate() {
            // Each waker is kept only by what it waits for; the second replaces the first.
            for _ in 0..2 {
                let polled = future.as_mut().poll(&mut Context::from_waker(&task()));
                assert!(polled.is_pending(), "{index}");
            }
            rig.waker = task();
            rig.turn();
        }
        let half = futures.split_off(futures.len() / 2);
        drop(half);
        rig.turn();
        let before = wakes.load(Ordering::SeqCst);
        drop(rig);
        assert!(wakes.load(Ordering::SeqCst) > before, "they learn of the end");
    });
}

/// The publish leaves the line of one gate for that of another, and its waker there with it.
#[test]
fn wakers_of_publishes_that_are_held_by_one_gate_and_then_by_another() {
    in_time(|| {
        let (mut rig, channel) = rig();
        let other = rig.open_channel();
        // A deadline would keep a clone of the waker.
        let options = PublisherOptions::new().timeout(None);
        let publisher = channel.default_exchange().publisher(options).expect("it is open");
        let wakes = Arc::new(AtomicUsize::new(0));
        let mut publish = pin!(publisher.publish("q", "m"));
        for held in [Some(channel.id()), None] {
            rig.peer.hold(held);
            rig.turn();
            let task = BusyTask { channel: other.clone(), wakes: wakes.clone() };
            // Its last clone is the one in the line.
            let task = Waker::from(Arc::new(task));
            assert!(publish.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        }
        assert_eq!(wakes.load(Ordering::SeqCst), 0, "no gate was opened");
    });
}

#[test]
fn callbacks_that_own_handles_are_dropped_with_the_connection() {
    let (mut rig, channel) = rig();
    let connection = rig.connection.clone();
    let owned = Arc::new(());
    let callback = || {
        let (owned, channel) = (owned.clone(), channel.clone());
        move || drop((owned.clone(), channel.clone()))
    };
    let (recovered, closed, channel_closed) = (callback(), callback(), callback());
    connection.on_recover(move |_| recovered());
    connection.on_close(move |_| closed());
    channel.on_close(move |_| channel_closed());
    rig.run(connection.close()).expect("it closes");
    let late = callback();
    connection.on_recover(move |_| late());
    assert_eq!(Arc::strong_count(&owned), 1, "the connection keeps no callback");
}

#[test]
fn callbacks_that_use_handles() {
    in_time(|| {
        let (rig, channel) = rig();
        let called = Arc::new(AtomicUsize::new(0));
        let (counts, handle) = (called.clone(), channel.clone());
        channel.on_close(move |_| {
            use_handles(&handle);
            counts.fetch_add(1, Ordering::SeqCst);
        });
        let (counts, handle) = (called.clone(), channel.clone());
        rig.connection.on_close(move |_| {
            use_handles(&handle);
            counts.fetch_add(1, Ordering::SeqCst);
        });
        drop(rig);
        assert_eq!(called.load(Ordering::SeqCst), 2);
    });
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("this waker is broken");
    }
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The task that drives the connection goes on, and all others are woken, whatever stands between them.
#[test]
fn a_waker_that_panics_ends_nothing() {
    let (mut rig, channel) = rig();
    let connection = rig.connection.clone();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let wakers = [Waker::from(Arc::new(Panics)), Waker::from(count.clone())];
    let mut futures: Vec<_> = (0..6).map(|_| Box::pin(channel.closed())).collect();
    for (index, future) in futures.iter_mut().enumerate() {
        let mut context = Context::from_waker(&wakers[index % 2]);
        assert_eq!(future.as_mut().poll(&mut context), Poll::Pending);
    }
    channel.on_close(|_| panic!("this callback is broken"));
    let called = count.clone();
    channel.on_close(move |_| called.wake());
    let driven = catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut closing = Box::pin(channel.close());
        assert!(rig.poll(closing.as_mut()).is_none());
        rig.turn();
    }));
    assert!(driven.is_ok(), "the panic ended the driver");
    assert!(!channel.is_open() && connection.is_open());
    assert_eq!(count.0.load(Ordering::SeqCst), 4);
}

/// Publishes and acknowledges when it is dropped.
struct Echo {
    publisher: Publisher,
    delivery: Option<amqp_client_core::Delivery>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Echo {
    fn as_ref(&self) -> &[u8] {
        &[7; 5000]
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.publisher.try_publish("q", "dropped"));
        let mut waits = pin!(self.publisher.publish("q", vec![7; 5000]));
        let _maybe = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(self.delivery.take().map(amqp_client_core::Delivery::ack));
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

/// On the channel that they are published on, whatever becomes of them.
#[test]
fn bodies_that_publish_and_acknowledge_when_they_are_dropped() {
    in_time(|| {
        for on_loss in [OnLoss::Wait, OnLoss::Keep, OnLoss::Fail] {
            for lost in [false, true] {
                let (mut rig, channel) = rig();
                let queue = channel.queue("q").expect("it is short");
                let mut consumer = rig.run(queue.consume(<_>::default())).expect("it starts");
                let tag = consumer.tag().clone();
                rig.peer.deliver(channel.id(), &tag, 3, b"m");
                let publisher = publisher(&channel, on_loss);
                let drops = Arc::new(AtomicUsize::new(0));
                let mut sent = Vec::new();
                for key in ["q", "q", "too long"] {
                    let delivery = rig.run(consumer.next()).expect("it goes on").expect("it came");
                    let (publisher, drops) = (publisher.clone(), drops.clone());
                    let echo =
                        Echo { publisher: publisher.clone(), delivery: Some(delivery), drops };
                    let key = if key == "q" { key.to_owned() } else { key.repeat(100) };
                    sent.extend(publisher.try_publish(&key, Bytes::from_owner(echo)).ok());
                }
                if lost {
                    rig.lose();
                }
                for confirmation in sent {
                    let confirmed = rig.run(confirmation);
                    assert_eq!(confirmed.is_ok(), !lost || on_loss == OnLoss::Keep, "{on_loss:?}");
                }
                rig.turn();
                assert_eq!(drops.load(Ordering::SeqCst), 3, "{on_loss:?}, {lost}");
            }
        }
    });
}

/// Names are copied, so their sources are dropped by the caller.
#[test]
fn names_of_requests() {
    in_time(|| {
        let (mut rig, channel) = rig();
        let mut bodies = Bodies::new(&mut rig);
        let name =
            amqp_client_core::proto::ShortStr::try_from(bodies.make(5)).expect("it is short");
        bodies.assert_dropped();
        let declare = || amqp_client_core::proto::method::QueueDeclare {
            queue: name.clone(),
            ..<_>::default()
        };
        rig.run(channel.call(declare())).expect("it is declared");
        drop(name);
    });
}
