//! Requests that have to be refused: the refusal has to reach its caller, and nobody else.

use amqp_client_core::{
    CallError, Channel, Connection, ExchangeKind, ExchangeOptions, Message, QueueOptions,
};

use super::leave;
use crate::client::{Env, Try};
use crate::script::Job;

pub(super) async fn run(env: &Env, job: &Job, left: &mut u32) -> Try<()> {
    let connection = env.connect().await.connection;
    let bystander = env.open(connection.open_channel().await)?;
    while *left > 0 {
        *left -= 1;
        let undisturbed = bystander.queue_declare("", QueueOptions::new().exclusive(true));
        provoke(env, &connection).await?;
        env.call(undisturbed.await)?;
        env.pause(job.pause).await;
    }
    drop(bystander);
    leave(env, connection).await
}

async fn provoke(env: &Env, connection: &Connection) -> Try<()> {
    let channel = env.open(connection.open_channel().await)?;
    let name = format!("missing-{}", env.random(|rng| rng.u32(..)));
    let direct = ExchangeOptions::new();
    match env.random(|rng| rng.u8(..7)) {
        0 => refused(env, channel.queue_declare_passive(&name).await, 404, &name),
        1 => refused(env, channel.exchange_declare_passive(&name).await, 404, &name),
        2 => refused(env, channel.basic_get_no_ack(&name).await, 404, &name),
        3 => {
            refused(env, channel.queue_declare("amq.mine", QueueOptions::new()).await, 403, "amq.")
        }
        4 => {
            let fanout = ExchangeKind::Fanout;
            let declared = channel.exchange_declare("amq.direct", fanout, direct).await;
            refused(env, declared, 406, "amq.direct")
        }
        5 => {
            let exchange = channel.exchange(&name).map_err(|error| env.fail(error.to_string()))?;
            env.publish(exchange.publish("key", &Message::new("lost")).await)?;
            // Everything that waits on the channel ends with the reason.
            refused(env, after_close(&channel).await, 404, &name)
        }
        _ => {
            // The first is refused; those behind it end with the channel.
            let requests = [channel.queue_purge(&name), channel.queue_purge("other")];
            for request in requests {
                refused(env, request.await, 404, &name)?;
            }
            Ok(())
        }
    }
}

async fn after_close(channel: &Channel) -> Result<(), CallError> {
    let error = channel.closed().await;
    if channel.is_open() { Ok(()) } else { Err(CallError::Ended(error)) }
}

fn refused<T: std::fmt::Debug>(
    env: &Env,
    result: Result<T, CallError>,
    code: u16,
    about: &str,
) -> Try<()> {
    match &result {
        Err(CallError::Ended(error))
            if error.as_close().is_some_and(|close| {
                close.reply_code.0 == code && close.reply_text.to_string().contains(about)
            }) =>
        {
            Ok(())
        }
        Err(CallError::Ended(error)) => Err(env.judge_channel(error)),
        Err(CallError::TimedOut { .. }) => env.call(result.map(|_| ())),
        other => Err(env.fail(format!("expected {code} about {about}, got {other:?}"))),
    }
}
