use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amqp_client_core::proto::method::{BasicCancel, BasicQos};
use amqp_client_core::proto::{DecodeErrorKind, Misuse, Oversized, RawProperties, ReplyCode};
use amqp_client_core::{
    BrokerVersion, CallError, ChannelEvent, ConfirmError, Connection, ConsumeOptions, ConsumerEnd,
    Limits, Message, OnPanic, PublisherOptions, QueueOptions, QueueType, Settings,
};
use futures_util::StreamExt as _;

use super::{assert_refused, behaviours, name, next, temporary};

/// Returns whether the broker encodes the properties of messages anew, without flags that it does not know: RabbitMQ 4 does
/// (seen with 4.3.6), 3.10 passes them on as they are.
fn drops_unknown_flags(connection: &Connection) -> bool {
    connection.broker_version() >= Some(BrokerVersion::rabbitmq(4, 0, 0))
}

behaviours! {
    async fn a_large_body_is_kept_in_the_parts_in_which_it_arrives(world) {
        let limits = Limits::default().frame_max(8192).body_chunks(true);
        let connection = world.open(world.target().limits(limits)).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), temporary()).await?;
        let body: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
        for _ in 0..2 {
            queue.publish_confirmed(&Message::new(body.clone())).await?;
        }
        let got = queue.get().await?.ok_or("the queue is empty")?.delivery;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for delivery in [got, next(&mut consumer).await?] {
            let chunks = delivery.body_chunks();
            assert_eq!((chunks.len(), chunks.concat()), (body.len().div_ceil(8184), body.clone()));
            assert_eq!((delivery.body_len(), delivery.body()), (body.len(), &body[..]));
            delivery.ack()?;
        }
        // Nothing of it is counted any more, although its body was put together meanwhile.
        assert_eq!(connection.health().delivered_bytes, 0);
    }

    async fn a_consumer_that_takes_nothing_blocks_no_other(world) {
        const BUDGET: usize = 256 * 1024;
        let settings = Settings::default().delivery_budget(BUDGET);
        let connection = world.open(world.target().settings(settings)).await?;
        let (channel, other) = (connection.open_channel().await?, connection.open_channel().await?);
        let queue = channel.queue_declare(name("q"), QueueOptions::new().auto_delete(true)).await?;
        // No prefetch limit, no acknowledgements: nothing else bounds it.
        let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let options = PublisherOptions::new();
        let publisher = world.channel().await?.default_exchange().publisher(options)?;
        for _ in 0..100 {
            publisher.send(&queue.name().to_string(), vec![0; 16 * 1024]).await?;
        }
        for _ in 0..20 {
            other.queue_declare_passive(queue.name()).await?;
            // The broker's reply comes after deliveries, so reading continues for it, and no further than that.
            let held = connection.health().delivered_bytes;
            assert!(held < 9 * BUDGET, "{held}");
        }
        for _ in 0..100 {
            assert_eq!(next(&mut consumer).await?.body().len(), 16 * 1024);
        }
        assert_eq!(connection.health().delivered_bytes, 0);
    }

    async fn a_consumer_that_takes_nothing_is_paused_and_gets_everything_in_the_end(world) {
        const COUNT: u32 = 512;
        for quorum in [false, true] {
            let settings = Settings::default().delivery_budget(1024 * 1024);
            let connection = world.open(world.target().settings(settings)).await?;
            let (channel, other) = (connection.open_channel().await?, connection.open_channel().await?);
            let queue_type = if quorum { QueueType::Quorum } else { QueueType::Classic };
            let options = QueueOptions::new().queue_type(queue_type);
            let queue = channel.queue_declare(name("q"), options).await?;
            let publisher = world.channel().await?.default_exchange().publisher(PublisherOptions::new())?;
            let target = queue.name().to_string();
            let body = |number: u32| {
                let mut body = vec![0; 32 * 1024];
                body[..4].copy_from_slice(&number.to_be_bytes());
                body
            };
            // Together: a confirm takes long where messages are written to disk.
            let sent = (0..COUNT).map(|number| publisher.send(&target, body(number)));
            futures_util::future::try_join_all(sent).await?;
            let mut events = channel.events();
            // No prefetch limit: the broker sends 16 MiB, and nobody takes them.
            let mut lags = queue.consume(ConsumeOptions::new()).await?;
            let tag = lags.tag().clone();
            let work = other.queue_declare(name("work"), temporary()).await?;
            let mut works = work.consume(ConsumeOptions::new()).await?;
            for number in 0..20u8 {
                publisher.send(&work.name().to_string(), vec![number]).await?;
                let delivery = next(&mut works).await?;
                assert_eq!(delivery.body(), [number]);
                delivery.ack()?;
            }
            loop {
                let event = events.next().await.ok_or("the channel is open")?;
                if event == (ChannelEvent::ConsumerPaused { consumer_tag: tag.clone() }) {
                    break;
                }
            }
            // Now it takes everything. What comes twice is marked.
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < COUNT as usize {
                let delivery = next(&mut lags).await?;
                let number = u32::from_be_bytes(delivery.body()[..4].try_into()?);
                assert!(seen.insert(number), "{number} comes twice");
                delivery.ack()?;
            }
            lags.cancel().await?;
            assert!(lags.next().await.is_none());
            connection.close().await?;
            let channel = world.channel().await?;
            let left = channel.queue_declare_passive(&target).await?;
            assert_eq!(left.message_count(), 0);
            left.delete().await?;
        }
    }

    async fn handlers_that_panic_are_contained(world) {
        let channel = world.channel().await?;
        let dead = channel.queue_declare(name("dead"), temporary()).await?;
        let options = temporary()
            .dead_letter_exchange("")
            .dead_letter_routing_key(dead.name().to_string());
        let queue = channel.queue_declare(name("q"), options).await?;
        for number in 0..6u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        let mut events = channel.events();
        let consumer = queue.consume(ConsumeOptions::new()).await?.on_panic(OnPanic::Reject);
        let tag = consumer.tag().clone();
        let (mut left, canceller) = (3, channel.clone());
        consumer.for_each_concurrent(2, |delivery| {
            let number = delivery.body()[0];
            assert!(number != 0, "at once");
            left -= u8::from(number % 2 == 1);
            let cancel = (left == 0).then(|| canceller.basic_cancel(&tag));
            async move {
                assert!(number % 2 == 1, "later");
                assert!(delivery.ack().is_ok());
                if let Some(cancel) = cancel {
                    assert!(cancel.await.is_ok());
                }
            }
        }).await?;
        let mut died = Vec::new();
        let mut consumer = dead.consume(ConsumeOptions::new()).await?;
        while died.len() < 3 {
            let delivery = next(&mut consumer).await?;
            died.push(delivery.body()[0]);
            delivery.ack()?;
        }
        died.sort_unstable();
        assert_eq!(died, [0, 2, 4]);
        let mut texts = Vec::new();
        while texts.len() < 3 {
            if let Some(ChannelEvent::HandlerPanicked { text, .. }) = events.next().await {
                texts.push(text);
            }
        }
        texts.sort_unstable();
        assert_eq!(texts, ["at once", "later", "later"]);
    }

    async fn a_consumer_need_not_wait_for_the_broker(world) {
        let (channel, queue) = world.queue().await?;
        let options = ConsumeOptions::new().consumer_tag("at once");
        let mut consumer = channel.basic_consume_no_wait(queue.name(), options)?;
        assert_eq!(consumer.tag(), "at once");
        queue.publish(&Message::new("here")).await?;
        let delivery = super::next(&mut consumer).await?;
        assert_eq!(delivery.body(), b"here");
        delivery.ack()?;
        consumer.cancel().await?;
        assert!(consumer.next().await.is_none());
        // A refusal ends the channel, and with it the consumer.
        let mut refused = channel.basic_consume_no_wait(super::name("missing"), ConsumeOptions::new())?;
        let end = refused.next().await.ok_or("it ended quietly")?.expect_err("there is no queue");
        let ConsumerEnd::Ended(reason) = end else { panic!("{end:?}") };
        assert_eq!(reason.as_close().map(|close| close.reply_code.0), Some(404));
    }

    async fn deliveries_arrive_in_order_and_complete(world) {
        let (channel, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new().consumer_tag("me")).await?;
        assert_eq!(*consumer.tag(), "me");
        for number in 0..1000u32 {
            queue.publish(&Message::new(number.to_string())).await?;
        }
        for number in 0..1000u32 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), number.to_string().as_bytes());
            assert_eq!(delivery.delivery_tag().get(), u64::from(number) + 1);
            assert_eq!(delivery.consumer_tag(), "me");
            assert_eq!(delivery.routing_key(), *queue.name());
            assert!(delivery.exchange().is_empty() && !delivery.redelivered());
            delivery.ack()?;
        }
        consumer.cancel().await?;
        assert!(consumer.next().await.is_none());
        let left = channel.queue_declare_passive(queue.name()).await?;
        assert_eq!((left.message_count(), left.consumer_count()), (0, 0));
    }

    async fn a_consumer_is_a_stream(world) {
        let (_, queue) = world.queue().await?;
        for number in 0..10u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        let consumer = queue.consume(ConsumeOptions::new().no_ack(true)).await?;
        let bodies: Vec<_> = consumer
            .take(10)
            .map(|delivery| delivery.map(|delivery| delivery.body().to_vec()))
            .collect()
            .await;
        let bodies = bodies.into_iter().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(bodies.concat(), (0..10).collect::<Vec<u8>>());
    }

    async fn prefetch_limits_unacknowledged_deliveries(world) {
        let (channel, queue) = world.queue().await?;
        for number in 0..5u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        channel.basic_qos(2).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let first = next(&mut consumer).await?;
        let _second = next(&mut consumer).await?;
        let ready = world.channel().await?.queue_declare_passive(queue.name()).await?;
        assert_eq!(ready.message_count(), 3);
        assert!(consumer.try_next().is_none());
        first.ack()?;
        assert_eq!(next(&mut consumer).await?.body(), [2]);
    }

    async fn a_consumer_has_its_own_prefetch_limit_and_later_ones_have_that_of_the_channel(world) {
        for channel_limit in [None, Some(2)] {
            let channel = world.channel().await?;
            let mut queues = Vec::new();
            for _ in 0..4 {
                let queue = channel.queue_declare("", super::temporary()).await?;
                for number in 0..5u8 {
                    queue.publish(&Message::new(vec![number])).await?;
                }
                queues.push(queue);
            }
            if let Some(limit) = channel_limit {
                channel.basic_qos(limit).await?;
            }
            // Queues of this type start their consumers without the channel.
            let options = QueueOptions::new().queue_type(QueueType::Quorum);
            let quorum = channel.queue_declare(name("quorum"), options).await?;
            for number in 0..5u8 {
                quorum.publish_confirmed(&Message::new(vec![number])).await?;
            }
            queues.insert(0, quorum.clone());
            let tag = |tag| ConsumeOptions::new().consumer_tag(tag);
            // All at once: the broker takes them in their order.
            let starts = [
                quorum.consume(tag("quorum").prefetch(4)),
                queues[1].consume(tag("own").prefetch(1)),
                queues[2].consume(tag("the channel's")),
                queues[3].consume(tag("none").prefetch(0)),
            ];
            let mut consumers = Vec::new();
            for start in starts {
                consumers.push(start.await?);
            }
            // One that is not started changes nothing.
            let refused = queues[4].consume(tag("own").prefetch(4)).await.expect_err("in use");
            assert_eq!(refused, CallError::Misuse(Misuse::ConsumerTagInUse));
            let own = tag("at once").prefetch(3);
            consumers.push(channel.basic_consume_no_wait(queues[4].name(), own)?);
            let limits = [4, 1, channel_limit.unwrap_or(5), 5, 3];
            let mut held = Vec::new();
            for (consumer, limit) in consumers.iter_mut().zip(limits) {
                for _ in 0..limit {
                    held.push(next(consumer).await?);
                }
            }
            for (queue, limit) in queues.iter().zip(limits).skip(1) {
                let ready = world.channel().await?.queue_declare_passive(queue.name()).await?;
                assert_eq!(ready.message_count(), 5 - u32::from(limit));
            }
            assert!(consumers.iter_mut().all(|consumer| consumer.try_next().is_none()));
            quorum.delete().await?;
        }
    }

    async fn a_global_prefetch_limits_all_consumers_of_the_channel_together(world) {
        let (channel, one) = world.queue().await?;
        let two = channel.queue_declare("", super::temporary()).await?;
        channel.call(BasicQos { prefetch_count: 1, global: true, ..<_>::default() }).await?;
        let mut of_one = one.consume(ConsumeOptions::new()).await?;
        let mut of_two = two.consume(ConsumeOptions::new()).await?;
        one.publish(&Message::new("one")).await?;
        let held = next(&mut of_one).await?;
        two.publish(&Message::new("two")).await?;
        if channel.connection().broker_version() >= Some(BrokerVersion::rabbitmq(4, 3, 0)) {
            // The broker confirms the limit, and does not apply it.
            assert_eq!(next(&mut of_two).await?.body(), b"two");
            return Ok(());
        }
        // The channel has its one delivery: the other stays in its queue.
        let ready = world.channel().await?.queue_declare_passive(two.name()).await;
        let ready = ready?.message_count();
        assert!(of_two.try_next().is_none());
        held.ack()?;
        assert_eq!(next(&mut of_two).await?.body(), b"two");
        assert!(ready <= 1);
    }

    async fn several_consumers_of_a_channel_get_their_own_deliveries(world) {
        let (channel, one) = world.queue().await?;
        let two = channel.queue_declare("", super::temporary()).await?;
        let mut of_one = one.consume(ConsumeOptions::new().no_ack(true)).await?;
        let mut of_two = two.consume(ConsumeOptions::new().no_ack(true)).await?;
        assert_ne!(of_one.tag(), of_two.tag());
        for _ in 0..20 {
            one.publish(&Message::new("one")).await?;
            two.publish(&Message::new("two")).await?;
        }
        for _ in 0..20 {
            assert_eq!(next(&mut of_one).await?.body(), b"one");
            assert_eq!(next(&mut of_two).await?.body(), b"two");
        }
    }

    async fn a_tag_in_use_is_an_error_of_the_call_alone(world) {
        let (channel, queue) = world.queue().await?;
        let options = ConsumeOptions::new().consumer_tag("mine");
        let _consumer = queue.consume(options.clone()).await?;
        let twice = queue.consume(options).await.expect_err("in use");
        assert_eq!(twice, CallError::Misuse(Misuse::ConsumerTagInUse));
        channel.basic_qos(1).await?;
    }

    async fn an_exclusive_consumer_keeps_others_out(world) {
        let (_, queue) = world.queue().await?;
        let _only = queue.consume(ConsumeOptions::new().exclusive(true)).await?;
        let other = world.channel().await?.queue(queue.name())?;
        assert_refused(other.consume(ConsumeOptions::new()).await, 403, "basic.consume");
    }

    async fn consuming_from_nothing_is_refused(world) {
        let channel = world.channel().await?;
        let consume = channel.basic_consume(name("missing"), ConsumeOptions::new()).await;
        assert_refused(consume, 404, "basic.consume");
    }

    async fn a_deleted_queue_cancels_its_consumers_and_they_report_it(world) {
        let (channel, queue) = world.queue().await?;
        let mut events = channel.events();
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        queue.delete().await?;
        let end = consumer.next().await.ok_or("no end was reported")?;
        assert_eq!(end.expect_err("no message"), ConsumerEnd::Cancelled);
        assert!(consumer.next().await.is_none());
        let event = events.next().await.ok_or("no event")?;
        let consumer_tag = consumer.tag().clone();
        assert_eq!(event, ChannelEvent::ConsumerCancelled { consumer_tag });
        channel.basic_qos(1).await?;
    }

    async fn the_close_of_the_channel_ends_its_consumers_with_the_reason(world) {
        let (channel, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let missing = channel.queue_declare_passive(name("missing")).await;
        assert_refused(missing, 404, "queue.declare");
        let end = consumer.next().await.ok_or("no end was reported")?;
        let ConsumerEnd::Ended(error) = end.expect_err("no message") else { panic!("cancelled") };
        let code = error.as_close().map(|close| close.reply_code);
        assert_eq!(code, Some(ReplyCode::NOT_FOUND));
        assert!(consumer.next().await.is_none());
    }

    async fn a_consumer_ends_however_it_is_cancelled(world) {
        let (channel, queue) = world.queue().await?;
        for way in 0..5 {
            queue.publish(&Message::new("m")).await?;
            let mut consumer = queue.consume(ConsumeOptions::new()).await?;
            next(&mut consumer).await?.ack()?;
            let consumer_tag = consumer.tag().clone();
            match way {
                0 => consumer.cancel().await?,
                1 => drop(consumer.cancel()),
                2 => drop(consumer.cancel().timeout(Duration::ZERO).await),
                3 => drop(channel.call(BasicCancel { consumer_tag, no_wait: false }).await?),
                _ => channel.call_no_wait(BasicCancel { consumer_tag, no_wait: true })?,
            }
            assert!(consumer.next().await.is_none(), "way {way}");
            assert!(consumer.next().await.is_none(), "way {way}");
        }
        // Later deliveries are left to others.
        queue.publish(&Message::new("m")).await?;
        while queue.get_no_ack().await?.is_none() {}
    }

    async fn a_cancel_that_is_looked_at_late_ends_no_other_consumer(world) {
        let (channel, queue) = world.queue().await?;
        let first = queue.consume(ConsumeOptions::new().consumer_tag("same")).await?;
        let cancel = first.cancel();
        // Answered, but nobody has looked.
        channel.basic_qos(0).await?;
        let mut second = loop {
            // RabbitMQ's queue replies to the cancel asynchronously.
            match queue.consume(ConsumeOptions::new().consumer_tag("same")).await {
                Err(CallError::Misuse(Misuse::ConsumerTagInUse)) => channel.basic_qos(0).await?,
                consumer => break consumer?,
            }
        };
        cancel.await?;
        queue.publish(&Message::new("m")).await?;
        assert_eq!(next(&mut second).await?.body(), b"m");
    }

    // A handle of a consumer that has ended has the tag of another one.
    async fn a_cancel_of_an_ended_consumer_ends_no_other_one(world) {
        let (_channel, queue) = world.queue().await?;
        let options = || ConsumeOptions::new().consumer_tag("same");
        let first = queue.consume(options()).await?;
        first.cancel().await?;
        let mut second = queue.consume(options()).await?;
        first.cancel().await?;
        queue.publish(&Message::new("m")).await?;
        next(&mut second).await?.ack()?;
        drop(first);
        queue.publish(&Message::new("n")).await?;
        assert_eq!(next(&mut second).await?.body(), b"n");
    }

    async fn deliveries_before_a_cancel_can_still_be_taken(world) {
        let (_, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for _ in 0..5 {
            queue.publish(&Message::new("m")).await?;
        }
        next(&mut consumer).await?.ack()?;
        consumer.cancel().await?;
        let mut taken = 1;
        while let Some(delivery) = consumer.next().await {
            delivery?.ack()?;
            taken += 1;
        }
        let left = world.channel().await?.queue_declare_passive(queue.name()).await?;
        assert_eq!(taken + left.message_count(), 5);
    }

    async fn a_dropped_delivery_is_requeued(world) {
        let (_, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        drop(next(&mut consumer).await?);
        let again = next(&mut consumer).await?;
        assert!(again.redelivered());
        again.ack()?;
    }

    async fn a_dropped_consumer_requeues_untaken_deliveries(world) {
        let (channel, queue) = world.queue().await?;
        for _ in 0..10 {
            queue.publish(&Message::new("m")).await?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let first = next(&mut consumer).await?;
        drop(consumer);
        first.ack()?;
        // Deliveries in flight at that time are requeued when they arrive.
        let mut left = channel.queue_declare_passive(queue.name()).await?;
        while (left.message_count(), left.consumer_count()) != (9, 0) {
            left = channel.queue_declare_passive(queue.name()).await?;
        }
    }

    async fn a_message_kept_beyond_its_delivery_can_be_acknowledged_by_number(world) {
        let (channel, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        let message = queue.get().await?.ok_or("no message")?.delivery.into_message();
        assert_eq!(message.body(), b"m");
        channel.basic_ack(message.delivery_tag())?;
        assert_eq!(channel.queue_declare_passive(queue.name()).await?.message_count(), 0);
    }

    async fn a_message_whose_headers_cannot_be_read_arrives_all_the_same(world) {
        let (channel, queue) = world.queue().await?;
        // 40 levels of tables, which RabbitMQ takes, and a flag that no property belongs to.
        let deep = (1..40).fold(Vec::new(), |inner: Vec<u8>, _| {
            let length = u32::try_from(inner.len()).unwrap_or(u32::MAX).to_be_bytes();
            [&b"\x01kF"[..], &length, &inner].concat()
        });
        let length = u32::try_from(deep.len())?.to_be_bytes();
        let too_deep = [&b"\x30\x80"[..], &length, &deep, b"\x02\x02id"].concat();
        let unknown = b"\0\x02".to_vec();
        let mut cases = vec![(too_deep, DecodeErrorKind::TooDeep)];
        if drops_unknown_flags(channel.connection()) {
            let message = Message::new("body").with_encoded(RawProperties::unchecked(unknown.into()));
            queue.publish(&message).await?;
            let got = queue.get_no_ack().await?.ok_or("no message")?.delivery;
            assert_eq!((got.body(), got.properties().as_encoded()), (&b"body"[..], &[0, 0][..]));
        } else {
            cases.push((unknown, DecodeErrorKind::UnknownProperty(2)));
        }
        for (properties, error) in cases {
            let malformed = RawProperties::unchecked(properties.clone().into());
            let message = Message::new("body").with_encoded(malformed);
            let mut consumer = queue.consume(ConsumeOptions::new()).await?;
            queue.publish(&message).await?;
            let delivery = next(&mut consumer).await?;
            consumer.cancel().await?;
            assert_eq!(delivery.body(), b"body");
            assert_eq!(delivery.properties().as_encoded(), properties);
            let refused = delivery.message_properties().expect_err("they are malformed");
            assert_eq!(refused.kind(), error);
            assert_eq!(delivery.properties().headers(), Err(refused));
            // It can be passed on as it is, and comes to a get, too.
            let message = Message::new("again").with_encoded(delivery.properties());
            delivery.ack()?;
            queue.publish(&message).await?;
            let got = queue.get().await?.ok_or("no message")?.delivery;
            assert_eq!((got.body(), got.properties().as_encoded()), (&b"again"[..], &properties[..]));
            got.ack()?;
        }
        assert_eq!(channel.queue_declare_passive(queue.name()).await?.message_count(), 0);
    }

    async fn a_returned_message_with_unreadable_headers_is_recognized(world) {
        let channel = world.channel().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new().mandatory(true))?;
        let message = Message::new("m").with_encoded(RawProperties::unchecked(b"\0\x02"[..].into()));
        let confirmation = publisher.publish_message(&name("nowhere"), &message).await?;
        let Err(ConfirmError::Returned(returned)) = confirmation.await else {
            panic!("it reached a queue")
        };
        let encoded = if drops_unknown_flags(channel.connection()) { b"\0\0" } else { b"\0\x02" };
        assert_eq!((&returned.body[..], returned.properties.as_encoded()), (&b"m"[..], &encoded[..]));
    }

    async fn a_message_over_the_limit_is_held_and_the_others_come(world) {
        let target = world.target().limits(Limits::default().body_max(1000));
        let connection = world.open(target).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", super::temporary()).await?;
        let mut events = channel.events();
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        queue.publish(&Message::new(vec![0; 200_000])).await?;
        queue.publish(&Message::new("fits")).await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.body(), b"fits");
        // It means the other one no more than the application does.
        delivery.ack_up_to()?;
        let event = events.next().await.ok_or("no event")?;
        let ChannelEvent::Unusable { consumer_tag, .. } = event else { panic!("{event:?}") };
        assert_eq!(consumer_tag, *consumer.tag());
        let health = connection.health();
        assert_eq!((health.unusable, health.unsettled), (1, 0));
        // When the consumer ends it is requeued, and somebody else can have it.
        assert_eq!(channel.queue_declare_passive(queue.name()).await?.message_count(), 0);
        consumer.cancel().await?;
        while channel.queue_declare_passive(queue.name()).await?.message_count() == 0 {}
        let Err(CallError::Unusable { delivery_tag, .. }) = queue.get().await else {
            panic!("it is too large for a get as well")
        };
        channel.basic_reject(delivery_tag, true)?;
        while channel.queue_declare_passive(queue.name()).await?.message_count() == 0 {}
        assert_eq!(connection.health().unusable, 2);
        let left = connection.shutdown(Duration::from_secs(30)).await?;
        assert!(left.is_nothing(), "{left:?}");
    }

    async fn a_message_over_the_limit_is_dead_lettered_on_request(world) {
        let limits = Limits::default().body_max(1000).oversized(Oversized::Reject);
        let channel = world.open(world.target().limits(limits)).await?.open_channel().await?;
        let graveyard = channel.queue_declare("", super::temporary()).await?;
        let options = super::temporary()
            .dead_letter_exchange("")
            .dead_letter_routing_key(graveyard.name().to_string());
        let queue = channel.queue_declare("", options).await?;
        let mut events = channel.events();
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        queue.publish(&Message::new(vec![0; 200_000])).await?;
        queue.publish(&Message::new("fits")).await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.body(), b"fits");
        delivery.ack()?;
        let event = events.next().await.ok_or("no event")?;
        let ChannelEvent::Unusable { consumer_tag, why, .. } = event else { panic!("{event:?}") };
        assert_eq!(consumer_tag, *consumer.tag());
        assert!(why.to_string().contains("200000 bytes"), "{why}");
        // It was rejected, so it is not delivered again and again.
        while channel.queue_declare_passive(graveyard.name()).await?.message_count() == 0 {}
        let get = graveyard.get().await.expect_err("it is too large for a get as well");
        assert!(matches!(get, CallError::Unusable { .. }), "{get:?}");
    }

    async fn handlers_run_up_to_the_limit_at_a_time(world) {
        let (channel, queue) = world.queue().await?;
        for _ in 0..30 {
            queue.publish(&Message::new("m")).await?;
        }
        let consumer = queue.consume(ConsumeOptions::new().consumer_tag("handled")).await?;
        let (running, most, done) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let result = consumer
            .for_each_concurrent(4, async |delivery| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // A round trip, so that others get their turn.
                let alive = channel.basic_qos(10).await;
                running.fetch_sub(1, Ordering::SeqCst);
                assert!(alive.is_ok() && delivery.ack().is_ok());
                if done.fetch_add(1, Ordering::SeqCst) + 1 == 30 {
                    assert!(channel.basic_cancel("handled").await.is_ok());
                }
            })
            .await;
        assert_eq!(result, Ok(()));
        assert_eq!((done.into_inner(), most.into_inner()), (30, 4));
    }

    async fn a_handler_can_cancel_and_close_from_inside(world) {
        let (channel, queue) = world.queue().await?;
        queue.publish(&Message::new("stop")).await?;
        let consumer = queue.consume(ConsumeOptions::new().consumer_tag("inside")).await?;
        let inside = Arc::new(channel);
        let result = consumer
            .for_each_concurrent(1, |delivery| {
                let channel = inside.clone();
                async move {
                    assert!(delivery.ack().is_ok());
                    assert!(channel.basic_cancel("inside").await.is_ok());
                    assert!(channel.close().await.is_ok());
                }
            })
            .await;
        assert_eq!(result, Ok(()));
        assert!(!inside.is_open());
    }
}
