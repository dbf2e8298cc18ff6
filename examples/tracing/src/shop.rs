//! Orders, and the connections to the broker. One connection publishes and the other consumes: an alarm of the broker stops the first
//! only.

use std::time::Duration;

use amqp_client_patterns::codec;
use amqp_client_tokio::error::chain;
use amqp_client_tokio::{
    Channel, Connection, MessageProperties, OnLoss, Publisher, PublisherOptions, Queue,
    QueueOptions, Recovery, Target, connect_in_background,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::Error;
use crate::telemetry;

/// The queue of orders that shall be shipped.
pub(crate) const ORDERS: &str = "traced.orders";
/// The queue of orders that have been shipped.
pub(crate) const SHIPPED: &str = "traced.shipped";

/// An order, as clients send it and as it is published.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) item: String,
}

/// The connections, and what publishes.
#[derive(Debug)]
pub(crate) struct Shop {
    publishing: Connection,
    consuming: Connection,
    publisher: OnceCell<Publisher>,
}

impl Shop {
    /// Connects in the background: the broker may start later than this program.
    pub(crate) fn open(target: &Target) -> Result<Self, Error> {
        let settings = *target.get_config().get_settings();
        let timeout = Some(Duration::from_secs(5));
        let settings = settings.call_timeout(timeout).publish_timeout(timeout);
        // A channel that the broker closes is opened again.
        let recovery = Recovery::default().reopen_channels(true);
        let target = target.clone().settings(settings.confirm_timeout(timeout)).recovery(recovery);
        // All that there is to do for traces: the code that publishes and consumes does not know about them.
        let target = target.clone().intercept(telemetry::intercept(&target));
        let connect = |name| -> Result<Connection, Error> {
            Ok(connect_in_background(target.clone().connection_name(name)?)?)
        };
        Ok(Self {
            publishing: connect("publishing")?,
            consuming: connect("consuming")?,
            publisher: OnceCell::new(),
        })
    }

    /// Returns the connections, with their names.
    pub(crate) const fn connections(&self) -> [(&'static str, &Connection); 2] {
        [("publishing", &self.publishing), ("consuming", &self.consuming)]
    }

    /// Declares a queue to consume from it. Waits until the broker is there.
    pub(crate) async fn open_queue(&self, name: &str) -> Result<Queue, Error> {
        self.consuming.ready().await?;
        declare(&self.consuming.open_channel().await?, name).await
    }

    /// Publishes an order to a queue. Returns when the broker has it.
    pub(crate) async fn publish(&self, queue: &str, order: &Order) -> Result<(), Error> {
        let publisher = self.publisher.get_or_try_init(|| self.open_publisher()).await?;
        let properties = MessageProperties::new().message_id(order.id.as_str());
        let message = codec::encode::<codec::Json, _>(order, &properties)?;
        Ok(publisher.send_message(queue, &message).await?)
    }

    async fn open_publisher(&self) -> Result<Publisher, Error> {
        // Otherwise a request would wait for the broker until its timeout.
        if !self.publishing.is_open() {
            return Err("the broker cannot be reached".into());
        }
        let channel = self.publishing.open_channel().await?;
        declare(&channel, ORDERS).await?;
        declare(&channel, SHIPPED).await?;
        // During an outage, clients should get their reply at once, and not after a timeout.
        let options = PublisherOptions::new().on_loss(OnLoss::Fail);
        Ok(channel.default_exchange().publisher(options)?)
    }

    /// Returns the reason when a connection has closed for good, such as credentials that the broker refuses.
    pub(crate) async fn closed(&self) -> Error {
        tokio::select! {
            reason = self.publishing.closed() => reason.into(),
            reason = self.consuming.closed() => reason.into(),
        }
    }

    /// Closes both connections, after what is unfinished on them, within that time.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        for (name, connection) in self.connections() {
            if let Err(error) = connection.shutdown(grace).await {
                eprintln!("{name}: {}", chain(&error));
            }
        }
    }
}

/// Declares a queue. Both connections do, so that each can restore it.
async fn declare(channel: &Channel, name: &str) -> Result<Queue, Error> {
    Ok(channel.queue_declare(name, QueueOptions::new()).await?)
}
