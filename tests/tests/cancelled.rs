//! Every future of the handles, dropped at every poll: nothing breaks, nothing is left over, and the next call gets its own
//! reply. The list is compared with the source, so that none is forgotten.

mod harness;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Reconnector;
use amqp_client_core::proto::method::AccessRequest;
use amqp_client_core::proto::{ConnectStep, FieldTable, RawProperties, ReplyCode, Route};
use amqp_client_core::topology::Topology;
use amqp_client_core::{
    Channel, Config, Connection, ConsumeOptions, Consumer, Exchange, ExchangeOptions, Message,
    Publisher, PublisherOptions, Queue, QueueOptions, Recovery,
};
use harness::{Broker, ClientRig};

/// The handles from which futures are made.
struct Scene {
    connection: Connection,
    channel: Channel,
    /// With three messages.
    queue: Queue,
    exchange: Exchange,
    publisher: Publisher,
    transacting: Channel,
    consumer: Consumer,
}

impl Scene {
    fn set(rig: &mut ClientRig<Broker>, connection: Connection) -> Self {
        let asked = async {
            connection.ready().await.expect("a connection");
            let channel = connection.open_channel().await.expect("a channel");
            let transacting = connection.open_channel().await.expect("a channel");
            transacting.tx_select().await.expect("a transaction");
            let options = QueueOptions::new().durable(false);
            let queue = channel.queue_declare("queue", options).await.expect("a queue");
            let options = ExchangeOptions::new().durable(false);
            let exchange = channel.exchange_declare("exchange", "topic", options).await;
            let exchange = exchange.expect("an exchange");
            queue.bind("exchange", "bound").await.expect("a binding");
            exchange.bind("amq.topic", "bound", FieldTable::new()).await.expect("a binding");
            let publisher = exchange.publisher(PublisherOptions::new()).expect("a publisher");
            for _ in 0..3 {
                publisher.send("bound", "message").await.expect("it is confirmed");
            }
            let own = channel.queue_declare("own", QueueOptions::new()).await.expect("a queue");
            own.publish(&Message::new("message")).await.expect("it is sent");
            let other = connection.open_channel().await.expect("a channel");
            other.basic_qos(1).await.expect("a limit");
            let consumer = other.queue("own").expect("it is short").consume(ConsumeOptions::new());
            let consumer = consumer.await.expect("a consumer");
            Self {
                connection: connection.clone(),
                channel,
                queue,
                exchange,
                publisher,
                transacting,
                consumer,
            }
        };
        let scene = rig.run_by_steps(asked);
        rig.settle();
        scene
    }
}

/// A topology with the queue of the scene, with its options or with others.
fn topology(differs: bool) -> Topology {
    let options = QueueOptions::new().durable(false);
    let other = if differs { options.clone().max_length(1) } else { options };
    Topology::new()
        .exchange("exchange", "topic", ExchangeOptions::new().durable(false))
        .exchange("another", "fanout", ExchangeOptions::new())
        .queue("queue", other)
        .queue("one more", QueueOptions::new())
        .bind("one more", "exchange", "more")
        .bind_exchange("another", "exchange", "another")
}

type Make = for<'a> fn(&'a mut Scene) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The things that must stay usable when a future was dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Everything,
    /// The channel may be closed.
    Connection,
    /// The connection may be closed.
    Nothing,
}
use Leaves::{Connection as TheConnection, Everything, Nothing};

macro_rules! cases {
    ($($name:ident $leaves:ident |$scene:ident| $future:expr;)*) => {
        &[$((stringify!($name), $leaves, |$scene| Box::pin(async move { let _ = $future.await; })),)*]
    };
}

