//! Applications that keep their thread busy between two messages: the connection stays alive, and their output leaves in time.
//!
//! `BUSY_MESSAGES=100000 BUSY_MILLISECONDS=10` makes a long run of it, half an hour for all tests at once.

use std::future::{Future, poll_fn, ready};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_core::{ConnectError, Connection, ConsumeOptions, Message, QueueOptions, Target};
use amqp_client_patterns::work::Work;
use amqp_test_broker::Broker;
use amqp_testkit::net::listen;
use futures_util::StreamExt;
use tokio::runtime::Builder;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The function by which an adapter connects.
type Open = fn(Target) -> BoxFuture<Result<Connection, ConnectError>>;

/// The way in which the application uses its connection.
#[derive(Clone, Copy, Debug)]
enum Way {
    Next,
    Stream,
    ForEach(usize),
    /// A worker with so many handlers at once.
    Worker(u16),
    Publish,
    /// The work that has its own thread and waits for nothing.
    Iterate,
}

/// Number of milliseconds for which the application works on each message, unless `BUSY_MILLISECONDS` is set.
const WORK: u32 = 20;
/// Two intervals without a sign of life end a connection.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The number of messages, unless `BUSY_MESSAGES` is set. They take longer than two heartbeats.
const MESSAGES: u32 = 130;
/// The longest time that output of the application may stay with the client.
const LIMIT: Duration = Duration::from_secs(1);

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
}

fn messages() -> usize {
    number("BUSY_MESSAGES", MESSAGES).try_into().expect("it fits")
}

fn work() {
    // The subject: a handler that blocks its thread for this time.
    thread::sleep(Duration::from_millis(number("BUSY_MILLISECONDS", WORK).into()));
}

/// When a client wrote.
#[derive(Default)]
struct Writes {
    last: Option<Instant>,
    longest_gap: Duration,
}

/// Forwards one connection, and records when the client wrote.
fn forward(to: SocketAddr) -> io::Result<(SocketAddr, Arc<Mutex<Writes>>)> {
    let listener = listen()?;
    let (addr, writes) = (listener.local_addr()?, Arc::<Mutex<Writes>>::default());
    let notes = writes.clone();
    thread::spawn(move || -> io::Result<()> {
        let (mut client, mut broker) = (listener.accept()?.0, TcpStream::connect(to)?);
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (mut up, mut down) = (client.try_clone()?, broker.try_clone()?);
        thread::spawn(move || {
            let _gone = io::copy(&mut broker, &mut client);
            let _gone = client.shutdown(Shutdown::Both);
        });
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = up.read(&mut chunk)?;
            if count == 0 {
                return down.shutdown(Shutdown::Both);
            }
            note(&mut notes.lock().expect("nobody panics with it"));
            down.write_all(&chunk[..count])?;
        }
    });
    Ok((addr, writes))
}

fn note(writes: &mut Writes) {
    let now = Instant::now();
    let gap = writes.last.replace(now).map_or(Duration::ZERO, |last| now - last);
    writes.longest_gap = writes.longest_gap.max(gap);
}

