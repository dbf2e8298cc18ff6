//! Declarations that brokers refuse, by tables.

use std::fmt::Debug;

use amqp_client_core::proto::method::{ExchangeDeclare, QueueDeclare, QueueDelete, Request};
use amqp_client_core::proto::{FieldTable, ShortStr, Value};
use amqp_client_core::{CallError, ConsumeOptions};
use amqp_client_tokio::{Connection, connect};

use crate::script::client::short;
use crate::{brokers, version};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Queues of every type, with every combination of properties.
fn properties(kind: &str) -> Vec<QueueDeclare> {
    (0..8u8)
        .map(|flags| QueueDeclare {
            durable: flags & 1 != 0,
            exclusive: flags & 2 != 0,
            auto_delete: flags & 4 != 0,
            ..declare(kind, None)
        })
        .collect()
}

/// Queues of every type, with each of the arguments, sensible or not.
fn arguments(kind: &str) -> Vec<QueueDeclare> {
    let number = |number: i64| Value::from(number);
    let text = |text: &str| Value::from(text);
    let values = [
        ("x-max-priority", vec![number(5), number(0), number(256), number(-1), text("5")]),
        ("x-message-ttl", vec![number(1_000), number(-1), number(i64::MAX), text("5")]),
        ("x-expires", vec![number(100_000), number(0), number(i64::MAX), number(-1)]),
        ("x-max-length", vec![number(5), number(-5), true.into()]),
        ("x-max-length-bytes", vec![number(5), number(-5)]),
        ("x-overflow", vec![text("drop-head"), text("reject-publish-dlx"), text("?"), number(1)]),
        ("x-dead-letter-exchange", vec![text(""), number(1)]),
        ("x-dead-letter-routing-key", vec![text("without an exchange"), number(1)]),
        ("x-single-active-consumer", vec![true.into(), number(1)]),
        ("x-delivery-limit", vec![number(3), number(-3)]),
        ("x-queue-mode", vec![text("lazy"), text("?")]),
        ("x-max-age", vec![text("1h"), text("1x")]),
        ("x-stream-max-segment-size-bytes", vec![number(1_000)]),
        ("x-quorum-initial-group-size", vec![number(1), number(0)]),
        ("x-quorum-target-group-size", vec![number(1)]),
        ("x-queue-version", vec![number(2), number(3)]),
        ("x-dead-letter-strategy", vec![text("at-most-once"), text("?"), number(1)]),
        ("x-queue-leader-locator", vec![text("balanced"), text("?")]),
        ("x-max-in-memory-length", vec![number(1), number(-1)]),
        ("x-initial-cluster-size", vec![number(1), number(0)]),
        ("x-stream-filter-size-bytes", vec![number(16)]),
        ("x-consumer-timeout", vec![number(60_000), number(-1)]),
        ("x-consumer-disconnected-timeout", vec![number(60_000)]),
        ("x-delayed-retry-type", vec![text("all")]),
        ("x-delayed-retry-min", vec![number(1)]),
        ("x-unheard-of", vec![number(1)]),
    ];
    let each = values.into_iter().flat_map(|(name, values)| {
        values.into_iter().map(move |value| declare(kind, Some((name, value))))
    });
    each.collect()
}

fn declare(kind: &str, argument: Option<(&str, Value)>) -> QueueDeclare {
    let entries = [("x-queue-type", Value::from(kind))].into_iter().chain(argument);
    let arguments = FieldTable::from_entries(entries).expect("short names");
    // Tests run at the same time, each in a thread with its name. Only its last word: longer texts of refusals are truncated.
    let (thread, process) = (std::thread::current(), std::process::id());
    let test = thread.name().and_then(|name| name.rsplit('_').next()).unwrap_or_default();
    let queue = short(&format!("conformance.{process}.{test}"));
    QueueDeclare { queue, durable: true, arguments, ..QueueDeclare::default() }
}

/// Sends the same request to RabbitMQ and to the in-memory broker, and expects the same reply.
async fn same<T: PartialEq + Debug>(
    of: impl Debug,
    ask: impl AsyncFn(&str) -> Result<T, Box<dyn std::error::Error>>,
) -> Outcome {
    let (_, rabbitmq, memory) = brokers();
    let expected = ask(rabbitmq).await?;
    assert_eq!(ask(&memory.uri()).await?, expected, "{of:?}");
    Ok(())
}

/// Deletes a queue, and returns the broker's reply.
async fn delete(connection: &Connection, queue: &ShortStr) -> Result<String, CallError> {
    said(connection, QueueDelete { queue: queue.clone(), ..QueueDelete::default() }).await
}

