//! Topology that comes and goes, and counts that have to be right.

use amqp_client_core::proto::FieldTable;
use amqp_client_core::{Channel, ExchangeKind, ExchangeOptions, Message, QueueOptions};

use super::leave;
use crate::client::{Env, Try};
use crate::script::Job;

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let connection = env.connect().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    while *left > 0 {
        *left -= 1;
        round(env, &channel).await?;
        env.pause(job.pause).await;
    }
    drop(channel);
    leave(env, connection).await
}

/// An exchange and queues bound to it, all of them pipelined; messages; then all goes again.
async fn round(env: &Env, channel: &Channel) -> Try<()> {
    // Names that nobody else has, whenever this begins anew.
    let name = format!("churn-{:016x}", env.random(|rng| rng.u64(..)));
    let (queues, messages) = env.random(|rng| (rng.u32(1..4), rng.u32(0..5)));
    let options = ExchangeOptions::new();
    let exchange = channel.exchange_declare(&name, ExchangeKind::Fanout, options);
    let names: Vec<_> = (0..queues).map(|number| format!("{name}-{number}")).collect();
    let options = || QueueOptions::new().exclusive(true);
    let declared: Vec<_> =
        names.iter().map(|name| channel.queue_declare(name, options())).collect();
    let bound: Vec<_> =
        names.iter().map(|queue| channel.queue_bind(queue, &name, "", FieldTable::new())).collect();
    // A request whose reply may not be awaited.
    let _ = env.perhaps(channel.queue_declare_passive(&names[0])).await;
    let exchange = env.call(exchange.await)?;
    for (name, declared) in names.iter().zip(declared) {
        let queue = env.call(declared.await)?;
        if *queue.name() != **name {
            return Err(env.fail(format!("declared {name}, and the reply names {}", queue.name())));
        }
    }
    for bound in bound {
        env.call(bound.await)?;
    }
    for number in 0..messages {
        env.publish(exchange.publish("", &Message::new(number.to_string())).await)?;
    }
    for name in &names {
        let deleted = match env.one_in(2) {
            true => {
                let purged = channel.queue_purge(name);
                let deleted = channel.queue_delete_if_empty(name);
                let count = env.call(purged.await)?;
                let rest = env.call(deleted.await)?;
                count + rest
            }
            false => env.call(channel.queue_delete(name).await)?,
        };
        if deleted != messages {
            return Err(env.fail(format!("{name} had {deleted} messages, not {messages}")));
        }
    }
    env.call(exchange.delete_if_unused().await)
}
