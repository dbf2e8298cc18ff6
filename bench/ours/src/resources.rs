//! Scenarios about memory, and about the cost of many channels or connections.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use amqp_bench_harness::job::{Job, Latencies, Mark, report};
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{Channel, Connection, ConsumeOptions, PublisherOptions, QueueOptions};

use crate::{Outcome, Runtime, scale, target};

pub(crate) async fn run<R: Runtime>(
    job: &Job,
    connection: &Connection,
    channel: &Channel,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let start = Mark::now();
    match job.scenario.as_str() {
        "channels" => {
            let channels = scale::open_channels::<R>(job, connection, job.count).await?;
            end(job, start, Latencies::default(), channels);
        }
        "connections" => {
            let mut connections = Vec::new();
            for _ in 0..job.count {
                let connection = R::open(target(job)?).await?;
                let channel = connection.open_channel().await?;
                connections.push((connection, channel));
            }
            end(job, start, Latencies::default(), connections);
        }
        "connect" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let connection = R::open(target(job)?).await?;
                latencies.since(start);
                connection.close().await?;
            }
        }
        "consumers" => {
            let channels = job.parameter("channels", 1);
            let channels = scale::open_channels::<R>(job, connection, channels).await?;
            let start = Mark::now();
            let consumers = scale::consumers(job, &channels, job.count).await?;
            end(job, start, Latencies::default(), (channels, consumers));
        }
        "ring" => return scale::ring::<R>(job, connection, channel).await,
        "drop" => return scale::drop_consumers(job, channel).await,
        "spread" | "spread-confirm" => return scale::spread::<R>(job, connection).await,
        "unconfirmed" => unconfirmed(job, channel).await?,
        "recover" => return recover::<R>(job, connection, channel, latencies).await,
        _ => job.not_offered(),
    }
    Ok(start)
}

/// Reports while everything is still there.
fn end<T>(job: &Job, start: Mark, latencies: Latencies, _kept: T) -> ! {
    report(job, start, latencies);
    process::exit(0)
}

/// Publishes all before it looks at any confirm.
async fn unconfirmed(job: &Job, channel: &Channel) -> Outcome {
    let options =
        PublisherOptions::new().persistent(false).mandatory(false).window(usize::MAX, usize::MAX);
    let publisher = channel.default_exchange().publisher(options)?;
    let body = vec![b'x'; job.size];
    let mut confirmations = Vec::with_capacity(job.count as usize);
    for _ in 0..job.count {
        confirmations.push(publisher.publish(&job.queue, &body).await?);
    }
    for confirmation in confirmations {
        confirmation.await?;
    }
    Ok(())
}

/// Declares queues and consumers, `count` in all, and loses the connection; takes the time until all are back.
async fn recover<R: Runtime>(
    job: &Job,
    connection: &Connection,
    channel: &Channel,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let half = job.count / 2;
    let mut consumers = Vec::new();
    for number in 0..half {
        let name = format!("{}.{number}", job.queue);
        let queue = channel.queue_declare(&name, QueueOptions::temporary()).await?;
        consumers.push(queue.consume(ConsumeOptions::new()).await?);
    }
    let back = Arc::new(AtomicBool::new(false));
    let told = back.clone();
    connection.on_recover(move |_| told.store(true, Ordering::Release));
    let start = Mark::now();
    let began = Instant::now();
    channel.basic_publish(&Route::queue("cut"), &RawProperties::EMPTY, "").await?;
    while !back.load(Ordering::Acquire) {
        if began.elapsed() > Duration::from_secs(60) {
            return Err("it does not recover".into());
        }
        // The callback sets a flag, and wakes no task. The pause is the resolution of the figure.
        R::sleep(Duration::from_millis(1)).await;
    }
    latencies.since(began);
    Ok(start)
}
