//! Every future of the patterns, dropped at every poll: nothing is left over, no message is lost, and the next call gets its own
//! reply. The list is compared with the source, so that none is forgotten.

mod harness;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::{
    Connection, ConsumeOptions, Message, Publisher, PublisherOptions, Queue, QueueOptions,
};
use amqp_client_patterns::batch::Batching;
use amqp_client_patterns::codec::{ConsumerExt as _, Json, PublisherExt as _};
use amqp_client_patterns::handler::{State, Text, Verdict};
use amqp_client_patterns::partitions::{Member, PartitionPublisher, Partitions};
use amqp_client_patterns::pool::ChannelPool;
use amqp_client_patterns::process::ProcessExt as _;
use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_patterns::rpc::{RpcClient, RpcOptions, RpcServer};
use amqp_client_patterns::work::Work;
use harness::{Broker, ClientRig};

/// More polls than any of them takes.
const POLLS: usize = 120;

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

struct Scene {
    rig: ClientRig<Broker>,
    connection: Connection,
    queue: Queue,
    /// With a message for each [`TEXTS`].
    work: Queue,
    publisher: Publisher,
    /// Number of messages of that queue that were handled.
    handled: Arc<AtomicUsize>,
    client: RpcClient,
    pool: ChannelPool,
    partitions: PartitionPublisher,
    server: Task<'static>,
}

/// Messages that succeed, fail and are refused.
const TEXTS: [&str; 3] = ["\"fine\"", "retry", "refuse"];

async fn handle(Text(text): Text, State(handled): State<Arc<AtomicUsize>>) -> Result<(), Verdict> {
    match &*text {
        "retry" => return Err("again".into()),
        "refuse" => return Err(Verdict::refuse("never")),
        _ => {}
    }
    handled.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

const fn retry() -> Retry {
    Retry::times(1).from(Duration::from_secs(3600)).strategy(RetryStrategy::Queues)
}

impl Scene {
    fn set(reply_queue: bool) -> Self {
        let (mut rig, connection) = ClientRig::joined();
        // Futures are polled often while the event that they wait for comes nearer.
        rig.piece = 24;
        let (queue, replies, work, publisher, partitions) = rig.run_by_steps(async {
            connection.ready().await.expect("a connection");
            let channel = connection.open_channel().await.expect("a channel");
            let declare = async |name| channel.queue_declare(name, QueueOptions::new()).await;
            let [queue, replies, work] =
                [declare("q").await, declare("replies").await, declare("work").await]
                    .map(|declared| declared.expect("a queue"));
            for text in TEXTS {
                work.publish_confirmed(&Message::new(text)).await.expect("it is confirmed");
            }
            let publisher = channel.default_exchange().publisher(PublisherOptions::new());
            let orders = Partitions::new("orders", 2).expect("a name");
            orders.topology(None).apply(&channel).await.expect("they are declared");
            let partitions = orders.publisher(&connection, PublisherOptions::new()).await;
            let partitions = partitions.expect("a publisher of partitions");
            (queue, replies, work, publisher.expect("a publisher"), partitions)
        });
        let options = RpcOptions::new();
        let options = if reply_queue { options.reply_queue(&replies) } else { options };
        let client = rig.run_by_steps(RpcClient::open_with(&connection, options));
        let client = client.expect("a client");
        let pool = ChannelPool::new(&connection, 1);
        let echo = async |Text(text): Text| text;
        let server = RpcServer::on(&queue).at_once(2).serve(echo).run();
        let server = Box::pin(async { drop(server.await) });
        let handled = Arc::default();
        Self { rig, connection, queue, work, publisher, handled, client, pool, partitions, server }
    }

    /// A worker that tries messages again and parks them.
    fn worker(&self) -> Work<Arc<AtomicUsize>> {
        Work::on(&self.work).state(self.handled.clone()).at_once(2).prefetch(3).retry(retry())
    }

    /// Number of messages that wait for a worker, wait for their retry, are parked, or are handled.
    fn messages(&self) -> usize {
        let queues = self.rig.peer.engine.queues();
        let of_work = queues.filter(|queue| queue.name.as_bytes().starts_with(b"work"));
        let waiting: usize = of_work.map(|queue| queue.messages.len()).sum();
        waiting + self.handled.load(Ordering::Relaxed)
    }

    /// Lets a piece pass, while the server works.
    fn step(&mut self) {
        let _running = self.server.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.rig.step();
    }

    /// Runs a future to its end.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        for _ in 0..100_000 {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.step();
        }
        panic!("it waits forever");
    }

    fn check(&mut self, what: &str) {
        for text in ["next", "the one after"] {
            let client = self.client.clone();
            let reply = self.run(client.call("q", text).timeout(Duration::MAX));
            let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(reply.body(), text.as_bytes(), "{what}: somebody else's reply");
        }
        let pool = self.pool.clone();
        drop(self.run(pool.get()).unwrap_or_else(|error| panic!("{what}: {error}")));
        for _ in 0..200 {
            self.step();
        }
        assert_eq!(self.client.pending_calls(), 0, "{what}");
        assert!(self.client.late_replies() <= 1, "{what}");
        assert_eq!(self.rig.peer.engine.take_violation(), None, "{what}");
        let health = self.connection.health();
        assert_eq!((health.unsettled, health.unconfirmed), (0, 0), "{what}: {health:?}");
        assert_eq!(self.rig.peer.unacknowledged_count(), 0, "{what}");
        assert!(self.messages() >= TEXTS.len(), "{what}: a message is lost");
    }
}

