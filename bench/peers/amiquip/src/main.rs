//! amiquip, which is blocking and has an I/O thread for each connection.

use std::process;
use std::time::Instant;

use amiquip::{
    Channel, Confirm, Connection, Consumer, ConsumerMessage, ConsumerOptions, Delivery, Publish,
    QueueDeclareOptions,
};
use amqp_bench_harness::job::{Job, Latencies, Mark, report};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const WINDOW: u64 = 1000;

fn connect(job: &Job) -> Outcome<Connection> {
    Ok(Connection::insecure_open(&job.url)?)
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn next(consumer: &Consumer<'_>) -> Outcome<Delivery> {
    match consumer.receiver().recv()? {
        ConsumerMessage::Delivery(delivery) => Ok(delivery),
        _ => Err("the consumer ended".into()),
    }
}

fn main() -> Outcome {
    let job = Job::from_args();
    let mut connection = connect(&job)?;
    let channel = connection.open_channel(None)?;
    let body = vec![b'x'; job.size];
    let publish = || channel.basic_publish("", Publish::new(&body, job.queue.as_str()));
    let mut latencies = Latencies::with_capacity(job.count);
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) == 1 => {
            for _ in 0..job.count {
                publish()?;
            }
            channel.queue_declare("barrier", durable())?;
        }
        "confirm" | "confirm-each" => {
            let confirms = channel.listen_for_publisher_confirms()?;
            channel.enable_publisher_confirms()?;
            start = Mark::now();
            let window = if job.scenario == "confirm" { WINDOW } else { 1 };
            let mut confirmed = 0;
            let mut until = |number: u64| -> Outcome {
                while confirmed < number {
                    match confirms.recv()? {
                        Confirm::Ack(ack) => confirmed = confirmed.max(ack.delivery_tag),
                        Confirm::Nack(_) => return Err("a message was refused".into()),
                    }
                }
                Ok(())
            };
            for number in 1..=job.count {
                let start = Instant::now();
                publish()?;
                until((number + 1).saturating_sub(window))?;
                if window == 1 {
                    latencies.since(start);
                }
            }
            until(job.count)?;
        }
        "consume" | "consume-ack" | "consume-ack-100" => start = consume(&job, &channel)?,
        "rpc" => {
            let options =
                QueueDeclareOptions { exclusive: true, auto_delete: true, ..<_>::default() };
            let queue = channel.queue_declare(job.queue.as_str(), options)?;
            let consumer = queue.consume(ConsumerOptions { no_ack: true, ..<_>::default() })?;
            start = Mark::now();
            for _ in 0..job.count {
                let start = Instant::now();
                publish()?;
                next(&consumer)?;
                latencies.since(start);
            }
        }
        "get" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let got = channel.basic_get(job.queue.as_str(), true)?.ok_or("no message")?;
                assert_eq!(got.delivery.body.len(), job.size);
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                channel.queue_declare(job.queue.as_str(), durable())?;
                latencies.since(start);
            }
        }
        "channels" => {
            let mut channels = Vec::new();
            for _ in 0..job.count {
                channels.push(connection.open_channel(None)?);
            }
            report(&job, start, latencies);
            process::exit(0);
        }
        "connections" => {
            let mut connections = Vec::new();
            for _ in 0..job.count {
                let mut connection = connect(&job)?;
                // The channel is never closed.
                std::mem::forget(connection.open_channel(None)?);
                connections.push(connection);
            }
            report(&job, start, latencies);
            process::exit(0);
        }
        "connect" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let connection = connect(&job)?;
                latencies.since(start);
                connection.close()?;
            }
        }
        _ => job.not_offered(),
    }
    report(&job, start, latencies);
    process::exit(0)
}

fn consume(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let no_ack = job.scenario == "consume";
    if !no_ack {
        channel.qos(0, job.parameter("prefetch", 1000) as u16, false)?;
    }
    let every = if job.scenario == "consume-ack" { 1 } else { 100 };
    let start = Mark::now();
    let options = ConsumerOptions { no_ack, ..ConsumerOptions::default() };
    let consumer = channel.basic_consume(job.queue.as_str(), options)?;
    let mut bytes = 0;
    for number in 1..=job.count {
        let delivery = next(&consumer)?;
        bytes += delivery.body.len();
        if !no_ack && (number % every == 0 || number == job.count) {
            if every > 1 { consumer.ack_multiple(delivery)? } else { consumer.ack(delivery)? }
        }
    }
    assert_eq!(bytes, job.size * job.count as usize);
    Ok(start)
}
