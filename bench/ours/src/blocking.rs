//! The scenarios on threads.

use std::collections::VecDeque;
use std::process;
use std::thread;
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark, report};
use amqp_client_blocking::proto::{RawProperties, Route};
use amqp_client_blocking::{
    Channel, Confirmation, Connection, ConsumeOptions, Publisher, PublisherOptions, QueueOptions,
    Wait as _, connect_target,
};
use bytes::Bytes;

use crate::driver::{self, WINDOW};
use crate::{Outcome, Threads, target};

/// Scenarios whose code waits for futures on every runtime.
const SHARED: [&str; 9] = [
    "fairness",
    "slow-link",
    "paced",
    "channels",
    "consumers",
    "drop",
    "spread",
    "spread-confirm",
    "unconfirmed",
];

pub(crate) fn run(job: Job) -> Outcome {
    if SHARED.contains(&&*job.scenario) {
        return driver::run::<Threads>(job).wait();
    }
    let job = &job;
    let connection = connect_target(target(job)?)?;
    let channel = connection.open_channel().wait()?;
    let body = Bytes::from(vec![b'x'; job.size]);
    let mut latencies = Latencies::with_capacity(job.count);
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) > 1 => publish_threads(job, &connection, &channel)?,
        "publish" => publish(&channel, &job.queue, job.count, &body)?,
        "confirm" | "confirm-each" => {
            let options = PublisherOptions::new()
                .persistent(false)
                .mandatory(false)
                .window(WINDOW, usize::MAX);
            let publisher = channel.default_exchange().publisher(options)?;
            channel.confirm_select().wait()?;
            start = Mark::now();
            if job.scenario == "confirm" {
                confirm(&publisher, job, &body)?;
            } else {
                for _ in 0..job.count {
                    let start = Instant::now();
                    publisher.send(&job.queue, &body).wait()?;
                    latencies.since(start);
                }
            }
        }
        "consume" | "consume-ack" | "consume-ack-100" => start = consume(job, &channel)?,
        "rpc" => {
            let queue = channel.queue_declare(&job.queue, QueueOptions::temporary()).wait()?;
            let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).wait()?;
            let route = Route::queue(&job.queue);
            start = Mark::now();
            for _ in 0..job.count {
                let start = Instant::now();
                channel.basic_publish(&route, &RawProperties::EMPTY, &body).wait()?;
                drop(consumer.next().wait().ok_or("the consumer ended")??);
                latencies.since(start);
            }
        }
        "get" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let got = channel.basic_get_no_ack(&job.queue).wait()?.ok_or("no message")?;
                assert_eq!(got.delivery.body().len(), job.size);
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                channel.queue_declare(&job.queue, QueueOptions::new()).wait()?;
                latencies.since(start);
            }
        }
        "declare-pipelined" => {
            for _ in 0..job.count.div_ceil(1000) {
                let declares =
                    (0..1000).map(|_| channel.queue_declare(&job.queue, QueueOptions::new()));
                let declares: Vec<_> = declares.collect();
                for declared in declares {
                    declared.wait()?;
                }
            }
        }
        "connections" => {
            let mut connections = Vec::new();
            for _ in 0..job.count {
                let connection = connect_target(target(job)?)?;
                let channel = connection.open_channel().wait()?;
                connections.push((connection, channel));
            }
            report(job, start, latencies);
            process::exit(0);
        }
        "connect" => {
            for _ in 0..job.count {
                let start = Instant::now();
                let connection = connect_target(target(job)?)?;
                latencies.since(start);
                connection.close().wait()?;
            }
        }
        _ => job.not_offered(),
    }
    report(job, start, latencies);
    process::exit(0)
}

fn publish(channel: &Channel, queue: &str, count: u64, body: &Bytes) -> Outcome {
    let route = Route::queue(queue);
    for _ in 0..count {
        channel.basic_publish(&route, &RawProperties::EMPTY, body).wait()?;
    }
    channel.queue_declare("barrier", QueueOptions::new()).wait()?;
    Ok(())
}

fn publish_threads(job: &Job, connection: &Connection, channel: &Channel) -> Outcome {
    let tasks = job.parameter("tasks", 1);
    let body = Bytes::from(vec![b'x'; job.size]);
    thread::scope(|scope| {
        let mut running = Vec::new();
        for number in 0..tasks {
            let channel = match job.parameter("channels", 0) {
                0 => channel.clone(),
                _ => connection.open_channel().wait()?,
            };
            let (count, body) = (job.share(number, tasks), body.clone());
            running.push(scope.spawn(move || publish(&channel, &job.queue, count, &body)));
        }
        running.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

fn confirm(publisher: &Publisher, job: &Job, body: &Bytes) -> Outcome {
    let mut under_way = VecDeque::with_capacity(WINDOW);
    for _ in 0..job.count {
        if under_way.len() == WINDOW {
            let oldest: Option<Confirmation> = under_way.pop_front();
            oldest.map_or(Ok(()), |oldest| oldest.wait())?;
        }
        under_way.push_back(publisher.publish(&job.queue, body).wait()?);
    }
    under_way.into_iter().try_for_each(|confirmation| Ok(confirmation.wait()?))
}

fn consume(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let no_ack = job.scenario == "consume";
    if !no_ack {
        channel.basic_qos(job.parameter("prefetch", 1000) as u16).wait()?;
    }
    let start = Mark::now();
    let options = ConsumeOptions::new().no_ack(no_ack);
    let mut consumer = channel.basic_consume(&job.queue, options).wait()?;
    let (mut bytes, mut number) = (0, 0);
    let every = if job.scenario == "consume-ack-100" { 100 } else { 1 };
    for delivery in &mut consumer {
        let delivery = delivery?;
        bytes += delivery.body().len();
        number += 1;
        match every {
            1 => delivery.ack()?,
            _ if number % every == 0 || number == job.count => delivery.ack_up_to()?,
            _ => drop(delivery.into_message()),
        }
        if number == job.count {
            break;
        }
    }
    assert_eq!(bytes, job.size * job.count as usize);
    Ok(start)
}