/// Is ready after so many polls.
async fn later(mut polls: usize) -> Result<(), Infallible> {
    poll_fn(|_| {
        polls -= 1;
        if polls == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Creates the future to drop.
type Make = fn(&Scene) -> Task<'static>;

macro_rules! cases {
    ($($name:literal |$scene:ident| $($variable:ident = $value:expr),+ => $future:expr;)*) => {
        &[$(($name, |$scene| {
            $(let $variable = $value;)+
            Box::pin(async move { let _ = $future.await; })
        }),)*]
    };
}

/// All futures, by the type and the name of the function that creates them.
const CASES: &[(&str, Make)] = cases! {
    "RpcClient::call" |s| client = s.client.clone() => client.call("q", "dropped");
    "RpcClient::call" |s| client = s.client.clone() => client.call("q", "dropped").idempotent();
    "RpcClient::call" |s| client = s.client.clone() => client.call("nobody", "dropped");
    "RpcClient::call_as" |s| client = s.client.clone() => client.call_as::<_, String, Json>("q", "dropped");
    "RpcClient::open" |s| connection = s.connection.clone() => RpcClient::open(&connection);
    "RpcClient::open_with" |s| connection = s.connection.clone(), own = s.work.clone() =>
        RpcClient::open_with(&connection, RpcOptions::new().reply_queue(&own));
    "Partitions::publisher" |s| orders = s.partitions.partitions().clone(), connection = s.connection.clone() =>
        orders.publisher(&connection, PublisherOptions::new());
    "Partitions::join" |s| orders = s.partitions.partitions().clone(), connection = s.connection.clone() =>
        orders.join(&connection, Member::any_slot()).even_if_unbalanced();
    "Group::next" |s| orders = s.partitions.clone(), connection = s.connection.clone(), handled = s.handled.clone() => async move {
        let partitions = orders.partitions();
        let joining = partitions.join(&connection, Member::random()).even_if_unbalanced();
        let mut group = joining.await.expect("a group");
        orders.send("key", "text").await.expect("it is confirmed");
        while let Some(Ok(delivery)) = group.next().await {
            later(2).await?;
            handled.fetch_add(1, Ordering::Relaxed);
            delivery.ack().expect("it is acknowledged");
        }
        Ok::<_, Infallible>(())
    };
    "Group::leave" |s| orders = s.partitions.clone(), connection = s.connection.clone() => async move {
        let partitions = orders.partitions();
        let joining = partitions.join(&connection, Member::any_slot()).even_if_unbalanced();
        let mut group = joining.await.expect("a group");
        orders.send("key", "text").await.expect("it is confirmed");
        let (_held, grace) = (group.next().await, Duration::from_millis(1));
        group.leave(grace).await
    };
    "PartitionPublisher::publish" |s| orders = s.partitions.clone() => async move {
        orders.publish("key", "dropped").await.expect("it is sent").await
    };
    "PartitionPublisher::publish_message" |s| orders = s.partitions.clone() => async move {
        orders.publish_message("key", &Message::text("dropped")).await.expect("it is sent").await
    };
    "PartitionPublisher::send" |s| orders = s.partitions.clone() => orders.send("key", "dropped");
    "PartitionPublisher::send_message" |s| orders = s.partitions.clone() => async move {
        orders.send_message("key", &Message::text("dropped")).await
    };
    "PartitionPublisher::wait_for_confirms" |s| orders = s.partitions.clone() => async move {
        let _confirmation = orders.publish("key", "dropped").await.expect("it is sent");
        orders.wait_for_confirms().await
    };
    "RpcServer::run" |s| server = RpcServer::on(&s.queue).serve(async |Text(text): Text| text) => server.run();
    "RpcServer::until" |s| server = RpcServer::on(&s.queue).serve(async || "other"), pause = s.connection.after(Duration::ZERO) =>
        server.until(pause);
    "ChannelPool::get" |s| pool = s.pool.clone() => pool.get();
    "Work::run" |s| work = s.worker().each(handle) => work.run();
    "Work::until" |s| work = s.worker().each(handle) => work.until(pending::<()>());
    "Work::until" |s| work = s.worker().each(handle), pause = s.connection.after(Duration::from_millis(1)) => work.until(pause);
    "Retry::declare" |s| connection = s.connection.clone() => retry().declare(&connection, "work");
    "Batching::start" |s| batching = Batching::on(&s.work, 2, Duration::ZERO) => batching.start();
    "Batches::next" |s| batching = Batching::on(&s.work, 2, Duration::ZERO), handled = s.handled.clone() => async move {
        let mut batches = batching.start().await.expect("batches");
        while let Some(Ok(batch)) = batches.next().await {
            handled.fetch_add(batch.len(), Ordering::Relaxed);
            batch.ack().expect("it is acknowledged");
        }
    };
    "Process::run" |s| work = s.work.clone(), handled = s.handled.clone() => async move {
        let got = work.get().await.expect("a reply").expect("a message");
        let done = got.delivery.process().run(async |_| later(3).await).await;
        handled.fetch_add(usize::from(done.is_ok()), Ordering::Relaxed);
    };
    "TypedPublisher::publish" |s| publisher = s.publisher.of::<str, Json>() => async move {
        publisher.publish("work", "dropped").await.expect("it is sent").await
    };
    "TypedPublisher::send" |s| publisher = s.publisher.of::<str, Json>() => publisher.send("work", "dropped");
    "TypedConsumer::next" |s| work = s.work.clone(), handled = s.handled.clone() => async move {
        let consumer = work.consume(ConsumeOptions::new().prefetch(1)).await.expect("a consumer");
        let mut values = consumer.of_as::<String, Json>();
        while let Some(Ok(received)) = values.next().await {
            handled.fetch_add(1, Ordering::Relaxed);
            received.delivery.ack().expect("it is acknowledged");
        }
    };
};

#[test]
fn whatever_is_dropped_whenever_nothing_is_left_over() {
    let (mut drops, mut reached) = (0, BTreeSet::new());
    for reply_queue in [false, true] {
        for (name, make) in CASES {
            // Only calls differ by where their replies come from.
            if reply_queue && !name.contains("call") {
                continue;
            }
            for polls in 0..POLLS {
                let mut scene = Scene::set(reply_queue);
                let mut future = make(&scene);
                let mut ready = false;
                for _ in 0..polls {
                    let mut cx = Context::from_waker(Waker::noop());
                    ready = future.as_mut().poll(&mut cx).is_ready();
                    if ready {
                        break;
                    }
                    scene.step();
                }
                drop(future);
                if scene.handled.load(Ordering::Relaxed) > 0 {
                    reached.insert(*name);
                }
                // Half of the time, the events that it left behind come first.
                if polls % 2 == 0 {
                    scene.rig.settle();
                }
                scene.check(&format!("{name}, dropped after {polls} polls"));
                if ready {
                    break;
                }
                drops += 1;
            }
        }
    }
    assert!(drops > 100, "{drops} drops");
    let expected = [
        "Batches::next",
        "Group::next",
        "Process::run",
        "TypedConsumer::next",
        "Work::run",
        "Work::until",
    ];
    assert_eq!(reached, BTreeSet::from(expected), "not all cases come to their messages");
}

#[test]
fn none_is_forgotten() {
    let listed: BTreeSet<_> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut found = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../amqp-client-patterns/src"), &mut found);
    assert!(found.len() > 10, "{found:?}");
    assert_eq!(found, listed);
}

/// The public functions that return futures, with their types.
fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the source is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("it is a text");
        let mut of = "";
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix("impl") {
                of = type_name(rest);
            }
            let Some((kind, rest)) =
                line.trim_start().strip_prefix("pub ").and_then(|rest| rest.split_once("fn "))
            else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            let returned = rest.rsplit_once("-> ").map_or("", |(_, returned)| returned);
            let is_future = kind == "async "
                || returned.starts_with("Call")
                || returned.starts_with("Join")
                || returned.contains("impl Future");
            if is_future {
                found.insert(format!("{of}::{name}"));
            }
        }
    }
}

/// The name of a type, after `impl` and its parameters.
fn type_name(rest: &str) -> &str {
    let mut depth = 0;
    let start = rest.find(|character| {
        depth += i32::from(character == '<') - i32::from(character == '>');
        depth == 0 && character == ' '
    });
    let rest = rest[start.unwrap_or(0)..].trim_start();
    rest.split(['<', ' ']).next().unwrap_or_default()
}
