use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{
    ChannelEvent, ConfirmError, ConsumeOptions, MessageProperties, Overflow, PublishError,
    PublisherOptions,
};
use bytes::Bytes;

use super::{behaviours, name, next, temporary};

/// Bodies of sizes around those at which something else happens: none, copied, not copied, more than a frame.
fn bodies() -> Vec<Bytes> {
    let sizes = [0, 1, 255, 256, 2047, 2048, 2049, 131_063, 131_064, 131_065, 300_000];
    sizes.iter().map(|size| (0..*size).map(|byte| byte as u8).collect()).collect()
}

behaviours! {
    async fn prepared_messages_arrive_like_others(world) {
        let (channel, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let properties = MessageProperties::new().message_id("same").persistent();
        let message = channel.prepare(&Route::queue(queue.name()), &properties.encode()?)?;
        for body in bodies() {
            channel.basic_publish_prepared(&message, &body).await?;
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), body);
            assert_eq!(delivery.routing_key(), *queue.name());
            let properties = delivery.message_properties()?;
            assert_eq!(properties.message_id.as_deref(), Some("same"));
        }
        channel.basic_publish_all(&message, bodies()).await?;
        for body in bodies() {
            assert_eq!(next(&mut consumer).await?.body(), body);
        }
        // It fits other channels, too.
        let other = world.channel().await?;
        other.basic_publish_prepared(&message, "from another channel").await?;
        assert_eq!(next(&mut consumer).await?.body(), b"from another channel");
    }

    async fn prepared_messages_are_confirmed(world) {
        let (channel, queue) = world.queue().await?;
        let options = PublisherOptions::new().window(100, usize::MAX);
        let publisher = channel.default_exchange().publisher(options)?;
        let prepared = publisher.prepare(queue.name().to_string())?;
        prepared.send("one").await?;
        let second = prepared.publish("two").await?;
        assert_eq!(second.seq().map(|seq| seq.get()), Some(2));
        second.await?;
        prepared.try_publish("three")?.await?;
        // Many more than the window, and than are sent under one lock.
        let bodies: Vec<_> = (4..3000u32).map(|number| number.to_string()).collect();
        let confirmations = prepared.publish_all(&bodies).await?;
        assert_eq!(confirmations.len(), bodies.len());
        confirmations.await?;
        assert!(prepared.publish_all(Vec::<Bytes>::new()).await?.is_empty());
        let counted = channel.queue_declare_passive(queue.name()).await?;
        assert_eq!(counted.message_count(), 2999);
        let first = queue.get_no_ack().await?.ok_or("the queue is empty")?;
        assert_eq!(first.delivery.body(), b"one");
    }

    async fn each_of_several_messages_has_its_own_outcome(world) {
        let channel = world.channel().await?;
        let options = temporary().max_length(2).overflow(Overflow::RejectPublish);
        let queue = channel.queue_declare(name("full"), options).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let prepared = publisher.prepare(queue.name().to_string())?;
        let mut verdicts = Vec::new();
        for confirmation in prepared.publish_all(["a", "b", "c", "d"]).await? {
            verdicts.push(confirmation.await);
        }
        let nacked = Err(ConfirmError::Nacked);
        assert_eq!(verdicts, [Ok(()), Ok(()), nacked.clone(), nacked.clone()]);
        assert_eq!(prepared.publish_all(["e", "f"]).await?.await, nacked);
    }

    async fn prepared_mandatory_messages_are_returned(world) {
        let channel = world.channel().await?;
        let mut events = channel.events();
        let options = PublisherOptions::new();
        let publisher = channel.default_exchange().publisher(options)?;
        let nowhere = name("nowhere");
        let error = publisher.prepare(&nowhere)?.publish_all(["boomerang"]).await?.await;
        let Err(ConfirmError::Returned(returned)) = error else { panic!("{error:?}") };
        assert_eq!((&returned.routing_key, &returned.body[..]), (&(*nowhere).try_into()?, &b"boomerang"[..]));
        assert_eq!(events.next().await, Some(ChannelEvent::Returned(returned)));
    }

    async fn prepared_messages_fail_with_their_channel(world) {
        let (channel, queue) = world.queue().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        let prepared = publisher.prepare(queue.name().to_string())?;
        channel.close().await?;
        let error = prepared.publish_all(["6"]).await.expect_err("the channel is closed");
        assert!(matches!(error.error, PublishError::Ended(_)) && error.sent.is_empty());
        let prepared = channel.prepare(&Route::queue("q"), &RawProperties::EMPTY)?;
        assert!(channel.basic_publish_all(&prepared, ["7"]).await.is_err());
        assert!(channel.basic_publish_prepared(&prepared, "7").await.is_err());
        assert!(channel.prepare(&Route::queue(&"q".repeat(256)), &RawProperties::EMPTY).is_err());
    }

    async fn making_bodies_may_use_the_channel(world) {
        let (channel, queue) = world.queue().await?;
        let message = channel.prepare(&Route::queue(queue.name()), &RawProperties::EMPTY)?;
        let bodies = (0..600).map(|number| {
            assert!(channel.is_open());
            number.to_string()
        });
        channel.basic_publish_all(&message, bodies).await?;
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        for number in 0..600 {
            assert_eq!(next(&mut consumer).await?.body(), number.to_string().as_bytes());
        }
    }
}
