use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use amqp_client_core::proto::Misuse;
use amqp_client_core::{
    CallError, ConsumeOptions, Delivery, Message, PublishError, PublisherOptions,
};
use futures_util::FutureExt as _;

use super::{assert_refused, behaviours};

behaviours! {
    async fn committed_work_takes_effect_and_rolled_back_work_does_not(world) {
        let (channel, queue) = world.queue().await?;
        let observer = world.channel().await?;
        channel.tx_select().await?;
        queue.publish(&Message::new("rolled back")).await?;
        channel.tx_rollback().await?;
        queue.publish(&Message::new("committed")).await?;
        assert_eq!(observer.queue_declare_passive(queue.name()).await?.message_count(), 0);
        channel.tx_commit().await?;
        let got = observer.basic_get_no_ack(queue.name()).await?.ok_or("no message")?;
        assert_eq!(got.delivery.body(), b"committed");
        assert_eq!(got.message_count, 0);
    }

    async fn acknowledgements_are_part_of_a_transaction(world) {
        let (channel, queue) = world.queue().await?;
        let observer = world.connection().await?.open_channel().await?;
        queue.publish(&Message::new("m")).await?;
        channel.tx_select().await?;
        queue.get().await?.ok_or("no message")?.delivery.ack()?;
        channel.tx_rollback().await?;
        // The acknowledgement is void, the delivery is not: it is requeued when the channel ends.
        channel.close().await?;
        let again = observer.basic_get_no_ack(queue.name()).await?.ok_or("no message")?;
        assert!(again.delivery.redelivered());
    }

    async fn later_acknowledgements_do_not_settle_rolled_back_deliveries(world) {
        let (channel, queue) = world.queue().await?;
        let observer = world.connection().await?.open_channel().await?;
        for number in 0..6u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        channel.tx_select().await?;
        let mut deliveries = Vec::new();
        for _ in 0..6 {
            deliveries.push(queue.get().await?.ok_or("no message")?.delivery);
        }
        let mut deliveries = deliveries.into_iter();
        let mut tags = Vec::new();
        for delivery in deliveries.by_ref().take(3) {
            tags.push(delivery.delivery_tag());
            delivery.ack()?;
        }
        // Not awaited: later methods still follow the rollback.
        let rolled_back = channel.tx_rollback();
        deliveries.try_for_each(Delivery::ack)?;
        rolled_back.await?;
        channel.tx_commit().await?;
        // One of the three is settled again, in a transaction that is committed.
        channel.basic_ack(tags[1])?;
        channel.tx_commit().await?;
        channel.close().await?;
        for number in [0, 2] {
            let again = observer.basic_get_no_ack(queue.name()).await?.ok_or("no message")?;
            assert_eq!(again.delivery.body(), [number]);
        }
        assert!(observer.basic_get_no_ack(queue.name()).await?.is_none());
    }

    async fn a_transaction_commits_on_success_and_rolls_back_on_failure(world) {
        let (channel, queue) = world.queue().await?;
        let failed: Result<(), CallError> = channel
            .transaction(async |_| {
                queue.publish(&Message::new("no")).await.map_err(ended)?;
                Err(CallError::Misuse(Misuse::UnknownConsumer))
            })
            .await;
        assert_eq!(failed, Err(CallError::Misuse(Misuse::UnknownConsumer)));
        channel
            .transaction(async |_| queue.publish(&Message::new("yes")).await.map_err(ended))
            .await?;
        let got = queue.get_no_ack().await?.ok_or("no message")?;
        assert_eq!((got.delivery.body(), got.message_count), (&b"yes"[..], 0));
    }

    async fn a_transaction_that_is_dropped_or_panics_is_rolled_back(world) {
        let (channel, queue) = world.queue().await?;
        let observer = world.channel().await?;
        let published = AtomicBool::new(false);
        let mut transaction = Box::pin(channel.transaction(async |_| {
            queue.publish(&Message::new("dropped")).await.map_err(ended)?;
            published.store(true, Relaxed);
            std::future::pending::<Result<(), CallError>>().await
        }));
        while !published.load(Relaxed) {
            assert!(transaction.as_mut().now_or_never().is_none());
            observer.queue_declare_passive(queue.name()).await?;
        }
        drop(transaction);
        let transaction = channel.transaction(async |_| {
            queue.publish(&Message::new("panicked")).await.map_err(ended)?;
            match published.load(Relaxed) {
                true => resume_unwind(Box::new("the work panics")),
                false => Ok::<_, CallError>(()),
            }
        });
        assert!(AssertUnwindSafe(transaction).catch_unwind().await.is_err());
        // The next transaction is whole, and nothing else.
        channel
            .transaction(async |_| queue.publish(&Message::new("whole")).await.map_err(ended))
            .await?;
        let got = queue.get_no_ack().await?.ok_or("no message")?;
        assert_eq!((got.delivery.body(), got.message_count), (&b"whole"[..], 0));
    }

    async fn a_transaction_that_is_dropped_while_it_commits_is_whole_or_nothing(world) {
        let (channel, queue) = world.queue().await?;
        let observer = world.channel().await?;
        let worked = AtomicBool::new(false);
        let mut transaction = Box::pin(channel.transaction(async |_| {
            queue.publish(&Message::new("1")).await.map_err(ended)?;
            queue.publish(&Message::new("2")).await.map_err(ended)?;
            worked.store(true, Relaxed);
            Ok::<_, CallError>(())
        }));
        while !worked.load(Relaxed) && transaction.as_mut().now_or_never().is_none() {
            observer.queue_declare_passive(queue.name()).await?;
        }
        // The commit is sent, and is not taken back.
        drop(transaction);
        channel.tx_rollback().await?;
        assert_eq!(observer.queue_declare_passive(queue.name()).await?.message_count(), 2);
    }

    async fn a_dropped_delivery_is_requeued_whatever_the_outcome_of_the_transaction(world) {
        let observer = world.connection().await?.open_channel().await?;
        let failed = || CallError::Misuse(Misuse::UnknownConsumer);
        for commits in [true, false] {
            let (channel, queue) = world.queue().await?;
            queue.publish(&Message::new("m")).await?;
            let result = channel
                .transaction(async |_| {
                    queue.publish(&Message::new("work")).await.map_err(ended)?;
                    drop(queue.get().await?.ok_or_else(failed)?);
                    if commits { Ok(()) } else { Err(failed()) }
                })
                .await;
            assert_eq!(result.is_ok(), commits);
            // The reply to this comes behind the end of the transaction.
            channel.basic_qos(1).await?;
            let got = observer.basic_get_no_ack(queue.name()).await?.ok_or("not requeued")?;
            assert_eq!((got.delivery.body(), got.delivery.redelivered()), (&b"m"[..], true));
            assert_eq!(got.message_count, u32::from(commits));
        }
    }

    async fn a_delivery_held_in_a_transaction_that_panics_is_redelivered(world) {
        let (channel, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        let transaction = channel.transaction(async |_| {
            let _got = queue.get().await?;
            queue.publish(&Message::new("work")).await.map_err(ended)?;
            match queue.name().is_empty() {
                true => Ok::<_, CallError>(()),
                false => resume_unwind(Box::new("the work panics")),
            }
        });
        assert!(AssertUnwindSafe(transaction).catch_unwind().await.is_err());
        let got = queue.get_no_ack().await?.ok_or("it was not requeued")?;
        assert_eq!((got.delivery.body(), got.message_count), (&b"m"[..], 0));
    }

    async fn a_delivery_dropped_outside_of_a_transaction_is_redelivered_at_once(world) {
        let (channel, queue) = world.queue().await?;
        channel.transaction(async |_| Ok::<_, CallError>(())).await?;
        channel.basic_qos(1).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        world.channel().await?.queue(queue.name())?.publish(&Message::new("m")).await?;
        for round in 0..3 {
            let delivery = consumer.next().await.ok_or("it has ended")??;
            assert_eq!(delivery.redelivered(), round > 0);
            drop(delivery);
        }
        let delivery = consumer.next().await.ok_or("it has ended")??;
        channel.transaction(async |_| delivery.ack()).await?;
        consumer.cancel().await?;
        assert_eq!(queue.purge().await?, 0);
    }

    async fn the_error_of_the_work_is_not_hidden_by_that_of_the_rollback(world) {
        let channel = world.channel().await?;
        let failed: Result<(), Box<dyn std::error::Error + Send + Sync>> = channel
            .transaction(async |channel| {
                channel.close().await?;
                Err("the work failed".into())
            })
            .await;
        assert_eq!(failed.expect_err("it failed").to_string(), "the work failed");
    }

    async fn transactions_and_confirms_exclude_each_other(world) {
        let channel = world.channel().await?;
        channel.tx_select().await?;
        let error = channel.confirm_select().await.expect_err("excluded");
        assert_eq!(error, CallError::Misuse(Misuse::TxAndConfirm));
        let publisher = channel.default_exchange().publisher(PublisherOptions::new());
        assert!(publisher.is_err());
        let channel = world.channel().await?;
        channel.confirm_select().await?;
        let error = channel.tx_select().await.expect_err("excluded");
        assert_eq!(error, CallError::Misuse(Misuse::TxAndConfirm));
        channel.basic_qos(1).await?;
    }

    async fn committing_without_a_transaction_is_refused(world) {
        let channel = world.channel().await?;
        assert_refused(channel.tx_commit().await, 406, "tx.commit");
        let channel = world.channel().await?;
        assert_refused(channel.tx_rollback().await, 406, "tx.rollback");
    }
}

fn ended(error: PublishError) -> CallError {
    match error {
        PublishError::Ended(error) => CallError::Ended(error),
        _ => CallError::Misuse(Misuse::UnknownConsumer),
    }
}
