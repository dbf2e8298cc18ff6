use std::time::Duration;

use amqp_client_core::{CallError, ConsumeOptions, Message};
use futures_util::FutureExt as _;

use super::{behaviours, name, next, temporary};

behaviours! {
    async fn a_dropped_reply_does_not_reach_the_next_caller(world) {
        let channel = world.channel().await?;
        for _ in 0..50 {
            let (first, second) = (name("first"), name("second"));
            drop(channel.queue_declare(&first, temporary()));
            let mut polled = channel.queue_declare(name("polled"), temporary());
            // A fast broker may have replied already; either way nobody takes the reply.
            let _polled_once = (&mut polled).now_or_never();
            drop(polled);
            let queue = channel.queue_declare(&second, temporary()).await?;
            assert_eq!(queue.name(), &*second);
        }
    }

    async fn a_consumer_whose_future_is_dropped_is_cancelled(world) {
        let (channel, queue) = world.queue().await?;
        for number in 0..10u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        drop(queue.consume(ConsumeOptions::new()));
        let answered = queue.consume(ConsumeOptions::new());
        // It has its reply before it is dropped: the next reply comes after it.
        channel.basic_qos(0).await?;
        drop(answered);
        let mut counted = channel.queue_declare_passive(queue.name()).await?;
        while counted.consumer_count() > 0 || counted.message_count() < 10 {
            counted = channel.queue_declare_passive(queue.name()).await?;
        }
    }

    async fn a_message_whose_future_is_dropped_is_requeued(world) {
        let (channel, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        drop(queue.get());
        let answered = queue.get();
        channel.basic_qos(0).await?;
        drop(answered);
        let got = loop {
            if let Some(got) = queue.get().await? {
                break got;
            }
        };
        assert!(got.delivery.redelivered());
        got.delivery.ack()?;
    }

    async fn a_channel_whose_future_is_dropped_is_closed(world) {
        let uri = format!("{}?channel_max=1", world.uri);
        let connection = world.open(uri.parse()?).await?;
        drop(connection.open_channel());
        let channel = loop {
            match connection.open_channel().await {
                Ok(channel) => break channel,
                Err(_) => connection.update_secret("guest", "round trip").await?,
            }
        };
        channel.basic_qos(1).await?;
    }

    async fn dropping_the_wait_for_a_delivery_loses_nothing(world) {
        let (_, queue) = world.queue().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        assert!(consumer.next().now_or_never().is_none());
        for number in 0..100u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        for number in 0..100u8 {
            let delivery = match consumer.next().now_or_never() {
                Some(delivery) => delivery.ok_or("ended")??,
                None => next(&mut consumer).await?,
            };
            assert_eq!(delivery.body(), [number]);
            delivery.ack()?;
        }
    }

    async fn a_request_that_timed_out_leaves_the_channel_usable(world) {
        let channel = world.channel().await?;
        let declare = channel.queue_declare(name("late"), temporary()).timeout(Duration::ZERO);
        match declare.await {
            Err(CallError::TimedOut { method: "queue.declare", after: Duration::ZERO }) => {}
            // The broker was faster than no time at all.
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        channel.basic_qos(1).await?;
    }
}
