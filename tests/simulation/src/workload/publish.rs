//! Publishing with confirms.

use std::collections::VecDeque;

use amqp_client_core::{Confirmation, PublishError, Publisher, PublisherOptions};

use super::{declare, leave, queue_name};
use crate::client::{Env, Try};
use crate::ledger::Id;
use crate::script::{Job, Work};

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let Work::Publish { queue, window, mandatory } = job.work else { return Ok(()) };
    let connection = env.connect().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    declare(env, &channel, queue).await?;
    let options = PublisherOptions::new().window(window, usize::MAX).mandatory(mandatory);
    let publisher = env.publish(channel.default_exchange().publisher(options))?;
    let mut open = VecDeque::new();
    let published = publish_all(env, job, queue, &publisher, left, &mut open).await;
    // Even if the channel is gone: each has an end, and those that were confirmed say so.
    for (id, confirmation) in open {
        let _known_already = conclude(env, id, confirmation).await;
    }
    published?;
    if env.one_in(3) {
        env.confirmed(publisher.wait_for_confirms().await)?;
    }
    drop((channel, publisher));
    leave(env, connection).await
}

async fn publish_all(
    env: &Env,
    job: &Job,
    queue: usize,
    publisher: &Publisher,
    left: &mut u32,
    open: &mut VecDeque<(Id, Confirmation)>,
) -> Try<()> {
    let number = env.world.ledger.borrow_mut().publisher();
    let to = queue_name(queue);
    while *left > 0 {
        *left -= 1;
        let (id, body) = env.world.ledger.borrow_mut().publish(queue, number);
        let confirmation = match env.one_in(4) {
            true => match publisher.try_publish(&to, body) {
                Ok(confirmation) => Some(confirmation),
                Err(error) => match error.error {
                    PublishError::Gated(_) => None,
                    error => return env.publish(Err(error)),
                },
            },
            false => match env.perhaps(publisher.publish(&to, body)).await {
                Some(result) => Some(env.publish(result)?),
                None => None,
            },
        };
        if let Some(confirmation) = confirmation {
            open.push_back((id, confirmation));
        }
        env.pause(job.pause).await;
        while !open.is_empty() && env.one_in(2) {
            let index = env.random(|rng| rng.usize(..open.len()));
            let Some((id, confirmation)) = open.remove(index) else { break };
            match env.one_in(10) {
                true => drop(confirmation),
                false => conclude(env, id, confirmation).await?,
            }
        }
    }
    Ok(())
}

async fn conclude(env: &Env, id: Id, confirmation: Confirmation) -> Try<()> {
    match env.perhaps(confirmation).await {
        Some(Ok(())) => {
            env.world.ledger.borrow_mut().confirm(id);
            Ok(())
        }
        Some(other) => env.confirmed(other),
        None => Ok(()),
    }
}
