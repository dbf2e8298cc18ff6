//! A queue without a name, an exchange, a binding and a consumer: all of it is there again after each loss.

use std::time::Duration;

use amqp_client_core::{
    ConfirmError, ConsumeOptions, ExchangeOptions, PublishError, PublisherOptions, QueueOptions,
    SendError,
};

use super::leave;
use crate::client::{Env, Try};
use crate::script::Job;

/// Longer than any outage, all attempts to connect again, and the jumps of the clock meanwhile.
const OUTAGE: Duration = Duration::from_secs(7 * 1800);

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let connection = env.connect_for_good().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    let name = format!("roam-{}", env.random(|rng| rng.u64(..)));
    let passing = ExchangeOptions::new().durable(false).auto_delete(true);
    let exchange = env.call(channel.exchange_declare(&name, "direct", passing).await)?;
    let options = QueueOptions::new().durable(false).exclusive(true);
    let queue = env.call(channel.queue_declare("", options).await)?;
    env.call(queue.bind(&name, "here").await)?;
    env.call(channel.basic_qos(3).await)?;
    let mut consumer = env.call(queue.consume(ConsumeOptions::new()).await)?;
    let options = PublisherOptions::new();
    let publisher = env.publish(exchange.publisher(options))?;
    while *left > 0 {
        let number = *left;
        let attempts = async {
            loop {
                match publisher.send("here", number.to_be_bytes().as_slice()).await {
                    Ok(()) => {}
                    Err(SendError::NotConfirmed(
                        ConfirmError::Unconfirmed(_) | ConfirmError::TimedOut { .. },
                    )) => {}
                    Err(SendError::NotConfirmed(error)) => {
                        env.confirmed(Err(error))?;
                    }
                    Err(SendError::NotSent(error)) => {
                        if !matches!(error, PublishError::TimedOut { .. }) {
                            env.publish(Err(error))?;
                        }
                    }
                    Err(error) => return Err(env.fail(format!("not sent: {error}"))),
                }
                let found = async {
                    loop {
                        let delivery = env.consumed(consumer.next().await)?;
                        let found = delivery.body() == number.to_be_bytes();
                        env.call(delivery.ack())?;
                        if found {
                            return Ok(());
                        }
                    }
                };
                // It was lost with its queue, perhaps.
                if let Some(found) = env.within(Duration::from_secs(10), found).await {
                    return found;
                }
            }
        };
        match env.within(OUTAGE, attempts).await {
            Some(found) => found?,
            None => return Err(env.fail("not everything was restored")),
        }
        *left -= 1;
        env.pause(job.pause).await;
    }
    drop((channel, exchange, queue, consumer, publisher));
    leave(env, connection).await
}
