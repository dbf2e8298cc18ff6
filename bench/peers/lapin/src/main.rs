//! lapin on tokio; `RUNTIME=ct` is the current-thread runtime.
//!
//! Its `basic_publish().await` ends when the message is written, so `publish` awaits each, as its documentation does;
//! `publish-pipelined` keeps up to a thousand of these futures running at once.

mod call;
mod scale;

use std::process;
use std::time::{Duration, Instant};

use amqp_bench_harness::job::{Job, Latencies, Mark, count_polls, report};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const WINDOW: usize = 1000;

fn main() -> Outcome {
    let job = Job::from_args();
    let mut builder = match std::env::var("RUNTIME").as_deref() {
        Ok("ct") => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()?.block_on(run(job))
}

async fn connect(job: &Job) -> Outcome<Connection> {
    Ok(Connection::connect(&job.url, ConnectionProperties::default()).await?)
}

async fn declare(channel: &Channel, queue: &str, options: QueueDeclareOptions) -> Outcome {
    channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(())
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn temporary() -> QueueDeclareOptions {
    QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() }
}

async fn publish(channel: &Channel, queue: &ShortString, body: &[u8]) -> Outcome<PublisherConfirm> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let confirm =
        channel.basic_publish("".into(), queue.clone(), options, body, properties).await?;
    Ok(confirm)
}

async fn consumer(channel: &Channel, queue: &ShortString, no_ack: bool) -> Outcome<Consumer> {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    let table = FieldTable::default();
    Ok(channel.basic_consume(queue.clone(), "ctag".into(), options, table).await?)
}

async fn next(consumer: &mut Consumer) -> Outcome<Delivery> {
    Ok(consumer.next().await.ok_or("the consumer ended")??)
}

async fn run(mut job: Job) -> Outcome {
    let connection = connect(&job).await?;
    let channel = connection.create_channel().await?;
    let body = vec![b'x'; job.size];
    let queue = ShortString::from(job.queue.as_str());
    let mut latencies = Latencies::with_capacity(job.count);
    if job.scenario.starts_with("confirm") || ["unconfirmed", "herd"].contains(&&*job.scenario) {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) > 1 => {
            publish_tasks(&job, &connection, &channel).await?
        }
        "publish" => {
            for _ in 0..job.count {
                drop(publish(&channel, &queue, &body).await?);
            }
            declare(&channel, "barrier", durable()).await?;
        }
        "herd" => herd(&job, &channel).await?,
        "slow-link" => {
            start = slow_link(&job, &connection, &channel, body, &mut latencies).await?;
            job.count = latencies.number();
        }
        "publish-pipelined" => {
            let publishes = stream::iter(0..job.count).map(|_| publish(&channel, &queue, &body));
            let mut publishes = publishes.buffered(WINDOW);
            while let Some(published) = publishes.next().await {
                drop(published?);
            }
            declare(&channel, "barrier", durable()).await?;
        }
        "confirm" | "unconfirmed" => {
            let window = if job.scenario == "confirm" { WINDOW } else { job.count as usize };
            let confirms = stream::iter(0..job.count)
                .map(|_| async { Outcome::Ok(publish(&channel, &queue, &body).await?.await?) });
            let mut confirms = confirms.buffered(window);
            while let Some(confirmed) = confirms.next().await {
                assert!(confirmed?.is_ack());
            }
        }
        "confirm-each" => {
            for _ in 0..job.count {
                let start = Instant::now();
                publish(&channel, &queue, &body).await?.await?;
                latencies.since(start);
            }
        }
        "consume" | "consume-ack" | "consume-ack-100" => {
            start = consume(&job, &channel, &queue).await?
        }
        "rpc" => {
            declare(&channel, &job.queue, temporary()).await?;
            let mut consumer = consumer(&channel, &queue, true).await?;
            start = Mark::now();
            for _ in 0..job.count {
                let start = Instant::now();
                drop(publish(&channel, &queue, &body).await?);
                next(&mut consumer).await?;
                latencies.since(start);
            }
        }
        "call" => start = call::run(&job, &channel, &mut latencies).await?,
        "mixed" | "paced" => start = both(&job, &channel, &queue, &mut latencies).await?,
        "get" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let got =
                    channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true }).await?;
                assert_eq!(got.ok_or("no message")?.data.len(), job.size);
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                declare(&channel, &job.queue, durable()).await?;
                latencies.since(start);
            }
        }
        "declare-pipelined" => {
            for _ in 0..job.count.div_ceil(1000) {
                let declares = (0..1000).map(|_| declare(&channel, &job.queue, durable()));
                join_all(declares).await.into_iter().collect::<Outcome>()?;
            }
        }
        "channels" => {
            let channels = scale::open_channels(&job, &connection, job.count).await?;
            report(&job, start, latencies);
            drop(channels);
            process::exit(0);
        }
        "consumers" => {
            let (channels, consumers) = scale::consumers(&job, &connection, job.count).await?;
            report(&job, start, latencies);
            drop((channels, consumers));
            process::exit(0);
        }
        "spread" => start = scale::spread(&job, &connection, &body).await?,
        "ring" => start = scale::ring(&job, &connection, &channel).await?,
        "connections" => {
            let mut connections = Vec::new();
            for _ in 0..job.count {
                let connection = connect(&job).await?;
                let channel = connection.create_channel().await?;
                connections.push((connection, channel));
            }
            report(&job, start, latencies);
            process::exit(0);
        }
        "connect" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let connection = connect(&job).await?;
                latencies.since(start);
                connection.close(200, "".into()).await?;
            }
        }
        _ => job.not_offered(),
    }
    report(&job, start, latencies);
    process::exit(0)
}

