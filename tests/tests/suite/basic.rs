use std::time::{Duration, SystemTime};

use amqp_client_core::proto::{DeliveryTag, FieldTable, Misuse, RawProperties, ReplyCode, Route};
use amqp_client_core::{
    CallError, ConsumeOptions, DeliveryMode, Limits, Message, MessageProperties, QueueOptions,
};
use bytes::Bytes;

use super::{assert_refused, behaviours, name, next, temporary};

behaviours! {
    async fn every_property_arrives_as_it_was_sent(world) {
        let (_, queue) = world.queue().await?;
        let sent = MessageProperties::new()
            .content_type("text/plain")
            .content_encoding("utf-8")
            .headers(FieldTable::new().with("answer", 42)?)
            .delivery_mode(DeliveryMode::Persistent)
            .priority(7)
            .correlation_id("correlation")
            .reply_to("reply")
            .expiration(Duration::from_secs(60))
            .message_id("id")
            .timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .kind("kind")
            .user_id("guest")
            .app_id("suite");
        queue.publish(&Message::new("all").with(&sent)?).await?;
        let got = queue.get_no_ack().await?.ok_or("no message")?;
        assert_eq!(got.delivery.message_properties()?, sent);
        assert_eq!(got.delivery.properties().kind()?.ok_or("no kind")?, "kind");
        queue.publish(&Message::new("none")).await?;
        let got = queue.get_no_ack().await?.ok_or("no message")?;
        assert_eq!(got.delivery.message_properties()?, MessageProperties::new().persistent());
    }

    async fn a_delivery_is_forwarded_with_everything_and_without_a_copy(world) {
        let (channel, queue) = world.queue().await?;
        let archive = channel.queue_declare(name("archive"), temporary()).await?;
        let properties = MessageProperties::new()
            .content_type("text/plain")
            .headers(FieldTable::new().with("nested", FieldTable::new().with("answer", 42)?)?)
            .priority(7)
            .reply_to("reply")
            .expiration(Duration::from_secs(60))
            .timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .user_id("guest");
        // Bodies of one frame and of several: slices of a read buffer, and buffers of their own.
        for size in [0, 10, 300_000] {
            queue.publish(&Message::new(vec![7; size]).with(&properties)?).await?;
            let got = queue.get().await?.ok_or("no message")?;
            let delivery = got.delivery;
            let message = Message::from(&delivery);
            assert!(size == 0 || message.body().as_ptr() == delivery.body().as_ptr());
            let route = Route::queue(archive.name());
            let exchange = channel.default_exchange();
            exchange.publish_confirmed(archive.name().to_string(), &message).await?;
            delivery.ack()?;
            let forwarded = archive.get_no_ack().await?.ok_or("no message")?.delivery;
            assert_eq!(Message::from(&forwarded), message);
            assert_eq!(forwarded.message_properties()?, properties.clone().persistent());
            // And without a client's help, by the raw properties.
            channel.basic_publish(&route, message.properties(), message.body()).await?;
            let forwarded = archive.get_no_ack().await?.ok_or("no message")?.delivery;
            assert_eq!(Message::from(&*forwarded), message);
        }
    }

    async fn a_forwarded_message_must_not_name_another_user(world) {
        let (channel, queue) = world.queue().await?;
        let properties = MessageProperties::new().user_id("another");
        let message = Message::new("m").with(&properties)?;
        let refused = queue.publish_confirmed(&message).await.expect_err("guest is not another");
        assert_eq!(refused.reply_code(), Some(ReplyCode::PRECONDITION_FAILED), "{refused}");
        assert!(!channel.is_open());
    }

    async fn bodies_of_every_size_arrive_whole(world) {
        let uri = format!("{}?frame_max=8192", world.uri);
        let channel = world.open(uri.parse()?).await?.open_channel().await?;
        let queue = channel.queue_declare("", super::temporary()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let room = 8192 - 8;
        let large = 3 * 1024 * 1024 + 1;
        for size in [0, 1, 2047, 2048, room - 1, room, room + 1, 3 * room, 3 * room + 1, large] {
            let body: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            queue.publish(&Message::new(body.clone())).await?;
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body().len(), size);
            assert!(delivery.body() == body && delivery.body_bytes() == body, "{size}");
        }
    }

    async fn headers_that_are_larger_than_a_frame_may_be_arrive(world) {
        // The specification forbids it: content headers cannot be split. RabbitMQ sends them as they are.
        let channel = world.channel().await?;
        let limits = Limits::default().frame_max(8192);
        let reader = world.open(world.target().limits(limits)).await?;
        let negotiated = reader.negotiated().ok_or("nothing was negotiated")?;
        assert_eq!(negotiated.frame_max, 8192);
        let queue = channel.queue_declare(name("q"), QueueOptions::new()).await?;
        let reading = reader.open_channel().await?;
        let mut consumer = reading.basic_consume(queue.name(), ConsumeOptions::new()).await?;
        for size in [8_000, 8_200, 100_000] {
            let headers = FieldTable::new().with("large", "x".repeat(size))?;
            let properties = MessageProperties::new().headers(headers);
            for body in [0, 10, 20_000] {
                let message = Message::new(vec![7; body]).with(&properties)?;
                queue.publish_confirmed(&message).await?;
                let delivery = next(&mut consumer).await?;
                assert_eq!(delivery.message_properties()?.headers, properties.headers);
                assert_eq!(delivery.body().len(), body);
                delivery.nack(true)?;
                let again = next(&mut consumer).await?;
                assert!(again.redelivered() && again.body().len() == body);
                again.ack()?;
                queue.publish_confirmed(&message).await?;
                let got = reading.basic_get_no_ack(queue.name()).await?;
                // The consumer may have been faster.
                if got.is_none() {
                    next(&mut consumer).await?.ack()?;
                }
            }
        }
        assert!(reader.is_open());
        queue.delete().await?;
    }

    async fn headers_that_grow_beyond_a_frame_by_dead_lettering_arrive(world) {
        let (channel, dead) = world.queue().await?;
        let options = temporary().dead_letter_exchange("").dead_letter_routing_key(dead.name().to_string());
        let queue = channel.queue_declare(name("q"), options).await?;
        // A little more fits into a frame of 131,072 bytes, but not with the header that the broker adds (`x-death`).
        let headers = FieldTable::new().with("large", "x".repeat(130_950))?;
        let message = Message::new("m").with(&MessageProperties::new().headers(headers))?;
        queue.publish_confirmed(&message).await?;
        let mut consumer = dead.consume(ConsumeOptions::new()).await?;
        queue.get().await?.ok_or("it is there")?.delivery.reject(false)?;
        let delivery = next(&mut consumer).await?;
        let headers = delivery.properties().headers()?.ok_or("no headers")?;
        assert!(headers.get("x-death").is_some() && headers.as_encoded().len() > 131_072);
        delivery.ack()?;
    }

    async fn messages_are_got_one_by_one(world) {
        let (channel, queue) = world.queue().await?;
        assert!(queue.get().await?.is_none());
        for body in ["one", "two", "three"] {
            queue.publish(&Message::new(body)).await?;
        }
        let one = queue.get().await?.ok_or("no message")?;
        assert_eq!((one.delivery.body(), one.message_count), (&b"one"[..], 2));
        assert!(one.delivery.consumer_tag().is_empty());
        one.delivery.ack()?;
        let two = queue.get().await?.ok_or("no message")?;
        two.delivery.nack(true)?;
        let two = queue.get_no_ack().await?.ok_or("no message")?;
        assert!(two.delivery.redelivered());
        assert_eq!(two.delivery.body(), b"two");
        // It needs no acknowledgement, and giving it one anyway does no harm.
        two.delivery.ack()?;
        assert_refused(channel.basic_get_no_ack(name("missing")).await, 404, "basic.get");
    }

    async fn many_gets_can_be_on_their_way(world) {
        let (_, queue) = world.queue().await?;
        for number in 0..50u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        let gets: Vec<_> = (0..60).map(|_| queue.get_no_ack()).collect();
        for (number, get) in gets.into_iter().enumerate() {
            let body = get.await?.map(|got| got.delivery.body().to_vec());
            assert_eq!(body, (number < 50).then(|| vec![number as u8]));
        }
    }

    async fn an_unknown_delivery_is_an_error_of_the_call_alone(world) {
        let (channel, queue) = world.queue().await?;
        let unknown = CallError::Misuse(Misuse::UnknownDelivery(99));
        let tag = DeliveryTag::new(99);
        assert_eq!(channel.basic_ack(tag), Err(unknown.clone()));
        assert_eq!(channel.basic_nack(tag, true), Err(unknown.clone()));
        assert_eq!(channel.basic_reject(tag, true), Err(unknown));
        queue.publish(&Message::new("m")).await?;
        let got = queue.get().await?.ok_or("no message")?;
        let tag = got.delivery.delivery_tag();
        got.delivery.ack()?;
        assert!(channel.basic_ack(tag).is_err());
        channel.basic_qos(1).await?;
    }

    async fn several_deliveries_are_settled_at_once(world) {
        let (_, queue) = world.queue().await?;
        for number in 0..6u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        let mut got = Vec::new();
        for _ in 0..6 {
            got.push(queue.get().await?.ok_or("no message")?.delivery);
        }
        let last = got.pop().ok_or("no message")?;
        let middle = got.remove(2);
        middle.ack_up_to()?;
        last.nack_up_to(true)?;
        // 0 to 2 are settled, 3 to 5 are requeued; settling through the handles is too late.
        for delivery in got {
            assert!(delivery.ack().is_err());
        }
        for expected in 3..6u8 {
            let got = queue.get_no_ack().await?.ok_or("no message")?;
            assert_eq!(got.delivery.body(), [expected]);
        }
        assert!(queue.get_no_ack().await?.is_none());
    }

    async fn settling_a_recovered_delivery_does_nothing(world) {
        let (channel, queue) = world.queue().await?;
        for number in 0..6u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let mut before = Vec::new();
        for _ in 0..6 {
            before.push(next(&mut consumer).await?);
        }
        channel.basic_recover().await?;
        let stale = channel.connection().health().stale;
        let mut before = before.into_iter();
        let mut take = || before.next().ok_or("it was taken");
        take()?.ack()?;
        take()?.nack(false)?;
        take()?.reject(false)?;
        take()?.ack_up_to()?;
        take()?.nack_up_to(false)?;
        drop(take()?);
        assert_eq!(channel.connection().health().stale - stale, 5);
        for _ in 0..6 {
            let again = next(&mut consumer).await?;
            assert!(again.redelivered());
            again.ack()?;
        }
        consumer.cancel().await?;
        assert_eq!(queue.purge().await?, 0);
    }

    async fn recover_brings_everything_again(world) {
        let (channel, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        queue.publish(&Message::new("m")).await?;
        let first = next(&mut consumer).await?;
        assert!(!first.redelivered());
        channel.basic_recover().await?;
        let second = next(&mut consumer).await?;
        assert!(second.redelivered());
        first.ack()?;
        channel.basic_recover().await?;
        let third = next(&mut consumer).await?;
        second.ack()?;
        third.ack()?;
        assert_eq!(channel.queue_declare_passive(queue.name()).await?.message_count(), 0);
    }

    async fn rejected_messages_are_dropped_or_requeued(world) {
        let (_, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        queue.get().await?.ok_or("no message")?.delivery.reject(true)?;
        let again = queue.get().await?.ok_or("no message")?;
        assert!(again.delivery.redelivered());
        again.delivery.reject(false)?;
        assert!(queue.get().await?.is_none());
    }

    async fn publishing_to_a_missing_exchange_ends_the_channel(world) {
        let channel = world.channel().await?;
        let missing = name("missing");
        let route = Route::new(&missing, "x");
        channel.basic_publish(&route, &RawProperties::EMPTY, "lost").await?;
        let reason = channel.closed().await;
        let close = reason.as_close().ok_or("no close")?;
        assert_eq!((close.reply_code.0, close.method()), (404, Some("basic.publish")));
        let later = channel.basic_publish(&route, &RawProperties::EMPTY, "later").await;
        assert_eq!(later, Err(reason.into()));
    }

    async fn bodies_can_be_any_type_that_holds_bytes(world) {
        let (channel, queue) = world.queue().await?;
        let to = queue.name().clone();
        let route = Route::queue(&to);
        let none = RawProperties::EMPTY;
        channel.basic_publish(&route, &none, "str").await?;
        channel.basic_publish(&route, &none, String::from("str")).await?;
        channel.basic_publish(&route, &none, b"str").await?;
        channel.basic_publish(&route, &none, &b"str"[..]).await?;
        channel.basic_publish(&route, &none, b"str".to_vec()).await?;
        channel.basic_publish(&route, &none, Bytes::from("str")).await?;
        for _ in 0..6 {
            let got = queue.get_no_ack().await?.ok_or("no message")?;
            assert_eq!(got.delivery.body(), b"str");
        }
    }

    async fn a_property_that_is_too_long_is_named(world) {
        let (_, queue) = world.queue().await?;
        let properties = MessageProperties::new().message_id("x".repeat(256));
        let error = Message::new("m").with(&properties).expect_err("too long");
        assert_eq!(error.what, "message_id");
        let huge = FieldTable::new().with("x", "y".repeat(200_000))?;
        let message = Message::new("m").with(&MessageProperties::new().headers(huge))?;
        let error = queue.publish(&message).await.expect_err("too large");
        assert!(error.to_string().contains("frame_max is 131072"), "{error}");
        queue.publish(&Message::new("fits")).await?;
        assert_eq!(queue.get_no_ack().await?.ok_or("no message")?.delivery.body(), b"fits");
    }
}
