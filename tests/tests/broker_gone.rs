//! Nothing waits forever: whatever is pending when the broker goes away comes to an end.
//!
//! Each test has a node of its own, since it kills, pauses or loses it.

mod once;

use std::future::Future;
use std::time::Duration;

use amqp_client_core::proto::method::ChannelFlow;
use amqp_client_core::proto::{ConnectionError, FieldTable};
use amqp_client_core::{
    CallError, Channel, ConsumeOptions, ConsumerEnd, ExchangeOptions, Gate, PublishError,
    PublisherOptions, QueueOptions, Settings, Target,
};
use amqp_client_tokio::{Connection, connect_over, connect_target};
use amqp_testkit::RabbitMq;
use bytes::Bytes;
use once::open;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Far longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Calls that wait for the broker, each in a task of its own.
#[derive(Default)]
struct Pending {
    calls: Vec<(&'static str, JoinHandle<String>)>,
}

impl Pending {
    fn add<T: std::fmt::Debug>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = T> + Send + 'static,
    ) {
        self.calls.push((name, tokio::spawn(async move { format!("{:?}", call.await) })));
    }

    /// Nothing has ended on its own.
    fn assert_pending(&self) {
        for (name, call) in &self.calls {
            assert!(!call.is_finished(), "{name} did not wait");
        }
    }

    /// Every call ends with one of these errors.
    async fn assert_ended(self, expected: &[&str]) {
        for (name, call) in self.calls {
            let outcome = timeout(LIMIT, call).await.unwrap_or_else(|_| panic!("{name} hangs"));
            let outcome = outcome.expect("the task has not panicked");
            let said = expected.iter().any(|expected| outcome.contains(expected));
            assert!(said, "{name}: {outcome}");
        }
    }
}

/// Every kind of wait on one connection, begun while the broker does not reply.
struct Scene {
    connection: Connection,
    plain: Channel,
    confirming: Channel,
    transactional: Channel,
    queue: String,
}

impl Scene {
    async fn set(connection: Connection) -> Result<Self> {
        let plain = connection.open_channel().await?;
        let confirming = connection.open_channel().await?;
        let transactional = connection.open_channel().await?;
        transactional.tx_select().await?;
        confirming.confirm_select().await?;
        let queue = plain.queue_declare("", QueueOptions::new().exclusive(true)).await?;
        let queue = queue.name().to_string();
        Ok(Self { connection, plain, confirming, transactional, queue })
    }

    /// Consumers have to be there before the broker stops answering.
    async fn consume(&self, pending: &mut Pending) -> Result<()> {
        let mut consumer =
            self.plain.basic_consume(&self.queue, ConsumeOptions::new().consumer_tag("t")).await?;
        pending.add("consumer.next", async move { consumer.next().await });
        let consumer = self.plain.basic_consume(&self.queue, ConsumeOptions::new()).await?;
        let handled = consumer.for_each_concurrent(2, |delivery| async move { drop(delivery) });
        pending.add("for_each_concurrent", handled);
        Ok(())
    }