async fn publish_tasks(job: &Job, connection: &Connection, channel: &Channel) -> Outcome {
    let tasks = job.parameter("tasks", 1);
    let mut running = Vec::new();
    for number in 0..tasks {
        let channel = match job.parameter("channels", 0) {
            0 => channel.clone(),
            _ => connection.create_channel().await?,
        };
        let (count, queue) = (job.share(number, tasks), ShortString::from(job.queue.as_str()));
        let body = vec![b'x'; job.size];
        running.push(tokio::spawn(async move {
            for _ in 0..count {
                drop(publish(&channel, &queue, &body).await?);
            }
            declare(&channel, "barrier", durable()).await
        }));
    }
    for task in running {
        task.await??;
    }
    Ok(())
}

/// `tasks` tasks on one channel, each with up to ten unconfirmed messages.
async fn herd(job: &Job, channel: &Channel) -> Outcome {
    let tasks = job.parameter("tasks", 1);
    let mut running = Vec::new();
    for number in 0..tasks {
        let (count, queue) = (job.share(number, tasks), ShortString::from(job.queue.as_str()));
        let (channel, body) = (channel.clone(), vec![b'x'; job.size]);
        running.push(tokio::spawn(count_polls(async move {
            let confirms = stream::iter(0..count)
                .map(|_| async { Outcome::Ok(publish(&channel, &queue, &body).await?.await?) });
            let mut confirms = confirms.buffered(10);
            while let Some(confirmed) = confirms.next().await {
                assert!(confirmed?.is_ack());
            }
            Outcome::Ok(())
        })));
    }
    for task in running {
        task.await??;
    }
    Ok(())
}

/// Round trips on one channel; if `beside` is 1, while another channel publishes large messages. Stops after 20 s.
async fn slow_link(
    job: &Job,
    connection: &Connection,
    asking: &Channel,
    body: Vec<u8>,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    if job.parameter("beside", 0) == 1 {
        let publishing = connection.create_channel().await?;
        tokio::spawn(async move {
            while publish(&publishing, &"nowhere".into(), &body).await.is_ok() {}
        });
        // Until the message fills the link.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let start = Mark::now();
    let began = Instant::now();
    for _ in 0..job.count {
        let start = Instant::now();
        declare(asking, "asked", durable()).await?;
        latencies.since(start);
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    Ok(start)
}

async fn consume(job: &Job, channel: &Channel, queue: &ShortString) -> Outcome<Mark> {
    let no_ack = job.scenario == "consume";
    if !no_ack {
        let prefetch = job.parameter("prefetch", 1000) as u16;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    }
    let every = if job.scenario == "consume-ack" { 1 } else { 100 };
    let start = Mark::now();
    let mut consumer = consumer(channel, queue, no_ack).await?;
    let mut bytes = 0;
    for number in 1..=job.count {
        let delivery = next(&mut consumer).await?;
        bytes += delivery.data.len();
        if !no_ack && (number % every == 0 || number == job.count) {
            delivery.ack(BasicAckOptions { multiple: every > 1 }).await?;
        }
    }
    assert_eq!(bytes, job.size * job.count as usize);
    Ok(start)
}

/// Publishes to an own queue and consumes from it: as fast as it goes, with confirms, or at a rate.
async fn both(
    job: &Job,
    channel: &Channel,
    queue: &ShortString,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    declare(channel, &job.queue, temporary()).await?;
    let mut consumer = consumer(channel, queue, true).await?;
    let paced = job.scenario == "paced";
    if !paced {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    let gap = Duration::from_secs(1) / job.parameter("rate", 1000) as u32;
    let (count, body) = (job.count as u32, vec![b'x'; job.size]);
    let (sending, queue) = (channel.clone(), queue.clone());
    let start = Mark::now();
    let began = Instant::now();
    let publishing = tokio::spawn(async move {
        if !paced {
            let confirms = stream::iter(0..count)
                .map(|_| async { Outcome::Ok(publish(&sending, &queue, &body).await?.await?) });
            let mut confirms = confirms.buffered(WINDOW);
            while let Some(confirmed) = confirms.next().await {
                confirmed?;
            }
            return Outcome::Ok(());
        }
        for number in 0..count {
            let due = began + gap * number;
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                tokio::time::sleep(early).await;
            }
            drop(publish(&sending, &queue, &body).await?);
        }
        Ok(())
    });
    for number in 0..count {
        next(&mut consumer).await?;
        if paced {
            latencies.add((began + gap * number).elapsed());
        }
    }
    publishing.await??;
    Ok(start)
}
