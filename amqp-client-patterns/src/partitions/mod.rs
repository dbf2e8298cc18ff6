//! Partitions: many queues that share the messages of one name by their keys.
//!
//! A queue has one leader, on one machine, and one consumer at a time if its messages must stay in order. Partitions lift both limits.
//! Each message has a key, such as the number of a customer. The key decides which of the queues gets the message. So messages with the
//! same key stay in order, and the queues work in parallel, with their leaders spread over the machines of a cluster.
//!
//! ```
//! # use amqp_client_tokio::{ConsumeOptions, PublisherOptions, connect};
//! use amqp_client_patterns::partitions::{Partitions, key_of};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = amqp_test_broker::Broker::start()?;
//! # let connection = connect(&broker.uri()).await?;
//! # let channel = connection.open_channel().await?;
//! // 12 quorum queues: orders.0 to orders.11.
//! let orders = Partitions::new("orders", 12)?;
//! orders.topology(connection.broker_version().as_ref()).apply(&channel).await?;
//!
//! let publisher = orders.publisher(&connection, PublisherOptions::new()).await?;
//! publisher.send("customer-4711", "three fish").await?;
//!
//! // The key decides: this customer has partition 1.
//! let partition = channel.queue(orders.queue(1).ok_or("there are 12")?)?;
//! let mut consumer = partition.consume(ConsumeOptions::new()).await?;
//! let delivery = consumer.next().await.ok_or("it has ended")??;
//! assert_eq!(key_of(&delivery).as_deref(), Some(&b"customer-4711"[..]));
//! delivery.ack()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Groups
//!
//! The programs that consume the partitions form a group: each [joins](Partitions::join) as a [`Member`], and gets some of the
//! partitions. When members come or go, RabbitMQ moves partitions between them. There is no coordinator: the priorities of the consumers
//! say who has what.
//!
//! # What is promised
//!
//! - Messages with the same key that one [`PartitionPublisher`] publishes arrive in one queue, in the order in which they were
//!   published, each at least once. After a loss of the connection, the publisher repeats what was not confirmed, in its order, before
//!   anything new. So a consumer may see messages again: `7 8 9 8 9 10`.
//! - Several publishers agree on the partition of a key, in any language: see [`partition_of`].
//! - Each partition is a quorum queue with a single active consumer: of all consumers of a partition, one at a time gets messages.
//! - Messages of a partition are delivered for the first time in their order, whatever members join, leave or die meanwhile.
//!
//! # What is not
//!
//! - **The number of partitions is fixed.** With another number, most keys have another partition, and their messages can overtake
//!   each other. To change it, create partitions with another name, let the publishers change over, and consume the old ones until they
//!   are empty. Publishers and members notice if the number differs from that of the broker's queues.
//! - **Messages may be delivered more than once**, for example after a member died. The flag `redelivered` does not show all of these.
//!   So handlers have to recognize what they have done, for example by a number in the message.
//! - **Two members may work on the same message for a short time.** A member that was cut off from the broker goes on with what it has,
//!   while another one gets the same messages again.
//! - **Before RabbitMQ 4.0, partitions are not spread**: the member that came first has all of them.
//! - Retries: a message that is rejected and requeued comes again after later messages. Groups never do that: repeat the work on it.

mod error;
mod group;
mod held;
mod join;
mod key;
mod member;
mod publisher;
mod slot;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::proto::ShortStr;
use amqp_client_core::topology::Topology;
use amqp_client_core::{
    BrokerFeature, BrokerVersion, Connection, LeaderLocator, PublisherOptions, QueueOptions,
    QueueType,
};

pub use error::{KeyedMessageError, PartitionSendError, PartitionsError};
pub use group::{Group, GroupEnd};
pub use held::PartitionDelivery;
pub use join::Join;
pub use key::partition_of;
pub use member::Member;
pub use publisher::{PartitionPublisher, key_of};
pub use watch::GroupEvent;

/// The most partitions that can be created together.
const MAX: u32 = 65_536;

/// How long a consumer may keep a message. Handlers take less, and if the broker took back single messages, they would lose their order.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How long a partition waits for a node that has its active consumer, and does not respond.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_secs(1);

/// Partitions of one name: see [the module](self). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    name: ShortStr,
    /// The names of the queues, by partition.
    queues: Arc<[ShortStr]>,
}

impl Partitions {
    /// Names a number of partitions. Sends nothing. The queues are named after the partitions: `orders.0`, `orders.1` and so on.
    ///
    /// Choose a number that is several times that of the consumers that you will ever have: it is hard to change later. Each partition
    /// costs what a quorum queue costs.
    ///
    /// # Errors
    /// [`PartitionsError::Name`] or [`PartitionsError::Count`], if the name is too long, or the number is 0 or above 65,536.
    pub fn new(name: impl AsRef<[u8]>, count: u32) -> Result<Self, PartitionsError> {
        if count == 0 || count > MAX {
            return Err(PartitionsError::Count { count });
        }
        let name = ShortStr::named("the name of partitions", name)?;
        let queues = (0..count).map(|partition| queue_name(&name, partition));
        let queues = queues.collect::<Result<_, _>>()?;
        Ok(Self { name, queues })
    }