    async fn begin(&self, pending: &mut Pending) -> Result<()> {
        let Self { connection, plain, confirming, transactional, queue } = self;
        let none = FieldTable::new;
        let temporary = || QueueOptions::new().exclusive(true);
        pending.add("channel.open", connection.open_channel());
        pending.add("queue.declare", plain.queue_declare("", temporary()));
        pending.add("queue.bind", plain.queue_bind(queue, "amq.direct", "k", none()));
        pending.add("queue.unbind", plain.queue_unbind(queue, "amq.direct", "k", none()));
        pending.add("queue.purge", plain.queue_purge(queue));
        pending.add("queue.delete", plain.queue_delete(queue));
        let options = ExchangeOptions::new();
        pending.add("exchange.declare", plain.exchange_declare("x", "direct", options));
        pending.add("exchange.bind", plain.exchange_bind("x", "amq.direct", "k", none()));
        pending.add("exchange.unbind", plain.exchange_unbind("x", "amq.direct", "k", none()));
        pending.add("exchange.delete", plain.exchange_delete("x"));
        pending.add("basic.qos", plain.basic_qos(1));
        pending.add("basic.consume", plain.basic_consume(queue, ConsumeOptions::new()));
        pending.add("basic.cancel", plain.basic_cancel("t"));
        pending.add("basic.get", plain.basic_get(queue));
        pending.add("basic.recover", plain.basic_recover());
        pending.add("channel.flow", plain.call(ChannelFlow { active: true }));
        pending.add("tx.commit", transactional.tx_commit());
        pending.add("tx.rollback", transactional.tx_rollback());
        pending.add("confirm.select", confirming.confirm_select());

        let options = PublisherOptions::new().window(1, usize::MAX);
        let publisher = confirming.default_exchange().publisher(options)?;
        pending.add("confirmation", publisher.publish(queue, "m").await?);
        let waiting = publisher.clone();
        pending.add("wait_for_confirms", async move { waiting.wait_for_confirms().await });
        pending.add("publish", async move { publisher.publish("k", "m").await });
        let closing = transactional.clone();
        pending.add("channel.close", async move { closing.close().await });
        let closed = plain.clone();
        pending.add("channel.closed", async move { closed.closed().await });
        let closed = connection.clone();
        pending.add("connection.closed", async move { closed.closed().await });
        let mut events = connection.events();
        pending.add("connection.events", async move { events.next().await });
        let mut events = plain.events();
        pending.add("channel.events", async move { events.next().await });
        let updating = connection.clone();
        pending.add("update_secret", async move { updating.update_secret("guest", "").await });
        // All of it has been polled, and still waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        pending.assert_pending();
        assert!(pending.calls.len() > 20);
        Ok(())
    }
}

