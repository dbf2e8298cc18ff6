//! Remote procedure calls.

use std::time::Duration;

use amqp_client_core::{
    Channel, ConsumeOptions, Consumer, Message, MessageProperties, QueueOptions,
};

use super::leave;
use crate::client::{Again, Env, Try};
use crate::script::{Job, Work};

const QUEUE: &str = "calls";

/// The time that a caller waits if the network or the broker may have lost the call.
const PATIENCE: Duration = Duration::from_secs(30);

async fn requests(env: &Env, channel: &Channel) -> Try<()> {
    let options = QueueOptions::new().durable(true);
    env.call(channel.queue_declare(QUEUE, options).await).map(|_| ())
}

/// Calls, and checks that the result is that of the call.
pub(super) async fn run(env: &Env, job: &Job, direct: bool, left: &mut u32) -> Try<()> {
    let served = env.world.script.jobs.iter().any(|job| matches!(job.work, Work::Serve));
    let connection = env.connect().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    requests(env, &channel).await?;
    let (address, mut replies) = replies(env, &channel, direct).await?;
    while *left > 0 && served {
        *left -= 1;
        let id = env.random(|rng| rng.u64(..)).to_string();
        let properties = MessageProperties::new().reply_to(&address).correlation_id(&id);
        let request = Message::new(id.clone()).with(&properties);
        let request = request.map_err(|error| env.fail(error.to_string()))?;
        env.publish(channel.default_exchange().publish(QUEUE, &request).await)?;
        let answered = env.within(PATIENCE, answer(env, &mut replies, &id)).await;
        match answered {
            Some(answered) => answered?,
            None if env.world.script.is_calm() => return Err(env.fail("a call got no reply")),
            // The request or the reply is lost.
            None => return Err(Again),
        }
        env.pause(job.pause).await;
    }
    drop((channel, replies));
    leave(env, connection).await
}

/// Waits for the reply to a call. An earlier call may get a second reply, if its server was cut off after the first.
async fn answer(env: &Env, replies: &mut Consumer, id: &str) -> Try<()> {
    loop {
        let reply = env.consumed(replies.next().await)?;
        if reply.body() == format!("re: {id}").as_bytes() {
            return Ok(());
        }
        if env.world.script.is_calm() {
            let body = String::from_utf8_lossy(reply.body()).into_owned();
            return Err(env.fail(format!("the reply to call {id} is {body:?}")));
        }
    }
}

async fn replies(env: &Env, channel: &Channel, direct: bool) -> Try<(String, Consumer)> {
    let options = ConsumeOptions::new().no_ack(true);
    if direct {
        let name = "amq.rabbitmq.reply-to";
        let consumer = env.call(channel.basic_consume(name, options).await)?;
        return Ok((name.to_owned(), consumer));
    }
    let queue = env.call(channel.queue_declare("", QueueOptions::new().exclusive(true)).await)?;
    let consumer = env.call(queue.consume(options).await)?;
    Ok((queue.name().to_string(), consumer))
}

/// Replies to calls until there are no more.
pub(super) async fn serve(env: &Env) -> Try<()> {
    let connection = env.connect().await.connection;
    let channel = env.open(connection.open_channel().await)?;
    requests(env, &channel).await?;
    let mut consumer = env.call(channel.basic_consume(QUEUE, ConsumeOptions::new()).await)?;
    while env.world.working.get() > 0 {
        let Some(request) = env.within(Duration::from_secs(1), consumer.next()).await else {
            continue;
        };
        let request = env.consumed(request)?;
        let Ok(properties) = request.message_properties() else {
            return Err(env.fail("a call whose properties do not decode"));
        };
        let (Some(address), Some(id)) = (properties.reply_to, properties.correlation_id) else {
            return Err(env.fail("a call without an address"));
        };
        let reply = Message::new(format!("re: {id}"));
        env.publish(channel.default_exchange().publish(&address, &reply).await)?;
        env.call(request.ack())?;
    }
    leave(env, connection).await
}
