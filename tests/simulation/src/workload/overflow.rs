//! Publishing to a queue that refuses messages when it is full.

use std::collections::BTreeSet;

use amqp_client_core::{Channel, ConfirmError, Overflow, PublisherOptions, QueueOptions};

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

/// Publishes more than fits, all at once: the queue contains exactly what the broker confirmed.
async fn round(env: &Env, channel: &Channel) -> Try<()> {
    let (name, room, count) =
        env.random(|rng| (format!("narrow-{:016x}", rng.u64(..)), rng.u32(1..5), rng.u8(1..20)));
    let options =
        QueueOptions::new().exclusive(true).max_length(room).overflow(Overflow::RejectPublish);
    let queue = env.call(channel.queue_declare(&name, options).await)?;
    let options = PublisherOptions::new();
    let publisher = env.publish(channel.default_exchange().publisher(options))?;
    let mut open = Vec::new();
    for number in 0..count {
        open.push((number, env.publish(publisher.publish(&name, vec![number]).await)?));
    }
    env.random(|rng| rng.shuffle(&mut open));
    let mut taken = BTreeSet::new();
    for (number, confirmation) in open {
        match confirmation.await {
            Err(ConfirmError::Nacked) => {}
            result => {
                env.confirmed(result)?;
                taken.insert(number);
            }
        }
    }
    let mut found = BTreeSet::new();
    while let Some(got) = env.call(queue.get_no_ack().await)? {
        found.extend(got.delivery.body().first().copied());
    }
    if taken != found {
        return Err(env.fail(format!("{name} took {taken:?}, so it said, and has {found:?}")));
    }
    // The failure was reported above, and is reported once more.
    let all = publisher.wait_for_confirms().await;
    if all.is_ok() != (taken.len() == usize::from(count)) {
        return Err(env.fail(format!("{name} took {} of {count}: {all:?}", taken.len())));
    }
    env.call(queue.delete().await).map(|_| ())
}
