use amqp_client_core::proto::{FieldTable, Value};
use amqp_client_core::{
    BrokerVersion, ConsumeOptions, ExchangeKind, ExchangeOptions, Message, MessageProperties,
};

use super::{assert_refused, behaviours, name, next, temporary};

fn short_lived() -> ExchangeOptions {
    ExchangeOptions::new().durable(false).auto_delete(true)
}

behaviours! {
    async fn exchanges_of_every_kind_are_declared_checked_and_deleted(world) {
        let channel = world.channel().await?;
        for kind in ["direct", "fanout", "topic", "headers"] {
            let exchange = channel.exchange_declare(name(kind), kind, ExchangeOptions::new()).await?;
            channel.exchange_declare_passive(exchange.name()).await?;
            exchange.delete_if_unused().await?;
            let probe = world.channel().await?;
            let gone = probe.exchange_declare_passive(exchange.name()).await;
            assert_refused(gone, 404, "exchange.declare");
        }
    }

    async fn declaring_one_differently_is_refused(world) {
        let channel = world.channel().await?;
        let exchange = name("exchange");
        channel.exchange_declare(&exchange, ExchangeKind::Direct, short_lived()).await?;
        let other = channel.exchange_declare(&exchange, ExchangeKind::Topic, short_lived()).await;
        assert_refused(other, 406, "exchange.declare");
    }

    async fn an_unknown_kind_is_refused(world) {
        let channel = world.channel().await?;
        let kind = ExchangeKind::Other("x-nonsense".to_owned());
        let refused = channel.exchange_declare(name("x"), kind, short_lived()).await;
        // It costs the connection, and from RabbitMQ 4 on the channel alone.
        let four = channel.connection().broker_version() >= Some(BrokerVersion::rabbitmq(4, 0, 0));
        assert_refused(refused, if four { 406 } else { 503 }, "exchange.declare");
        assert_eq!(channel.connection().is_open(), four);
    }

    async fn a_direct_exchange_matches_whole_keys(world) {
        let (channel, queue) = world.queue().await?;
        let direct = channel.exchange_declare(name("d"), "direct", short_lived()).await?;
        queue.bind(direct.name(), "yes").await?;
        direct.publish("no", &Message::new("no")).await?;
        direct.publish("yes", &Message::new("yes")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.body(), b"yes");
        assert_eq!(delivery.exchange(), *direct.name());
        assert_eq!(delivery.routing_key(), "yes");
        delivery.ack()?;
        queue.unbind(direct.name(), "yes", FieldTable::new()).await?;
        // Its last binding took the exchange with it.
        let gone = channel.exchange_declare_passive(direct.name()).await;
        assert_refused(gone, 404, "exchange.declare");
    }

    async fn a_topic_exchange_matches_patterns(world) {
        let (channel, queue) = world.queue().await?;
        let topic = channel.exchange_declare(name("t"), "topic", short_lived()).await?;
        queue.bind(topic.name(), "*.error.#").await?;
        for key in ["disk.error", "disk.warning", "disk.error.full.now", "error"] {
            topic.publish(key, &Message::new(key)).await?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        for expected in ["disk.error", "disk.error.full.now"] {
            assert_eq!(next(&mut consumer).await?.body(), expected.as_bytes());
        }
        assert!(consumer.try_next().is_none());
    }

    async fn a_headers_exchange_matches_headers(world) {
        let (channel, queue) = world.queue().await?;
        let headers = channel.exchange_declare(name("h"), "headers", short_lived()).await?;
        let wanted = FieldTable::new().with("x-match", "all")?.with("size", 3)?.with("hot", true)?;
        queue.bind_with(headers.name(), "", wanted).await?;
        for (size, hot) in [(3, false), (4, true), (3, true)] {
            let table = FieldTable::new().with("size", size)?.with("hot", hot)?;
            let properties = MessageProperties::new().headers(table);
            headers.publish("", &Message::new("m").with(&properties)?).await?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let headers = next(&mut consumer).await?.properties().headers()?.ok_or("no headers")?;
        assert_eq!(headers.get("hot"), Some(Value::Bool(true)));
        assert!(consumer.try_next().is_none());
    }

    async fn exchanges_are_bound_to_exchanges(world) {
        let (channel, queue) = world.queue().await?;
        let source = channel.exchange_declare(name("s"), "fanout", short_lived()).await?;
        let target = channel.exchange_declare(name("t"), "fanout", short_lived()).await?;
        queue.bind(target.name(), "").await?;
        target.bind(source.name(), "", FieldTable::new()).await?;
        source.publish("", &Message::new("through both")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        assert_eq!(next(&mut consumer).await?.body(), b"through both");
        target.unbind(source.name(), "", FieldTable::new()).await?;
    }

    async fn unroutable_messages_go_to_the_alternate_exchange(world) {
        let (channel, queue) = world.queue().await?;
        let alternate = channel.exchange_declare(name("a"), "fanout", short_lived()).await?;
        queue.bind(alternate.name(), "").await?;
        let options = ExchangeOptions::new()
            .durable(false)
            .alternate_exchange(alternate.name().to_string());
        let main = channel.exchange_declare(name("m"), "direct", options).await?;
        main.publish_confirmed("nowhere", &Message::new("stray")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        assert_eq!(next(&mut consumer).await?.body(), b"stray");
        main.delete().await?;
    }

    async fn an_exchange_in_use_is_not_deleted_if_unused(world) {
        let (channel, _) = world.queue().await?;
        let queue = channel.queue_declare(name("q"), temporary()).await?;
        let exchange = channel.exchange_declare(name("e"), "fanout", short_lived()).await?;
        queue.bind(exchange.name(), "").await?;
        assert_refused(exchange.delete_if_unused().await, 406, "exchange.delete");
    }

    async fn an_internal_exchange_takes_no_messages_from_clients(world) {
        let channel = world.channel().await?;
        let options = short_lived().internal(true);
        let exchange = channel.exchange_declare(name("i"), "fanout", options).await?;
        exchange.publish("", &Message::new("")).await?;
        let closed = channel.closed().await;
        let close = closed.as_close().ok_or("no close")?;
        assert_eq!((close.reply_code.0, close.method()), (403, Some("basic.publish")));
        world.channel().await?.exchange_delete(exchange.name()).await?;
    }
}
