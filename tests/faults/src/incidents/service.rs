//! An ordinary service: it publishes orders, and ships them. If something fails, it tries again after a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amqp_client_tokio::topology::Topology;
use amqp_client_tokio::{
    Connection, ConsumeOptions, Delivery, ExchangeKind, ExchangeOptions, Message, PublisherOptions,
    QueueOptions, Status, Target, connect_target,
};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::Outcome;

/// How the service is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) uri: String,
    pub(crate) prefetch: Option<u16>,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// The time between two messages.
    pub(crate) pause: Duration,
    /// The bug of the service itself, once `broken` is set.
    pub(crate) bug: Bug,
}

/// A bug of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Handlers never return.
    Hangs,
    /// The handler of one message never returns.
    HangsOnce,
    /// One message is always requeued.
    Requeues,
}

/// The running service.
#[derive(Debug)]
pub(crate) struct Service {
    runtime: Runtime,
    connection: Connection,
    /// From now on, the service has its bug.
    broken: Arc<AtomicBool>,
}

const RETRY: Duration = Duration::from_secs(5);

impl Service {
    pub(crate) fn start(setup: Setup) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let runtime = Runtime::new()?;
        let target: Target = setup.uri.parse()?;
        let broken = Arc::new(AtomicBool::new(false));
        let connection = runtime.block_on(connect_target(target))?;
        let setup = Arc::new(setup);
        let (own, first, second) = (connection.clone(), setup.clone(), broken.clone());
        runtime.spawn(async move {
            while !matches!(own.health().status, Status::Closed(_)) {
                let _failed = publish(&own, &first, &second).await;
                sleep(RETRY).await;
            }
        });
        let (own, flag) = (connection.clone(), broken.clone());
        runtime.spawn(async move {
            while !matches!(own.health().status, Status::Closed(_)) {
                let _failed = ship(&own, &setup, &flag).await;
                sleep(RETRY).await;
            }
        });
        Ok(Self { runtime, connection, broken })
    }

    /// From now on, the service has its bug.
    pub(crate) fn break_it(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stop(self) {
        // The log has the error of a closed connection.
        let _closed = self.runtime.block_on(self.connection.close());
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

fn topology() -> Topology {
    Topology::new()
        .exchange("orders", ExchangeKind::Direct, ExchangeOptions::new())
        .queue("orders.ship", QueueOptions::new())
        .bind("orders.ship", "orders", "ship")
}

async fn publish(connection: &Connection, setup: &Setup, broken: &AtomicBool) -> Outcome {
    let channel = connection.open_channel().await?;
    topology().apply(&channel).await?;
    let publisher = channel.exchange("orders")?.publisher(PublisherOptions::new())?;
    let mut poisoned = false;
    loop {
        let body = if setup.bug == Bug::Requeues && broken.load(Ordering::Relaxed) && !poisoned {
            poisoned = true;
            b"poison".to_vec()
        } else {
            vec![b'x'; setup.size]
        };
        let confirmation = publisher.publish_message("ship", &Message::new(body)).await?;
        // Without this, the outcome of messages that were in flight would be awaited in order. A service counts failures.
        let _outcome = confirmation.await;
        sleep(setup.pause).await;
    }
}

async fn ship(connection: &Connection, setup: &Setup, broken: &AtomicBool) -> Outcome {
    let channel = connection.open_channel().await?;
    topology().apply(&channel).await?;
    let mut options = ConsumeOptions::new();
    if let Some(prefetch) = setup.prefetch {
        options = options.prefetch(prefetch);
    }
    let consumer = channel.basic_consume("orders.ship", options).await?;
    let hung = AtomicBool::new(false);
    consumer.for_each_concurrent(4, |delivery| handle(delivery, setup.bug, broken, &hung)).await?;
    Ok(())
}

async fn handle(delivery: Delivery, bug: Bug, broken: &AtomicBool, hung: &AtomicBool) {
    sleep(Duration::from_millis(20)).await;
    let broken = broken.load(Ordering::Relaxed);
    let hangs = match bug {
        Bug::Hangs => broken,
        Bug::HangsOnce => broken && !hung.swap(true, Ordering::Relaxed),
        Bug::None | Bug::Requeues => false,
    };
    if hangs {
        std::future::pending::<()>().await;
    }
    let requeues = bug == Bug::Requeues && delivery.body() == b"poison";
    // On a channel that is closed, nothing can be settled.
    let _settled = if requeues { delivery.nack(true) } else { delivery.ack() };
}
