//! The in-memory broker behaves as RabbitMQ does: the same operations on both have the same observable results, down to the texts
//! of errors.

mod channels;
mod counters;
mod declarations;
mod delayed_retry;
#[path = "../script/mod.rs"]
mod script;
mod single_active;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amqp_client_core::proto::FieldTable;
use amqp_client_core::proto::method::QueueDelete;
use amqp_client_core::{
    CallError, Channel, ConsumeOptions, Delivery, ExchangeOptions, Message, MessageProperties,
    Overflow, PublisherOptions, QueueOptions,
};
use amqp_client_tokio::{Connection, connect};
use amqp_test_broker::{Broker, Options};
use amqp_testkit::RabbitMq;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// Something that a client can do. Small numbers name queues, exchanges and routing keys, so that they meet.
#[derive(Debug, Clone)]
enum Operation {
    Declare { queue: u8, kind: u8, auto_delete: bool },
    DeclarePassive { queue: u8 },
    Delete { queue: u8, if_unused: bool, if_empty: bool },
    Purge { queue: u8 },
    DeclareExchange { exchange: u8, kind: u8, alternate: bool },
    DeleteExchange { exchange: u8, if_unused: bool },
    Bind { to: End, destination: u8, source: u8, key: u8, undo: bool },
    Publish { exchange: u8, key: u8, mandatory: bool, priority: u8 },
    PublishTo { queue: u8, expired: bool },
    Transaction { queues: (u8, u8), commit: bool },
    Get { queue: u8, no_ack: bool },
    Settle { delivery: u8, how: u8, multiple: bool },
    Recover,
    Consume { queue: u8, count: u8 },
}

/// The destination of a binding.
#[derive(Debug, Clone, Copy)]
enum End {
    Queue,
    Exchange,
}

const KINDS: [&str; 5] = ["direct", "fanout", "topic", "headers", "no-such-kind"];
const KEYS: [&str; 5] = ["a", "a.b", "a.*", "#.b", ""];

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let (queue, exchange, key) = (0u8..3, 0u8..3, 0u8..5);
    prop_oneof![
        4 => (queue.clone(), 0u8..7, prop::bool::weighted(0.1))
            .prop_map(|(queue, kind, auto_delete)| Declare { queue, kind, auto_delete }),
        1 => queue.clone().prop_map(|queue| DeclarePassive { queue }),
        1 => (queue.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(queue, if_unused, if_empty)| Delete { queue, if_unused, if_empty }),
        1 => queue.clone().prop_map(|queue| Purge { queue }),
        3 => (exchange.clone(), prop_oneof![20 => 0u8..4, 1 => Just(4u8)], prop::bool::weighted(0.3))
            .prop_map(|(exchange, kind, alternate)| DeclareExchange { exchange, kind, alternate }),
        1 => (exchange.clone(), any::<bool>())
            .prop_map(|(exchange, if_unused)| DeleteExchange { exchange, if_unused }),
        7 => (
            (prop_oneof![Just(End::Queue), Just(End::Exchange)], 0u8..3),
            (exchange.clone(), key.clone()),
            prop::bool::weighted(0.3),
        )
            .prop_map(|((to, destination), (source, key), undo)| {
                Bind { to, destination, source, key, undo }
            }),
        5 => (exchange, key, any::<bool>(), 0u8..4).prop_map(
            |(exchange, key, mandatory, priority)| Publish { exchange, key, mandatory, priority }
        ),
        4 => (queue.clone(), prop::bool::weighted(0.3))
            .prop_map(|(queue, expired)| PublishTo { queue, expired }),
        2 => ((queue.clone(), queue.clone()), any::<bool>())
            .prop_map(|(queues, commit)| Transaction { queues, commit }),
        5 => (queue.clone(), any::<bool>()).prop_map(|(queue, no_ack)| Get { queue, no_ack }),
        3 => (0u8..5, 0u8..4, any::<bool>())
            .prop_map(|(delivery, how, multiple)| Settle { delivery, how, multiple }),
        1 => Just(Recover),
        2 => (queue, 1u8..4).prop_map(|(queue, count)| Consume { queue, count }),
    ]
}

/// Queues of several sorts.
fn queue_options(kind: u8, dead_letters: &str) -> QueueOptions {
    let options = QueueOptions::new().exclusive(true).durable(false);
    let buries = |options: QueueOptions| {
        options.dead_letter_exchange("").dead_letter_routing_key(dead_letters)
    };
    match kind {
        0 => options,
        1 => options.max_length(2),
        2 => options.max_length(2).overflow(Overflow::RejectPublish),
        3 => options.max_priority(3),
        4 => buries(options.max_length(2)),
        5 => buries(options.message_ttl(Duration::ZERO)),
        _ => options.single_active_consumer(),
    }
}

