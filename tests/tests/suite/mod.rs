//! The behaviour of a client, independent of the runtime: written once, run on every adapter.
//!
//! An adapter provides how it opens a connection and how it runs a future; [`trials`] does the rest.

mod background;
mod basic;
mod cancellation;
#[path = "../captured/mod.rs"]
mod captured;
mod channels;
mod connections;
mod consuming;
mod counters;
mod exchanges;
mod holding;
mod intercepting;
mod logins;
mod patterns;
mod prepared;
mod publishing;
mod queues;
mod recovery;
mod replies;
mod taps;
mod topologies;
mod transactions;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, ConnectError, Connection, Consumer, Delivery, Queue, QueueOptions, Target,
};
use amqp_testkit::RabbitMq;
use captured::captured;
use libtest_mimic::{Failed, Trial};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of a behaviour.
pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// A runtime and its adapter.
#[derive(Clone, Copy)]
pub(crate) struct Adapter {
    pub(crate) name: &'static str,
    /// The broker's address.
    pub(crate) broker: fn() -> Result<String, Failed>,
    pub(crate) open: fn(Target) -> BoxFuture<Result<Connection, ConnectError>>,
    pub(crate) open_in_background: fn(Target) -> Result<Connection, ConnectError>,
    pub(crate) run: fn(BoxFuture<Outcome>) -> Outcome,
}

/// One thing that holds for every adapter.
struct Behaviour {
    name: &'static str,
    run: fn(World) -> BoxFuture<Outcome>,
}

/// Declares behaviours, each an async function of a [`World`].
macro_rules! behaviours {
    ($(async fn $name:ident($world:ident) $body:block)*) => {
        pub(super) const ALL: &[super::Behaviour] = &[$(super::Behaviour {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: |$world| Box::pin(async move {
                $body
                #[allow(unreachable_code, reason = "a body may end in its own result")]
                Ok(())
            }),
        }),*];
    };
}
pub(crate) use behaviours;

/// Longer than anything here takes on a busy machine: a test that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// All behaviours, as tests of that adapter.
pub(crate) fn trials(adapter: Adapter) -> Vec<Trial> {
    [
        background::ALL,
        basic::ALL,
        cancellation::ALL,
        channels::ALL,
        connections::ALL,
        consuming::ALL,
        counters::ALL,
        exchanges::ALL,
        holding::ALL,
        intercepting::ALL,
        logins::ALL,
        patterns::ALL,
        prepared::ALL,
        publishing::ALL,
        queues::ALL,
        recovery::ALL,
        replies::ALL,
        taps::ALL,
        topologies::ALL,
        transactions::ALL,
    ]
    .into_iter()
    .flatten()
    .map(|behaviour| {
        let (_, name) = behaviour.name.split_once("suite::").unwrap_or(("", behaviour.name));
        let run = behaviour.run;
        Trial::test(format!("{}::{name}", adapter.name), move || run_one(adapter, run))
    })
    .collect()
}

/// Runs a behaviour in a thread of its own, so that one that hangs is a failure and not the end of all.
fn run_one(adapter: Adapter, run: fn(World) -> BoxFuture<Outcome>) -> Result<(), Failed> {
    let (done, outcome) = mpsc::channel();
    let world = World { adapter, uri: (adapter.broker)()?, connection: Arc::default() };
    thread::spawn(move || {
        let run = move || (adapter.run)(run(world)).map_err(|error| error.to_string());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        done.send(outcome.unwrap_or_else(|panic| Err(text_of(&*panic))))
    });
    match outcome.recv_timeout(LIMIT) {
        Ok(outcome) => outcome.map_err(Failed::from),
        Err(_) => Err(format!("still running after {LIMIT:?}").into()),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

/// RabbitMQ, the same for all tests: the one of `AMQP_URL`, or a node that ends with this process.
pub(crate) fn rabbitmq() -> Result<String, Failed> {
    static NODE: OnceLock<Result<(Option<RabbitMq>, String), String>> = OnceLock::new();
    let node = NODE.get_or_init(|| match std::env::var("AMQP_URL") {
        Ok(uri) => Ok((None, uri)),
        Err(_) => RabbitMq::start()
            .map(|node| (node.amqp_uri(), node))
            .map(|(uri, node)| (Some(node), uri))
            .map_err(|error| error.to_string()),
    });
    node.as_ref().map(|(_, uri)| uri.clone()).map_err(Failed::from)
}

/// The world of a behaviour: an adapter, a broker, unique names.
#[derive(Clone)]
pub(crate) struct World {
    adapter: Adapter,
    pub(crate) uri: String,
    connection: Arc<OnceLock<Connection>>,
}

impl World {
    /// Returns a target that leads to the broker.
    pub(crate) fn target(&self) -> Target {
        captured(self.uri.parse().expect("AMQP_URL is an AMQP URI"))
    }

    /// A connection of its own.
    pub(crate) async fn open(&self, target: Target) -> Result<Connection, ConnectError> {
        (self.adapter.open)(target).await
    }

    /// A connection of its own, which is made in the background.
    pub(crate) fn open_in_background(&self, target: Target) -> Result<Connection, ConnectError> {
        (self.adapter.open_in_background)(target)
    }

    /// The connection of this behaviour.
    pub(crate) async fn connection(&self) -> Result<Connection, ConnectError> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection.clone());
        }
        let connection = self.open(self.target()).await?;
        Ok(self.connection.get_or_init(|| connection).clone())
    }

    /// A channel on the connection of this behaviour.
    pub(crate) async fn channel(&self) -> Result<Channel, Box<dyn Error + Send + Sync>> {
        Ok(self.connection().await?.open_channel().await?)
    }

    /// A channel with a queue that goes with the connection.
    pub(crate) async fn queue(&self) -> Result<(Channel, Queue), Box<dyn Error + Send + Sync>> {
        let channel = self.channel().await?;
        let queue = channel.queue_declare(name("q"), temporary()).await?;
        Ok((channel, queue))
    }
}

/// A queue that goes with its connection.
pub(crate) fn temporary() -> QueueOptions {
    QueueOptions::new().exclusive(true)
}

/// A unique name.
pub(crate) fn name(prefix: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("test.{prefix}.{}.{number}", std::process::id())
}

/// The next delivery, which has to come.
pub(crate) async fn next(
    consumer: &mut Consumer,
) -> Result<Delivery, Box<dyn Error + Send + Sync>> {
    Ok(consumer.next().await.ok_or("the consumer has ended")??)
}

/// Asserts that a request failed with that reply code, caused by that method.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, CallError>,
    code: u16,
    method: &str,
) {
    let error = result.expect_err("the broker should have refused it");
    let CallError::Ended(ended) = &error else { panic!("{error:?}") };
    let close = ended.as_close().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(close.reply_code.0, code, "{error}");
    assert_eq!(close.method(), Some(method), "{error}");
    assert!(!close.reply_text.is_empty(), "{error}");
}
