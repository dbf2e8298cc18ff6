//! The connections to the broker. One publishes and the other consumes: an alarm of the broker stops the first only.

use std::sync::OnceLock;
use std::time::Duration;

use amqp_client_patterns::retry::Retry;
use amqp_client_tokio::error::chain;
use amqp_client_tokio::{
    Channel, Connection, Health, OnCancel, OnLoss, Publisher, PublisherOptions, QueueOptions,
    QueueType, Recovery, Target, connect_target,
};
use tokio::time::sleep;

use crate::{Config, Error};

/// The queue of orders.
pub const QUEUE: &str = "orders";

/// The pause before something that failed is tried again: a broker that refuses at once should not be asked without end.
const PAUSE: Duration = Duration::from_secs(1);

/// The connections, and what requests publish with. All of it is missing until the broker is there.
#[derive(Debug)]
pub(crate) struct Broker {
    target: Target,
    publishing: OnceLock<Connection>,
    consuming: OnceLock<Connection>,
    publisher: OnceLock<Publisher>,
}

impl Broker {
    pub(crate) fn new(config: &Config) -> Self {
        let settings = *config.broker.get_config().get_settings();
        let timeout = Some(config.confirm);
        let settings = settings.publish_timeout(timeout).confirm_timeout(timeout);
        // A queue that somebody deletes is declared again, and a channel that the broker closes is opened again.
        let recovery = Recovery::default().on_cancel(OnCancel::Resubscribe).reopen_channels(true);
        let target = config.broker.clone().settings(settings).recovery(recovery).retry_open(true);
        let (publishing, consuming) = (OnceLock::new(), OnceLock::new());
        Self { target, publishing, consuming, publisher: OnceLock::new() }
    }

    /// Connects to publish. Waits until the broker is there.
    pub(crate) async fn publishing(&self) -> Result<&Connection, Error> {
        connect(&self.target, "publishing", &self.publishing).await
    }

    /// Connects to consume. Waits until the broker is there.
    pub(crate) async fn consuming(&self) -> Result<&Connection, Error> {
        connect(&self.target, "consuming", &self.consuming).await
    }

    /// Opens the publisher of orders, and tries that again until it succeeds.
    pub(crate) async fn open_publisher(&self, connection: &Connection) {
        while let Err(error) = self.try_open_publisher(connection).await {
            eprintln!("cannot publish yet: {}", chain(&*error));
            // Nothing reports that the reason has gone, such as a queue that exists with other arguments.
            sleep(PAUSE).await;
        }
    }

    async fn try_open_publisher(&self, connection: &Connection) -> Result<(), Error> {
        let channel = connection.open_channel().await?;
        declare(&channel).await?;
        // During an outage, clients should get their reply at once, and not after a timeout.
        let options = PublisherOptions::new().on_loss(OnLoss::Fail);
        let publisher = channel.default_exchange().publisher(options)?;
        self.publisher.get_or_init(|| publisher);
        Ok(())
    }

    /// Returns the publisher of orders, if there is one by now.
    pub(crate) fn publisher(&self) -> Option<&Publisher> {
        self.publisher.get()
    }

    /// Returns the names of both connections, and their states if they have been opened.
    pub(crate) fn health(&self) -> [(&'static str, Option<Health>); 2] {
        let health = |connection: &OnceLock<Connection>| connection.get().map(Connection::health);
        [("publishing", health(&self.publishing)), ("consuming", health(&self.consuming))]
    }

    /// Closes both connections, after what is unfinished on them, within that time.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        let shutdown = async |name, connection: &OnceLock<Connection>| {
            let Some(connection) = connection.get() else { return };
            match connection.shutdown(grace).await {
                Ok(left) if left.is_nothing() => {}
                Ok(left) => eprintln!("{name}: {left:?}"),
                Err(error) => eprintln!("{name}: {}", chain(&error)),
            }
        };
        let publishing = shutdown("publishing", &self.publishing);
        tokio::join!(publishing, shutdown("consuming", &self.consuming));
    }
}

async fn connect<'a>(
    target: &Target,
    name: &str,
    connection: &'a OnceLock<Connection>,
) -> Result<&'a Connection, Error> {
    let target = target.clone().connection_name(format!("orders, {name}"))?;
    let connected = connect_target(target).await?;
    Ok(connection.get_or_init(|| connected))
}

/// Logs the events of a connection. Returns when it is closed for good, such as by a broker that refuses the credentials.
pub(crate) async fn watch(name: &str, connection: &Connection) -> Error {
    let mut events = connection.events();
    while let Some(event) = events.next().await {
        eprintln!("{name}: {event}");
    }
    connection.closed().await.into()
}

/// Declares the queue of orders. Both connections do, so that each can restore it.
pub(crate) async fn declare(channel: &Channel) -> Result<amqp_client_tokio::Queue, Error> {
    // If an order makes the program crash each time, a quorum queue stops delivering it. It is parked then.
    let (failed, _) = Retry::times(0).topology(QUEUE, None).failed;
    let options = QueueOptions::new()
        .queue_type(QueueType::Quorum)
        .dead_letter_exchange("")
        .dead_letter_routing_key(failed);
    Ok(channel.queue_declare(QUEUE, options).await?)
}
