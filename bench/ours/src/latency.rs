//! Scenarios that are about time.

use std::time::{Duration, Instant};

use amqp_bench_harness::job::{Job, Latencies, Mark};
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{
    Channel, Connection, ConsumeOptions, Consumer, PublisherOptions, QueueOptions,
};
use bytes::Bytes;

use crate::driver::WINDOW;
use crate::{Outcome, Runtime};

/// No round trip is begun after this, because a driver may run for a minute only.
const LONGEST: Duration = Duration::from_secs(20);

async fn own_consumer(channel: &Channel, queue: &str) -> Outcome<Consumer> {
    let queue = channel.queue_declare(queue, QueueOptions::temporary()).await?;
    Ok(queue.consume(ConsumeOptions::new().no_ack(true)).await?)
}

async fn next(consumer: &mut Consumer) -> Outcome<amqp_client_core::Delivery> {
    Ok(consumer.next().await.ok_or("the consumer ended")??)
}

/// Publishes to its own queue, and waits for the message.
pub(crate) async fn rpc(
    job: &Job,
    channel: &Channel,
    body: &Bytes,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let mut consumer = own_consumer(channel, &job.queue).await?;
    let route = Route::queue(&job.queue);
    let start = Mark::now();
    for _ in 0..job.count {
        let start = Instant::now();
        channel.basic_publish(&route, &RawProperties::EMPTY, body).await?;
        drop(next(&mut consumer).await?);
        latencies.since(start);
    }
    Ok(start)
}

/// Publishes `rate` messages per second to a queue of its own, and measures the time from when each was due until it was
/// delivered. Another channel may have a consumer that takes nothing of a flood: with `lag=1`, it has a prefetch limit, and with
/// `lag=2`, it has none.
pub(crate) async fn paced<R: Runtime>(
    job: &Job,
    connection: &Connection,
    channel: &Channel,
    body: &Bytes,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let _lagging = lagging(job, connection).await?;
    let mut consumer = own_consumer(channel, &job.queue).await?;
    let gap = Duration::from_secs(1) / job.parameter("rate", 1000) as u32;
    let (count, queue, channel, body) =
        (job.count as u32, job.queue.clone(), channel.clone(), body.clone());
    let start = Mark::now();
    let began = Instant::now();
    let publishing = R::spawn(async move {
        for number in 0..count {
            let due = began + gap * number;
            // Timers have a resolution of milliseconds; messages that were due in between follow at once.
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                R::sleep(early).await;
            }
            let route = Route::queue(&queue);
            channel.basic_publish(&route, &RawProperties::EMPTY, &body).await?;
        }
        Outcome::Ok(())
    });
    let consuming = async {
        for number in 0..count {
            drop(next(&mut consumer).await?);
            latencies.add((began + gap * number).elapsed());
        }
        Outcome::Ok(())
    };
    let (published, consumed) = futures_util::join!(publishing, consuming);
    published.and(consumed)?;
    Ok(start)
}

/// Starts a consumer that takes nothing, if the scenario has one.
async fn lagging(job: &Job, connection: &Connection) -> Outcome<Option<Consumer>> {
    let lag = job.parameter("lag", 0);
    if lag == 0 {
        return Ok(None);
    }
    let channel = connection.open_channel().await?;
    if lag == 1 {
        channel.basic_qos(1000).await?;
    }
    // The client did not declare the queue, so it has to be told that the queue stays without consumers.
    let options = ConsumeOptions::new().pausable(true);
    Ok(Some(channel.basic_consume("flood.100000000.256", options).await?))
}

/// Measures round trips on one channel, while other channels of the connection consume (`beside=2`) or publish (`beside=3`) large
/// messages, or both (`beside=1`).
pub(crate) async fn fairness<R: Runtime>(
    job: &Job,
    connection: &Connection,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let asking = connection.open_channel().await?;
    let beside = job.parameter("beside", 0);
    // A task of smol's ends when it is dropped.
    let mut background = Vec::new();
    if matches!(beside, 1 | 2) {
        let channel = connection.open_channel().await?;
        let options = ConsumeOptions::new().no_ack(true);
        let mut consumer = channel.basic_consume(&job.queue, options).await?;
        drop(next(&mut consumer).await?);
        background.push(R::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                drop(delivery);
            }
        }));
    }
    if matches!(beside, 1 | 3) {
        let (channel, window) = (connection.open_channel().await?, job.parameter("window", 0));
        background.push(R::spawn(publish_forever(channel, window as usize)));
    }
    ask(job, &asking, latencies).await
}

/// Publishes large messages: without confirms or, with a window, with up to that many unconfirmed bytes.
async fn publish_forever(channel: Channel, window: usize) {
    let body = Bytes::from(vec![b'x'; 1024 * 1024]);
    let route = Route::queue("nowhere");
    if window == 0 {
        while channel.basic_publish(&route, &RawProperties::EMPTY, &body).await.is_ok() {}
        return;
    }
    let options = PublisherOptions::new().persistent(false).mandatory(false);
    let options = options.window(WINDOW, window);
    let Ok(publisher) = channel.default_exchange().publisher(options) else { return };
    while publisher.publish("nowhere", &body).await.is_ok() {}
}

/// Measures round trips on one channel; if `beside` is 1, while another channel of the connection publishes large messages. If
/// each waits for a whole message, there are only a few.
pub(crate) async fn slow_link<R: Runtime>(
    job: &Job,
    connection: &Connection,
    body: &Bytes,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let asking = connection.open_channel().await?;
    let mut background = Vec::new();
    if job.parameter("beside", 0) == 1 {
        let (publishing, body) = (connection.open_channel().await?, body.clone());
        background.push(R::spawn(async move {
            let route = Route::queue("nowhere");
            while publishing.basic_publish(&route, &RawProperties::EMPTY, &body).await.is_ok() {}
        }));
        // Until the message fills the link.
        R::sleep(Duration::from_millis(500)).await;
    }
    ask(job, &asking, latencies).await
}

/// Makes round trips, and no more of them after [`LONGEST`].
async fn ask(job: &Job, channel: &Channel, latencies: &mut Latencies) -> Outcome<Mark> {
    let start = Mark::now();
    let began = Instant::now();
    for _ in 0..job.count {
        let start = Instant::now();
        channel.queue_declare("asked", QueueOptions::new()).await?;
        latencies.since(start);
        if began.elapsed() > LONGEST {
            break;
        }
    }
    Ok(start)
}
