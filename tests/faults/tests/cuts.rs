//! A client at work, cut off at each byte that the broker sends: whatever is lost, the work gets done.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use amqp_client_core::proto::ChannelError;
use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::{
    CallError, Channel, ConnectError, ConsumeOptions, Message, MessageProperties, OnLoss,
    PublisherOptions, QueueOptions, Target,
};
use amqp_client_tokio::{Connection, Recovery, connect_target};
use amqp_faults::Error;
use amqp_testkit::{Proxy, RabbitMq};

/// The step between two cuts in bytes, unless `CUT_STEP` is set.
const STEP: usize = 11;

/// Longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

struct Broker {
    uri: String,
    _node: Option<RabbitMq>,
}

impl Broker {
    fn find() -> Result<Self, Error> {
        if let Ok(uri) = std::env::var("AMQP_URL") {
            return Ok(Self { uri, _node: None });
        }
        let node = RabbitMq::start()?;
        Ok(Self { uri: node.amqp_uri(), _node: Some(node) })
    }
}

/// Does something that a loss may fail, until it does not.
async fn insist<T, F>(mut act: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, CallError>>,
{
    loop {
        match act().await {
            Err(CallError::Ended(ChannelError::Connection(_))) => {}
            other => return Ok(other?),
        }
    }
}

async fn connect(target: &Target) -> Result<Connection, Error> {
    loop {
        match connect_target(target.clone()).await {
            // The first connection has no session to restore.
            Err(ConnectError::Refused { .. } | ConnectError::Unreachable { .. }) => {}
            other => return Ok(other?),
        }
    }
}

async fn open(connection: &Connection) -> Result<Channel, Error> {
    loop {
        match connection.open_channel().await {
            Err(CallError::Ended(ChannelError::Connection(_))) => {}
            other => return Ok(other?),
        }
    }
}

/// Declares, binds, consumes, publishes, acknowledges.
async fn work(target: &Target, name: &str) -> Result<(), Error> {
    let connection = connect(target).await?;
    let channel = open(&connection).await?;
    insist(|| channel.basic_qos(10)).await?;
    let durable = || QueueOptions::new().durable(true);
    let queue = insist(|| channel.queue_declare(name, durable())).await?;
    insist(|| queue.purge()).await?;
    let own = insist(|| channel.queue_declare("", QueueOptions::new().exclusive(true))).await?;
    insist(|| own.bind("amq.topic", name)).await?;
    let mut consumer = insist(|| queue.consume(ConsumeOptions::new())).await?;
    let mut from_own = insist(|| own.consume(ConsumeOptions::new())).await?;

    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let publisher = channel.default_exchange().publisher(options)?;
    let mut confirmations = Vec::new();
    for id in ["1", "2", "3"] {
        let properties = MessageProperties::new().persistent().message_id(id);
        let message = Message::new(vec![0; 100]).with(&properties)?;
        confirmations.push(publisher.publish_message(name, &message).await?);
    }
    let mut missing = BTreeSet::from(["1", "2", "3"]);
    while !missing.is_empty() {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        let id = delivery.message_properties()?.message_id.ok_or("no id")?;
        delivery.ack()?;
        missing.remove(id.as_str());
    }
    for confirmation in confirmations {
        confirmation.await?;
    }
    // Messages to the server-named queue may be lost with the queue. Publish until one arrives.
    let publisher = channel.exchange("amq.topic")?.publisher(PublisherOptions::new())?;
    while tokio::time::timeout(Duration::from_millis(200), from_own.next()).await.is_err() {
        let _unknown = publisher.send(name, "to my own").await;
    }
    if connection.health().kept_bytes > 0 {
        return Err("something is kept that was confirmed".into());
    }
    // The last acknowledgement may not have arrived.
    match insist(|| channel.queue_delete(name)).await? {
        0..=3 => Ok(connection.close().await?),
        more => Err(format!("{more} messages are left").into()),
    }
}

#[tokio::test]
async fn work_gets_done_wherever_it_is_cut() -> Result<(), Error> {
    let broker = Broker::find()?;
    let target: Target = broker.uri.parse()?;
    let endpoint = target.get_endpoints().first().ok_or("no host")?.clone();
    let proxy = Proxy::start(format!("{}:{}", endpoint.host, endpoint.port).parse()?)?;
    let through = Endpoint::new(proxy.addr().ip().to_string(), proxy.addr().port());
    let recovery = Recovery::default().delay_min(Duration::from_millis(1));
    let target = target.endpoints([through]).recovery(recovery);
    let name = format!("faults.cuts.{}", std::process::id());
    work(&target, &name).await?;
    let whole = usize::try_from(proxy.bytes_from_server())?;
    let step = std::env::var("CUT_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(STEP);
    for bytes in (1..whole).step_by(step) {
        proxy.cut_after(bytes as u64);
        let done = tokio::time::timeout(LIMIT, work(&target, &name)).await;
        done.map_err(|_| format!("cut after {bytes} bytes: it hangs"))?
            .map_err(|error| format!("cut after {bytes} bytes: {error}"))?;
    }
    Ok(())
}