/// Returns whether such a queue sends messages on, in its own time. Two such queues would race.
const fn buries(kind: u8) -> bool {
    matches!(kind, 4 | 5)
}

/// One run of a script against one broker.
struct Run {
    connection: Connection,
    channel: Channel,
    /// A prefix that makes the names of this run unique.
    prefix: String,
    uri: String,
    deliveries: Vec<Delivery>,
    /// Queues that should be there, and of which kind.
    declared: BTreeMap<u8, u8>,
    /// Queues that may hold expired messages behind others.
    perishable: BTreeSet<u8>,
    published: u32,
    seen: String,
}

type Outcome = Result<String, CallError>;

impl Run {
    async fn new(uri: &str) -> Result<Self, TestCaseError> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("conformance.{}.{number}.", std::process::id());
        let connection = connect(uri).await.map_err(failed)?;
        let channel = connection.open_channel().await.map_err(failed)?;
        Ok(Self {
            connection,
            channel,
            prefix,
            uri: uri.to_owned(),
            deliveries: Vec::new(),
            declared: BTreeMap::new(),
            perishable: BTreeSet::new(),
            published: 0,
            seen: String::new(),
        })
    }

    fn queue(&self, number: u8) -> String {
        format!("{}q{number}", self.prefix)
    }

    fn is_burying(&self, queue: u8) -> bool {
        self.declared.get(&queue).is_some_and(|kind| buries(*kind))
    }

    fn exchange(&self, number: u8) -> String {
        format!("{}x{number}", self.prefix)
    }

    /// Performs one operation and records its result.
    async fn step(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        let result = match self.perform(operation).await {
            Ok(text) => text,
            Err(CallError::Ended(error)) => match error.as_close() {
                Some(close) => format!("{close}"),
                None => return Err(failed(error)),
            },
            Err(error) => format!("{error:?}"),
        };
        writeln!(self.seen, "{operation:?}: {}", result.replace(&self.prefix, ""))
            .map_err(failed)?;
        self.reopen().await?;
        self.count().await
    }

    /// Opens again whatever an error has closed.
    async fn reopen(&mut self) -> Result<(), TestCaseError> {
        if !self.connection.is_open() {
            self.deliveries.clear();
            // They were this connection's own.
            self.declared.clear();
            self.connection = connect(&self.uri).await.map_err(failed)?;
            self.channel = self.connection.open_channel().await.map_err(failed)?;
        } else if !self.channel.is_open() {
            self.deliveries.clear();
            self.channel = self.connection.open_channel().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Records how many messages the queues hold. Each is asked twice, so that dead messages arrive at their queue: a queue that
    /// has replied has passed on its dead messages before.
    async fn count(&mut self) -> Result<(), TestCaseError> {
        for round in 0..2 {
            let asked: Vec<_> = self
                .declared
                .keys()
                .map(|number| (*number, self.channel.queue_declare_passive(self.queue(*number))))
                .collect();
            for (number, asked) in asked {
                match asked.await {
                    Ok(queue) if round == 1 => {
                        write!(self.seen, " q{number}: {}", queue.message_count())
                            .map_err(failed)?;
                    }
                    Ok(_) => {}
                    // It has gone with its last consumer, and takes the channel with it.
                    Err(_) => {
                        self.declared.remove(&number);
                        break;
                    }
                }
            }
            self.reopen().await?;
        }
        writeln!(self.seen).map_err(failed)
    }

    async fn perform(&mut self, operation: &Operation) -> Outcome {
        let channel = self.channel.clone();
        let none = FieldTable::new;
        let key = |number: u8| KEYS[usize::from(number)];
        Ok(match *operation {
            Operation::Declare { queue: number, kind, auto_delete } => {
                let kind = if number == 2 && buries(kind) { 0 } else { kind };
                let options = queue_options(kind, &self.queue(0)).auto_delete(auto_delete);
                let queue = channel.queue_declare(self.queue(number), options).await?;
                self.declared.insert(number, kind);
                format!("{} ({}, {})", queue.name(), queue.message_count(), queue.consumer_count())
            }
            Operation::DeclarePassive { queue } => {
                let queue = channel.queue_declare_passive(self.queue(queue)).await?;
                format!("({}, {})", queue.message_count(), queue.consumer_count())
            }
            Operation::Delete { queue, if_unused, if_empty } => {
                let name = self.queue(queue).as_str().try_into().map_err(CallError::Name)?;
                let delete = QueueDelete { queue: name, if_unused, if_empty, ..<_>::default() };
                let count = channel.call(delete).await?.message_count;
                self.declared.remove(&queue);
                count.to_string()
            }
            Operation::Purge { queue } => channel.queue_purge(self.queue(queue)).await?.to_string(),
            Operation::DeclareExchange { exchange, kind, alternate } => {
                let mut options = ExchangeOptions::new().durable(false);
                if alternate {
                    options = options.alternate_exchange(self.exchange(0));
                }
                let name = self.exchange(exchange);
                channel.exchange_declare(name, KINDS[usize::from(kind)], options).await?;
                "declared".to_owned()
            }
            Operation::DeleteExchange { exchange, if_unused } => {
                match if_unused {
                    true => channel.exchange_delete_if_unused(self.exchange(exchange)).await?,
                    false => channel.exchange_delete(self.exchange(exchange)).await?,
                }
                "deleted".to_owned()
            }
            Operation::Bind { to, destination, source, key: number, undo } => {
                let (source, key) = (self.exchange(source), key(number));
                let (queue, exchange) = (self.queue(destination), self.exchange(destination));
                let reply = match (to, undo) {
                    (End::Queue, false) => channel.queue_bind(queue, source, key, none()),
                    (End::Queue, true) => channel.queue_unbind(queue, source, key, none()),
                    (End::Exchange, false) => channel.exchange_bind(exchange, source, key, none()),
                    (End::Exchange, true) => channel.exchange_unbind(exchange, source, key, none()),
                };
                reply.await?;
                format!("undone {undo}")
            }
            Operation::Publish { exchange, key: number, mandatory, priority } => {
                let exchange = self.exchange(exchange);
                let properties = MessageProperties::new().priority(priority);
                self.publish(&exchange, key(number), mandatory, &properties).await
            }
            Operation::PublishTo { queue, expired } => {
                let number = queue;
                let queue = self.queue(queue);
                let mut properties = MessageProperties::new();
                if expired {
                    self.perishable.insert(number);
                    properties = properties.expiration(Duration::ZERO);
                }
                self.publish("", &queue, true, &properties).await
            }
            Operation::Transaction { queues, commit } => {
                let Ok(own) = self.connection.open_channel().await else {
                    return Ok("no channel".to_owned());
                };
                own.tx_select().await?;
                // Messages that one queue passes on would race with those published to the other.
                let races = [queues.0, queues.1].iter().any(|number| self.is_burying(*number));
                for queue in [queues.0, if races { queues.0 } else { queues.1 }] {
                    self.published += 1;
                    let message = Message::new(format!("m{}", self.published));
                    if let Err(error) =
                        own.default_exchange().publish(&self.queue(queue), &message).await
                    {
                        return Ok(error.to_string());
                    }
                }
                match commit {
                    true => own.tx_commit().await?,
                    false => own.tx_rollback().await?,
                }
                own.close().await?;
                format!("committed {commit}")
            }
            Operation::Get { queue, no_ack } => {
                let got = match no_ack {
                    true => channel.basic_get_no_ack(self.queue(queue)),
                    false => channel.basic_get(self.queue(queue)),
                };
                match got.await? {
                    None => "empty".to_owned(),
                    Some(got) => {
                        let text = format!("{}, {} left", shown(&got.delivery), got.message_count);
                        self.deliveries.push(got.delivery);
                        text
                    }
                }
            }
            Operation::Settle { delivery, how, multiple } => {
                if self.deliveries.is_empty() {
                    return Ok("nothing to settle".to_owned());
                }
                let delivery =
                    self.deliveries.remove(usize::from(delivery) % self.deliveries.len());
                let settled = match (how, multiple) {
                    (0, false) => delivery.ack(),
                    (0, true) => delivery.ack_up_to(),
                    (1, false) => delivery.nack(true),
                    (1, true) => delivery.nack_up_to(true),
                    (2, _) => delivery.reject(true),
                    _ => delivery.reject(false),
                };
                // Settling a delivery that an earlier `multiple` has settled is an error of the client.
                let accepted = settled.is_ok();
                channel.basic_qos(0).await?;
                format!("settled {accepted}")
            }
            Operation::Recover => {
                channel.basic_recover().await?;
                self.deliveries.clear();
                "recovered".to_owned()
            }
            // Whether an expired message is sent to a consumer together with one before it is a matter of luck.
            Operation::Consume { queue, count } if self.perishable.contains(&queue) => {
                let mut text = String::new();
                for _ in 0..count {
                    let Some(got) = channel.basic_get(self.queue(queue)).await? else {
                        break;
                    };
                    text += &format!("{}; ", shown(&got.delivery));
                    got.delivery.ack()?;
                }
                text
            }
            Operation::Consume { queue, count } => {
                let ready = channel.queue_declare_passive(self.queue(queue)).await?.message_count();
                let mut consumer =
                    channel.basic_consume(self.queue(queue), ConsumeOptions::new()).await?;
                let mut text = String::new();
                for _ in 0..ready.min(count.into()) {
                    match consumer.next().await {
                        Some(Ok(delivery)) => {
                            text += &shown(&delivery);
                            text += "; ";
                            delivery.ack()?;
                        }
                        other => return Ok(format!("{text}{other:?}")),
                    }
                }
                // Further deliveries stay unsettled until they are settled or the channel is closed.
                consumer.cancel().await?;
                while let Some(Ok(delivery)) = consumer.next().await {
                    self.deliveries.push(delivery);
                }
                text
            }
        })
    }

    async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        mandatory: bool,
        properties: &MessageProperties,
    ) -> String {
        self.published += 1;
        let body = format!("m{}", self.published);
        let options = PublisherOptions::new().mandatory(mandatory);
        let message = Message::new(body).with(properties);
        let publisher = self.channel.exchange(exchange).map(|own| own.publisher(options));
        match (message, publisher) {
            (Ok(message), Ok(Ok(publisher))) => match publisher.send_message(key, &message).await {
                Ok(()) => "confirmed".to_owned(),
                Err(error) => error.to_string(),
            },
            other => format!("{other:?}"),
        }
    }

    /// Leaves nothing behind.
    async fn finish(mut self) -> Result<String, TestCaseError> {
        self.deliveries.clear();
        for exchange in 0..3 {
            let gone = self.channel.exchange_delete(self.exchange(exchange)).await;
            gone.map_err(failed)?;
        }
        self.connection.close().await.map_err(failed)?;
        Ok(self.seen)
    }
}

