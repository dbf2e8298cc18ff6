//! The patterns of `amqp-client-patterns` at work: workers with retries by queues and parking, servers, and clients with calls.

mod calls;
mod ledger;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amqp_client_core::{
    Channel, ConsumeOptions, Consumer, Publisher, PublisherOptions, Queue, QueueOptions, Value,
};
use amqp_client_patterns::rpc::{RpcClient, RpcOptions};
use amqp_client_tokio::{Connection, connect_target};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Error;
use crate::clients::{ARRIVAL, Clients, Ending, GRACE, PATIENCE};
use crate::ledger::Ledger;
use crate::site::Site;
use crate::watch::Watch;
use crate::witness::Witness;

/// The queues of workers. Messages of the second one are handled in the order of their keys.
const QUEUES: [&str; 2] = ["patterns.0", "patterns.1"];
const CALLS: &str = "patterns.calls";
const REPLIES: &str = "patterns.replies";

/// Waits as an application does before it tries again something that has failed. It would fail again at once.
async fn back_off() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The state that all tasks share.
struct Shared {
    /// For probes and for trouble.
    ledger: Arc<Ledger>,
    books: ledger::Ledger,
    /// Nothing new is published or called.
    stopped: AtomicBool,
    /// Workers and servers end.
    ended: watch::Sender<bool>,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the end, for at most this time.
    async fn ended_or(&self, time: Duration) {
        let mut ended = self.ended.subscribe();
        let _passed = tokio::time::timeout(time, ended.wait_for(|ended| *ended)).await;
    }
}

/// Workers, servers and their clients.
pub(crate) struct Patterns {
    shared: Arc<Shared>,
    watch: Watch,
    publishing: Connection,
    consuming: Connection,
    /// What interceptors have seen of the two.
    witnesses: [Witness; 2],
    prober: Publisher,
    /// With direct replies, and with a queue for them.
    clients: [RpcClient; 2],
    /// They end when nothing new is to be published.
    producers: Vec<JoinHandle<()>>,
    /// They go on until everything has an outcome.
    workers: Vec<JoinHandle<()>>,
}

