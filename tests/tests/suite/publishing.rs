use amqp_client_core::proto::{RawProperties, ReplyCode, Route};
use amqp_client_core::{
    ChannelEvent, ConfirmError, ConsumeOptions, DeliveryMode, Gate, Message, MessageProperties,
    OnLoss, Overflow, PublishError, PublisherOptions, SendError,
};

use super::{behaviours, name, next, temporary};

behaviours! {
    async fn texts_have_a_text_content_type(world) {
        let (_channel, queue) = world.queue().await?;
        queue.publish(&Message::text("Grüße")).await?;
        let got = queue.get_no_ack().await?.ok_or("the queue is empty")?;
        assert_eq!(got.delivery.text(), Ok("Grüße"));
        let properties = got.delivery.message_properties()?;
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.content_encoding.as_deref(), Some("utf-8"));

        // Further properties take none away.
        let more = MessageProperties::new().message_id("1").content_type("text/csv");
        queue.publish(&Message::text("a,b").with(&more)?).await?;
        let properties = queue.get_no_ack().await?.ok_or("empty")?.delivery.message_properties()?;
        assert_eq!(properties.content_type.as_deref(), Some("text/csv"));
        assert_eq!(properties.content_encoding.as_deref(), Some("utf-8"));
        assert_eq!(properties.message_id.as_deref(), Some("1"));
    }

    async fn every_message_is_confirmed(world) {
        let (channel, queue) = world.queue().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let to = queue.name().to_string();
        let mut confirmations = Vec::new();
        for number in 0..2500u32 {
            let confirmation = publisher.publish(&to, number.to_string()).await?;
            assert_eq!(confirmation.seq().map(|seq| seq.get()), Some(u64::from(number) + 1));
            confirmations.push(confirmation);
        }
        for confirmation in confirmations {
            confirmation.await?;
        }
        let counted = channel.queue_declare_passive(queue.name()).await?;
        assert_eq!(counted.message_count(), 2500);
    }

    async fn large_messages_of_several_channels_and_requests_alternate(world) {
        const SIZE: usize = 4 * 1024 * 1024;
        let mut streams = Vec::new();
        for fill in 0..3u8 {
            let (channel, queue) = world.queue().await?;
            let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
            let mut sent = Vec::new();
            for part in 0..2 {
                let body = vec![fill * 2 + part; SIZE];
                sent.push(publisher.publish(queue.name(), body).await?);
            }
            streams.push((queue, sent));
        }
        let (_asking, asked) = world.queue().await?;
        for number in 0..20u8 {
            asked.publish_confirmed(&Message::new(vec![number; 100])).await?;
            let got = asked.get_no_ack().await?.ok_or("the queue is empty")?;
            assert_eq!(got.delivery.body(), vec![number; 100]);
        }
        for (fill, (queue, sent)) in (0u8..).zip(streams) {
            for confirmation in sent {
                confirmation.await?;
            }
            for part in 0..2 {
                let got = queue.get_no_ack().await?.ok_or("the queue is empty")?;
                let whole = vec![fill * 2 + part; SIZE];
                assert!(got.delivery.body() == whole, "message {part} of channel {fill}");
            }
        }
    }

    async fn messages_are_persistent_by_default(world) {
        let (channel, queue) = world.queue().await?;
        let to = queue.name().to_string();
        let exchange = channel.default_exchange();
        let (persistent, transient) = (DeliveryMode::Persistent, DeliveryMode::Transient);
        // Properties before the delivery mode on the wire, and after it.
        let others = MessageProperties::new().content_type("text/csv").message_id("4711");
        let explicit = others.clone().delivery_mode(transient);
        let (others, explicit) =
            (Message::new("").with(&others)?, Message::new("").with(&explicit)?);

        queue.publish(&Message::new("")).await?;
        queue.publish_confirmed(&Message::new("")).await?;
        exchange.publish(&to, &others).await?;
        exchange.publish_confirmed(&to, &others).await?;
        queue.publish(&explicit).await?;
        for on_loss in [OnLoss::Wait, OnLoss::Keep] {
            let publisher = exchange.publisher(PublisherOptions::new().on_loss(on_loss))?;
            publisher.send(&to, "").await?;
            publisher.try_publish(&to, "")?.await?;
            publisher.prepare(&to)?.send("").await?;
            publisher.send_message(&to, &others).await?;
            publisher.send_message(&to, &explicit).await?;
        }
        let careless = exchange.publisher(PublisherOptions::new().persistent(false))?;
        careless.send(&to, "").await?;
        careless.send_message(&to, &others).await?;
        channel.basic_publish(&Route::queue(&to), &RawProperties::EMPTY, "").await?;

        let publisher = [Some(persistent), Some(persistent), Some(persistent), Some(persistent)];
        let expected = [Some(persistent); 4].into_iter().chain([Some(transient)])
            .chain(publisher).chain([Some(transient)])
            .chain(publisher).chain([Some(transient)])
            .chain([None, None, None]);
        for (number, mode) in expected.enumerate() {
            let got = queue.get_no_ack().await?.ok_or("the queue is empty")?;
            let properties = got.delivery.message_properties()?;
            assert_eq!(properties.delivery_mode, mode, "{number}");
            let whole = properties.content_type.as_deref() == Some("text/csv");
            assert_eq!(properties.message_id.as_deref(), whole.then_some("4711"), "{number}");
        }
        assert!(queue.get_no_ack().await?.is_none());
    }

    async fn an_unroutable_message_is_an_error_with_the_reason(world) {
        let channel = world.channel().await?;
        let nowhere = name("nowhere");
        let exchange = channel.default_exchange();
        let publisher = exchange.publisher(PublisherOptions::new())?;
        let gone = channel.queue(&nowhere)?;
        let errors = [
            publisher.send(&nowhere, "").await,
            publisher.send_message(&nowhere, &Message::new("")).await,
            publisher.prepare(&nowhere)?.send("").await,
            publisher.prepare(&nowhere)?.publish_all([""]).await?.await.map_err(SendError::from),
            exchange.publish_confirmed(&nowhere, &Message::new("")).await,
            gone.publish_confirmed(&Message::new("")).await,
        ];
        for error in errors {
            let error = error.expect_err("there is no such queue");
            let text = error.to_string();
            assert!(matches!(error, SendError::NotConfirmed(ConfirmError::Returned(_))), "{text}");
            assert!(text.contains("reached no queue") && text.contains(&nowhere), "{text}");
        }
        let careless = exchange.publisher(PublisherOptions::new().mandatory(false))?;
        careless.send(&nowhere, "nobody misses it").await?;
    }

    async fn a_closed_channel_can_be_seen(world) {
        let channel = world.channel().await?;
        let connection = channel.connection().clone();
        let exchange = channel.exchange_declare(name("deleted"), "fanout", <_>::default()).await?;
        let publisher = exchange.publisher(PublisherOptions::new().mandatory(false))?;
        publisher.send("", "there").await?;
        assert!(publisher.is_open());
        assert_eq!(connection.health().closed_channels, []);

        let other = connection.open_channel().await?;
        other.exchange_delete(exchange.name()).await?;
        let error = publisher.send("", "gone").await.expect_err("the exchange is gone");
        let still = publisher.send("", "forever").await.expect_err("it is closed");
        assert_eq!(still.reply_code(), error.reply_code());
        let reason = publisher.closed().await;
        assert_eq!(reason.reply_code(), Some(ReplyCode::NOT_FOUND));
        assert!(!publisher.is_open());
        let health = connection.health();
        assert!(health.is_open());
        let closed: Vec<_> = health.closed_channels.iter().map(|it| (it.id, &it.reason)).collect();
        assert_eq!(closed, [(channel.id(), &reason)]);

        // A channel that the application has closed is no news, nor is one that nobody holds.
        other.close().await?;
        drop((channel, exchange, publisher));
        assert_eq!(connection.health().closed_channels, []);
    }

    async fn more_can_be_published_than_the_transport_takes_at_once(world) {
        let channel = world.channel().await?;
        let nowhere = name("nowhere");
        let (route, body) = (Route::queue(&*nowhere), vec![7; 1000]);
        for _ in 0..40_000 {
            channel.basic_publish(&route, &RawProperties::EMPTY, &body).await?;
        }
        // Requests after them get their replies.
        channel.queue_declare("", temporary()).await?;
    }

    async fn all_confirms_are_awaited_at_once(world) {
        let (channel, queue) = world.queue().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        publisher.wait_for_confirms().await?;
        let to = queue.name().to_string();
        for _ in 0..500 {
            // Nobody wants to know about each of them.
            let _confirmation = publisher.publish(&to, "m").await?;
        }
        publisher.wait_for_confirms().await?;
        let counted = channel.queue_declare_passive(queue.name()).await?;
        assert_eq!(counted.message_count(), 500);
    }

    async fn a_mandatory_message_without_a_queue_is_returned(world) {
        let channel = world.channel().await?;
        let mut events = channel.events();
        let options = PublisherOptions::new();
        let publisher = channel.default_exchange().publisher(options)?;
        let nowhere = name("nowhere");
        let error = publisher.send(&nowhere, "boomerang").await.expect_err("no queue");
        let SendError::NotConfirmed(ConfirmError::Returned(returned)) = error else {
            panic!("{error:?}")
        };
        assert_eq!(returned.reply_code, ReplyCode::NO_ROUTE);
        assert_eq!(returned.routing_key, *nowhere);
        assert_eq!(returned.body, "boomerang");
        assert_eq!(events.next().await, Some(ChannelEvent::Returned(returned)));
        let error = publisher.wait_for_confirms().await.expect_err("one failed");
        assert!(matches!(error, ConfirmError::Returned(_)));
        publisher.wait_for_confirms().await?;
    }

    async fn each_return_belongs_to_its_publish(world) {
        let (channel, queue) = world.queue().await?;
        let options = PublisherOptions::new();
        let publisher = channel.default_exchange().publisher(options)?;
        let (to, nowhere) = (queue.name().to_string(), name("nowhere"));
        let mut confirmations = Vec::new();
        for number in 0..300u32 {
            let key = if number % 3 == 0 { &nowhere } else { &to };
            confirmations.push(publisher.publish(key, number.to_string()).await?);
        }
        for (number, confirmation) in confirmations.into_iter().enumerate() {
            match confirmation.await {
                Ok(()) => assert_ne!(number % 3, 0),
                Err(ConfirmError::Returned(returned)) => {
                    assert_eq!(number % 3, 0);
                    assert_eq!(returned.body, number.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn without_confirms_a_return_is_an_event(world) {
        let channel = world.channel().await?;
        let mut events = channel.events();
        let nowhere = name("nowhere");
        let route = amqp_client_core::proto::Route::queue(&nowhere).mandatory();
        let none = amqp_client_core::proto::RawProperties::EMPTY;
        channel.basic_publish(&route, &none, "boomerang").await?;
        let Some(ChannelEvent::Returned(returned)) = events.next().await else { panic!("nothing") };
        assert_eq!(returned.body, "boomerang");
    }

    async fn refused_and_accepted_messages_are_distinguished(world) {
        let channel = world.channel().await?;
        let options = temporary().max_length(1).overflow(Overflow::RejectPublish);
        let queue = channel.queue_declare("", options).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let to = queue.name().to_string();
        publisher.send(&to, "fits").await?;
        let refused = publisher.send(&to, "does not").await;
        assert_eq!(refused, Err(SendError::NotConfirmed(ConfirmError::Nacked)));
        queue.purge().await?;
        publisher.send(&to, "fits again").await?;
    }

    async fn a_missing_exchange_leaves_messages_unconfirmed(world) {
        let channel = world.channel().await?;
        let publisher = channel.exchange(name("missing"))?.publisher(PublisherOptions::new())?;
        let error = publisher.send("x", "lost").await.expect_err("no exchange");
        let SendError::NotConfirmed(ConfirmError::Unconfirmed(reason)) = error else {
            panic!("{error:?}")
        };
        assert_eq!(reason.as_close().map(|close| close.reply_code), Some(ReplyCode::NOT_FOUND));
        let later = publisher.send("x", "later").await;
        assert_eq!(later, Err(SendError::NotSent(PublishError::Ended(reason))));
    }

    async fn a_full_window_makes_publishing_wait_and_trying_fail(world) {
        let (channel, queue) = world.queue().await?;
        let options = PublisherOptions::new().window(2, 1000);
        let publisher = channel.default_exchange().publisher(options)?;
        let to = queue.name().to_string();
        let mut confirmations = Vec::new();
        let refused = loop {
            // The confirms may come while this goes round, but not forever faster than it.
            match publisher.try_publish(&to, vec![0; 500]) {
                Ok(confirmation) => confirmations.push(confirmation),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.error, PublishError::Gated(Gate::Window));
        assert_eq!(refused.body.ok_or("no body")?.len(), 500);
        confirmations.push(publisher.publish(&to, vec![0; 500]).await?);
        // Larger than the window on its own: allowed when nothing else is unconfirmed.
        confirmations.push(publisher.publish(&to, vec![0; 5000]).await?);
        for confirmation in confirmations {
            confirmation.await?;
        }
    }

    async fn a_dropped_confirmation_changes_nothing(world) {
        let (channel, queue) = world.queue().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let to = queue.name().to_string();
        for number in 0..100u8 {
            let confirmation = publisher.publish(&to, vec![number]).await?;
            if number % 2 == 0 {
                drop(confirmation);
            } else {
                confirmation.await?;
            }
        }
        publisher.wait_for_confirms().await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        for number in 0..100u8 {
            assert_eq!(next(&mut consumer).await?.body(), [number]);
        }
    }

    async fn publishers_share_a_channel_from_many_tasks(world) {
        let (channel, queue) = world.queue().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let to = queue.name().to_string();
        let tasks = (0..16u8).map(|task| {
            let (publisher, to) = (publisher.clone(), to.clone());
            async move {
                for number in 0..50u8 {
                    // Some take several frames: whole messages must not be torn apart.
                    let size = if number % 10 == 0 { 300_000 } else { 20 };
                    let mut body = vec![task; size];
                    body.push(number);
                    publisher.send(&to, body).await?;
                }
                Ok::<_, SendError>(())
            }
        });
        for result in futures_util::future::join_all(tasks).await {
            result?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let mut expected = [0u8; 16];
        for _ in 0..16 * 50 {
            let delivery = next(&mut consumer).await?;
            let (number, rest) = delivery.body().split_last().ok_or("empty")?;
            let task = *rest.first().ok_or("empty")?;
            assert!(rest.iter().all(|byte| *byte == task));
            assert_eq!(*number, expected[usize::from(task)], "order of one task is kept");
            expected[usize::from(task)] += 1;
        }
    }

    async fn a_message_published_by_an_exchange_is_the_same(world) {
        let (channel, queue) = world.queue().await?;
        let exchange = channel.default_exchange();
        let to = queue.name().to_string();
        exchange.publish(&to, &Message::new("unconfirmed")).await?;
        exchange.publish_confirmed(&to, &Message::new("confirmed")).await?;
        for expected in ["unconfirmed", "confirmed"] {
            let got = queue.get_no_ack().await?.ok_or("no message")?;
            assert_eq!(got.delivery.body(), expected.as_bytes());
        }
    }
}
