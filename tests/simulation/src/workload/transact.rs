//! Publishing and acknowledging in transactions.

use amqp_client_core::{Message, MessageProperties};

use super::{declare, leave, queue_name};
use crate::client::{Connected, Env, Try};
use crate::script::{Job, QUEUES};

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let Connected { connection, link } = env.connect().await;
    let channel = env.open(connection.open_channel().await)?;
    let number = env.random(|rng| rng.usize(..QUEUES));
    let queue = declare(env, &channel, number).await?;
    env.call(channel.tx_select().await)?;
    let publisher = env.world.ledger.borrow_mut().publisher();
    let persistent = MessageProperties::new().persistent();
    while *left > 0 {
        *left -= 1;
        let mut published = Vec::new();
        for _ in 0..env.random(|rng| rng.u8(..4)) {
            let (id, body) = env.world.ledger.borrow_mut().publish(number, publisher);
            let message = Message::new(body).with(&persistent);
            let message = message.map_err(|error| env.fail(error.to_string()))?;
            let exchange = channel.default_exchange();
            env.publish(exchange.publish(&queue_name(number), &message).await)?;
            published.push(id);
        }
        let got = env.call(queue.get().await)?;
        let commits = !env.one_in(4);
        if let Some(got) = got {
            let delivered =
                env.world.ledger.borrow_mut().deliver(got.delivery.body(), number, link);
            let (id, _) = delivered.map_err(|text| env.fail(text))?;
            env.call(got.delivery.ack())?;
            if commits {
                // Whether or not the reply to the commit arrives.
                env.world.ledger.borrow_mut().settle(id, link);
            }
        }
        if commits {
            if let Some(committed) = env.perhaps(channel.tx_commit()).await {
                env.call(committed)?;
                let mut ledger = env.world.ledger.borrow_mut();
                published.into_iter().for_each(|id| ledger.confirm(id));
            }
        } else {
            env.call(channel.tx_rollback().await)?;
        }
        env.pause(job.pause).await;
    }
    drop(channel);
    leave(env, connection).await
}
