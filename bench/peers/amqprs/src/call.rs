//! Remote calls by hand: direct replies, and a map from correlation ids to waiting callers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark};
use amqprs::BasicProperties;
use amqprs::channel::{
    BasicAckArguments, BasicPublishArguments, BasicQosArguments, Channel, QueueDeclareArguments,
};
use futures_util::future::try_join_all;
use tokio::sync::oneshot;

use crate::{Outcome, connect, consumer};

#[derive(Clone)]
struct Client {
    channel: Channel,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>,
    last: Arc<AtomicU64>,
}

impl Client {
    async fn open(channel: Channel) -> Outcome<Self> {
        let mut replies = consumer(&channel, "amq.rabbitmq.reply-to", true).await?;
        let client = Self { channel, waiting: Arc::default(), last: Arc::default() };
        let waiting = client.waiting.clone();
        tokio::spawn(async move {
            while let Some(reply) = replies.recv().await {
                let properties = reply.basic_properties.unwrap_or_default();
                let id = properties.correlation_id().cloned().unwrap_or_default();
                let caller = waiting.lock().expect("no panic").remove(&id);
                if let Some(caller) = caller {
                    let _gone = caller.send(reply.content.unwrap_or_default());
                }
            }
        });
        Ok(client)
    }

    async fn call(&self, to: &BasicPublishArguments, body: &[u8]) -> Outcome<Vec<u8>> {
        let id = self.last.fetch_add(1, Ordering::Relaxed).to_string();
        let mut properties = BasicProperties::default();
        properties.with_correlation_id(&id).with_reply_to("amq.rabbitmq.reply-to");
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().expect("no panic").insert(id, sender);
        self.channel.basic_publish(properties, body.to_vec(), to.clone()).await?;
        Ok(reply.await?)
    }
}

/// Replies with the request.
async fn serve(channel: Channel, queue: String) -> Outcome {
    channel.basic_qos(BasicQosArguments::new(0, 64, false)).await?;
    let mut requests = consumer(&channel, &queue, false).await?;
    while let Some(request) = requests.recv().await {
        let (asked, body) = (request.basic_properties, request.content);
        let (asked, body) = (asked.unwrap_or_default(), body.unwrap_or_default());
        let mut properties = BasicProperties::default();
        if let Some(id) = asked.correlation_id() {
            properties.with_correlation_id(id);
        }
        let to = BasicPublishArguments::new("", asked.reply_to().ok_or("no address")?);
        channel.basic_publish(properties, body, to).await?;
        let tag = request.deliver.as_ref().ok_or("no delivery")?.delivery_tag();
        channel.basic_ack(BasicAckArguments::new(tag, false)).await?;
    }
    Ok(())
}

/// Client and server have a connection each. With `at_once=N`, N tasks make calls.
pub(crate) async fn run(job: &Job, channel: &Channel, latencies: &mut Latencies) -> Outcome<Mark> {
    let connection = connect(job).await?;
    let serving = connection.open_channel(None).await?;
    let declare = QueueDeclareArguments::new(&job.queue).exclusive(true).auto_delete(true).finish();
    serving.queue_declare(declare).await?;
    tokio::spawn(serve(serving, job.queue.clone()));
    let client = Client::open(channel.clone()).await?;
    let to = BasicPublishArguments::new("", &job.queue);
    let body = vec![b'x'; job.size];
    client.call(&to, &body).await?;
    let tasks = job.parameter("at_once", 1);
    let start = Mark::now();
    let callers = (0..tasks).map(|number| {
        let (client, to, body) = (client.clone(), to.clone(), body.clone());
        let count = job.share(number, tasks);
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            for _ in 0..count {
                let start = Instant::now();
                assert_eq!(client.call(&to, &body).await?.len(), body.len());
                latencies.push(start.elapsed());
            }
            Outcome::Ok(latencies)
        })
    });
    for measured in try_join_all(callers.collect::<Vec<_>>()).await? {
        measured?.into_iter().for_each(|latency| latencies.add(latency));
    }
    Ok(start)
}
