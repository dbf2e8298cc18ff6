use std::pin::pin;
use std::time::Duration;

use amqp_client_core::{
    Channel, ConsumeOptions, Consumer, Message, OnPanic, Queue, QueueOptions, QueueType,
};
use futures_util::future::{FutureExt as _, join};

use super::recovery::Scene;
use super::{Outcome, World, behaviours, name, next};

const COUNT: u32 = 10;
const PREFETCH: u16 = 5;

/// A quorum queue with a single active consumer and numbered messages.
async fn numbered(world: &World) -> Result<Queue, Box<dyn std::error::Error + Send + Sync>> {
    let channel = world.channel().await?;
    let options = QueueOptions::new().queue_type(QueueType::Quorum).single_active_consumer();
    let queue = channel.queue_declare(name("q"), options).await?;
    for number in 0..COUNT {
        queue.publish_confirmed(&Message::new(number.to_string())).await?;
    }
    Ok(queue)
}

async fn consume(
    channel: &Channel,
    queue: &Queue,
    prefetch: u16,
) -> Result<Consumer, Box<dyn std::error::Error + Send + Sync>> {
    channel.basic_qos(prefetch).await?;
    Ok(channel.basic_consume(queue.name(), ConsumeOptions::new()).await?)
}

/// Takes messages, which have to be these, and acknowledges them.
async fn expect(consumer: &mut Consumer, numbers: impl Iterator<Item = u32>) -> Outcome {
    for number in numbers {
        let delivery = next(consumer).await?;
        assert_eq!(delivery.text()?, number.to_string());
        delivery.ack()?;
    }
    Ok(())
}

