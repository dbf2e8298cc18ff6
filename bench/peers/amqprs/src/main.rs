//! amqprs on tokio; `RUNTIME=ct` is the current-thread runtime.

mod call;

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amqp_bench_harness::job::{Job, Latencies, Mark, report};
use amqprs::callbacks::{ChannelCallback, DefaultConnectionCallback};
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicGetArguments, BasicPublishArguments,
    BasicQosArguments, Channel, ConfirmSelectArguments, ConsumerMessage, QueueDeclareArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const WINDOW: u64 = 1000;

/// Up to which number messages are confirmed: it has no future for each.
#[derive(Clone, Default)]
struct Confirms(Arc<(AtomicU64, Notify)>);

#[async_trait::async_trait]
impl ChannelCallback for Confirms {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> amqprs_result::Result<()> {
        panic!("the channel was closed: {close}")
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> amqprs_result::Result<()> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> amqprs_result::Result<bool> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.0.0.fetch_max(ack.delivery_tag(), Ordering::SeqCst);
        self.0.1.notify_one();
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        panic!("a message was refused")
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}

mod amqprs_result {
    pub(crate) type Result<T> = std::result::Result<T, amqprs::error::Error>;
}

impl Confirms {
    async fn until(&self, number: u64) {
        while self.0.0.load(Ordering::SeqCst) < number {
            self.0.1.notified().await;
        }
    }
}

fn main() -> Outcome {
    let job = Job::from_args();
    let mut builder = match std::env::var("RUNTIME").as_deref() {
        Ok("ct") => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()?.block_on(run(job))
}

async fn connect(job: &Job) -> Outcome<Connection> {
    let authority = job.url.trim_start_matches("amqp://").split('/').next().unwrap_or_default();
    let (_, address) = authority.rsplit_once('@').ok_or("no user")?;
    let (host, port) = address.split_once(':').ok_or("no port")?;
    let arguments = OpenConnectionArguments::new(host, port.parse()?, "guest", "guest");
    let connection = Connection::open(&arguments).await?;
    connection.register_callback(DefaultConnectionCallback).await?;
    Ok(connection)
}

async fn publish(channel: &Channel, to: &BasicPublishArguments, body: &[u8]) -> Outcome {
    let properties = BasicProperties::default();
    Ok(channel.basic_publish(properties, body.to_vec(), to.clone()).await?)
}

fn durable(queue: &str) -> QueueDeclareArguments {
    QueueDeclareArguments::new(queue).durable(true).finish()
}

async fn barrier(channel: &Channel) -> Outcome {
    channel.queue_declare(durable("barrier")).await?;
    Ok(())
}

/// Opens channels, in turn on each of `connections` connections.
async fn open_channels(
    job: &Job,
    first: &Connection,
    count: u64,
) -> Outcome<Vec<(Connection, Channel)>> {
    let mut connections = vec![first.clone()];
    for _ in 1..job.parameter("connections", 1) {
        connections.push(connect(job).await?);
    }
    let mut channels = Vec::new();
    for connection in connections.iter().cycle().take(count as usize) {
        channels.push((connection.clone(), connection.open_channel(None).await?));
    }
    Ok(channels)
}

type Deliveries = UnboundedReceiver<ConsumerMessage>;

async fn consumer(channel: &Channel, queue: &str, no_ack: bool) -> Outcome<Deliveries> {
    let arguments = BasicConsumeArguments::new(queue, "ctag").auto_ack(no_ack).finish();
    Ok(channel.basic_consume_rx(arguments).await?.1)
}

async fn own_consumer(channel: &Channel, queue: &str) -> Outcome<Deliveries> {
    let declare = QueueDeclareArguments::new(queue).exclusive(true).auto_delete(true).finish();
    channel.queue_declare(declare).await?;
    consumer(channel, queue, true).await
}

async fn run(job: Job) -> Outcome {
    let connection = connect(&job).await?;
    let channel = connection.open_channel(None).await?;
    let confirms = Confirms::default();
    channel.register_callback(confirms.clone()).await?;
    let body = vec![b'x'; job.size];
    let to = BasicPublishArguments::new("", &job.queue);
    let mut latencies = Latencies::with_capacity(job.count);
    if job.scenario.starts_with("confirm") || job.scenario == "unconfirmed" {
        channel.confirm_select(ConfirmSelectArguments::default()).await?;
    }
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) > 1 => {
            publish_tasks(&job, &connection, &channel).await?
        }
        "publish" => {
            for _ in 0..job.count {
                publish(&channel, &to, &body).await?;
            }
            barrier(&channel).await?;
        }
        "confirm" | "confirm-each" | "unconfirmed" => {
            let window = match job.scenario.as_str() {
                "confirm" => WINDOW,
                "confirm-each" => 1,
                _ => job.count,
            };
            for number in 1..=job.count {
                let start = Instant::now();
                publish(&channel, &to, &body).await?;
                if number >= window {
                    confirms.until(number + 1 - window).await;
                }
                if window == 1 {
                    latencies.since(start);
                }
            }
            confirms.until(job.count).await;
        }
        "consume" | "consume-ack" | "consume-ack-100" => start = consume(&job, &channel).await?,
        "rpc" => {
            let mut deliveries = own_consumer(&channel, &job.queue).await?;
            start = Mark::now();
            for _ in 0..job.count {
                let start = Instant::now();
                publish(&channel, &to, &body).await?;
                deliveries.recv().await.ok_or("the consumer ended")?;
                latencies.since(start);
            }
        }
        "call" => start = call::run(&job, &channel, &mut latencies).await?,
        "mixed" | "paced" => start = both(&job, &channel, &confirms, &mut latencies).await?,
        "get" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let arguments = BasicGetArguments::new(&job.queue).no_ack(true).finish();
                let (_, _, body) = channel.basic_get(arguments).await?.ok_or("no message")?;
                assert_eq!(body.len(), job.size);
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                channel.queue_declare(durable(&job.queue)).await?;
                latencies.since(start);
            }
        }
        "channels" => {
            let channels = open_channels(&job, &connection, job.count).await?;
            report(&job, start, latencies);
            drop(channels);
            process::exit(0);
        }
        "spread" => {
            let number = job.parameter("channels", 1);
            let channels = open_channels(&job, &connection, number).await?;
            start = Mark::now();
            for (_, channel) in channels.iter().cycle().take(job.count as usize) {
                publish(channel, &to, &body).await?;
            }
            for (_, channel) in channels.iter().rev().take(job.parameter("connections", 1) as usize)
            {
                barrier(channel).await?;
            }
            report(&job, start, latencies);
            drop(channels);
            process::exit(0);
        }
        "connections" => {
            let mut connections = Vec::new();
            for _ in 0..job.count {
                let connection = connect(&job).await?;
                let channel = connection.open_channel(None).await?;
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
                connection.close().await?;
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
            _ => connection.open_channel(None).await?,
        };
        let (count, to) = (job.share(number, tasks), BasicPublishArguments::new("", &job.queue));
        let body = vec![b'x'; job.size];
        running.push(tokio::spawn(async move {
            for _ in 0..count {
                publish(&channel, &to, &body).await?;
            }
            barrier(&channel).await
        }));
    }
    for task in running {
        task.await??;
    }
    Ok(())
}

