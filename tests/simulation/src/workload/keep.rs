//! Publishing over losses: messages that are kept until they are confirmed are confirmed.

use std::collections::VecDeque;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{
    ConfirmError, Confirmation, Connection, OnLoss, PublishError, PublisherOptions,
};

use super::{declare, leave, queue_name};
use crate::client::{Again, Env, Try};
use crate::ledger::Id;
use crate::script::Job;

pub(super) async fn run(
    env: &Env,
    job: &Job,
    queue: usize,
    window: usize,
    left: &mut u32,
) -> Try<()> {
    let connection = env.connect_for_good().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    declare(env, &channel, queue).await?;
    let options = PublisherOptions::new().window(window, usize::MAX).on_loss(OnLoss::Keep);
    let publisher = env.publish(channel.default_exchange().publisher(options))?;
    let number = env.world.ledger.borrow_mut().publisher();
    let to = queue_name(queue);
    let mut open = VecDeque::new();
    let mut published = Ok(());
    while *left > 0 && published.is_ok() {
        *left -= 1;
        let (id, body) = env.world.ledger.borrow_mut().publish_kept(queue, number);
        match env.perhaps(publisher.publish(&to, body)).await {
            Some(Ok(confirmation)) => open.push_back((id, confirmation)),
            // The window was full, and nobody looked after it.
            Some(Err(PublishError::TimedOut { .. })) | None => {}
            Some(Err(error)) => published = env.publish(Err(error)),
        }
        env.pause(job.pause).await;
        while env.one_in(3) {
            let Some((id, confirmation)) = open.pop_front() else { break };
            conclude(env, &connection, id, confirmation).await?;
        }
    }
    for (id, confirmation) in open {
        conclude(env, &connection, id, confirmation).await?;
    }
    published?;
    if connection.is_open() && connection.health().kept_bytes > 0 && env.cancel.is_none() {
        return Err(env.fail("everything is confirmed, and something is kept"));
    }
    drop((channel, publisher));
    leave(env, connection).await
}

async fn conclude(
    env: &Env,
    connection: &Connection,
    id: Id,
    confirmation: Confirmation,
) -> Try<()> {
    match env.perhaps(confirmation).await {
        Some(Ok(())) => {
            env.world.ledger.borrow_mut().confirm(id);
            Ok(())
        }
        None => Ok(()),
        Some(Err(ConfirmError::Unconfirmed(_))) => over(env, connection).await,
        Some(other) => env.confirmed(other),
    }
}

/// It stops only when nothing drives a connection any more.
async fn over(env: &Env, connection: &Connection) -> Try<()> {
    if connection.health().is_open() {
        return Err(env.fail("a message that is kept is unconfirmed"));
    }
    match connection.closed().await {
        ConnectionError::DriverGone if !env.world.script.is_calm() => Err(Again),
        error => Err(env.fail(format!("a message that is kept is unconfirmed: {error}"))),
    }
}
