use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishOutcome, Published, Settled, Source,
};
use amqp_client_core::proto::{Delivery, RawProperties, Route};
use amqp_client_core::{
    ConfirmError, ConsumeOptions, FieldTable, Message, MessageProperties, OnLoss, PublisherOptions,
    SendError,
};

use super::{behaviours, name, next, temporary};

/// Numbers all messages, in a header, and counts outcomes.
#[derive(Clone, Default)]
struct Numbers {
    published: Arc<AtomicU64>,
    confirmed: Arc<AtomicU64>,
    returned: Arc<AtomicU64>,
    settled: Arc<Mutex<Vec<(String, Settled)>>>,
}

impl Intercept for Numbers {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let number = self.published.fetch_add(1, Ordering::Relaxed);
        message.insert_header("x-number", i64::try_from(number).ok()?).ok()?;
        Some(Box::new(self.clone()))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let (Source::Consumer { queue, .. } | Source::Get { queue, .. }) = from else {
            return None;
        };
        let number = delivery.properties().header("x-number").ok().flatten()?.as_i64()?;
        Some(Box::new(Settles(self.clone(), format!("{queue} {number}"))))
    }
}

impl Published for Numbers {
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
        match outcome {
            PublishOutcome::Confirmed => self.confirmed.fetch_add(1, Ordering::Relaxed),
            PublishOutcome::Failed(ConfirmError::Returned(_)) => {
                self.returned.fetch_add(1, Ordering::Relaxed)
            }
            _ => 0,
        };
    }
}

struct Settles(Numbers, String);

impl Processing for Settles {
    fn settled(self: Box<Self>, how: Settled) {
        let Self(numbers, message) = *self;
        numbers.settled.lock().expect("nobody panics under it").push((message, how));
    }
}

behaviours! {
    async fn an_interceptor_sees_each_message(world) {
        let numbers = Numbers::default();
        let connection = world.open(world.target().intercept(numbers.clone())).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare(name("intercepted"), temporary()).await?;
        let (key, body) = (queue.name().clone(), vec![7; 3000]);

        // Each way to publish, with and without headers of its own.
        let headers = FieldTable::new().with("own", "header")?;
        let properties = MessageProperties::new().headers(headers).message_id("id");
        let own = Message::new(body.clone()).with(&properties)?;
        let unwatched = connection.open_channel().await?;
        unwatched.basic_publish(&Route::queue(&key), &properties.encode()?, &body).await?;
        let ready = unwatched.prepare(&Route::queue(&key), &RawProperties::EMPTY)?;
        unwatched.basic_publish_prepared(&ready, &body).await?;
        unwatched.basic_publish_all(&ready, [&body; 2]).await?;
        unwatched.close().await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        publisher.send(&key, &body).await?;
        publisher.send_message(&key, &own).await?;
        publisher.try_publish(&key, body.clone())?.await?;
        let ready = publisher.prepare(&key)?;
        ready.send(&body).await?;
        ready.publish_all([&body; 3]).await?.await?;
        let keeps = PublisherOptions::new().on_loss(OnLoss::Keep);
        channel.default_exchange().publisher(keeps)?.send(&key, &body).await?;
        let returned = publisher.send(name("nowhere"), &body).await;
        assert!(matches!(returned, Err(SendError::NotConfirmed(ConfirmError::Returned(_)))));
        assert_eq!(numbers.published.load(Ordering::Relaxed), 13);
        // The connection's task reports outcomes, in a thread of its own on some runtimes. It replies to this request behind them.
        channel.queue_declare(&key, temporary()).await?;
        assert_eq!(numbers.confirmed.load(Ordering::Relaxed), 8);
        assert_eq!(numbers.returned.load(Ordering::Relaxed), 1);

        // Each message has arrived once, with its number and whatever else it had.
        let got = queue.get().await?.ok_or("the queue is empty")?;
        assert_eq!(got.delivery.message_properties()?.message_id.as_deref(), Some("id"));
        assert!(got.delivery.properties().header("own")?.is_some());
        assert_eq!(got.delivery.body(), body);
        got.delivery.ack()?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for _ in 1..11 {
            next(&mut consumer).await?.ack()?;
        }
        drop(next(&mut consumer).await?);
        next(&mut consumer).await?.reject(false)?;
        let settled = numbers.settled.lock().expect("nobody panics under it").clone();
        let acked = (0..11).map(|number| (number, Settled::Acked));
        let last = [(11, Settled::Dropped), (11, Settled::Rejected { requeue: false })];
        let expected = acked.chain(last).map(|(number, how)| (format!("{key} {number}"), how));
        assert_eq!(settled, expected.collect::<Vec<_>>());
        connection.close().await?;
    }
}
