use std::error::Error;
use std::time::Duration;

use amqp_client_core::proto::method::{QueueDeclare, QueueDelete};
use amqp_client_core::proto::{Decimal, FieldArray, FieldTable, ReplyCode, Timestamp, Value};
use amqp_client_core::{
    BrokerVersion, CallError, ConsumeOptions, DeathReason, ExchangeOptions, Message,
    MessageProperties, Overflow, QueueOptions, QueueType, StreamOffset,
};

use super::{assert_refused, behaviours, name, next, temporary};

/// Each type of queue, without an argument and with each of the arguments that RabbitMQ knows.
fn kinds_and_arguments() -> Vec<(&'static str, Option<(&'static str, Value)>)> {
    let numbers = [
        "x-message-ttl",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-delivery-limit",
        "x-quorum-initial-group-size",
        "x-initial-cluster-size",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-stream-max-segment-size-bytes",
        "x-consumer-disconnected-timeout",
        "x-delayed-retry-min",
        "x-delayed-retry-max",
    ];
    let numbers = numbers.map(|name| (name, Value::from(1_i64)));
    let texts = [
        ("x-overflow", "drop-head"),
        ("x-dead-letter-exchange", "dead"),
        ("x-dead-letter-strategy", "at-most-once"),
        ("x-queue-leader-locator", "balanced"),
        ("x-delayed-retry-type", "all"),
        ("x-max-age", "1h"),
    ];
    let texts = texts.map(|(name, text)| (name, Value::from(text)));
    let others = [
        ("x-single-active-consumer", Value::from(true)),
        ("x-queue-version", 2.into()),
        ("x-stream-filter-size-bytes", 16.into()),
        ("x-dead-letter-routing-key", "alone".into()),
        ("x-expires", 0.into()),
        ("x-message-ttl", i64::MAX.into()),
    ];
    let arguments: Vec<_> = numbers.into_iter().chain(texts).chain(others).map(Some).collect();
    ["classic", "quorum", "stream"]
        .into_iter()
        .flat_map(|kind| {
            [None].into_iter().chain(arguments.clone()).map(move |argument| (kind, argument))
        })
        .collect()
}