async fn consume(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let no_ack = job.scenario == "consume";
    if !no_ack {
        let prefetch = job.parameter("prefetch", 1000) as u16;
        channel.basic_qos(BasicQosArguments::new(0, prefetch, false)).await?;
    }
    let every = if job.scenario == "consume-ack" { 1 } else { 100 };
    let start = Mark::now();
    let mut deliveries = consumer(channel, &job.queue, no_ack).await?;
    let mut bytes = 0;
    for number in 1..=job.count {
        let message = deliveries.recv().await.ok_or("the consumer ended")?;
        bytes += message.content.as_ref().map_or(0, Vec::len);
        if !no_ack && (number % every == 0 || number == job.count) {
            let tag = message.deliver.as_ref().ok_or("no delivery")?.delivery_tag();
            channel.basic_ack(BasicAckArguments::new(tag, every > 1)).await?;
        }
    }
    assert_eq!(bytes, job.size * job.count as usize);
    Ok(start)
}

/// Publishes to an own queue and consumes from it: as fast as it goes, with confirms, or at a rate.
async fn both(
    job: &Job,
    channel: &Channel,
    confirms: &Confirms,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let mut deliveries = own_consumer(channel, &job.queue).await?;
    let paced = job.scenario == "paced";
    if !paced {
        channel.confirm_select(ConfirmSelectArguments::default()).await?;
    }
    let gap = Duration::from_secs(1) / job.parameter("rate", 1000) as u32;
    let (count, body) = (job.count as u32, vec![b'x'; job.size]);
    let to = BasicPublishArguments::new("", &job.queue);
    let (sending, confirms) = (channel.clone(), confirms.clone());
    let start = Mark::now();
    let began = Instant::now();
    let publishing = tokio::spawn(async move {
        for number in 0..count {
            let due = began + gap * number;
            if let Some(early) = due.checked_duration_since(Instant::now()).filter(|_| paced) {
                tokio::time::sleep(early).await;
            }
            publish(&sending, &to, &body).await?;
            if !paced {
                confirms.until((u64::from(number) + 1).saturating_sub(WINDOW)).await;
            }
        }
        Outcome::Ok(())
    });
    for number in 0..count {
        deliveries.recv().await.ok_or("the consumer ended")?;
        if paced {
            latencies.add((began + gap * number).elapsed());
        }
    }
    publishing.await??;
    Ok(start)
}
