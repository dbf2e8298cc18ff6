//! The start of a worker.

use amqp_client_core::{Channel, ChannelEvents, ConsumeOptions, Consumer, Queue, ShortStr};

use super::WorkError;
use super::settle::Retries;
use crate::retry::Retry;

/// Declares the queues for retries, and consumes the queue on a channel of its own.
pub(super) async fn begin(
    queue: &Queue,
    options: ConsumeOptions,
    prefetch: u16,
    retry: Option<Retry>,
) -> Result<(Consumer, ChannelEvents, Option<Retries>), WorkError> {
    let channel = queue.channel().connection().open_channel().await?;
    // Before the first delivery, which the client may not accept.
    let events = channel.events();
    let name = queue.current_name();
    let retries = match retry {
        // Before the first delivery: losses count as attempts, and after the last one the broker moves a message to the queue for
        // those that failed. If that queue does not exist, the message is lost.
        Some(retry) => Some(declare(&channel, &name, retry).await?),
        None => None,
    };
    let consumer = channel.basic_consume(&name, options.prefetch(prefetch)).await?;
    Ok((consumer, events, retries))
}

async fn declare(channel: &Channel, queue: &ShortStr, retry: Retry) -> Result<Retries, WorkError> {
    let name = match queue.to_str() {
        Ok(name) if !name.starts_with(GENERATED) => name,
        _ => return Err(WorkError::QueueName(queue.clone())),
    };
    // A queue that does not exist is an error here, before anything is declared for it.
    channel.queue_declare_passive(name).await?;
    let strategy = retry.declare(channel.connection(), name).await?;
    Ok(Retries { retry, strategy, queue: name.into() })
}

/// The broker generates names that begin so. After a loss, such a queue can have another name.
const GENERATED: &str = "amq.gen-";
