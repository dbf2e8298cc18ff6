//! The scenarios on asynchronous runtimes, each by the idiom of the documentation.

use std::collections::VecDeque;
use std::process;
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark, count_polls, report};
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{
    Channel, Connection, ConsumeOptions, Publisher, PublisherOptions, QueueOptions,
};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::{Outcome, Runtime, check, latency, patterns, resources, target};

/// Number of messages that may be unconfirmed at once.
pub(crate) const WINDOW: usize = 1000;

/// Number of messages that are published in one call.
const BATCH: u64 = 100;

pub(crate) async fn run<R: Runtime>(mut job: Job) -> Outcome {
    let connection = R::open(target(&job)?).await?;
    let channel = connection.open_channel().await?;
    let body = Bytes::from(vec![b'x'; job.size]);
    let mut latencies = Latencies::with_capacity(job.count);
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) > 1 => {
            publish_tasks::<R>(&job, &connection, &channel, &body).await?;
        }
        "publish" => publish(&channel, &job.queue, job.count, &body).await?,
        "herd" => start = herd::<R>(&job, &channel, &body).await?,
        "publish-prepared" => publish_prepared(&job, &channel, &body).await?,
        "publish-batch" => publish_batch(&job, &channel, &body).await?,
        "confirm" | "confirm-batch" | "confirm-each" => {
            let publisher = publisher(&channel)?;
            channel.confirm_select().await?;
            start = Mark::now();
            if job.scenario == "confirm" {
                confirm(&publisher, &job.queue, job.count, &body, WINDOW).await?;
            } else if job.scenario == "confirm-batch" {
                confirm_batch(&publisher, &job, &body).await?;
            } else {
                for _ in 0..job.count {
                    let start = Instant::now();
                    publisher.send(&job.queue, &body).await?;
                    latencies.since(start);
                }
            }
        }
        "consume" | "consume-ack" | "consume-ack-100" => {
            start = consume(&job, &channel).await?;
        }
        "rpc" => start = latency::rpc(&job, &channel, &body, &mut latencies).await?,
        "paced" => {
            start = latency::paced::<R>(&job, &connection, &channel, &body, &mut latencies).await?;
        }
        "fairness" => start = latency::fairness::<R>(&job, &connection, &mut latencies).await?,
        "slow-link" => {
            start = latency::slow_link::<R>(&job, &connection, &body, &mut latencies).await?;
            job.count = latencies.number();
        }
        "call" => start = patterns::call::<R>(&job, &connection, &body, &mut latencies).await?,
        "work" => start = patterns::work(&job, &channel).await?,
        "topology" => start = patterns::topology(&job, &channel, &mut latencies).await?,
        "mixed" => start = mixed::<R>(&job, &channel, &body).await?,
        "get" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let got = channel.basic_get_no_ack(&job.queue).await?.ok_or("no message")?;
                check(got.delivery.body().len(), job.size)?;
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                channel.queue_declare(&job.queue, QueueOptions::new()).await?;
                latencies.since(start);
            }
        }
        "declare-pipelined" => {
            for _ in 0..job.count.div_ceil(1000) {
                let declares =
                    (0..1000).map(|_| channel.queue_declare(&job.queue, QueueOptions::new()));
                let declares: Vec<_> = declares.collect();
                for declared in declares {
                    declared.await?;
                }
            }
        }
        _ => start = resources::run::<R>(&job, &connection, &channel, &mut latencies).await?,
    }
    report(&job, start, latencies);
    // An orderly end is not measured.
    process::exit(0)
}

/// A publisher as other clients have it: transient messages that are not mandatory.
pub(crate) fn publisher(channel: &Channel) -> Outcome<Publisher> {
    let options =
        PublisherOptions::new().persistent(false).mandatory(false).window(WINDOW, usize::MAX);
    Ok(channel.default_exchange().publisher(options)?)
}

async fn publish(channel: &Channel, queue: &str, count: u64, body: &Bytes) -> Outcome {
    let route = Route::queue(queue);
    for _ in 0..count {
        channel.basic_publish(&route, &RawProperties::EMPTY, body).await?;
    }
    barrier(channel).await
}

/// The common part of the messages is encoded once.
async fn publish_prepared(job: &Job, channel: &Channel, body: &Bytes) -> Outcome {
    let message = channel.prepare(&Route::queue(&job.queue), &RawProperties::EMPTY)?;
    for _ in 0..job.count {
        channel.basic_publish_prepared(&message, body).await?;
    }
    barrier(channel).await
}

/// A hundred at a time.
async fn publish_batch(job: &Job, channel: &Channel, body: &Bytes) -> Outcome {
    let message = channel.prepare(&Route::queue(&job.queue), &RawProperties::EMPTY)?;
    for _ in 0..job.count / BATCH {
        channel.basic_publish_all(&message, (0..BATCH).map(|_| body)).await?;
    }
    barrier(channel).await
}

