//! Deliveries in batches.

mod common;

use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::Message;
use amqp_client_patterns::batch::{Batch, Batches, Batching, BatchingError};
use common::{BoxError, Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(5);

async fn publish(rig: &Rig, bodies: &str) -> Outcome {
    let queue = rig.queue("q").await?;
    for body in bodies.chars() {
        queue.publish_confirmed(&Message::new(body.to_string())).await?;
    }
    Ok(())
}

async fn next(batches: &mut Batches) -> Result<Batch, BoxError> {
    Ok(batches.next().await.ok_or("it ended")??)
}

fn text(batch: &Batch) -> String {
    batch.iter().map(|delivery| String::from_utf8_lossy(delivery.body())).collect()
}

/// Number of messages of the queue that no consumer has.
async fn ready(rig: &Rig) -> Result<u32, BoxError> {
    Ok(rig.channel.queue_declare_passive("q").await?.message_count())
}

async fn wait_for_ready(rig: &Rig, count: u32) -> Outcome {
    while ready(rig).await? != count {
        rig.connection.after(Duration::from_millis(2)).await?;
    }
    Ok(())
}

#[test]
fn a_batch_is_full_or_its_time_is_over() {
    on_each_adapter(async |rig: Rig| {
        publish(&rig, "abcde").await?;
        let queue = rig.channel.queue("q")?;
        let mut batches = Batching::on(&queue, 3, LONG).start().await?;
        let batch = next(&mut batches).await?;
        assert_eq!(text(&batch), "abc");
        batch.ack()?;
        assert!(batches.next().now_or_never().is_none(), "the batch is not full");
        publish(&rig, "f").await?;
        let batch = next(&mut batches).await?;
        assert_eq!(text(&batch), "def", "nothing was lost with the future that was dropped");
        batch.ack()?;
        drop(batches);

        publish(&rig, "gh").await?;
        let mut batches = Batching::on(&queue, 3, SHORT).start().await?;
        let mut gathered = String::new();
        while gathered.len() < 2 {
            let batch = next(&mut batches).await?;
            gathered += &text(&batch);
            batch.ack()?;
        }
        assert_eq!(gathered, "gh");
        drop(batches);
        wait_for_ready(&rig, 0).await
    });
}

#[test]
fn a_batch_acknowledges_nothing_but_itself() {
    on_each_adapter(async |rig: Rig| {
        publish(&rig, "abcdef").await?;
        let queue = rig.channel.queue("q")?;
        let mut batches = Batching::on(&queue, 2, LONG).prefetch(6).start().await?;
        let first = next(&mut batches).await?;
        let (second, third) = (next(&mut batches).await?, next(&mut batches).await?);
        third.ack()?;
        second.reject(false)?;
        // The first batch is still being handled.
        first.nack(true)?;
        let again = next(&mut batches).await?;
        assert_eq!(text(&again), "ab");
        for (number, delivery) in again.into_iter().enumerate() {
            match number {
                0 => delivery.ack()?,
                _ => drop(delivery),
            }
        }
        drop(batches);
        wait_for_ready(&rig, 1).await
    });
}

#[test]
fn the_last_batch_comes_before_the_end() {
    on_each_adapter(async |rig: Rig| {
        publish(&rig, "ab").await?;
        let queue = rig.channel.queue("q")?;
        let mut batches = Batching::on(&queue, 3, LONG).start().await?;
        wait_for_ready(&rig, 0).await?;
        assert!(batches.next().now_or_never().is_none());
        batches.consumer().cancel().await?;
        let batch = next(&mut batches).await?;
        assert_eq!(text(&batch), "ab");
        batch.ack()?;
        assert!(batches.next().await.is_none() && batches.next().await.is_none());

        let mut batches = Batching::on(&queue, 3, LONG).start().await?;
        rig.channel.queue_delete("q").await?;
        assert!(matches!(batches.next().await, Some(Err(_))));
        assert!(batches.next().await.is_none());
        Ok(())
    });
}

#[test]
fn a_batch_has_no_stale_deliveries() {
    on_each_adapter(async |rig: Rig| {
        publish(&rig, "ab").await?;
        let queue = rig.channel.queue("q")?;
        let mut batches = Batching::on(&queue, 3, LONG).start().await?;
        wait_for_ready(&rig, 0).await?;
        rig.connection.after(SHORT).await?;
        assert!(batches.next().now_or_never().is_none());
        let recovered = Arc::new(Notify::new());
        let notify = recovered.clone();
        rig.connection.on_recover(move |_| notify.notify_one());
        rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
        recovered.notified().await;
        publish(&rig, "c").await?;
        let mut seen = String::new();
        while seen.len() < 3 {
            let batch = next(&mut batches).await?;
            seen += &text(&batch);
            batch.ack()?;
        }
        assert_eq!(seen, "abc", "each message once");
        Ok(())
    });
}

#[test]
fn a_batch_that_never_gets_full_is_refused() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let refused = Batching::on(&queue, 500, SHORT).prefetch(499).start().await;
        assert!(matches!(refused, Err(BatchingError::Prefetch { size: 500, prefetch: 499 })));
        assert!(Batching::on(&queue, u16::MAX, SHORT).start().await.is_ok());
        assert!(Batching::on(&queue, 0, SHORT).prefetch(1).start().await.is_ok());
        // No limit.
        publish(&rig, "abc").await?;
        let mut unlimited = Batching::on(&queue, 3, LONG).prefetch(0).start().await?;
        assert_eq!(text(&next(&mut unlimited).await?), "abc");
        let nowhere = rig.channel.queue("nowhere")?;
        let error = Batching::on(&nowhere, 5, SHORT).start().await;
        assert!(matches!(error, Err(BatchingError::Start(_))), "{error:?}");
        Ok(())
    });
}
