//! Runs a test on each adapter, against an in-memory broker of its own.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::sync::Arc;
use std::time::Duration;

use amqp_client_blocking::Wait as _;
use amqp_client_core::{Channel, Connection, Message, Queue, QueueOptions};
use amqp_test_broker::{Broker, Options};
use tokio::sync::mpsc;

pub use amqp_client_patterns::codec::BoxError;

pub type Outcome = Result<(), BoxError>;

/// A broker and a connection to it.
pub struct Rig {
    pub broker: Broker,
    pub connection: Connection,
    pub channel: Channel,
}

impl Rig {
    async fn new(broker: Broker, connection: Connection) -> Result<Self, BoxError> {
        let channel = connection.open_channel().await?;
        Ok(Self { broker, connection, channel })
    }

    /// Declares a queue.
    pub async fn queue(&self, name: &str) -> Result<Queue, BoxError> {
        Ok(self.channel.queue_declare(name, QueueOptions::new()).await?)
    }

    /// Publishes a message to a queue, and waits for its confirm.
    pub async fn publish(&self, queue: &Queue, body: &str) -> Outcome {
        Ok(queue.publish_confirmed(&Message::new(body.to_owned())).await?)
    }

    /// Returns the number of messages of a queue that are ready.
    pub async fn count(&self, queue: &str) -> Result<u32, BoxError> {
        Ok(self.channel.queue_declare_passive(queue).await?.message_count())
    }

    /// Waits until a queue has this many messages that are ready.
    pub async fn wait_for_count(&self, queue: &str, expected: u32) -> Outcome {
        while self.count(queue).await? != expected {
            self.connection.after(Duration::from_millis(2)).await?;
        }
        Ok(())
    }
}

/// The reports of handlers to a test.
#[derive(Clone)]
pub struct Seen {
    sender: mpsc::UnboundedSender<String>,
    receiver: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
}

impl Seen {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Arc::new(tokio::sync::Mutex::new(receiver)) }
    }

    pub fn add(&self, text: impl Into<String>) {
        self.sender.send(text.into()).expect("the test listens");
    }

    /// Returns whether there is no report that nobody has taken.
    pub async fn is_empty(&self) -> bool {
        self.receiver.lock().await.is_empty()
    }

    /// Waits for the next `count` reports.
    pub async fn next(&self, count: usize) -> Vec<String> {
        let mut receiver = self.receiver.lock().await;
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(receiver.recv().await.expect("a sender is left"));
        }
        seen
    }
}

/// Runs a test on tokio with one thread and with several, on smol and on threads.
pub fn on_each_adapter(test: impl AsyncFn(Rig) -> Outcome) {
    on_each_adapter_with(&Options::new(), test);
}

/// The same with these options of the broker.
pub fn on_each_adapter_with(options: &Options, test: impl AsyncFn(Rig) -> Outcome) {
    let start = || Broker::start_with(options.clone()).expect("a broker");
    let on_tokio = |mut runtime: tokio::runtime::Builder| {
        let broker = start();
        runtime.enable_all().build().expect("a runtime").block_on(async {
            let connection = amqp_client_tokio::connect(&broker.uri()).await?;
            test(Rig::new(broker, connection).await?).await
        })
    };
    on_tokio(tokio::runtime::Builder::new_current_thread()).expect("tokio, one thread");
    on_tokio(tokio::runtime::Builder::new_multi_thread()).expect("tokio, several threads");
    let on_smol = smol::block_on(async {
        let broker = start();
        let connection = amqp_client_smol::connect(&broker.uri()).await?;
        test(Rig::new(broker, connection).await?).await
    });
    on_smol.expect("smol");
    let broker = start();
    let connection = amqp_client_blocking::connect(&broker.uri()).expect("a connection");
    let on_threads = async { test(Rig::new(broker, connection).await?).await };
    on_threads.wait().expect("threads");
}