/// A hundred at a time, and up to ten such batches unconfirmed.
async fn confirm_batch(publisher: &Publisher, job: &Job, body: &Bytes) -> Outcome {
    let publisher = publisher.prepare(&job.queue)?;
    let mut under_way = VecDeque::new();
    for _ in 0..job.count / BATCH {
        if under_way.len() == WINDOW / BATCH as usize {
            if let Some(oldest) = under_way.pop_front() {
                oldest.await?;
            }
        }
        under_way.push_back(publisher.publish_all((0..BATCH).map(|_| body)).await?);
    }
    for confirmations in under_way {
        confirmations.await?;
    }
    Ok(())
}

/// Once this has its reply, everything before it has arrived.
async fn barrier(channel: &Channel) -> Outcome {
    channel.queue_declare("barrier", QueueOptions::new()).await?;
    Ok(())
}

/// `tasks` tasks, on one channel or, with `channels=1`, on one each.
async fn publish_tasks<R: Runtime>(
    job: &Job,
    connection: &Connection,
    channel: &Channel,
    body: &Bytes,
) -> Outcome {
    let tasks = job.parameter("tasks", 1);
    let mut running = Vec::new();
    for number in 0..tasks {
        let channel = match job.parameter("channels", 0) {
            0 => channel.clone(),
            _ => connection.open_channel().await?,
        };
        let (queue, count, body) = (job.queue.clone(), job.share(number, tasks), body.clone());
        let task = async move { publish(&channel, &queue, count, &body).await };
        running.push(R::spawn(task));
    }
    join_all(running).await.into_iter().collect()
}

/// `tasks` tasks on one publisher, each with up to ten unconfirmed messages.
async fn herd<R: Runtime>(job: &Job, channel: &Channel, body: &Bytes) -> Outcome<Mark> {
    let publisher = publisher(channel)?;
    channel.confirm_select().await?;
    let tasks = job.parameter("tasks", 1);
    let start = Mark::now();
    let tasks = (0..tasks).map(|number| {
        let (publisher, queue, body) = (publisher.clone(), job.queue.clone(), body.clone());
        let count = job.share(number, tasks);
        R::spawn(count_polls(async move { confirm(&publisher, &queue, count, &body, 10).await }))
    });
    join_all(tasks.collect::<Vec<_>>()).await.into_iter().collect::<Outcome>()?;
    Ok(start)
}

async fn confirm(
    publisher: &Publisher,
    queue: &str,
    count: u64,
    body: &Bytes,
    window: usize,
) -> Outcome {
    let mut under_way = VecDeque::with_capacity(window);
    for _ in 0..count {
        if under_way.len() == window {
            if let Some(oldest) = under_way.pop_front() {
                oldest.await?;
            }
        }
        under_way.push_back(publisher.publish(queue, body).await?);
    }
    for confirmation in under_way {
        confirmation.await?;
    }
    Ok(())
}

async fn consume(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let no_ack = job.scenario == "consume";
    if !no_ack {
        channel.basic_qos(job.parameter("prefetch", 1000) as u16).await?;
    }
    let start = Mark::now();
    let options = ConsumeOptions::new().no_ack(no_ack);
    let mut consumer = channel.basic_consume(&job.queue, options).await?;
    let mut bytes = 0;
    let every = if job.scenario == "consume-ack-100" { 100 } else { 1 };
    for number in 1..=job.count {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        bytes += delivery.body().len();
        match every {
            1 => delivery.ack()?,
            _ if number % every == 0 || number == job.count => delivery.ack_up_to()?,
            _ => drop(delivery.into_message()),
        }
    }
    check(bytes, job.size * job.count as usize)?;
    Ok(start)
}

/// Publishes and consumes at the same time.
async fn mixed<R: Runtime>(job: &Job, channel: &Channel, body: &Bytes) -> Outcome<Mark> {
    let queue = channel.queue_declare(&job.queue, QueueOptions::temporary()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
    let publisher = publisher(channel)?;
    let (count, queue, body) = (job.count, job.queue.clone(), body.clone());
    let start = Mark::now();
    let publishing =
        R::spawn(async move { confirm(&publisher, &queue, count, &body, WINDOW).await });
    let consuming = async {
        for _ in 0..job.count {
            let delivery = consumer.next().await.ok_or("the consumer ended")??;
            check(delivery.body().len(), job.size)?;
        }
        Outcome::Ok(())
    };
    let (published, consumed) = futures_util::join!(publishing, consuming);
    published.and(consumed)?;
    Ok(start)
}