impl Clients for Patterns {
    async fn start(site: &Site, ledger: &Arc<Ledger>, seed: u64) -> Result<Self, Error> {
        let witnesses = [Witness::default(), Witness::default()];
        let target = site.target("publishing", seed)?.intercept(witnesses[0].clone());
        let publishing = connect_target(target).await?;
        let target = site.target("consuming", seed + 1)?.intercept(witnesses[1].clone());
        let consuming = connect_target(target).await?;
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            books: ledger::Ledger::default(),
            stopped: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        });
        let (mut producers, mut workers) = (Vec::new(), Vec::new());
        for (index, name) in QUEUES.into_iter().enumerate() {
            let queue = declare(site, &consuming.open_channel().await?, name).await?;
            workers.push(tokio::spawn(work::work(shared.clone(), queue, name, index == 1)));
            let queue = publishing.open_channel().await?.queue(name)?;
            producers.push(tokio::spawn(work::produce(shared.clone(), queue, index)));
        }
        let queue = declare(site, &consuming.open_channel().await?, CALLS).await?;
        workers.push(tokio::spawn(calls::serve(shared.clone(), queue)));
        let channel = publishing.open_channel().await?;
        let replies = declare(site, &channel, REPLIES).await?;
        let options = RpcOptions::new().reply_queue(&replies);
        let clients = [
            RpcClient::open(&publishing).await?,
            RpcClient::open_with(&publishing, options).await?,
        ];
        for (index, client) in clients.iter().enumerate() {
            // With one node, a request or direct reply is lost only with a connection, which ends the call.
            let endless = index == 0 && !site.is_cluster();
            producers.push(tokio::spawn(calls::call(shared.clone(), client.clone(), endless)));
        }
        let prober = channel.default_exchange().publisher(PublisherOptions::new())?;
        let watch = Watch::start(&publishing, &consuming);
        Ok(Self {
            shared,
            watch,
            publishing,
            consuming,
            witnesses,
            prober,
            clients,
            producers,
            workers,
        })
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn fault(&self) {
        self.shared.books.lock().turn();
    }

    fn status(&self, probe: u64) -> String {
        let (publishing, consuming) = (self.publishing.health(), self.consuming.health());
        let seen = self.shared.ledger.saw(probe);
        let last = self.watch.recent();
        format!(
            "publishing: {publishing:?}\nconsuming: {consuming:?}\nprobe seen by {seen}\n{last}"
        )
    }

    async fn probe(&self, probe: u64) -> Result<(), Error> {
        while self.shared.ledger.saw(probe) < QUEUES.len() {
            for queue in QUEUES {
                let sent = self.prober.send(queue, format!("p.{probe}"));
                // It may be lost with the connection, or not be sent at all: another one follows.
                let _unknown = tokio::time::timeout(PATIENCE, sent)
                    .await
                    .map_err(|_| "a probe got no outcome")?;
            }
            // Probes are few, for they are traffic themselves; the loop ends when the last worker has seen one.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for client in &self.clients {
            while !calls::probe(client, probe).await {
                if !client.is_open() {
                    return Err("a client for calls has ended".into());
                }
                back_off().await;
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Ending, Error> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for producer in std::mem::take(&mut self.producers) {
            tokio::time::timeout(PATIENCE, producer)
                .await
                .map_err(|_| "a producer or a call hangs")??;
        }
        // The copies are counted when all faults have ended: each arrives once.
        let mut parked = Vec::new();
        for name in QUEUES {
            let queue = self.consuming.open_channel().await?.queue(format!("{name}.failed"))?;
            let copies = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
            parked.push(tokio::spawn(collect(self.shared.clone(), copies)));
        }
        // A message that is still missing then is lost.
        let _lost = tokio::time::timeout(ARRIVAL, self.resolved()).await;
        self.shared.ended.send_replace(true);
        for worker in self.workers {
            tokio::time::timeout(PATIENCE, worker)
                .await
                .map_err(|_| "a worker or a server hangs")??;
        }
        let calls: usize = self.clients.iter().map(RpcClient::pending_calls).sum();
        let left = [self.publishing.shutdown(GRACE).await?, self.consuming.shutdown(GRACE).await?];
        for copies in parked {
            tokio::time::timeout(PATIENCE, copies).await.map_err(|_| "a consumer hangs")??;
        }
        for (connection, witness) in
            [&self.publishing, &self.consuming].into_iter().zip(&self.witnesses)
        {
            let compared = witness.compare(connection);
            compared.err().into_iter().for_each(|text| self.shared.ledger.trouble(text));
        }
        let (totals, wrong) = self.shared.books.lock().close();
        wrong.into_iter().for_each(|text| self.shared.ledger.trouble(text));
        let left: usize = left.iter().map(|left| left.unsettled + left.unconfirmed).sum();
        Ok(Ending { totals, pending: calls + left })
    }
}

impl Patterns {
    /// Waits until each confirmed message has an outcome, and nothing waits in the queues of workers and of their retries.
    async fn resolved(&self) -> Result<(), Error> {
        let channel = self.publishing.open_channel().await?;
        let retries = QUEUES.map(|name| work::retry().topology(name, None).delays);
        let delays = retries.into_iter().flatten().map(|(name, _)| name);
        let queues: Vec<_> = QUEUES.map(str::to_owned).into_iter().chain(delays).collect();
        loop {
            let mut waiting = self.shared.books.lock().unresolved();
            for name in &queues {
                waiting += channel.queue_declare_passive(name).await?.message_count() as usize;
            }
            if waiting == 0 {
                return Ok(());
            }
            // Asks the ledger again, which counts all messages each time.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn declare(site: &Site, channel: &Channel, name: &str) -> Result<Queue, Error> {
    let options = QueueOptions::new().durable(true).queue_type(site.queue_type());
    Ok(channel.queue_declare(name, options).await?)
}

/// Takes all parked copies.
async fn collect(shared: Arc<Shared>, mut copies: Consumer) {
    while let Some(copy) = copies.next().await {
        // The connection is closed at the end.
        let Ok(copy) = copy else { return };
        let headers = copy.properties().headers().ok().flatten().unwrap_or_default();
        let reason = headers.get("x-failure").and_then(|reason| reason.as_str().map(str::to_owned));
        let attempts = headers.get("x-attempts").as_ref().and_then(Value::as_i64);
        let wrong = match (work::read(copy.body()), reason, attempts) {
            (Some(id), Some(reason), Some(attempts)) => {
                shared.books.lock().parked(id, &reason, attempts)
            }
            _ => Some(format!("a copy without its body or its reason was parked: {copy:?}")),
        };
        wrong.into_iter().for_each(|text| shared.ledger.trouble(text));
    }
}