/// Makes a request on a new channel. Returns the broker's reply.
async fn said<R: Request>(connection: &Connection, request: R) -> Result<String, CallError> {
    let channel = connection.open_channel().await.expect("there is room for one more");
    Ok(match channel.call(request).await {
        Ok(_) => "done".to_owned(),
        Err(CallError::Ended(error)) => error.to_string(),
        Err(error) => return Err(error),
    })
}

#[tokio::test]
async fn both_brokers_refuse_the_same_queues() -> Outcome {
    let (_, rabbitmq, _) = brokers();
    let kinds = ["classic", "quorum", "stream", "no-such-type"];
    // RabbitMQ 4.0 refuses unknown modes as 3.x does, and 4.3 does not look at them. The in-memory broker is like one of these.
    const BETWEEN: [&str; 2] = ["x-queue-leader-locator", "x-queue-version"];
    let in_between = ((4, 0)..(4, 3)).contains(&version(rabbitmq).ok_or("no version")?);
    for declare in kinds.iter().flat_map(|kind| [properties(kind), arguments(kind)].concat()) {
        let differs = |name| declare.arguments.get(name).is_some();
        if in_between && (differs("x-queue-mode") || BETWEEN.iter().any(|name| differs(name))) {
            continue;
        }
        same(&declare, async |uri| {
            let connection = connect(uri).await?;
            let answer = said(&connection, declare.clone()).await?;
            delete(&connection, &declare.queue).await?;
            connection.close().await?;
            Ok(answer)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn both_brokers_refuse_the_same_second_declarations() -> Outcome {
    let first = || QueueDeclare { durable: false, ..declare("classic", None) };
    let exclusive = || QueueDeclare { exclusive: true, ..first() };
    let shorter = declare("classic", Some(("x-max-length", 3i64.into())));
    for (before, after) in [
        (first(), first()),
        (exclusive(), exclusive()),
        (exclusive(), first()),
        (first(), exclusive()),
        (exclusive(), QueueDeclare { passive: true, ..first() }),
        (first(), QueueDeclare { passive: true, ..exclusive() }),
        (exclusive(), QueueDeclare { durable: true, ..first() }),
        (exclusive(), QueueDeclare { auto_delete: true, ..exclusive() }),
        (first(), shorter.clone()),
        (declare("classic", None), shorter),
    ] {
        same((&before, &after), async |uri| {
            let connection = connect(uri).await?;
            assert_eq!(said(&connection, before.clone()).await?, "done");
            let own = said(&connection, after.clone()).await?;
            let other = connect(uri).await?;
            let answers = (own, said(&other, after.clone()).await?);
            assert_eq!(delete(&connection, &before.queue).await?, "done");
            connection.close().await?;
            other.close().await?;
            Ok(answers)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn both_brokers_refuse_the_same_exchanges() -> Outcome {
    for name in ["", "amq.direct", "amq.nobody-has-this"] {
        for kind in ["direct", "fanout", "no-such-type"] {
            for passive in [true, false] {
                let (exchange, kind) = (short(name), short(kind));
                let declare =
                    ExchangeDeclare { exchange, kind, passive, durable: true, ..<_>::default() };
                same(&declare, async |uri| {
                    let connection = connect(uri).await?;
                    Ok(said(&connection, declare.clone()).await?)
                })
                .await?;
            }
        }
    }
    Ok(())
}

/// Consumers of queues of every type, with each of the arguments.
#[tokio::test]
async fn both_brokers_refuse_the_same_consumers() -> Outcome {
    for kind in ["classic", "quorum", "stream"] {
        for (argument, value) in [
            ("x-priority", Value::from(5)),
            ("x-priority", "high".into()),
            ("x-stream-offset", "first".into()),
            ("x-cancel-on-ha-failover", true.into()),
            ("x-stream-filter", "one".into()),
            ("x-stream-match-unfiltered", true.into()),
            ("x-consumer-timeout", 60_000.into()),
            ("x-unheard-of", 1.into()),
        ] {
            let declare = declare(kind, None);
            same((kind, argument, &value), async |uri| {
                let connection = connect(uri).await?;
                assert_eq!(said(&connection, declare.clone()).await?, "done");
                let channel = connection.open_channel().await?;
                channel.basic_qos(10).await?;
                let options = ConsumeOptions::new().argument(argument, value.clone());
                let answer = match channel.basic_consume(&declare.queue, options).await {
                    Ok(_) => "done".to_owned(),
                    Err(error) => error.to_string(),
                };
                delete(&connection, &declare.queue).await?;
                connection.close().await?;
                Ok(answer)
            })
            .await?;
        }
    }
    Ok(())
}