behaviours! {
    async fn what_is_dropped_is_requeued_in_its_order_when_the_channel_closes(world) {
        let queue = numbered(&world).await?;
        let connection = world.connection().await?;
        let (holding, other) = (connection.open_channel().await?, connection.open_channel().await?);
        holding.hold_until_closed();
        let mut first = consume(&holding, &queue, PREFETCH).await?;
        let mut second = consume(&other, &queue, 1).await?;
        expect(&mut first, 0..1).await?;
        let (one, two) = (next(&mut first).await?, next(&mut first).await?);
        drop((two, one));
        drop(first);
        // All that the drops could have sent is at the broker before this, and the second consumer gets nothing yet.
        let waiting = COUNT - 1 - u32::from(PREFETCH);
        while holding.queue_declare_passive(queue.name()).await?.message_count() != waiting {}
        holding.close().await?;
        expect(&mut second, 1..COUNT).await?;
        queue.delete().await?;
    }

    async fn a_dropped_delivery_stays_with_its_channel(world) {
        let queue = numbered(&world).await?;
        let holding = world.connection().await?.open_channel().await?;
        holding.hold_until_closed();
        let mut consumer = consume(&holding, &queue, 1).await?;
        drop(next(&mut consumer).await?);
        // A message that was requeued would be delivered again before some of these replies.
        for _ in 0..10 {
            holding.queue_declare_passive(queue.name()).await?;
        }
        assert!(consumer.next().now_or_never().is_none(), "it was requeued");
        holding.close().await?;
        queue.delete().await?;
    }

    async fn what_is_held_is_not_acknowledged_by_later_deliveries(world) {
        let queue = numbered(&world).await?;
        let holding = world.connection().await?.open_channel().await?;
        holding.hold_until_closed();
        let mut consumer = consume(&holding, &queue, PREFETCH).await?;
        let mut taken = Vec::new();
        for _ in 0..PREFETCH {
            taken.push(next(&mut consumer).await?);
        }
        // 3, 1: out of order. 0, 2 and 4 are acknowledged.
        drop(taken.remove(3));
        drop(taken.remove(1));
        taken.pop().ok_or("none")?.ack_up_to()?;
        // These were acknowledged with it, so dropping them holds nothing.
        drop(taken);
        assert_eq!(holding.unsettled(), 2);
        holding.close().await?;
        let mut second = consume(queue.channel(), &queue, 1).await?;
        expect(&mut second, [1, 3].into_iter().chain(5..COUNT)).await?;
        queue.delete().await?;
    }

    async fn a_delivery_whose_handler_panics_is_rejected_if_that_was_asked_for(world) {
        let queue = numbered(&world).await?;
        let holding = world.connection().await?.open_channel().await?;
        holding.hold_until_closed();
        let consumer = consume(&holding, &queue, 1).await?.on_panic(OnPanic::Reject);
        let mut first = true;
        let handled = consumer.for_each_concurrent(1, |delivery| {
            let panics = std::mem::take(&mut first);
            async move {
                assert!(!panics, "the first one panics");
                let _acknowledged = delivery.ack();
            }
        });
        let (handled, deleted) = join(handled, async {
            // All but the first were acknowledged, and that one was rejected.
            while queue.channel().queue_declare_passive(queue.name()).await?.message_count() > 0 {}
            while holding.unsettled() > 0 {}
            queue.channel().queue_delete(queue.name()).await
        }).await;
        let _cancelled = handled;
        deleted?;
    }

    async fn a_shutdown_finishes_what_was_taken_and_leaves_the_rest_in_its_order(world) {
        let queue = numbered(&world).await?;
        let leaving = world.open(world.target()).await?;
        let holding = leaving.open_channel().await?;
        holding.hold_until_closed();
        let mut first = consume(&holding, &queue, PREFETCH).await?;
        let mut second = consume(queue.channel(), &queue, 1).await?;
        let taken = next(&mut first).await?;
        let shutdown = pin!(leaving.shutdown(Duration::from_secs(30)));
        let ended = pin!(async {
            // It may have taken more deliveries before, and returns them.
            let mut rest = Vec::new();
            while let Some(delivery) = first.next().await {
                rest.push(delivery?);
            }
            // While these are not acknowledged, nobody else gets a message.
            let waiting = COUNT - u32::from(PREFETCH);
            while queue.channel().queue_declare_passive(queue.name()).await?.message_count() != waiting {}
            let done = rest.len() as u32 + 1;
            for delivery in std::iter::once(taken).chain(rest) {
                delivery.ack()?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(done)
        });
        let (left, done) = join(shutdown, ended).await;
        assert_eq!(left?.unsettled, 0);
        expect(&mut second, done?..COUNT).await?;
        queue.delete().await?;
    }

    async fn a_held_delivery_is_no_obstacle_to_a_shutdown(world) {
        let queue = numbered(&world).await?;
        let leaving = world.open(world.target()).await?;
        let holding = leaving.open_channel().await?;
        holding.hold_until_closed();
        let mut first = consume(&holding, &queue, PREFETCH).await?;
        drop(next(&mut first).await?);
        drop(first);
        // The test would end before this time has passed.
        let left = leaving.shutdown(Duration::from_secs(600)).await?;
        assert_eq!(left.unsettled, 0);
        let mut second = consume(queue.channel(), &queue, 1).await?;
        expect(&mut second, 0..COUNT).await?;
        queue.delete().await?;
    }

    async fn after_a_loss_nothing_is_held_any_more(world) {
        let queue = numbered(&world).await?;
        let mut scene = Scene::set(&world).await?;
        let holding = scene.connection.open_channel().await?;
        holding.hold_until_closed();
        let mut consumer = consume(&holding, &queue, PREFETCH).await?;
        drop((next(&mut consumer).await?, next(&mut consumer).await?));
        scene.cut().await?;
        // The broker delivers them again, to the same consumer.
        expect(&mut consumer, 0..COUNT).await?;
        let left = scene.connection.shutdown(Duration::from_secs(600)).await?;
        assert_eq!(left.unsettled, 0);
        queue.delete().await?;
    }
}
