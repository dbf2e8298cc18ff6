//! Remote calls by hand: direct replies, and a map from correlation ids to waiting callers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark};
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::options::{BasicAckOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::sync::oneshot;

use crate::{Outcome, connect, consumer, declare, temporary};

#[derive(Clone)]
struct Client {
    channel: Channel,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>,
    last: Arc<AtomicU64>,
}

impl Client {
    async fn open(channel: Channel) -> Outcome<Self> {
        let mut replies = consumer(&channel, &"amq.rabbitmq.reply-to".into(), true).await?;
        let client = Self { channel, waiting: Arc::default(), last: Arc::default() };
        let waiting = client.waiting.clone();
        tokio::spawn(async move {
            while let Some(Ok(reply)) = replies.next().await {
                let id = reply.properties.correlation_id().as_ref().map(ToString::to_string);
                let caller = waiting.lock().expect("no panic").remove(&id.unwrap_or_default());
                if let Some(caller) = caller {
                    let _gone = caller.send(reply.data);
                }
            }
        });
        Ok(client)
    }

    async fn call(&self, queue: &ShortString, body: &[u8]) -> Outcome<Vec<u8>> {
        let id = self.last.fetch_add(1, Ordering::Relaxed).to_string();
        let properties = BasicProperties::default()
            .with_correlation_id(id.as_str().into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().expect("no panic").insert(id, sender);
        let options = BasicPublishOptions::default();
        self.channel.basic_publish("".into(), queue.clone(), options, body, properties).await?;
        Ok(reply.await?)
    }
}

/// Replies with the request.
async fn serve(channel: Channel, queue: ShortString) -> Outcome {
    channel.basic_qos(64, BasicQosOptions::default()).await?;
    let mut requests = consumer(&channel, &queue, false).await?;
    while let Some(request) = requests.next().await {
        let request = request?;
        let mut properties = BasicProperties::default();
        if let Some(id) = request.properties.correlation_id() {
            properties = properties.with_correlation_id(id.clone());
        }
        let to = request.properties.reply_to().clone().ok_or("no address")?;
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), to, options, &request.data, properties).await?;
        request.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// Client and server have a connection each. With `at_once=N`, N tasks make calls.
pub(crate) async fn run(job: &Job, channel: &Channel, latencies: &mut Latencies) -> Outcome<Mark> {
    let connection = connect(job).await?;
    let serving = connection.create_channel().await?;
    let queue = ShortString::from(job.queue.as_str());
    declare(&serving, &job.queue, temporary()).await?;
    tokio::spawn(serve(serving, queue.clone()));
    let client = Client::open(channel.clone()).await?;
    let body = vec![b'x'; job.size];
    client.call(&queue, &body).await?;
    let tasks = job.parameter("at_once", 1);
    let start = Mark::now();
    let callers = (0..tasks).map(|number| {
        let (client, queue, body) = (client.clone(), queue.clone(), body.clone());
        let count = job.share(number, tasks);
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            for _ in 0..count {
                let start = Instant::now();
                assert_eq!(client.call(&queue, &body).await?.len(), body.len());
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