#[tokio::test]
async fn every_pending_call_ends_when_the_broker_is_killed() -> Result<()> {
    let node = RabbitMq::start()?;
    let scene = Scene::set(open(&node.amqp_uri()).await?).await?;
    let mut pending = Pending::default();
    scene.consume(&mut pending).await?;
    node.pause()?;
    scene.begin(&mut pending).await?;
    node.kill()?;
    pending.assert_ended(&["the transport failed", "the peer disconnected"]).await;
    let error = scene.connection.open_channel().await.expect_err("it is over");
    assert!(matches!(error, CallError::Ended(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn every_pending_call_ends_when_the_broker_stops_replying() -> Result<()> {
    let node = RabbitMq::start()?;
    let uri = format!("{}?heartbeat=1", node.amqp_uri());
    let scene = Scene::set(open(&uri).await?).await?;
    let closing = open(&uri).await?;
    let mut pending = Pending::default();
    scene.consume(&mut pending).await?;
    node.pause()?;
    scene.begin(&mut pending).await?;
    pending.assert_ended(&["the peer sent nothing for 2s"]).await;
    // The reply to a close is not awaited any longer.
    let error = timeout(LIMIT, closing.close()).await?.expect_err("nobody answers");
    assert_eq!(error, ConnectionError::PeerSilent(Duration::from_secs(2)));
    node.resume()?;
    Ok(())
}

#[tokio::test]
async fn every_pending_call_ends_when_its_driver_is_dropped() -> Result<()> {
    let node = RabbitMq::start()?;
    let target: Target = node.amqp_uri().parse()?;
    let stream = TcpStream::connect(node.addr()).await?;
    let (connection, driver) = connect_over(stream, target.get_config().clone());
    let driver = tokio::spawn(driver);
    connection.ready().await?;
    let scene = Scene::set(connection).await?;
    let mut pending = Pending::default();
    scene.consume(&mut pending).await?;
    node.pause()?;
    scene.begin(&mut pending).await?;
    driver.abort();
    pending.assert_ended(&["driver was dropped"]).await;
    node.resume()?;
    Ok(())
}

#[tokio::test]
async fn a_close_without_reply_ends_in_time() -> Result<()> {
    let node = RabbitMq::start()?;
    let target: Target = node.amqp_uri().parse()?;
    let protocol = target.get_config().get_protocol().clone();
    let protocol = protocol.close_timeout(Duration::from_millis(100));
    let connection = connect_target(target.protocol(protocol)).await?;
    node.pause()?;
    let error = timeout(LIMIT, connection.close()).await?.expect_err("nobody answers");
    assert_eq!(error, ConnectionError::CloseTimeout(Duration::from_millis(100)));
    node.resume()?;
    Ok(())
}

#[tokio::test]
async fn a_publish_that_the_transport_does_not_accept_ends_in_time() -> Result<()> {
    let node = RabbitMq::start()?;
    let target: Target = node.amqp_uri().parse()?;
    let settings = Settings::default().publish_timeout(Some(Duration::from_millis(100)));
    let connection = connect_target(target.settings(settings)).await?;
    let channel = connection.open_channel().await?;
    node.pause()?;
    let body = Bytes::from(vec![0; 1024 * 1024]);
    let route = amqp_client_core::proto::Route::queue("nowhere");
    let none = amqp_client_core::proto::RawProperties::EMPTY;
    // The socket's buffers and our own take some of it.
    let error = loop {
        let publish = channel.basic_publish(&route, &none, body.clone());
        if let Err(error) = timeout(LIMIT, publish).await? {
            break error;
        }
    };
    let PublishError::TimedOut { gate, .. } = error else { panic!("{error:?}") };
    assert_eq!(gate, Gate::Full);
    node.resume()?;
    // It was late, not lost: the channel goes on.
    channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    Ok(())
}

#[tokio::test]
async fn an_alarm_stops_a_connection_that_publishes_and_no_other() -> Result<()> {
    let node = RabbitMq::start()?;
    let consuming = open(&node.amqp_uri()).await?;
    let target: Target = node.amqp_uri().parse()?;
    let settings = Settings::default().publish_timeout(Some(Duration::from_millis(50)));
    let connection = connect_target(target.settings(settings)).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    let message = amqp_client_core::Message::new("m");
    queue.publish(&message).await?;
    let mut events = connection.events();
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"])?;
    // The broker blocks a connection when it publishes.
    let error = loop {
        match queue.publish(&message).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    let PublishError::TimedOut { gate, .. } = error else { panic!("{error:?}") };
    assert_eq!(gate, Gate::Blocked);
    assert!(connection.is_blocked());
    let event = events.next().await.ok_or("no event")?;
    assert!(format!("{event:?}").contains("low on memory"), "{event:?}");
    // RabbitMQ reads nothing of that connection any more, whatever the channel.
    let opened = connection.open_channel().timeout(Duration::from_secs(1)).await;
    assert!(matches!(opened, Err(CallError::TimedOut { .. })), "{opened:?}");
    // A connection that has published nothing goes on.
    let other = consuming.open_channel().await?;
    let own = other.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    own.consume(ConsumeOptions::new()).await?.cancel().await?;
    assert!(!consuming.is_blocked());
    node.ctl(&["set_vm_memory_high_watermark", "0.4"])?;
    let waiting = channel.default_exchange().publisher(PublisherOptions::new().timeout(None))?;
    waiting.send(&queue.name().to_string(), "after the alarm").await?;
    assert!(!connection.is_blocked());
    assert_eq!(events.next().await, Some(amqp_client_core::ConnectionEvent::Unblocked));
    Ok(())
}

#[tokio::test]
async fn waiting_for_a_missing_confirm_ends_at_its_timeout() -> Result<()> {
    let node = RabbitMq::start()?;
    let connection = open(&node.amqp_uri()).await?;
    let channel = connection.open_channel().await?;
    let publisher =
        channel.default_exchange().publisher(PublisherOptions::new().mandatory(false))?;
    publisher.send("nowhere", "confirmed").await?;
    node.pause()?;
    let confirmation = publisher.publish("nowhere", "silence").await?;
    let late = timeout(LIMIT, confirmation.timeout(Duration::from_millis(50))).await?;
    let after = Duration::from_millis(50);
    assert_eq!(late, Err(amqp_client_core::ConfirmError::TimedOut { after }));
    node.resume()?;
    Ok(())
}

#[tokio::test]
async fn consumers_hear_of_an_operators_close() -> Result<()> {
    let node = RabbitMq::start()?;
    let connection = open(&node.amqp_uri()).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    node.ctl(&["close_all_connections", "maintenance"])?;
    let end = timeout(LIMIT, consumer.next()).await?.ok_or("no end was reported")?;
    let Err(ConsumerEnd::Ended(error)) = end else { panic!("{end:?}") };
    let close = error.as_close().ok_or("no close")?;
    assert_eq!(close.reply_code, amqp_client_core::proto::ReplyCode::CONNECTION_FORCED);
    assert!(close.reply_text.to_string().contains("maintenance"));
    Ok(())
}
