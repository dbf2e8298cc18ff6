//! Delayed retry of quorum queues: which requeued messages wait.

use amqp_client_core::{ConsumeOptions, Delivery, Message, QueueOptions, QueueType};
use amqp_client_tokio::connect;

use crate::brokers;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Longer than a client needs to requeue one message and to get the next, in milliseconds.
const DELAY: i64 = 2_000;

/// Requeues the first of two messages, and returns the order in which they come then.
async fn order(
    uri: &str,
    kind: &str,
    requeue: fn(Delivery) -> Outcome,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let connection = connect(uri).await?;
    let channel = connection.open_channel().await?;
    let name = format!("conformance.{}.delayed", std::process::id());
    let options = QueueOptions::new()
        .queue_type(QueueType::Quorum)
        .argument("x-delayed-retry-type", kind)
        .argument("x-delayed-retry-min", DELAY);
    let queue = channel.queue_declare(name, options).await?;
    for body in ["first", "second"] {
        queue.publish_confirmed(&Message::new(body)).await?;
    }
    requeue(queue.get().await?.ok_or("no message")?.delivery)?;
    let mut bodies = Vec::new();
    let options = ConsumeOptions::new().prefetch(1);
    let mut consumer = queue.consume(options).await?;
    for _ in 0..2 {
        let delivery = consumer.next().await.ok_or("cancelled")??;
        bodies.push(delivery.text()?.to_owned());
        delivery.ack()?;
    }
    queue.delete().await?;
    connection.close().await?;
    Ok(bodies)
}

#[tokio::test]
async fn both_brokers_delay_the_same_messages() -> Outcome {
    let (_, rabbitmq, memory) = brokers();
    let ways: [fn(Delivery) -> Outcome; 2] =
        [|delivery| Ok(delivery.nack(true)?), |delivery| Ok(delivery.reject(true)?)];
    for kind in ["all", "failed", "returned", "disabled"] {
        for (way, requeue) in ways.into_iter().enumerate() {
            let expected = order(rabbitmq, kind, requeue).await?;
            assert_eq!(order(&memory.uri(), kind, requeue).await?, expected, "{kind} {way}");
        }
    }
    Ok(())
}
