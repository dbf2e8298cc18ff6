use amqp_client_core::proto::{DecodeError, FieldError, ShortStr};
use amqp_client_core::{BrokerVersion, CallError, ConfirmError, PublishError, TooLong};
use thiserror::Error;

use crate::shown::debug_shows_chain;

/// Partitions cannot be used.
#[derive(Error)]
#[non_exhaustive]
pub enum PartitionsError {
    /// The name is too long: with a dot and the number of a partition, it may have 255 bytes.
    #[error(transparent)]
    Name(#[from] TooLong),
    /// Partitions cannot have this number.
    #[error("{count} partitions: the number has to be from 1 to 65536")]
    Count {
        /// The number.
        count: u32,
    },
    /// A queue does not exist. The partitions were not declared, or they are fewer.
    #[error(
        "the broker has no queue {queue}, the last of {count} partitions; \
         declare the partitions, or correct their number"
    )]
    Missing {
        /// The queue.
        queue: ShortStr,
        /// The number of partitions that were expected.
        count: u32,
    },
    /// A queue exists that belongs to a larger number of partitions. Publishers with different numbers would send messages of the same
    /// key to different queues.
    #[error(
        "the broker has a queue {queue}, so these are more than {count} partitions; \
         use the number with which they were declared"
    )]
    OtherCount {
        /// The queue.
        queue: ShortStr,
        /// The number of partitions that were expected.
        count: u32,
    },
    /// The publisher's properties cannot be those of messages of partitions.
    #[error("the properties of the publisher cannot be used")]
    Message(#[from] KeyedMessageError),
    /// The broker does not spread partitions over the members of a group. RabbitMQ does from version 4.0 on.
    #[error(
        "{} does not spread partitions over the members of a group, as RabbitMQ does from version 4.0 on; \
         upgrade it, or join with `even_if_unbalanced`: then the member that came first has all partitions",
        name_of(broker.as_ref())
    )]
    Unbalanced {
        /// The version of the broker, if it is known.
        broker: Option<BrokerVersion>,
    },
    /// All slots have a member.
    #[error("all 65536 slots of the group are taken")]
    NoSlot,
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The publisher cannot be created.
    #[error("the publisher cannot be created")]
    Publisher(#[from] PublishError),
}

/// A message cannot be published to partitions. Nothing was sent.
#[derive(Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyedMessageError {
    /// The message has a priority. Quorum queues deliver messages of a higher priority first, which breaks the order.
    #[error("a message of partitions cannot have a priority: it would overtake earlier ones")]
    Priority,
    /// The message has a header `CC` or `BCC`. The broker would copy it to other queues, perhaps to other partitions.
    #[error("a message of partitions cannot have the header {0}: its key decides where it goes")]
    Copies(&'static str),
    /// The properties of a forwarded message are malformed.
    #[error("the properties of the message are malformed")]
    Malformed(#[source] DecodeError),
    /// The key does not fit into the headers.
    #[error("the key does not fit into the headers of the message")]
    Key(#[source] FieldError),
}

/// A message was not sent to its partition, or not confirmed.
#[derive(Error)]
#[non_exhaustive]
pub enum PartitionSendError {
    /// The message cannot be published to partitions. Nothing was sent.
    #[error(transparent)]
    Message(#[from] KeyedMessageError),
    /// The message was not sent.
    #[error(transparent)]
    NotSent(#[from] PublishError),
    /// The message was sent and not confirmed. With [`ConfirmError::Returned`], its queue is gone.
    #[error(transparent)]
    NotConfirmed(#[from] ConfirmError),
}

debug_shows_chain! { PartitionsError KeyedMessageError PartitionSendError }

fn name_of(broker: Option<&BrokerVersion>) -> String {
    broker.map_or_else(|| "the broker".to_owned(), ToString::to_string)
}