/// All futures, by the name of the method that creates them.
const CASES: &[(&str, Leaves, Make)] = cases! {
    ready Everything |s| s.connection.ready();
    open_channel Everything |s| s.connection.open_channel();
    open_channel_numbered Everything |s| s.connection.open_channel_numbered(77);
    channel_numbered Everything |s| s.connection.channel_numbered(78);
    channel_numbered Everything |s| s.connection.channel_numbered(1);
    close Nothing |s| s.connection.close();
    close_with Nothing |s| s.connection.close_with(ReplyCode::REPLY_SUCCESS, "done");
    close_over Nothing |s| s.connection.close_over(ReplyCode::REPLY_SUCCESS, "done", (60, 60));
    closed Everything |s| s.connection.closed();
    after Everything |s| s.connection.after(Duration::from_millis(250));
    queue_exists Everything |s| s.connection.queue_exists("none");
    exchange_exists Everything |s| s.connection.exchange_exists("exchange");
    apply Everything |s| { let topology = topology(false); async move { topology.apply(&s.channel).await } };
    compare Everything |s| { let topology = topology(true); async move { topology.compare(&s.connection).await } };
    update_secret Everything |s| s.connection.update_secret("guest", "renewed");
    shutdown Nothing |s| s.connection.shutdown(Duration::from_secs(1));
    next Everything |s| { let mut events = s.connection.events(); async move { events.next().await } };
    close TheConnection |s| s.channel.close();
    close_with TheConnection |s| s.channel.close_with(ReplyCode::REPLY_SUCCESS, "done");
    close_over TheConnection |s| s.channel.close_over(ReplyCode::REPLY_SUCCESS, "done", (60, 60));
    closed Everything |s| s.channel.closed();
    next Everything |s| { let mut events = s.channel.events(); async move { events.next().await } };
    call Everything |s| s.channel.call(AccessRequest::default());
    exchange_declare Everything |s| s.channel.exchange_declare("new", "fanout", ExchangeOptions::new());
    exchange_declare_passive Everything |s| s.channel.exchange_declare_passive("exchange");
    exchange_delete Everything |s| s.channel.exchange_delete("none");
    exchange_delete_if_unused Everything |s| s.channel.exchange_delete_if_unused("none");
    exchange_bind Everything |s| s.channel.exchange_bind("exchange", "amq.fanout", "", FieldTable::new());
    exchange_unbind Everything |s| s.channel.exchange_unbind("exchange", "amq.fanout", "", FieldTable::new());
    bind Everything |s| s.exchange.bind("amq.fanout", "", FieldTable::new());
    unbind Everything |s| s.exchange.unbind("amq.topic", "bound", FieldTable::new());
    delete Everything |s| s.exchange.delete();
    delete_if_unused TheConnection |s| s.exchange.delete_if_unused();
    publish Everything |s| { let message = Message::new("m"); let exchange = &s.exchange; async move { exchange.publish("nobody", &message).await } };
    publish_confirmed Everything |s| { let message = Message::new("m"); let exchange = &s.exchange; async move { exchange.publish_confirmed("nobody", &message).await } };
    queue_declare Everything |s| s.channel.queue_declare("new", QueueOptions::new());
    queue_declare_passive Everything |s| s.channel.queue_declare_passive("queue");
    queue_bind Everything |s| s.channel.queue_bind("queue", "exchange", "more", FieldTable::new());
    queue_unbind Everything |s| s.channel.queue_unbind("queue", "exchange", "bound", FieldTable::new());
    queue_purge Everything |s| s.channel.queue_purge("queue").timeout(Duration::from_secs(5));
    queue_delete Everything |s| s.channel.queue_delete("none");
    queue_delete_if_unused Everything |s| s.channel.queue_delete_if_unused("none");
    queue_delete_if_empty Everything |s| s.channel.queue_delete_if_empty("none");
    bind Everything |s| s.queue.bind("exchange", "more");
    bind_with Everything |s| s.queue.bind_with("exchange", "more", FieldTable::new());
    unbind Everything |s| s.queue.unbind("exchange", "bound", FieldTable::new());
    consume Everything |s| s.queue.consume(ConsumeOptions::new());
    get Everything |s| s.queue.get();
    get_no_ack Everything |s| s.queue.get_no_ack();
    publish Everything |s| { let message = Message::new("m"); let queue = &s.queue; async move { queue.publish(&message).await } };
    publish_confirmed Everything |s| { let message = Message::new("m"); let queue = &s.queue; async move { queue.publish_confirmed(&message).await } };
    purge Everything |s| s.queue.purge();
    delete Everything |s| s.queue.delete();
    delete_if_unused TheConnection |s| s.queue.delete_if_unused();
    delete_if_empty TheConnection |s| s.queue.delete_if_empty();
    basic_qos Everything |s| s.channel.basic_qos(7);
    basic_consume Everything |s| s.channel.basic_consume("queue", ConsumeOptions::new());
    basic_cancel Everything |s| s.channel.basic_cancel("nobody");
    basic_get Everything |s| s.channel.basic_get("queue");
    basic_get_no_ack Everything |s| s.channel.basic_get_no_ack("queue");
    basic_recover Everything |s| s.channel.basic_recover();
    basic_publish Everything |s| { let channel = &s.channel; async move { channel.basic_publish(&Route::queue("queue"), &RawProperties::EMPTY, "m").await } };
    basic_publish_prepared Everything |s| { let channel = &s.channel; let prepared = channel.prepare(&Route::queue("queue"), &RawProperties::EMPTY).expect("short"); async move { channel.basic_publish_prepared(&prepared, "m").await } };
    basic_publish_all Everything |s| { let channel = &s.channel; let prepared = channel.prepare(&Route::queue("queue"), &RawProperties::EMPTY).expect("short"); async move { channel.basic_publish_all(&prepared, ["m", "n"]).await } };
    publish_all Everything |s| { let prepared = s.publisher.prepare("bound").expect("short"); async move { match prepared.publish_all(["m", "n"]).await { Ok(confirmations) => confirmations.await.is_ok(), Err(_) => false } } };
    confirm_select Everything |s| s.channel.confirm_select();
    tx_select Everything |s| s.transacting.tx_select();
    tx_commit Everything |s| s.transacting.tx_commit();
    tx_rollback Everything |s| s.transacting.tx_rollback();
    transaction Everything |s| s.transacting.transaction(async |channel: &Channel| channel.tx_commit().await);
    publish Everything |s| async { match s.publisher.publish("bound", "m").await { Ok(confirmation) => confirmation.await.is_ok(), Err(_) => false } };
    publish_message Everything |s| { let message = Message::new("m"); let publisher = &s.publisher; async move { publisher.publish_message("bound", &message).await } };
    send_message Everything |s| { let message = Message::new("m"); let publisher = &s.publisher; async move { publisher.send_message("bound", &message).await } };
    send Everything |s| s.publisher.send("bound", "m");
    wait_for_confirms Everything |s| s.publisher.wait_for_confirms();
    next Everything |s| s.consumer.next();
    cancel Everything |s| s.consumer.cancel();
    for_each_concurrent Everything |s| { let consumer = s.queue.consume(ConsumeOptions::new()); async move { consumer.await.expect("a consumer").for_each_concurrent(2, |delivery| async move { let _sent = delivery.ack(); }).await } };
};

