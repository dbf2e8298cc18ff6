//! The patterns that are built on the handles: calls, workers and topologies.

use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark};
use amqp_client_core::topology::Topology;
use amqp_client_core::{Channel, Connection, Delivery, ExchangeOptions, QueueOptions};
use amqp_client_patterns::codec::BoxError;
use amqp_client_patterns::handler::Extract;
use amqp_client_patterns::rpc::{RpcClient, RpcServer};
use amqp_client_patterns::work::Work;
use bytes::Bytes;
use futures_util::future::{Either, join_all, select};

use crate::{Outcome, Runtime, check, target};

/// Calls a server that replies with the request. Client and server have a connection each. With `at_once=N`, N tasks make calls.
pub(crate) async fn call<R: Runtime>(
    job: &Job,
    connection: &Connection,
    body: &Bytes,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let serving = R::open(target(job)?).await?.open_channel().await?;
    let queue = serving.queue_declare(&job.queue, QueueOptions::temporary()).await?;
    let server = RpcServer::on(&queue).at_once(64).serve(|request: Bytes| ready(request));
    let server = R::spawn(server.run());
    let client = RpcClient::open(connection).await?;
    // The first call waits until the server consumes.
    client.call(&job.queue, body).await?;
    let tasks = job.parameter("at_once", 1);
    let start = Mark::now();
    let callers = (0..tasks).map(|number| {
        let (client, queue, body) = (client.clone(), job.queue.clone(), body.clone());
        let count = job.share(number, tasks);
        R::spawn(async move {
            let mut latencies = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let start = Instant::now();
                let reply = client.call(&queue, &body).await?;
                latencies.push(start.elapsed());
                check(reply.body().len(), body.len())?;
            }
            Outcome::Ok(latencies)
        })
    });
    let calls = join_all(callers.collect::<Vec<_>>());
    match select(pin!(calls), server).await {
        Either::Left((called, _)) => {
            for measured in called {
                measured?.into_iter().for_each(|latency| latencies.add(latency));
            }
            Ok(start)
        }
        Either::Right((served, _)) => Err(format!("the server ended: {served:?}").into()),
    }
}

/// The length of a body: as much as `consume-ack` takes from a delivery.
struct Length(u64);

impl<S> Extract<S> for Length {
    fn extract(delivery: &Delivery, _: &S) -> Result<Self, BoxError> {
        Ok(Self(delivery.body().len() as u64))
    }
}

/// A worker in the place of the loop of `consume-ack`. With `at_once=N`, it may run N handlers.
pub(crate) async fn work(job: &Job, channel: &Channel) -> Outcome<Mark> {
    let queue = channel.queue(&job.queue)?;
    let (messages, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counters = (messages.clone(), bytes.clone());
    let handler = move |Length(length)| {
        counters.1.fetch_add(length, Ordering::Relaxed);
        counters.0.fetch_add(1, Ordering::Relaxed);
        ready(())
    };
    // The worker looks whether it is to stop whenever a handler has returned.
    let handled = poll_fn(|_| match messages.load(Ordering::Relaxed) {
        number if number == job.count => Poll::Ready(()),
        _ => Poll::Pending,
    });
    let at_once = job.parameter("at_once", 1) as u16;
    let start = Mark::now();
    let work = Work::on(&queue).prefetch(job.parameter("prefetch", 1000) as u16).at_once(at_once);
    work.each(handler).until(handled).await?;
    check(bytes.load(Ordering::Relaxed) as usize, job.size * job.count as usize)?;
    Ok(start)
}

/// Applies a topology of `entities` exchanges, queues and bindings.
pub(crate) async fn topology(
    job: &Job,
    channel: &Channel,
    latencies: &mut Latencies,
) -> Outcome<Mark> {
    let entities = job.parameter("entities", 1000);
    let temporary = ExchangeOptions::new().durable(false).auto_delete(true);
    let mut topology = Topology::new();
    for number in 0..entities.div_ceil(10) {
        let exchange = format!("{}.{number}", job.queue);
        topology = topology.exchange(&exchange, "direct", temporary.clone());
        for queue in 0..4 {
            let queue = format!("{exchange}.{queue}");
            topology = topology.queue(&queue, QueueOptions::temporary());
            topology = topology.bind(&queue, &exchange, "key");
        }
        topology = topology.bind(format!("{exchange}.0"), &exchange, "another key");
    }
    let start = Mark::now();
    for _ in 0..job.count {
        let start = Instant::now();
        topology.apply(channel).await?;
        latencies.since(start);
    }
    Ok(start)
}