async fn scene(open: Open, way: Way) {
    let messages = messages();
    let broker = Broker::start().expect("a broker");
    let (addr, writes) = forward(broker.addr()).expect("a listener");
    let target: Target = format!("amqp://{addr}").parse().expect("a URI");
    let connection = open(target.heartbeat(HEARTBEAT)).await.expect("a connection");
    let channel = connection.open_channel().await.expect("a channel");
    let queue = channel.queue_declare("busy", QueueOptions::new()).await.expect("a queue");
    if !matches!(way, Way::Publish) {
        for _ in 0..messages {
            queue.publish(&Message::new("work")).await.expect("it is sent");
        }
    }
    // All of them are there before the application begins.
    let prefetched = queue.consume(ConsumeOptions::new()).await.expect("a consumer");
    let mut consumer = prefetched;
    channel.queue_declare_passive("busy").await.expect("a round trip");
    note(&mut writes.lock().expect("nobody panics with it"));
    match way {
        Way::Next => {
            for _ in 0..messages {
                let delivery = consumer.next().await.expect("a message").expect("a delivery");
                work();
                delivery.ack().expect("the connection lives");
            }
        }
        Way::Stream => {
            let mut taken = (&mut consumer).take(messages);
            while let Some(delivery) = StreamExt::next(&mut taken).await {
                work();
                delivery.expect("a delivery").ack().expect("the connection lives");
            }
        }
        Way::ForEach(limit) => {
            let handled = Arc::new(Mutex::new(0));
            let handler = |delivery: amqp_client_core::Delivery| {
                let handled = handled.clone();
                async move {
                    work();
                    let mut handled = handled.lock().expect("nobody panics with it");
                    *handled += 1;
                    if *handled == messages {
                        drop(delivery.channel().basic_cancel(delivery.consumer_tag()));
                    }
                    delivery.ack().expect("the connection lives");
                }
            };
            consumer.for_each_concurrent(limit, handler).await.expect("it was cancelled");
        }
        Way::Worker(at_once) => {
            // Its messages are requeued.
            drop(consumer);
            let handled = AtomicUsize::new(0);
            let handler = || {
                work();
                handled.fetch_add(1, Ordering::Relaxed);
                ready(())
            };
            let all = poll_fn(|_| match handled.load(Ordering::Relaxed) {
                number if number < messages => Poll::Pending,
                _ => Poll::Ready(()),
            });
            let worker = Work::on(&queue).at_once(at_once).prefetch(u16::MAX).each(handler);
            let summary = worker.until(all).await.expect("the connection lives");
            assert_eq!(summary.done, messages as u64);
        }
        Way::Publish => {
            let publisher = channel.default_exchange().publisher(<_>::default());
            let publisher = publisher.expect("the channel is open");
            let mut confirmations = Vec::new();
            for _ in 0..messages {
                work();
                let publish = publisher.publish("busy", "work");
                confirmations.push(publish.await.expect("the connection lives"));
            }
            for confirmation in confirmations {
                confirmation.await.expect("it is confirmed");
            }
        }
        Way::Iterate => {
            for _ in 0..messages {
                let delivery = consumer.try_next().expect("a message");
                work();
                delivery.ack().expect("the connection lives");
            }
        }
    }
    note(&mut writes.lock().expect("nobody panics with it"));
    assert_eq!(connection.health().losses, 0);
    connection.close().await.expect("it lives");
    let gap = writes.lock().expect("nobody panics with it").longest_gap;
    assert!(gap < LIMIT, "nothing was written for {gap:?}, {way:?}");
}

/// All that an async runtime has to stand, at once on several threads: they mostly sleep.
fn all(ways: &[Way], run: impl Fn(Way) + Sync) {
    thread::scope(|scope| ways.iter().for_each(|way| drop(scope.spawn(|| run(*way)))));
}

const ASYNC: &[Way] = &[
    Way::Next,
    Way::Stream,
    Way::ForEach(1),
    Way::ForEach(4),
    Way::ForEach(0),
    Way::Worker(1),
    Way::Worker(8),
    Way::Publish,
];

fn open_tokio(target: Target) -> BoxFuture<Result<Connection, ConnectError>> {
    Box::pin(async { amqp_client_tokio::connect_target(target).await })
}

fn spawned_on_tokio(mut builder: Builder) {
    let runtime = builder.enable_all().build().expect("a runtime");
    let scene = async |way| {
        tokio::spawn(scene(open_tokio, way)).await.expect("it goes well");
    };
    runtime.block_on(async {
        for way in [Way::Next, Way::Publish] {
            scene(way).await;
        }
    });
}

#[test]
fn on_tokio_in_its_only_thread() {
    all(ASYNC, |way| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(scene(open_tokio, way));
    });
}

#[test]
fn on_tokio_with_one_worker() {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    spawned_on_tokio(builder);
}

#[test]
fn on_tokio_with_four_workers() {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(4);
    spawned_on_tokio(builder);
}

#[test]
fn on_smol() {
    let open: Open = |target| Box::pin(async { amqp_client_smol::connect_target(target).await });
    // Its executor has one thread, which the driver shares.
    smol::block_on(smol::spawn(scene(open, Way::Next)));
    smol::block_on(smol::spawn(scene(open, Way::Publish)));
}

#[test]
fn on_async_std() {
    let open: Open = |target| {
        Box::pin(async {
            let connection = amqp_client_smol::async_std::connect_target(target).await?;
            Ok(connection)
        })
    };
    async_std::task::block_on(async_std::task::spawn(scene(open, Way::Next)));
    async_std::task::block_on(async_std::task::spawn(scene(open, Way::Publish)));
}

#[test]
fn on_threads() {
    use amqp_client_blocking::Wait as _;
    let open: Open = |target| Box::pin(async { amqp_client_blocking::connect_target(target) });
    all(&[Way::Next, Way::Iterate, Way::Publish], |way| scene(open, way).wait());
}
