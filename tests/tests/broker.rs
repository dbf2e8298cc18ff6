//! Features of the in-memory broker only: restarts and alarms on request, nondeterminism.

mod once;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, ConfirmError, ConnectionEvent, ConsumeOptions, Delivery, ExchangeOptions,
    Message, MessageProperties, PublisherOptions, Queue, QueueOptions, QueueType, SendError,
};
use amqp_client_tokio::connect;
use amqp_test_broker::{Broker, Options};
use once::open;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn durable() -> QueueOptions {
    QueueOptions::new().durable(true)
}

#[tokio::test]
async fn a_restart_keeps_durable_entities() -> Outcome {
    let broker = Broker::start()?;
    let connection = open(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("durable", durable()).await?;
    channel.queue_declare("transient", QueueOptions::new().durable(false)).await?;
    channel.queue_declare("own", durable().exclusive(true)).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let persistent = MessageProperties::new().persistent();
    for (text, properties) in
        [("taken", &persistent), ("kept", &persistent), ("lost", &MessageProperties::new())]
    {
        publisher.publish_message("durable", &Message::new(text).with(properties)?).await?.await?;
    }
    let taken = queue.get().await?.ok_or("nothing there")?;
    broker.restart();
    connection.closed().await;
    assert!(taken.delivery.ack().is_err());

    let connection = open(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare_passive("durable").await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    for (text, redelivered) in [("taken", true), ("kept", false)] {
        let delivery = consumer.next().await.ok_or("cancelled")??;
        assert_eq!((delivery.body(), delivery.redelivered()), (text.as_bytes(), redelivered));
        delivery.ack()?;
    }
    assert!(queue.get_no_ack().await?.is_none());
    for gone in ["transient", "own"] {
        let result = connection.open_channel().await?.queue_declare_passive(gone).await;
        assert!(matches!(result, Err(CallError::Ended(_))), "{gone}: {result:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_alarm_holds_publishing_back_until_it_ends() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri()).await?;
    let mut events = connection.events();
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("q", QueueOptions::new()).await?;
    queue.publish(&Message::new("before")).await?;

    broker.set_alarm(Some("low on memory"));
    let event = events.next().await;
    let reason = match &event {
        Some(ConnectionEvent::Blocked { reason, .. }) => reason.to_string(),
        other => return Err(format!("{other:?}").into()),
    };
    assert_eq!(reason, "low on memory");
    // A connection that comes now is notified, too.
    let second = connect(&broker.uri()).await?;
    let mut events_of_second = second.events();
    if !second.is_blocked() {
        assert!(matches!(events_of_second.next().await, Some(ConnectionEvent::Blocked { .. })));
    }
    let message = Message::new("held back");
    let mut publish = pin!(queue.publish(&message));
    assert!(publish.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Connections that do not publish are not affected.
    assert!(second.open_channel().await?.basic_get_no_ack("q").await?.is_some());

    broker.set_alarm(None);
    publish.await?;
    assert!(matches!(events.next().await, Some(ConnectionEvent::Unblocked)));
    assert_eq!(queue.purge().await?, 1);
    Ok(())
}

#[tokio::test]
async fn users_are_those_of_the_options() -> Outcome {
    let broker = Broker::start_with(Options::new().user("trader", "s3cr:t/"))?;
    connect(&broker.uri()).await?.close().await?;
    let guest = format!("amqp://{}", broker.addr());
    let error = connect(&guest).await.expect_err("guest is gone");
    assert!(format!("{error:?}").contains("ACCESS_REFUSED"), "{error}");
    let wrong = format!("amqp://trader:wrong@{}", broker.addr());
    assert!(connect(&wrong).await.is_err());
    Ok(())
}

#[tokio::test]
async fn virtual_hosts_have_their_own_queues_and_exchanges() -> Outcome {
    let broker = Broker::start_with(Options::new().virtual_host("a/b"))?;
    let other = broker.uri().replace("/%2f", "/a%2fb");
    let (first, second) = (open(&broker.uri()).await?, open(&other).await?);
    let (first, second) = (first.open_channel().await?, second.open_channel().await?);
    for channel in [&first, &second] {
        channel.exchange_declare("x", "fanout", ExchangeOptions::new()).await?;
        let dead = channel.queue_declare("dead", durable()).await?;
        dead.bind("x", "").await?;
        let options = durable().max_length(0).dead_letter_exchange("x");
        channel.queue_declare("q", options).await?.bind("amq.direct", "k").await?;
    }
    // By a binding, through a dead-letter exchange, to a queue by its binding: all of it in one virtual host.
    let persistent = Message::new("m").with(&MessageProperties::new().persistent())?;
    second.exchange("amq.direct")?.publish("k", &persistent).await?;
    second.default_exchange().publish("dead", &persistent).await?;
    let counts = async |channel: &Channel| {
        Ok::<_, CallError>(channel.queue_declare_passive("dead").await?.message_count())
    };
    assert_eq!((counts(&first).await?, counts(&second).await?), (0, 2));
    second.queue_delete("q").await?;
    first.queue_declare_passive("q").await?;
    broker.restart();
    let (first, second) = (open(&broker.uri()).await?, open(&other).await?);
    let (first, second) = (first.open_channel().await?, second.open_channel().await?);
    assert_eq!((counts(&first).await?, counts(&second).await?), (0, 2));
    let error = second.queue_declare_passive("q").await.expect_err("it was deleted");
    assert!(format!("{error:?}").contains("no queue 'q' in vhost 'a/b'"), "{error}");
    let error = open(&broker.uri().replace("/%2f", "/nobodys")).await.expect_err("there is none");
    assert!(format!("{error:?}").contains("vhost nobodys not found"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_restart_on_a_whim_loses_nothing_that_was_confirmed() -> Outcome {
    for seed in 0..20 {
        let broker = Broker::start_with(Options::new().nondeterminism(seed))?;
        let connection = open(&broker.uri()).await?;
        let channel = connection.open_channel().await?;
        channel.queue_declare("durable", durable()).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let properties = MessageProperties::new().persistent();
        let mut confirmations = Vec::new();
        for number in 0..50u8 {
            let message = Message::new(vec![number]).with(&properties)?;
            confirmations.push(publisher.publish_message("durable", &message).await?);
        }
        // One is waited for, so that some are and some are not confirmed.
        confirmations.remove(10).await?;
        broker.restart();
        let mut confirmed = vec![10];
        for (number, confirmation) in (0..50u8).filter(|number| *number != 10).zip(confirmations) {
            match confirmation.await {
                Ok(()) => confirmed.push(number),
                Err(ConfirmError::Unconfirmed(_)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let connection = open(&broker.uri()).await?;
        let channel = connection.open_channel().await?;
        let mut found = Vec::new();
        while let Some(got) = channel.basic_get_no_ack("durable").await? {
            found.extend_from_slice(got.delivery.body());
        }
        assert!(found.is_sorted(), "seed {seed}: {found:?}");
        let lost: Vec<_> = confirmed.iter().filter(|number| !found.contains(number)).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} are lost");
    }
    Ok(())
}

#[tokio::test]
async fn publishing_and_consuming_survive_nondeterminism() -> Outcome {
    let broker = Broker::start_with(Options::new().nondeterminism(7))?;
    let connection = open(&broker.uri()).await?;
    for round in 0..20 {
        let channel = connection.open_channel().await?;
        let name = format!("q{round}");
        let queue = channel.queue_declare(&name, QueueOptions::new()).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for text in ["a", "b", "c"] {
            publisher.send(&name, text).await?;
        }
        let result = publisher.send("nowhere", "d").await;
        assert!(
            matches!(result, Err(SendError::NotConfirmed(ConfirmError::Returned(_)))),
            "{result:?}"
        );
        let consumer = queue.consume(ConsumeOptions::new());
        // Dropped before its reply, or awaited.
        if round % 2 == 0 {
            let mut consumer = consumer.await?;
            for text in ["a", "b", "c"] {
                let delivery = consumer.next().await.ok_or("cancelled")??;
                assert_eq!(delivery.body(), text.as_bytes());
                delivery.ack()?;
            }
        }
        channel.queue_declare_passive(&name).await?;
        channel.close().await?;
    }
    Ok(())
}

/// A channel knows which queue an empty name stands for before it asks the queue, which may take its time.
#[tokio::test]
async fn an_empty_name_means_the_queue_declared_before_on_any_whim() -> Outcome {
    for seed in 0..10 {
        let broker = Broker::start_with(Options::new().nondeterminism(seed))?;
        let connection = open(&broker.uri()).await?;
        let channel = connection.open_channel().await?;
        channel.queue_declare("first", QueueOptions::new()).await?;
        let mut consumer = channel.basic_consume_no_wait("", ConsumeOptions::new())?;
        channel.queue_declare("second", QueueOptions::new()).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for queue in ["second", "first"] {
            publisher.send(queue, "").await?;
        }
        let delivery = consumer.next().await.ok_or("cancelled")??;
        assert_eq!(delivery.routing_key(), "first", "seed {seed}");

        let channel = connection.open_channel().await?;
        let _consumer = channel.basic_consume_no_wait("", ConsumeOptions::new())?;
        let declared = channel.queue_declare("third", QueueOptions::new()).await;
        assert!(matches!(declared, Err(CallError::Ended(_))), "seed {seed}: {declared:?}");
    }
    Ok(())
}

/// A quorum queue with one message, and another queue for dropped messages.
async fn quorum(channel: &Channel) -> Result<(Queue, Queue), Box<dyn std::error::Error>> {
    let dead = channel.queue_declare("dead", durable()).await?;
    let options = durable()
        .queue_type(QueueType::Quorum)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let queue = channel.queue_declare("quorum", options).await?;
    queue.publish(&Message::new("m")).await?;
    Ok((queue, dead))
}

async fn got(queue: &Queue) -> Result<Delivery, Box<dyn std::error::Error>> {
    Ok(queue.get().await?.ok_or("no message")?.delivery)
}

fn count(delivery: &Delivery) -> Option<i64> {
    delivery.properties().headers().ok()??.get("x-delivery-count")?.as_i64()
}

#[tokio::test]
async fn failed_deliveries_count_and_returned_ones_do_not_as_in_4_3() -> Outcome {
    let broker = Broker::start_with(Options::new().rabbitmq_4_3())?;
    let connection = open(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    let (queue, dead) = quorum(&channel).await?;
    for _ in 0..30 {
        got(&queue).await?.nack(true)?;
        let _requeued = got(&queue).await?.into_message();
        channel.basic_recover().await?;
    }
    assert_eq!(count(&got(&queue).await?), None);
    for failures in 0..10 {
        let delivery = got(&queue).await?;
        assert_eq!(count(&delivery), (failures > 0).then_some(2 * failures));
        delivery.reject(true)?;
        // The end of the channel counts as well.
        let other = connection.open_channel().await?;
        let _unsettled = other.basic_get(queue.name()).await?.ok_or("no message")?;
        other.close().await?;
    }
    assert_eq!(count(&got(&queue).await?), Some(20));
    got(&queue).await?.reject(true)?;
    assert!(queue.get().await?.is_none());
    let headers = got(&dead).await?.properties().headers()?.ok_or("no headers")?;
    let reason = headers.get("x-first-death-reason");
    assert_eq!(reason.as_ref().and_then(|reason| reason.as_str()), Some("delivery_limit"));
    Ok(())
}

#[tokio::test]
async fn consumers_that_take_nothing_do_not_wear_messages_out() -> Outcome {
    let broker = Broker::start_with(Options::new().rabbitmq_4_3())?;
    let connection = open(&broker.uri()).await?;
    let (queue, _dead) = quorum(&connection.open_channel().await?).await?;
    for round in 0..60 {
        let connection = open(&broker.uri()).await?;
        let channel = connection.open_channel().await?;
        if round % 4 < 2 {
            channel.tx_select().await?;
        }
        let consumer = channel.basic_consume(queue.name(), ConsumeOptions::new()).await?;
        if round % 2 == 0 {
            // It has arrived, and is not only in transit.
            while connection.health().delivered_bytes == 0 {
                channel.basic_qos(0).await?;
            }
        }
        match round % 3 {
            0 => drop(consumer),
            1 => drop((channel, consumer)),
            _ => drop(connection.shutdown(Duration::ZERO).await?),
        }
    }
    // Deliveries that were in transit are requeued once the broker has processed the close.
    while queue.get().await?.is_none() {}
    assert_eq!(count(&got(&queue).await?), None);
    Ok(())
}

#[tokio::test]
async fn transactions_that_fail_do_not_wear_messages_out() -> Outcome {
    let broker = Broker::start_with(Options::new().rabbitmq_4_3())?;
    let connection = open(&broker.uri()).await?;
    let (queue, _dead) = quorum(&connection.open_channel().await?).await?;
    for round in 0..60 {
        let channel = connection.open_channel().await?;
        let work = channel.queue(queue.name())?;
        let failed = channel.transaction(async |_| {
            let delivery = got(&work).await?;
            match round % 3 {
                0 => drop(delivery),
                1 => delivery.ack()?,
                _ => drop(delivery.into_message()),
            }
            Err::<(), Box<dyn std::error::Error>>("the work fails".into())
        });
        assert_eq!(failed.await.expect_err("it fails").to_string(), "the work fails");
        // The deliveries of the rolled back transaction are requeued before the channel is closed.
        drop((work, channel));
        while queue.get().await?.is_none() {}
    }
    assert_eq!(count(&got(&queue).await?), None);
    Ok(())
}