    /// Returns the name of the partitions.
    #[must_use]
    pub const fn name(&self) -> &ShortStr {
        &self.name
    }

    /// Returns the number of partitions.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.queues.len()).unwrap_or(u32::MAX)
    }

    /// Returns the queue of a partition. Partitions are numbered from 0.
    #[must_use]
    pub fn queue(&self, partition: u32) -> Option<&ShortStr> {
        self.queues.get(partition as usize)
    }

    /// Returns the queue that has a key.
    fn queue_of(&self, key: &[u8]) -> ShortStr {
        self.queue(self.partition_of(key)).cloned().unwrap_or_default()
    }

    /// Returns the partition that has a key.
    #[must_use]
    pub fn partition_of(&self, key: impl AsRef<[u8]>) -> u32 {
        partition_of(key.as_ref(), self.count())
    }

    /// Returns the queues, to declare them with [`Topology::apply`]. All programs that use the partitions may do so. Nothing changes if
    /// they exist.
    ///
    /// They are quorum queues with a single active consumer, and their leaders are spread over the nodes of the cluster. Some options
    /// depend on the version of RabbitMQ, as [`Connection::broker_version`] reports it. With `None`, they are left out.
    ///
    /// | Since | Option | Why |
    /// |---|---|---|
    /// | 3.12 | `x-consumer-timeout` of 24 hours | a message that is taken back alone comes again after later ones |
    /// | 4.0 | `x-delivery-limit` of -1 | by default, RabbitMQ drops a message that was delivered 20 times, even one that only waited behind another that crashes its consumer |
    /// | 4.3 | `x-consumer-disconnected-timeout` of 1 second | by default, partitions whose consumer was connected to a dead node are silent for 60 seconds |
    ///
    /// The broker refuses to declare an existing queue with other options. So after an upgrade of the broker, the error of `apply` may
    /// name an option. Then pass the version with which the queues were created.
    pub fn topology(&self, broker: Option<&BrokerVersion>) -> Topology {
        let options = queue_options(broker);
        let declare = |topology: Topology, queue| topology.queue(queue, options.clone());
        self.queues.iter().fold(Topology::new(), declare)
    }

    /// Opens a publisher, on a channel of its own. Checks that the broker has these queues, and not more.
    ///
    /// The publisher needs some options, whatever was passed: messages are mandatory, and [kept](amqp_client_core::OnLoss::Keep) until
    /// they are confirmed.
    ///
    /// # Errors
    /// [`PartitionsError::Missing`], [`PartitionsError::OtherCount`], or [`PartitionsError::Message`] for properties that
    /// partitions cannot have; [`PartitionsError::Call`], if a request failed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn publisher(
        &self,
        connection: &Connection,
        options: PublisherOptions,
    ) -> Result<PartitionPublisher, PartitionsError> {
        self.check(connection).await?;
        PartitionPublisher::open(self, connection, options).await
    }

    /// Checks that the last of these queues exists, and the one after it does not.
    async fn check(&self, connection: &Connection) -> Result<(), PartitionsError> {
        let Some(last) = self.queues.last() else { return Ok(()) };
        if !connection.queue_exists(last).await? {
            return Err(PartitionsError::Missing { queue: last.clone(), count: self.count() });
        }
        let next = queue_name(&self.name, self.count())?;
        if connection.queue_exists(&next).await? {
            return Err(PartitionsError::OtherCount { queue: next, count: self.count() });
        }
        Ok(())
    }
}

/// Returns the name of a queue of these partitions.
fn queue_name(name: &ShortStr, of: impl fmt::Display) -> Result<ShortStr, PartitionsError> {
    let mut bytes = name.as_ref().to_vec();
    bytes.extend_from_slice(format!(".{of}").as_bytes());
    Ok(ShortStr::named("the name of a partition", bytes)?)
}

/// The options of the queues, for this version of the broker.
fn queue_options(broker: Option<&BrokerVersion>) -> QueueOptions {
    let has = |feature| broker.is_some_and(|broker| broker.has(feature));
    let mut options = QueueOptions::new()
        .queue_type(QueueType::Quorum)
        .single_active_consumer()
        .leader_locator(LeaderLocator::Balanced);
    if has(BrokerFeature::QueueConsumerTimeout) {
        options = options.consumer_timeout(CONSUMER_TIMEOUT);
    }
    if has(BrokerFeature::DefaultDeliveryLimit) {
        options = options.no_delivery_limit();
    }
    if has(BrokerFeature::ConsumerTimeout) {
        options = options.consumer_disconnected_timeout(DISCONNECTED_TIMEOUT);
    }
    options
}
