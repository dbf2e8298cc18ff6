use amqp_client_core::proto::Limits;
use amqp_client_core::{
    CallError, ConfirmError, ConsumeOptions, Counters, Overflow, PublisherOptions, SendError,
};

use super::{behaviours, name, next, temporary};

/// Returns the counters that the broker's actions change, by name.
fn of_messages(counters: &Counters) -> Vec<(&'static str, u64)> {
    let others = ["requests", "channels", "bytes_", "reads", "writes"];
    let own = |name: &str| !others.iter().any(|other| name.starts_with(other));
    counters.iter().filter(|(name, count)| *count > 0 && own(name)).collect()
}

behaviours! {
    async fn the_counters_say_what_became_of_each_message(world) {
        let limits = Limits::default().body_max(1000);
        let connection = world.open(world.target().limits(limits)).await?;
        let channel = connection.open_channel().await?;
        let full = temporary().max_length(1).overflow(Overflow::RejectPublish);
        let full = channel.queue_declare("", full).await?;
        let queue = channel.queue_declare("", temporary()).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;

        publisher.send(&full.name().to_string(), "fits").await?;
        let refused = publisher.send(&full.name().to_string(), "does not").await;
        assert!(matches!(refused, Err(SendError::NotConfirmed(ConfirmError::Nacked))), "{refused:?}");
        let returned = publisher.send(name("nowhere"), "returned").await;
        assert!(matches!(returned, Err(SendError::NotConfirmed(ConfirmError::Returned(_)))));
        for body in ["1", "2", "3"] {
            publisher.send(&queue.name().to_string(), body).await?;
        }

        queue.get().await?.ok_or("it is there")?.delivery.ack()?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let second = next(&mut consumer).await?;
        next(&mut consumer).await?.reject(false)?;
        second.nack(true)?;
        let again = next(&mut consumer).await?;
        assert!(again.redelivered());
        again.ack()?;
        consumer.cancel().await?;

        publisher.send(&queue.name().to_string(), vec![0; 2000]).await?;
        let Err(CallError::Unusable { delivery_tag, .. }) = queue.get().await else {
            panic!("it is above the limit")
        };
        channel.basic_reject(delivery_tag, false)?;

        let expected = [
            ("published", 7),
            ("published_bytes", 4 + 8 + 8 + 3 + 2000),
            ("confirmed", 5),
            ("nacked", 1),
            ("returned", 1),
            ("delivered", 3),
            ("delivered_bytes", 3),
            ("got", 1),
            ("redelivered", 1),
            ("unusable", 1),
            ("acked", 2),
            ("rejected", 2),
            ("requeued", 1),
        ];
        assert_eq!(of_messages(&channel.counters()), expected);
        assert_eq!(of_messages(&connection.counters()), expected);
        let counters = connection.counters();
        assert_eq!(counters.confirm_times.count(), 7);
        // Two declarations, the selection of confirms, two fetches, a consumer, and its end.
        assert_eq!((counters.requests, counters.channels_opened), (7, 1));

        // They outlive the channel and the connection.
        channel.close().await?;
        connection.close().await?;
        assert_eq!(of_messages(&channel.counters()), expected);
        assert_eq!(of_messages(&connection.counters()), expected);
        assert_eq!(connection.counters().channels_closed, 1);
    }
}
