//! Quorum queues: what they count, when they drop a message, and where a requeued one goes.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use amqp_client_core::{Channel, Delivery, Message, Queue, QueueOptions, QueueType};
use amqp_client_tokio::{Connection, connect};

use crate::{brokers, version};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// How messages come back to their queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Nack,
    Reject,
    Recover,
    Close,
}

/// How often the first message is requeued.
const ROUNDS: u32 = 5;

fn counter(delivery: &Delivery, name: &str) -> Option<i64> {
    delivery.properties().headers().ok()??.get(name)?.as_i64()
}

fn shown(delivery: &Delivery) -> String {
    let body = delivery.text().unwrap_or_default();
    let [failed, acquired] =
        ["x-delivery-count", "x-acquired-count"].map(|name| counter(delivery, name));
    format!("{body} {} {failed:?} {acquired:?}; ", delivery.redelivered())
}

/// Takes two messages, and requeues both in that way.
async fn requeue(connection: &Connection, queue: &Queue, how: How, seen: &mut String) -> Outcome {
    let channel = connection.open_channel().await?;
    channel.hold_until_closed();
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.extend(channel.basic_get(queue.name()).await?.map(|got| got.delivery));
    }
    taken.iter().for_each(|delivery| seen.push_str(&shown(delivery)));
    writeln!(seen)?;
    match how {
        How::Nack => taken.into_iter().try_for_each(|delivery| delivery.nack(true))?,
        How::Reject => taken.into_iter().try_for_each(|delivery| delivery.reject(true))?,
        How::Recover => channel.basic_recover().await?,
        How::Close => {}
    }
    let before = ready(&channel, queue).await?;
    channel.close().await?;
    // The messages of a closed channel come back after the reply.
    let channel = connection.open_channel().await?;
    while how == How::Close && ready(&channel, queue).await? == before {}
    Ok(())
}

async fn ready(channel: &Channel, queue: &Queue) -> Result<u32, Box<dyn std::error::Error>> {
    Ok(channel.queue_declare_passive(queue.name()).await?.message_count())
}

/// Returns what a client sees of messages that come back again and again.
async fn observed(
    uri: &str,
    limit: Option<i64>,
    how: How,
) -> Result<String, Box<dyn std::error::Error>> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let name = format!("conformance.{}.counters.{number}", std::process::id());
    let connection = connect(uri).await?;
    let mut options = QueueOptions::new().queue_type(QueueType::Quorum);
    if let Some(limit) = limit {
        options = options.argument("x-delivery-limit", limit);
    }
    let queue = connection.open_channel().await?.queue_declare(name, options).await?;
    for number in 1..=4 {
        queue.publish_confirmed(&Message::new(number.to_string())).await?;
    }
    let mut seen = String::new();
    for _ in 0..ROUNDS {
        requeue(&connection, &queue, how, &mut seen).await?;
    }
    while let Some(got) = queue.get().await? {
        seen += &shown(&got.delivery);
        got.delivery.ack()?;
    }
    queue.delete().await?;
    connection.close().await?;
    Ok(seen)
}

#[tokio::test]
async fn both_brokers_count_requeued_messages() -> Outcome {
    let (_, rabbitmq, memory) = brokers();
    if ((4, 0)..(4, 3)).contains(&version(rabbitmq).ok_or("no version")?) {
        // The in-memory broker does not count as these do.
        return Ok(());
    }
    for limit in [None, Some(-1), Some(0), Some(2), Some(10)] {
        for how in [How::Nack, How::Reject, How::Recover, How::Close] {
            // Nobody can tell when a closed channel's messages are dropped.
            if how == How::Close && limit.is_some_and(|limit| limit < i64::from(ROUNDS)) {
                continue;
            }
            let expected = observed(rabbitmq, limit, how).await?;
            assert_eq!(observed(&memory.uri(), limit, how).await?, expected, "{limit:?} {how:?}");
        }
    }
    Ok(())
}
