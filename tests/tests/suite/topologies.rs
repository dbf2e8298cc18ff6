use amqp_client_core::topology::{Discrepancy, Topology};
use amqp_client_core::{CallError, Entity, ExchangeOptions, Message, QueueOptions, QueueType};

use super::{behaviours, name};

behaviours! {
    async fn a_topology_is_applied_and_compared(world) {
        let (source, target, queue, dead) = (name("s"), name("t"), name("q"), name("dead"));
        let options = QueueOptions::new().max_length(5).dead_letter_exchange(&target);
        let topology = Topology::new()
            .exchange(&source, "topic", ExchangeOptions::new())
            .exchange(&target, "fanout", ExchangeOptions::new())
            .existing_exchange("amq.fanout")
            .queue(&queue, options.clone())
            .queue(&dead, QueueOptions::new())
            .bind(&queue, &source, "a.#")
            .bind(&dead, &target, "")
            .bind_exchange(&target, &source, "b.#");
        assert_eq!(topology.check(world.connection().await?.broker_version().as_ref()), []);
        let connection = world.connection().await?;
        let missing = topology.compare(&connection).await?;
        assert_eq!(missing.len(), 4, "{missing:?}");
        assert!(missing.iter().all(|one| one.discrepancy == Discrepancy::Missing));
        let channel = connection.open_channel().await?;
        topology.apply(&channel).await?;
        topology.apply(&channel).await?;
        assert_eq!(topology.compare(&connection).await?, []);
        let exchange = channel.exchange(&source)?;
        exchange.publish_confirmed("a.b", &Message::new("to the queue")).await?;
        exchange.publish_confirmed("b.c", &Message::new("to the other")).await?;
        for (queue, text) in [(&queue, "to the queue"), (&dead, "to the other")] {
            let got = channel.basic_get_no_ack(queue).await?.ok_or("no message")?;
            assert_eq!(got.delivery.body(), text.as_bytes());
        }
        // Other options than those at the broker.
        let other = Topology::new()
            .exchange(&source, "direct", ExchangeOptions::new())
            .existing_queue(&queue)
            .queue(&dead, QueueOptions::new().max_length(3))
            .queue(&queue, options.max_length(7));
        let differences = other.compare(&connection).await?;
        let found: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert_eq!(found, [
            format!("exchange '{source}' differs: type is topic at the broker, and is direct here"),
            format!("queue '{dead}' differs: x-max-length is not set at the broker, and is 3 here"),
            format!("queue '{queue}' differs: x-max-length is 5 at the broker, and is 7 here"),
        ]);
        assert!(channel.is_open());
        let scratch = connection.open_channel().await?;
        let error = other.apply(&scratch).await.expect_err("it differs");
        assert_eq!(error.entity, Entity::Exchange(source.as_str().try_into()?));
        assert_eq!(error.mismatch().ok_or("no mismatch")?.option, "type");
        let text = "exists with other options: type is topic at the broker, and is direct here; \
                    declare it with the same, or delete it first";
        assert_eq!(error.to_string(), format!("exchange '{source}' {text}"));
        for queue in [&queue, &dead] {
            channel.queue_delete(queue).await?;
        }
        for exchange in [&source, &target] {
            channel.exchange_delete(exchange).await?;
        }
    }

    async fn a_topology_is_compared_with_few_channels(world) {
        let connection = world.open(format!("{}?channel_max=3", world.uri).parse()?).await?;
        let channel = connection.open_channel().await?;
        let mut topology = Topology::new().existing_exchange("amq.direct");
        for _ in 0..10 {
            topology = topology.queue(name("q"), QueueOptions::temporary());
        }
        assert_eq!(topology.compare(&connection).await?.len(), 10);
        topology.apply(&channel).await?;
        assert_eq!(topology.compare(&connection).await?, []);
    }

    async fn what_the_broker_cannot_accept_is_not_sent(world) {
        let channel = world.channel().await?;
        let (first, second) = (name("first"), name("second"));
        let topology = Topology::new()
            .queue(&first, QueueOptions::new())
            .queue(&second, QueueOptions::new().queue_type(QueueType::Stream).exclusive(true));
        let error = topology.apply(&channel).await.expect_err("a stream is not exclusive");
        assert!(matches!(*error.error, CallError::Options(_)), "{error:?}");
        assert!(error.to_string().starts_with(&format!("queue '{second}' cannot be")), "{error}");
        assert!(channel.is_open());
        assert!(!channel.connection().queue_exists(&first).await?);
    }

    async fn a_topology_may_declare_what_another_part_expects(world) {
        let channel = world.channel().await?;
        let (queue, exchange) = (name("q"), name("x"));
        let expects = Topology::new().existing_queue(&queue).existing_exchange(&exchange);
        let declares = Topology::new()
            .queue(&queue, QueueOptions::temporary())
            .exchange(&exchange, "fanout", ExchangeOptions::new());
        let topology = expects.clone().and(declares).and(expects).bind(&queue, &exchange, "");
        assert_eq!(topology.check(channel.connection().broker_version().as_ref()), []);
        topology.apply(&channel).await?;
        channel.exchange_delete(&exchange).await?;
    }

    async fn a_topology_names_what_is_missing(world) {
        let channel = world.channel().await?;
        let (queue, exchange) = (name("q"), name("nowhere"));
        let options = QueueOptions::temporary();
        let topology = Topology::new().queue(&queue, options).bind(&queue, &exchange, "key");
        let error = topology.apply(&channel).await.expect_err("there is no exchange");
        let binding = format!("binding of '{queue}' to '{exchange}' by 'key' was not declared");
        assert_eq!(error.to_string(), binding);
        assert_eq!(error.error.reply_code().map(|code| code.0), Some(404));
    }

    async fn an_exclusive_queue_of_another_connection_is_a_difference(world) {
        let (_, queue) = world.queue().await?;
        let other = world.open(world.target()).await?;
        let topology = Topology::new().queue(queue.name(), QueueOptions::new());
        let differences = topology.compare(&other).await?;
        assert_eq!(differences[0].discrepancy, Discrepancy::Locked, "{differences:?}");
    }
}
