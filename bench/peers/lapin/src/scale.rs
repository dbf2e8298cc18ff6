//! Many channels and many consumers.

use amqp_bench_harness::job::{Job, Mark};
use futures_util::stream::StreamExt as _;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};

use crate::{Outcome, connect, declare, durable, publish};

/// Opens channels, in turn on each of `connections` connections. A connection lives as long as its channels.
pub(crate) async fn open_channels(
    job: &Job,
    first: &Connection,
    count: u64,
) -> Outcome<Vec<Channel>> {
    let connections = job.parameter("connections", 1);
    let mut others = Vec::new();
    for _ in 1..connections {
        others.push(connect(job).await?);
    }
    let mut channels = Vec::new();
    for connection in std::iter::once(first).chain(&others).cycle().take(count as usize) {
        channels.push(connection.create_channel().await?);
    }
    // The driver ends before anything may be closed.
    std::mem::forget(others);
    Ok(channels)
}

/// Starts consumers, in turn on each of `channels` channels.
pub(crate) async fn consumers(
    job: &Job,
    connection: &Connection,
    count: u64,
) -> Outcome<(Vec<Channel>, Vec<Consumer>)> {
    let channels = open_channels(job, connection, job.parameter("channels", 1)).await?;
    let queue = if job.scenario == "ring" { "ring" } else { &job.queue };
    let mut consumers = Vec::new();
    for number in 0..count {
        let channel = &channels[number as usize % channels.len()];
        let (queue, tag) = (ShortString::from(queue), ShortString::from(format!("c{number}")));
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        consumers.push(channel.basic_consume(queue, tag, options, FieldTable::default()).await?);
    }
    Ok((channels, consumers))
}

/// Publishes on `channels` channels in turn, which are on `connections` connections.
pub(crate) async fn spread(job: &Job, connection: &Connection, body: &[u8]) -> Outcome<Mark> {
    let channels = open_channels(job, connection, job.parameter("channels", 1)).await?;
    let queue = ShortString::from(job.queue.as_str());
    let start = Mark::now();
    for channel in channels.iter().cycle().take(job.count as usize) {
        drop(publish(channel, &queue, body).await?);
    }
    for channel in channels.iter().rev().take(job.parameter("connections", 1) as usize) {
        declare(channel, "barrier", durable()).await?;
    }
    Ok(start)
}

/// `consumers` consumers with a task each get messages in turn.
pub(crate) async fn ring(job: &Job, connection: &Connection, channel: &Channel) -> Outcome<Mark> {
    let number = job.parameter("consumers", 1);
    let (_channels, consumers) = consumers(job, connection, number).await?;
    let tasks = consumers.into_iter().enumerate().map(|(index, mut consumer)| {
        let count = job.share(index as u64, number);
        tokio::spawn(async move {
            for _ in 0..count {
                consumer.next().await.ok_or("the consumer ended")??;
            }
            Outcome::Ok(consumer)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let start = Mark::now();
    let route = ShortString::from(format!("ring.{}.{}", job.count, job.size));
    drop(publish(channel, &route, b"").await?);
    let mut kept = Vec::new();
    for task in tasks {
        kept.push(task.await??);
    }
    Ok(start)
}