behaviours! {
    async fn checking_whether_a_queue_exists_has_no_side_effect(world) {
        let (channel, queue) = world.queue().await?;
        let connection = channel.connection();
        assert!(connection.queue_exists(queue.name()).await?);
        assert!(!connection.queue_exists(name("none")).await?);
        assert!(connection.exchange_exists("amq.topic").await?);
        assert!(!connection.exchange_exists(name("none")).await?);
        let other = world.open(world.target()).await?;
        let error = other.queue_exists(queue.name()).await.expect_err("it is not its own");
        assert_eq!(error.reply_code(), Some(ReplyCode::RESOURCE_LOCKED));
        queue.purge().await?;
    }

    async fn a_queue_reports_its_name_and_message_count(world) {
        let (channel, queue) = world.queue().await?;
        assert_eq!((queue.message_count(), queue.consumer_count()), (0, 0));
        for _ in 0..3 {
            queue.publish(&Message::new("m")).await?;
        }
        let _consumer = channel
            .queue_declare("", temporary())
            .await?
            .consume(ConsumeOptions::new())
            .await?;
        // Publishing and declaring on one channel happens in order.
        let counted = channel.queue_declare_passive(queue.name()).await?;
        assert_eq!((counted.message_count(), counted.consumer_count()), (3, 0));
        assert_eq!(queue.purge().await?, 3);
        queue.publish(&Message::new("m")).await?;
        assert_eq!(queue.delete().await?, 1);
    }

    async fn a_queue_without_a_name_gets_one(world) {
        let channel = world.channel().await?;
        let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
        assert!(queue.name().to_string().starts_with("amq.gen-"));
        queue.publish(&Message::new("m")).await?;
        assert!(queue.get_no_ack().await?.is_some());
    }

    async fn declaring_one_differently_is_refused(world) {
        let (channel, queue) = world.queue().await?;
        let other = channel.queue_declare(queue.name(), temporary().max_length(3)).await;
        assert_refused(other, 406, "queue.declare");
    }

    async fn a_reserved_name_is_refused(world) {
        let channel = world.channel().await?;
        assert_refused(channel.queue_declare("amq.mine", temporary()).await, 403, "queue.declare");
    }

    async fn an_exclusive_queue_is_locked_to_others(world) {
        let (_, queue) = world.queue().await?;
        let other = world.open(world.target()).await?;
        let declare = other.open_channel().await?.queue_declare_passive(queue.name()).await;
        assert_refused(declare, 405, "queue.declare");
        let get = other.open_channel().await?.basic_get_no_ack(queue.name()).await;
        assert_refused(get, 405, "basic.get");
        let bind = other.open_channel().await?;
        let bind = bind.queue_bind(queue.name(), "amq.direct", "x", FieldTable::new()).await;
        assert_refused(bind, 405, "queue.bind");
    }

    async fn conditions_of_a_delete_are_checked(world) {
        let (_, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        assert_refused(queue.delete_if_empty().await, 406, "queue.delete");
        let channel = world.channel().await?;
        let _consumer = channel.queue(queue.name())?.consume(ConsumeOptions::new()).await?;
        let other = world.channel().await?;
        let delete = other.queue_delete_if_unused(queue.name()).await;
        assert_refused(delete, 406, "queue.delete");
    }

    async fn deleting_or_purging_a_missing_queue(world) {
        let channel = world.channel().await?;
        // RabbitMQ: deleting a queue that does not exist succeeds.
        assert_eq!(channel.queue_delete(name("missing")).await?, 0);
        assert_refused(channel.queue_purge(name("missing")).await, 404, "queue.purge");
    }

    async fn a_binding_needs_both_its_ends(world) {
        let (_, queue) = world.queue().await?;
        assert_refused(queue.bind(name("missing"), "x").await, 404, "queue.bind");
        let channel = world.channel().await?;
        let none = FieldTable::new();
        let bind = channel.queue_bind(name("missing"), "amq.direct", "x", none.clone()).await;
        assert_refused(bind, 404, "queue.bind");
        let channel = world.channel().await?;
        // RabbitMQ: removing a binding that does not exist succeeds.
        channel.queue_unbind(queue.name(), "amq.direct", "never", none).await?;
    }

    async fn arguments_of_every_type_reach_the_broker(world) {
        let channel = world.channel().await?;
        let table = FieldTable::new().with("nested", true)?;
        let arguments = FieldTable::new()
            .with("x-bool", true)?
            .with("x-i8", -1i8)?
            .with("x-u8", 200u8)?
            .with("x-i16", -300i16)?
            .with("x-u16", 60_000u16)?
            .with("x-i32", -70_000)?
            .with("x-u32", 4_000_000_000u32)?
            .with("x-i64", -5_000_000_000i64)?
            .with("x-f32", 1.5f32)?
            .with("x-f64", -2.25f64)?
            .with("x-decimal", Decimal { scale: 2, value: 314 })?
            .with("x-text", "text")?
            .with("x-array", FieldArray::from_values([Value::from(1), Value::from("two")])?)?
            .with("x-time", Timestamp(1_700_000_000))?
            .with("x-table", table)?
            .with("x-void", Value::Void)?
            .with("x-bytes", vec![0u8, 159, 146, 150])?;
        let queue = channel.queue_declare("", temporary()).await?;
        queue.bind_with("amq.headers", "", arguments.clone()).await?;
        queue.unbind("amq.headers", "", arguments.clone()).await?;
        // Headers have the same types when they are delivered.
        let properties = MessageProperties::new().headers(arguments.clone());
        queue.publish(&Message::new("m").with(&properties)?).await?;
        let got = queue.get_no_ack().await?.ok_or("no message")?;
        let headers = got.delivery.properties().headers()?.ok_or("no headers")?;
        for (name, value) in &arguments {
            assert_eq!(headers.get(&name), Some(value), "{name}");
        }
        assert_eq!(headers.len(), arguments.len());
    }

    async fn a_bad_argument_is_refused_by_the_broker(world) {
        let channel = world.channel().await?;
        let options = temporary().argument("x-overflow", "nowhere");
        assert_refused(channel.queue_declare("", options).await, 406, "queue.declare");
    }

    async fn options_that_the_broker_refuses_are_not_sent(world) {
        let connection = world.connection().await?;
        let (checked, sent) = (connection.open_channel().await?, async |method: QueueDeclare| {
            let channel = connection.open_channel().await?;
            channel.call(QueueDelete { queue: method.queue.clone(), ..<_>::default() }).await?;
            channel.call(method).await.map(drop)
        });
        let mut refused = 0;
        for (kind, argument) in kinds_and_arguments() {
            for flags in 0..8u8 {
                // Without an argument, all properties; with an argument, none.
                if argument.is_some() && flags > 0 {
                    continue;
                }
                let queue = name("checked");
                let (durable, exclusive, auto_delete) = (flags & 1 == 0, flags & 2 > 0, flags & 4 > 0);
                let arguments = argument.clone().into_iter().chain([("x-queue-type", kind.into())]);
                let arguments = FieldTable::from_entries(arguments)?;
                let options = QueueOptions::new()
                    .durable(durable)
                    .exclusive(exclusive)
                    .auto_delete(auto_delete)
                    .arguments(&arguments);
                let local = checked.no_wait().queue_declare(&queue, options);
                let Err(CallError::Options(error)) = local else {
                    // Without a name that is left behind.
                    checked.queue_delete(&queue).await.ok();
                    if !checked.is_open() {
                        return Err(format!("{kind} {argument:?} {flags}: not found").into());
                    }
                    continue;
                };
                refused += 1;
                let queue = queue.as_str().try_into()?;
                let method = QueueDeclare {
                    queue, durable, exclusive, auto_delete, arguments, ..<_>::default()
                };
                let result = sent(method).await;
                assert_refused(result, 406, "queue.declare");
                assert!(error.to_string().contains("cannot be declared"), "{error}");
            }
        }
        assert!(refused > 30, "{refused}");
        assert!(checked.is_open());
    }

    async fn requests_without_replies_take_typed_options(world) {
        let channel = world.channel().await?;
        let (source, target, queue) = (name("source"), name("target"), name("queue"));
        let (no_wait, none) = (channel.no_wait(), FieldTable::new());
        no_wait.exchange_declare(&source, "topic", ExchangeOptions::new().durable(false))?;
        no_wait.exchange_declare(&target, "fanout", ExchangeOptions::new().durable(false))?;
        no_wait.exchange_bind(&target, &source, "a.*", none.clone())?;
        no_wait.queue_declare(&queue, temporary().max_length(1).dead_letter_exchange(""))?;
        no_wait.queue_bind(&queue, &target, "", none.clone())?;
        let exchange = channel.exchange(&source)?;
        for text in ["first", "second"] {
            exchange.publish_confirmed("a.b", &Message::new(text)).await?;
        }
        let got = channel.basic_get_no_ack(&queue).await?.ok_or("no message")?;
        assert_eq!(got.delivery.body(), b"second");
        exchange.publish_confirmed("a.b", &Message::new("third")).await?;
        no_wait.queue_purge(&queue)?;
        assert_eq!(channel.queue_declare_passive(&queue).await?.message_count(), 0);
        no_wait.exchange_unbind(&target, &source, "a.*", none)?;
        let returned = exchange.publish_confirmed("a.b", &Message::new("lost")).await;
        assert!(returned.expect_err("no longer bound").to_string().contains("returned"));
        no_wait.exchange_delete_if_unused(&source)?;
        no_wait.exchange_delete(&target)?;
        no_wait.queue_delete_if_empty(&queue)?;
        // The broker replies to this once it has done all of the above.
        channel.basic_qos(1).await?;
        let connection = world.connection().await?;
        assert!(!connection.queue_exists(&queue).await?);
        assert!(!connection.exchange_exists(&source).await?);
        assert!(!connection.exchange_exists(&target).await?);
        // The broker's refusal closes the channel.
        let channel = world.channel().await?;
        channel.no_wait().queue_declare(&queue, temporary())?;
        channel.no_wait().queue_declare(&queue, temporary().max_length(3))?;
        assert_eq!(channel.closed().await.reply_code(), Some(ReplyCode::PRECONDITION_FAILED));
        let refused = channel.no_wait().queue_delete(&queue);
        assert_refused(refused, 406, "queue.declare");
        world.channel().await?.no_wait().queue_delete_if_unused(&queue)?;
    }

    async fn expired_messages_are_dead_lettered_with_the_reason(world) {
        let (channel, graveyard) = world.queue().await?;
        let options = ExchangeOptions::new().durable(false).auto_delete(true);
        let dead = channel.exchange_declare(name("dlx"), "fanout", options).await?;
        graveyard.bind(dead.name(), "").await?;
        let options = temporary()
            .message_ttl(Duration::from_millis(20))
            .dead_letter_exchange(dead.name().to_string())
            .dead_letter_routing_key("rip");
        let queue = channel.queue_declare("", options).await?;
        queue.publish(&Message::new("short life")).await?;
        let mut consumer = graveyard.consume(ConsumeOptions::new()).await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.routing_key(), "rip");
        let headers = delivery.properties().headers()?.ok_or("no headers")?;
        let deaths = headers.get("x-death").ok_or("no x-death")?;
        let death = deaths.as_array().and_then(|deaths| deaths.iter().next()).ok_or("empty")?;
        let death = death.as_table().ok_or("no table")?;
        assert_eq!(death.get("reason").as_ref().and_then(Value::as_str), Some("expired"));
        assert_eq!(death.get("count").and_then(|count| count.as_i64()), Some(1));
        delivery.ack()?;
    }

    async fn deaths_are_counted_for_each_queue_and_reason(world) {
        let channel = world.channel().await?;
        let (work, retry) = (name("work"), name("retry"));
        let options = temporary().dead_letter_exchange("").dead_letter_routing_key(&retry);
        let queue = channel.queue_declare(&work, options).await?;
        let options = temporary()
            .message_ttl(Duration::from_millis(1))
            .dead_letter_exchange("")
            .dead_letter_routing_key(&work);
        channel.queue_declare(&retry, options).await?;
        queue.publish(&Message::new("again and again")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for attempt in 0..3 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.death_count(&work, DeathReason::Rejected)?, attempt);
            assert_eq!(delivery.death_count(&retry, DeathReason::Expired)?, attempt);
            assert_eq!(delivery.death_count(&work, DeathReason::Expired)?, 0);
            assert_eq!(delivery.death_count("", DeathReason::Rejected)?, 0);
            assert_eq!((delivery.delivery_count()?, delivery.acquired_count()?), (0, 0));
            delivery.reject(false)?;
        }
        // A client that publishes the message again begins a new count, since RabbitMQ 4.
        let delivery = next(&mut consumer).await?;
        queue.publish(&Message::from(&delivery)).await?;
        delivery.ack()?;
        next(&mut consumer).await?.reject(false)?;
        let delivery = next(&mut consumer).await?;
        let counts_on = channel.connection().broker_version() < Some(BrokerVersion::rabbitmq(4, 0, 0));
        let count = delivery.death_count(&work, DeathReason::Rejected)?;
        assert_eq!(count, if counts_on { 4 } else { 1 });
        delivery.ack()?;
    }

    async fn a_full_queue_refuses_with_reject_publish(world) {
        let channel = world.channel().await?;
        let options = temporary().max_length(1).overflow(Overflow::RejectPublish);
        let queue = channel.queue_declare("", options).await?;
        let exchange = channel.default_exchange();
        let to = queue.name().to_string();
        exchange.publish_confirmed(&to, &Message::new("fits")).await?;
        let refused = exchange.publish_confirmed(&to, &Message::new("does not")).await;
        let error = refused.expect_err("the queue is full");
        assert!(error.to_string().contains("basic.nack"), "{error}");
    }

    async fn priorities_overtake(world) {
        let channel = world.channel().await?;
        let queue = channel.queue_declare("", temporary().max_priority(5)).await?;
        for priority in [0, 5, 3] {
            let properties = MessageProperties::new().priority(priority);
            queue.publish(&Message::new(vec![priority]).with(&properties)?).await?;
        }
        channel.queue_declare_passive(queue.name()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        for expected in [5, 3, 0] {
            assert_eq!(next(&mut consumer).await?.body(), [expected]);
        }
    }

    async fn a_stream_is_read_from_where_one_likes(world) {
        let channel = world.channel().await?;
        let stream = name("stream");
        let options = QueueOptions::new().queue_type(QueueType::Stream);
        let queue = channel.queue_declare(&stream, options).await?;
        let exchange = channel.default_exchange();
        for number in 0..5u8 {
            exchange.publish_confirmed(&stream, &Message::new(vec![number])).await?;
        }
        channel.basic_qos(10).await?;
        for (offset, first) in [(StreamOffset::First, 0), (StreamOffset::Offset(3), 3)] {
            let options = ConsumeOptions::new().stream_offset(offset);
            let mut consumer = queue.consume(options).await?;
            let mut expected = first;
            while expected < 5 {
                let delivery = next(&mut consumer).await?;
                let headers = delivery.properties().headers()?.ok_or("no headers")?;
                let offset = headers.get("x-stream-offset").and_then(|value| value.as_i64());
                // A chunk may start before the requested offset.
                if offset >= Some(first.into()) {
                    assert_eq!(delivery.body(), [expected]);
                    expected += 1;
                }
                delivery.ack()?;
            }
        }
        queue.delete().await?;
    }

    async fn a_stream_does_not_requeue_and_nothing_breaks(world) {
        let channel = world.channel().await?;
        let options = QueueOptions::new().queue_type(QueueType::Stream);
        let stream = channel.queue_declare(name("stream"), options).await?;
        for number in 0..50u8 {
            stream.publish(&Message::new(vec![number])).await?;
        }
        let reading = world.channel().await?;
        reading.basic_qos(10).await?;
        let stream_there = reading.queue(stream.name())?;
        let first = || ConsumeOptions::new().stream_offset(StreamOffset::First);
        let mut consumer = stream_there.consume(first()).await?;
        next(&mut consumer).await?.nack(true)?;
        next(&mut consumer).await?.nack(false)?;
        next(&mut consumer).await?.reject(true)?;
        next(&mut consumer).await?.reject(false)?;
        // Dropped, all up to one at once, and in the middle of a flood.
        drop(next(&mut consumer).await?);
        let held = next(&mut consumer).await?;
        next(&mut consumer).await?.nack_up_to(true)?;
        drop(held);
        for number in 7..30u8 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), [number]);
            delivery.ack()?;
        }
        drop(consumer);
        let mut consumer = stream_there.consume(first()).await?;
        next(&mut consumer).await?.ack()?;
        consumer.cancel().await?;
        let mut consumer = stream_there.consume(first()).await?;
        next(&mut consumer).await?.ack()?;
        drop((consumer, stream_there, reading));
        stream.delete().await?;
        assert!(channel.connection().is_open());
    }

    async fn a_quorum_queue_counts_failed_deliveries(world) {
        let channel = world.channel().await?;
        let options = QueueOptions::new().queue_type(QueueType::Quorum).delivery_limit(5);
        let queue = channel.queue_declare(name("quorum"), options).await?;
        let to = queue.name().to_string();
        channel.default_exchange().publish_confirmed(&to, &Message::new("m")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let mut count = async || {
            let again = next(&mut consumer).await?;
            let (count, acquired) = (again.delivery_count()?, again.acquired_count()?);
            Ok::<_, Box<dyn Error + Send + Sync>>((again, count, acquired))
        };
        let (first, counted, acquired) = count().await?;
        assert_eq!((counted, acquired), (0, 0));
        first.nack(true)?;
        // Until 4.3, requeues without blame count, too.
        let (again, counted, acquired) = count().await?;
        let blames = channel.connection().broker_version() < Some(BrokerVersion::rabbitmq(4, 3, 0));
        assert_eq!(counted, u64::from(blames));
        assert_eq!(acquired, u64::from(!blames));
        again.reject(true)?;
        let (again, counted, acquired) = count().await?;
        assert_eq!(counted, 1 + u64::from(blames));
        assert_eq!(acquired, if blames { 0 } else { 2 });
        again.ack()?;
        consumer.cancel().await?;
        queue.delete().await?;
    }
}
