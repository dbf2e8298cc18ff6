//! The lines of the log about what a real broker does: whole texts, without what differs between runs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use amqp_client_tokio::{
    Connection, ConsumeOptions, PublisherOptions, QueueOptions, Target, connect_target,
};
use amqp_testkit::RabbitMq;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

struct Sink(Mutex<Vec<String>>);

static SINK: Sink = Sink(Mutex::new(Vec::new()));

impl Sink {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl log::Log for Sink {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "amqp_client"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level(), record.args());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn flush(&self) {}
}

/// Far longer than anything takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits for a line. `*` stands for what differs.
async fn line(pattern: &str) -> Outcome {
    let end = Instant::now() + LIMIT;
    let matches = |line: &String| {
        let mut rest = line.as_str();
        pattern.split('*').enumerate().all(|(number, part)| match rest.find(part) {
            Some(at) if number > 0 || at == 0 => {
                rest = &rest[at + part.len()..];
                true
            }
            _ => false,
        }) && (rest.is_empty() || pattern.ends_with('*'))
    };
    loop {
        let lines = SINK.lines();
        if lines.iter().any(matches) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("no line {pattern}\namong\n{}", lines.join("\n")).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(
    node: &RabbitMq,
    name: &str,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let target: Target =
        format!("{}?heartbeat=10&connection_name={name}", node.amqp_uri()).parse()?;
    Ok(connect_target(target).await?)
}

/// One test: the sink is for the whole process, and a node takes long to start.
#[tokio::test]
async fn what_a_broker_does_is_in_the_log() -> Outcome {
    log::set_logger(&SINK)?;
    log::set_max_level(log::LevelFilter::Debug);
    let node = RabbitMq::start()?;
    let connection = connect(&node, "orders").await?;
    line(
        "INFO connection 1 (orders): connected to 127.0.0.1:* (127.0.0.1:*) in * s: RabbitMQ *, no TLS, user 'guest', virtual host '/', \
         heartbeat 10s, frame_max 131072, channel_max 2047",
    )
    .await?;

    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
    let other = connection.open_channel().await?;
    let options = QueueOptions::new().durable(false);
    other.queue_declare("orders", options).await.err().ok_or("it exists with another value")?;
    line(
        "WARN connection 1 (orders), channel 2: closed by the broker: 406 PRECONDITION_FAILED: inequivalent arg 'durable' for \
         queue 'orders' in vhost '/': received 'false' but current is 'true' (caused by queue.declare); *; interrupted: 1 pending \
         request; the channel stays closed; the application has to open another",
    )
    .await?;

    let _consumer = queue.consume(ConsumeOptions::new().prefetch(10)).await?;
    node.ctl(&["delete_queue", "orders"])?;
    line(
        "WARN connection 1 (orders), channel 1: consumer 'ctag-1.1' of queue 'orders' was cancelled by the broker: the queue was \
         deleted, or the node that holds it is down; the consumer has ended",
    )
    .await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    publisher.publish("orders", b"body").await?.await.err().ok_or("the queue was deleted")?;
    line(
        "WARN connection 1 (orders), channel 1: message to exchange '' by 'orders' returned: 312 NO_ROUTE; no queue is bound \
         for it, or the queue was deleted",
    )
    .await?;

    node.ctl(&["set_vm_memory_high_watermark", "0.00001"])?;
    // The broker blocks connections that publish.
    let blocked = publisher.publish("orders", b"body").await?;
    line(
        "WARN connection 1 (orders): the broker blocks publishing (*memory*): messages wait until its alarm ends; see \
         `rabbitmq-diagnostics alarms`",
    )
    .await?;
    node.ctl(&["set_vm_memory_high_watermark", "0.6"])?;
    line("INFO connection 1 (orders): the broker accepts messages again, after * s").await?;
    blocked.await.err().ok_or("the queue was deleted")?;

    node.ctl(&["close_all_connections", "maintenance"])?;
    line(
        "WARN connection 1 (orders): connection lost: connection closed by the peer: 320 CONNECTION_FORCED: maintenance; interrupted: 1 \
         channel",
    )
    .await?;
    line("INFO connection 1 (orders): reconnected to *; attempt *; restored in * s: 1 channel, 1 queue")
        .await?;

    node.stop()?;
    line("WARN connection 1 (orders): connection lost: connection closed by the peer: 320 CONNECTION_FORCED: *").await?;
    line(
        "WARN connection 1 (orders): attempt 1 to connect to 127.0.0.1:* failed after * s: cannot reach 127.0.0.1:* (step: TCP; nothing listens \
         there: check the port, and whether the broker runs): Connection refused (os error *)",
    )
    .await?;
    node.restart()?;
    connection.open_channel().await?;
    connection.close().await?;
    line("INFO connection 1 (orders): closed by the application*").await?;

    let mut wrong: Target = node.amqp_uri().replace("guest:guest", "guest:Pa55").parse()?;
    wrong = wrong.heartbeat(Duration::from_secs(10));
    connect_target(wrong).await.err().ok_or("the password is wrong")?;
    line(
        "WARN connection 2: cannot connect to 127.0.0.1:* (step: login): login failed: refused by the server: 403 ACCESS_REFUSED: *",
    )
    .await?;
    let lines = SINK.lines();
    assert!(lines.iter().all(|line| !line.contains("Pa55")), "{lines:?}");
    Ok(())
}
