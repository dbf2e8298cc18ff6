//! Scenarios with many channels or consumers. The cost of a message should be the same as with a few.

use std::collections::VecDeque;

use amqp_bench_harness::job::{Job, Mark};
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{Channel, Connection, ConsumeOptions, Consumer, QueueOptions};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use crate::driver::{WINDOW, publisher};
use crate::{Outcome, Runtime, check, target};

/// Number of requests that are sent before the first reply is awaited.
const PIPELINED: u64 = 1000;

/// Opens channels, in turn on each of `connections` connections.
pub(crate) async fn open_channels<R: Runtime>(
    job: &Job,
    first: &Connection,
    count: u64,
) -> Outcome<Vec<Channel>> {
    let mut connections = vec![first.clone()];
    for _ in 1..job.parameter("connections", 1) {
        connections.push(R::open(target(job)?).await?);
    }
    let mut channels = Vec::new();
    for connection in connections.iter().cycle().take(count as usize) {
        channels.push(connection.open_channel().await?);
    }
    Ok(channels)
}

/// Starts consumers, in turn on each of the channels.
pub(crate) async fn consumers(
    job: &Job,
    channels: &[Channel],
    count: u64,
) -> Outcome<Vec<Consumer>> {
    let queue = if job.scenario == "ring" { "ring" } else { &job.queue };
    let mut consumers = Vec::with_capacity(count as usize);
    while (consumers.len() as u64) < count {
        let begun = consumers.len() as u64;
        let requests = (begun..count.min(begun + PIPELINED)).map(|number| {
            let channel = &channels[number as usize % channels.len()];
            channel.basic_consume(queue, ConsumeOptions::new().no_ack(true))
        });
        consumers.extend(try_join_all(requests).await?);
    }
    Ok(consumers)
}

/// Publishes on `channels` channels in turn, which are on `connections` connections.
pub(crate) async fn spread<R: Runtime>(job: &Job, connection: &Connection) -> Outcome<Mark> {
    let channels = open_channels::<R>(job, connection, job.parameter("channels", 1)).await?;
    let body = Bytes::from(vec![b'x'; job.size]);
    let start = if job.scenario == "spread" {
        publish(job, &channels, &body).await?
    } else {
        confirm(job, &channels, &body).await?
    };
    Ok(start)
}

async fn publish(job: &Job, channels: &[Channel], body: &Bytes) -> Outcome<Mark> {
    let route = Route::queue(&job.queue);
    let start = Mark::now();
    for channel in channels.iter().cycle().take(job.count as usize) {
        channel.basic_publish(&route, &RawProperties::EMPTY, body).await?;
    }
    // The last channels are on different connections. Once each has its reply, everything has arrived.
    let connections = job.parameter("connections", 1) as usize;
    for channel in channels.iter().rev().take(connections) {
        channel.queue_declare("barrier", QueueOptions::new()).await?;
    }
    Ok(start)
}

/// Up to a thousand messages of all channels are unconfirmed.
async fn confirm(job: &Job, channels: &[Channel], body: &Bytes) -> Outcome<Mark> {
    let publishers = channels.iter().map(publisher).collect::<Outcome<Vec<_>>>()?;
    try_join_all(channels.iter().map(Channel::confirm_select)).await?;
    let mut under_way = VecDeque::with_capacity(WINDOW);
    let start = Mark::now();
    for publisher in publishers.iter().cycle().take(job.count as usize) {
        if under_way.len() == WINDOW {
            if let Some(oldest) = under_way.pop_front() {
                let oldest: amqp_client_core::Confirmation = oldest;
                oldest.await?;
            }
        }
        under_way.push_back(publisher.publish(&job.queue, body).await?);
    }
    for confirmation in under_way {
        confirmation.await?;
    }
    Ok(start)
}

/// `consumers` consumers with a task each, in turn on `channels` channels, get messages in turn.
pub(crate) async fn ring<R: Runtime>(
    job: &Job,
    connection: &Connection,
    channel: &Channel,
) -> Outcome<Mark> {
    let number = job.parameter("consumers", 1);
    let channels = open_channels::<R>(job, connection, job.parameter("channels", 1)).await?;
    let consumers = consumers(job, &channels, number).await?;
    let tasks = consumers.into_iter().enumerate().map(|(index, mut consumer)| {
        let (count, size) = (job.share(index as u64, number), job.size);
        R::spawn(async move {
            for _ in 0..count {
                let delivery = consumer.next().await.ok_or("the consumer ended")??;
                check(delivery.body().len(), size)?;
            }
            Outcome::Ok(consumer)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let start = Mark::now();
    let route = format!("ring.{}.{}", job.count, job.size);
    channel.basic_publish(&Route::queue(&route), &RawProperties::EMPTY, "").await?;
    // Consumers are dropped after the report.
    let done = join_all(tasks).await;
    let end = Mark::now();
    amqp_bench_harness::job::report_at(job, start, end, Default::default());
    drop(done.into_iter().collect::<Outcome<Vec<_>>>()?);
    std::process::exit(0)
}

/// Drops all consumers of a channel at once, and waits until they are cancelled.
pub(crate) async fn drop_consumers(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let consumers = consumers(job, std::slice::from_ref(channel), job.count).await?;
    let start = Mark::now();
    drop(consumers);
    channel.queue_declare("barrier", QueueOptions::new()).await?;
    Ok(start)
}