/// A task that is known by its waker only.
struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future that often, then drops it. Returns whether it was ready before.
fn run_and_drop(
    rig: &mut ClientRig<Broker>,
    mut future: Pin<Box<dyn Future<Output = ()> + '_>>,
    waker: &Waker,
    polls: usize,
) -> bool {
    let mut context = Context::from_waker(waker);
    for _ in 0..polls {
        if future.as_mut().poll(&mut context).is_ready() {
            return true;
        }
        rig.step();
    }
    false
}

/// More polls than any of them takes.
const POLLS: usize = 60;

#[test]
fn whatever_is_dropped_whenever_nothing_breaks() {
    let mut drops = 0;
    for (name, leaves, make) in CASES {
        for polls in 0..POLLS {
            let (mut rig, connection) = ClientRig::joined();
            // Futures are polled often while the event that they wait for comes nearer.
            rig.piece = 16;
            let mut scene = Scene::set(&mut rig, connection);
            let task = Arc::new(Task);
            let waker = Waker::from(task.clone());
            let ready = run_and_drop(&mut rig, make(&mut scene), &waker, polls);
            drop(waker);
            // A stream keeps the waker of its last poll, as it goes on when the future of its next item is dropped.
            if *name != "next" {
                assert_eq!(Arc::strong_count(&task), 1, "{name}, dropped after {polls} polls");
            }
            // Half of the time, the events that it left behind come first.
            if polls % 2 == 0 {
                rig.settle();
            }
            check(&mut rig, &scene, *leaves, &format!("{name}, dropped after {polls} polls"));
            if ready {
                break;
            }
            drops += 1;
        }
    }
    assert!(drops > 5 * CASES.len(), "{drops} drops of {} futures", CASES.len());
}

/// The futures of a connection that is made in the background. The rest needs a channel.
const BACKGROUND: &[(&str, MakeInBackground)] = &[
    ("ready", |c| Box::pin(async { drop(c.ready().await) })),
    ("open_channel", |c| Box::pin(async { drop(c.open_channel().await) })),
    ("open_channel_numbered", |c| Box::pin(async { drop(c.open_channel_numbered(77).await) })),
    ("channel_numbered", |c| Box::pin(async { drop(c.channel_numbered(77).await) })),
    ("closed", |c| Box::pin(async { drop(c.closed().await) })),
    ("after", |c| Box::pin(async { drop(c.after(Duration::from_secs(1)).await) })),
    ("queue_exists", |c| Box::pin(async { drop(c.queue_exists("none").await) })),
    ("exchange_exists", |c| Box::pin(async { drop(c.exchange_exists("none").await) })),
    ("compare", |c| Box::pin(async { drop(topology(true).compare(c).await) })),
    ("update_secret", |c| Box::pin(async { drop(c.update_secret("guest", "renewed").await) })),
    ("next", |c| Box::pin(async { drop(c.events().next().await) })),
    ("close", |c| Box::pin(async { drop(c.close().await) })),
    ("shutdown", |c| Box::pin(async { drop(c.shutdown(Duration::from_secs(1)).await) })),
];

type BoxedFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type MakeInBackground = fn(&Connection) -> BoxedFuture<'_>;

/// The number of polls before there is a transport.
const UNCONNECTED: usize = 2;

#[test]
fn futures_can_be_dropped_before_the_first_connection_and_while_it_is_made() {
    for (name, make) in BACKGROUND {
        for polls in 0..100 {
            let (ready, ended) = dropped_in_background(name, *make, polls);
            assert_eq!(ended, polls > 0 && ["close", "shutdown"].contains(name), "{name}, {polls}");
            if ready {
                break;
            }
        }
    }
}

/// Drops a future after that many polls. Returns whether it was ready by then, and whether the connection has ended.
fn dropped_in_background(name: &str, make: MakeInBackground, polls: usize) -> (bool, bool) {
    let mut now = Instant::now();
    let (connection, mut reconnector) =
        Reconnector::begin(Config::default(), Recovery::default(), 1, now);
    let handle = connection.clone();
    let (task, mut future) = (Arc::new(Task), Some(make(&handle)));
    let waker = Waker::from(task.clone());
    let mut left = polls;
    let mut poll = |future: &mut Option<BoxedFuture<'_>>| {
        let own = future.as_mut().filter(|_| left > 0);
        left = left.saturating_sub(1);
        let ready =
            own.is_some_and(|own| own.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        if ready || left == 0 {
            *future = None;
        }
        ready
    };
    let mut ready = false;
    for _ in 0..UNCONNECTED {
        ready |= poll(&mut future);
        if reconnector.turn(now, Waker::noop()).done {
            return (polls <= UNCONNECTED || ready, true);
        }
        reconnector.failed(now, ConnectStep::Tcp, "nobody listens");
        now += Duration::from_secs(10);
    }
    while reconnector.turn(now, Waker::noop()).connect.is_none() {
        now += Duration::from_secs(10);
    }
    let driver = reconnector.connected(now, None);
    let mut rig = ClientRig::driven(connection, driver, Broker::new(now), now);
    while future.is_some() && !ready {
        rig.step();
        ready |= poll(&mut future);
    }
    let channel = rig.run_by_steps(handle.open_channel()).expect("the connection works");
    drop(channel);
    rig.settle();
    assert_eq!(rig.peer.engine.take_violation(), None, "{name}, dropped after {polls} polls");
    assert_eq!(handle.health().channels, 0, "{name}, dropped after {polls} polls");
    (ready, false)
}

fn check(rig: &mut ClientRig<Broker>, scene: &Scene, leaves: Leaves, what: &str) {
    if leaves == Everything {
        let declared = scene.channel.queue_declare(what, QueueOptions::new().durable(false));
        let queue = rig.run_by_steps(declared).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(*queue.name(), *what, "somebody else's answer");
    }
    if leaves != Nothing {
        let opened = rig.run_by_steps(scene.connection.open_channel());
        let channel = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        rig.run_by_steps(channel.close()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    rig.settle();
    assert_eq!(rig.peer.engine.take_violation(), None, "{what}");
    let health = scene.connection.health();
    if health.is_open() {
        assert_eq!(health.unconfirmed, 0, "{what}");
        // One delivery lies with the consumer of the scene, if that has not been cancelled.
        assert!(health.unsettled <= 1, "{what}: {health:?}");
        let unacknowledged = rig.peer.unacknowledged_count();
        assert!(unacknowledged <= 1, "{what}: {unacknowledged} unacknowledged");
    }
}

#[test]
fn none_is_forgotten() {
    let listed: BTreeSet<_> = CASES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let mut found = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../amqp-client-core/src"), &mut found);
    // These are for adapters, or drop nothing but the future that they are given.
    for other in ["open", "reach", "wrap"] {
        found.remove(other);
    }
    assert!(found.len() > 40, "{found:?}");
    let forgotten: Vec<_> = found.difference(&listed).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// The names of public functions that return futures.
fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the source is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("it is a text");
        for declaration in source.split("    pub ").skip(1) {
            let head = declaration.split(['{', ';']).next().unwrap_or_default();
            let (kind, rest) = head.split_once("fn ").unwrap_or(("", ""));
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            let is_future = kind == "async "
                || kind.is_empty()
                    && ["-> Reply<", "-> OpenChannel", "-> After"]
                        .iter()
                        .any(|kind| head.contains(kind));
            if is_future && !name.is_empty() {
                found.insert(name.to_owned());
            }
        }
    }
}