fn shown(delivery: &Delivery) -> String {
    let (exchange, key) = (delivery.exchange(), delivery.routing_key());
    let body = String::from_utf8_lossy(delivery.body());
    format!(
        "{body} from '{exchange}' by '{key}', {}",
        if delivery.redelivered() { "again" } else { "new" }
    )
}

fn failed(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}"))
}

/// After this time an operation will never end.
const HANGS: Duration = Duration::from_secs(30);

/// Returns the results that a client of that broker observes for a script.
async fn observed(uri: &str, script: &[Operation]) -> Result<String, TestCaseError> {
    let mut run = Run::new(uri).await?;
    for operation in script {
        if tokio::time::timeout(HANGS, run.step(operation)).await.is_err() {
            let reason = format!("{operation:?} does not end on {uri}, after\n{}", run.seen);
            return Err(TestCaseError::fail(reason));
        }
    }
    run.finish().await
}

fn brokers() -> &'static (Option<RabbitMq>, String, Broker) {
    static BROKERS: OnceLock<(Option<RabbitMq>, String, Broker)> = OnceLock::new();
    BROKERS.get_or_init(|| {
        let (node, uri) = match std::env::var("AMQP_URL") {
            Ok(uri) => (None, uri),
            Err(_) => {
                let node = RabbitMq::start().expect("RabbitMQ starts");
                let uri = node.amqp_uri();
                (Some(node), uri)
            }
        };
        let mut options = Options::new();
        if version(&uri).expect("RabbitMQ says which it is") >= (4, 0) {
            options = options.rabbitmq_4_3();
        }
        let memory = Broker::start_with(options).expect("a port on the loopback interface");
        (node, uri, memory)
    })
}

/// The broker's major and minor number. Its callers may run inside a runtime.
fn version(uri: &str) -> Option<(u32, u32)> {
    let version = amqp_client_blocking::connect(uri).ok()?.broker_version()?;
    Some((version.major(), version.minor()))
}

/// Returns how many scripts are compared: `CONFORMANCE_SCRIPTS`, or a few.
fn scripts() -> u32 {
    std::env::var("CONFORMANCE_SCRIPTS").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scripts(), failure_persistence: None, max_shrink_time: 240_000, ..ProptestConfig::default() })]

    #[test]
    fn both_brokers_behave_alike(script in proptest::collection::vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (_, rabbitmq, memory) = brokers();
        let (real, own) = runtime.block_on(async {
            Ok::<_, TestCaseError>((
                observed(rabbitmq, &script).await?,
                observed(&memory.uri(), &script).await?,
            ))
        })?;
        prop_assert_eq!(own, real);
    }
}
