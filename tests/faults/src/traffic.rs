use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amqp_client_core::{
    Channel, ConfirmError, Confirmation, ConsumeOptions, Consumer, Delivery, ExchangeKind,
    ExchangeOptions, Leftovers, Message, MessageProperties, OnLoss, PublishError, Publisher,
    PublisherOptions, QueueOptions, SendError,
};
use amqp_client_tokio::{Connection, connect_target};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::task::JoinHandle;

use crate::Error;
use crate::clients::{ARRIVAL, Clients, Ending, GRACE, PATIENCE};
use crate::ledger::Ledger;
use crate::site::Site;
use crate::watch::Watch;

/// The queues for probes and messages.
const EXCHANGE: &str = "faults";
const QUEUES: [&str; 2] = ["faults.0", "faults.1"];

/// Number of consumers that get each probe.
const CONSUMERS: usize = QUEUES.len() + 1;

/// Number of unconfirmed messages of a publisher.
const UNDER_WAY: usize = 100;

/// Clients at work.
pub(crate) struct Traffic {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    watch: Watch,
    publishing: Connection,
    consuming: Connection,
    prober: Publisher,
    publishers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

impl Clients for Traffic {
    async fn start(site: &Site, ledger: &Arc<Ledger>, seed: u64) -> Result<Self, Error> {
        let publishing = connect_target(site.target("publishing", seed)?).await?;
        let consuming = connect_target(site.target("consuming", seed + 1)?).await?;
        let stop = Arc::<AtomicBool>::default();
        let mut consumers = Vec::new();

        let channel = consuming.open_channel().await?;
        let durable = ExchangeOptions::new().durable(true);
        let exchange = channel.exchange_declare(EXCHANGE, ExchangeKind::Topic, durable).await?;
        for name in QUEUES {
            let channel = consuming.open_channel().await?;
            channel.basic_qos(50).await?;
            let options = QueueOptions::new().durable(true).queue_type(site.queue_type());
            let queue = channel.queue_declare(name, options).await?;
            queue.bind(exchange.name(), name).await?;
            queue.bind(exchange.name(), "probe").await?;
            let consumer = queue.consume(ConsumeOptions::new()).await?;
            consumers.push(tokio::spawn(consume(consumer, name, ledger.clone())));
        }
        let own = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
        own.bind(exchange.name(), "probe").await?;
        let consumer = own.consume(ConsumeOptions::new()).await?;
        consumers.push(tokio::spawn(consume(consumer, "own", ledger.clone())));

        let mut publishers = Vec::new();
        for (number, on_loss) in [OnLoss::Keep, OnLoss::Wait, OnLoss::Fail].into_iter().enumerate()
        {
            let channel = publishing.open_channel().await?;
            let work = Work {
                number,
                publisher: publisher(&channel, on_loss)?,
                ledger: ledger.clone(),
                stop: stop.clone(),
            };
            publishers.push(tokio::spawn(work.run(fastrand::Rng::with_seed(seed ^ number as u64))));
        }
        let prober = publisher(&publishing.open_channel().await?, OnLoss::Wait)?;
        let watch = Watch::start(&publishing, &consuming);
        let ledger = ledger.clone();
        Ok(Self { ledger, stop, watch, publishing, consuming, prober, publishers, consumers })
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn status(&self, probe: u64) -> String {
        let last = self.watch.recent();
        let (publishing, consuming) = (self.publishing.health(), self.consuming.health());
        let seen = self.ledger.saw(probe);
        format!(
            "publishing: {publishing:?}\nconsuming: {consuming:?}\nprobe seen by {seen}\n{last}"
        )
    }

    async fn probe(&self, probe: u64) -> Result<(), Error> {
        while self.ledger.saw(probe) < CONSUMERS {
            let properties = MessageProperties::new().persistent().message_id(format!("p.{probe}"));
            let message = Message::new("probe").with(&properties)?;
            let sent = tokio::time::timeout(PATIENCE, self.prober.send_message("probe", &message));
            // It may be lost with the connection, or not be sent at all: another one follows.
            let outcome = sent.await.map_err(|_| "a probe got no outcome")?;
            self.ledger.done(|done| match &outcome {
                Ok(()) => done.concluded("probe".len(), Ok(&())),
                Err(SendError::NotConfirmed(error)) => done.concluded("probe".len(), Err(error)),
                Err(_) => done.publish_failed += 1,
            });
            // Probes are few, for they are traffic themselves; the loop ends when the last consumer has seen one.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn finish(self) -> Result<Ending, Error> {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            tokio::time::timeout(PATIENCE, publisher).await.map_err(|_| "a publisher hangs")??;
        }
        let arrived = async {
            while self.ledger.totals().lost > 0 {
                // Asks the ledger again, which counts all messages each time.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // A message that is still missing then is lost.
        let _lost = tokio::time::timeout(ARRIVAL, arrived).await;
        let left = [self.publishing.shutdown(GRACE).await?, self.consuming.shutdown(GRACE).await?];
        for consumer in self.consumers {
            tokio::time::timeout(PATIENCE, consumer).await.map_err(|_| "a consumer hangs")??;
        }
        self.ledger.compare(&self.publishing.counters(), &self.consuming.counters());
        let pending = |left: &Leftovers| left.unsettled + left.unconfirmed;
        Ok(Ending { totals: self.ledger.totals(), pending: left.iter().map(pending).sum() })
    }
}

fn publisher(channel: &Channel, on_loss: OnLoss) -> Result<Publisher, Error> {
    let options = PublisherOptions::new().on_loss(on_loss);
    Ok(channel.exchange(EXCHANGE)?.publisher(options)?)
}

/// A publisher at work: each message is published until it is confirmed.
struct Work {
    number: usize,
    publisher: Publisher,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
}

impl Work {
    async fn run(self, mut chance: fastrand::Rng) {
        let mut under_way = FuturesUnordered::new();
        let mut next = 0;
        loop {
            let stopped = self.stop.load(Ordering::Relaxed);
            let number = if !stopped && under_way.len() < UNDER_WAY {
                next += 1;
                // The pace of the publisher.
                tokio::time::sleep(Duration::from_micros(chance.u64(0..4000))).await;
                next - 1
            } else {
                match under_way.next().await {
                    // Not confirmed: again.
                    Some(Some(number)) => number,
                    Some(None) => continue,
                    None => return,
                }
            };
            let size =
                if chance.u8(..) < 8 { chance.usize(..100_000) } else { chance.usize(..500) };
            match self.publish(number, size).await {
                Some(confirmation) => under_way.push(self.settle(number, size, confirmation)),
                None => return,
            }
        }
    }

    /// Publishes a message, as often as it takes.
    async fn publish(&self, number: usize, size: usize) -> Option<Confirmation> {
        let id = format!("{}.{number}", self.number);
        let properties = MessageProperties::new().persistent().message_id(id);
        let key = QUEUES[number % QUEUES.len()];
        loop {
            let message = Message::new(vec![b'x'; size]).with(&properties).ok()?;
            match self.publisher.publish_message(key, &message).await {
                Ok(confirmation) => {
                    self.ledger.sent(self.number, number);
                    return Some(confirmation);
                }
                Err(PublishError::Gated(_) | PublishError::TimedOut { .. }) => {
                    self.ledger.done(|done| done.publish_failed += 1);
                    // An application backs off before it tries again.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => {
                    self.ledger.trouble(format!("publisher {}: {error}", self.number));
                    return None;
                }
            }
        }
    }

    /// Notes the outcome of a message. Returns its number if it has to be published again.
    async fn settle(
        &self,
        number: usize,
        size: usize,
        confirmation: Confirmation,
    ) -> Option<usize> {
        let outcome = confirmation.await;
        self.ledger.done(|done| done.concluded(size, outcome.as_ref()));
        match outcome {
            Ok(()) => self.ledger.confirmed(self.number, number),
            Err(ConfirmError::Unconfirmed(_) | ConfirmError::Nacked) => return Some(number),
            // Its queue is not bound again yet, as after a restart without it.
            Err(ConfirmError::Returned(_)) => return Some(number),
            Err(error) => {
                self.ledger.trouble(format!("publisher {}: {error}", self.number));
            }
        }
        None
    }
}

/// Takes all deliveries and acknowledges them.
async fn consume(mut consumer: Consumer, name: &'static str, ledger: Arc<Ledger>) {
    while let Some(delivery) = consumer.next().await {
        match delivery {
            Ok(delivery) => take(delivery, name, &ledger),
            Err(error) => return ledger.trouble(format!("consumer {name} ended: {error}")),
        }
    }
}

fn take(delivery: Delivery, name: &str, ledger: &Ledger) {
    let Ok(properties) = delivery.message_properties() else {
        return ledger.trouble(format!("properties that do not decode: {delivery:?}"));
    };
    let id = properties.message_id.unwrap_or_default();
    match id.split_once('.') {
        Some(("p", probe)) => ledger.probed(name, probe.parse().unwrap_or_default()),
        Some((publisher, number)) => {
            let again = delivery.redelivered()
                || properties.headers.unwrap_or_default().get("x-republished").is_some();
            match (publisher.parse(), number.parse()) {
                (Ok(publisher), Ok(number)) => ledger.received(publisher, number, again),
                _ => ledger.trouble(format!("a message with the id {id}")),
            }
        }
        None => ledger.trouble(format!("a message with the id {id}")),
    }
    let stale = delivery.is_stale();
    ledger.done(|done| {
        done.delivered += 1;
        done.delivered_bytes += delivery.body().len() as u64;
        done.redelivered += u64::from(delivery.redelivered());
        done.settled += 1;
        done.stale += u64::from(stale);
    });
    match delivery.ack() {
        Ok(()) if stale => ledger.stale(),
        Ok(()) => {}
        Err(error) => ledger.trouble(format!("consumer {name}: {error}")),
    }
}
