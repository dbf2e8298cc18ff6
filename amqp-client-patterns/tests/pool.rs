//! A pool of channels.

mod common;

use std::pin::pin;
use std::time::Duration;

use amqp_client_blocking::Wait as _;
use amqp_client_core::{
    CallError, Channel, ClientConfig, ConsumeOptions, Limits, Message, PublisherOptions,
    QueueOptions, Target,
};
use amqp_client_patterns::pool::ChannelPool;
use amqp_test_broker::Broker;
use common::{BoxError, Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

#[test]
fn channels_are_used_again_and_never_more_than_allowed() {
    on_each_adapter(async |rig: Rig| {
        let pool = ChannelPool::new(&rig.connection, 2);
        let before = rig.connection.health().channels;
        let uses = join_all((0..50).map(async |n| {
            let channel = pool.get().await?;
            channel.queue_declare(format!("q{}", n % 7), QueueOptions::new()).await?;
            assert!(rig.connection.health().channels <= before + 2);
            Ok::<_, BoxError>(channel.id())
        }));
        let mut ids = uses.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), pool.idle(), pool.max()), (2, 2, 2));
        drop(pool);
        // Nobody else has them.
        while rig.connection.health().channels > before {
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        Ok(())
    });
}

#[test]
fn those_that_wait_get_channels_in_their_order() {
    on_each_adapter(async |rig: Rig| {
        let pool = ChannelPool::new(&rig.connection, 0);
        let used = pool.get().await?;
        let mut first = pin!(pool.get());
        let mut second = Box::pin(pool.get());
        let mut third = pin!(pool.get());
        for _ in 0..2 {
            assert!(first.as_mut().now_or_never().is_none());
            assert!(second.as_mut().now_or_never().is_none());
            assert!(third.as_mut().now_or_never().is_none());
        }
        drop(used);
        assert!(third.as_mut().now_or_never().is_none(), "it has overtaken others");
        // The first is woken and dropped before it is polled; a newcomer does not get its place.
        assert!(pin!(pool.get()).now_or_never().is_none());
        let used = first.await?;
        drop(second);
        drop(used);
        drop(third.await?);
        assert_eq!(pool.idle(), 1);
        Ok(())
    });
}

#[test]
fn a_channel_that_is_not_clean_does_not_return() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let pool = ChannelPool::new(&rig.connection, 4);
        // Refused, and closed by the broker.
        let channel = pool.get().await?;
        assert!(channel.queue_declare_passive("no such queue").await.is_err());
        drop(channel);
        assert_eq!(pool.idle(), 0);
        // In another mode.
        for transactional in [false, true] {
            let channel = pool.get().await?;
            match transactional {
                false => channel.confirm_select().await?,
                true => channel.tx_select().await?,
            }
            drop(channel);
            assert_eq!(pool.idle(), 0);
        }
        // Somebody still uses it.
        let channel = pool.get().await?;
        let consumer = channel.basic_consume("q", ConsumeOptions::new()).await?;
        drop(channel);
        assert_eq!(pool.idle(), 0);
        assert!(consumer.channel().is_open());
        drop(consumer);
        let channel = pool.get().await?;
        let clone = Channel::clone(&channel);
        drop(channel);
        assert_eq!(pool.idle(), 0);
        let publisher = clone.default_exchange().publisher(PublisherOptions::new())?;
        drop(clone);
        publisher.send("q", "still open").await?;
        assert_eq!(queue.purge().await?, 1);

        // A request whose reply nobody awaits fails, and the next user gets another channel.
        let channel = pool.get().await?;
        let id = channel.id();
        drop(channel.queue_declare_passive("no such queue"));
        // Returned, unless the broker has closed it already.
        drop(channel);
        let channel = pool.get().await?;
        channel.queue_declare_passive("q").await?;
        drop(channel);
        let channel = pool.get().await?;
        assert!(channel.is_open(), "{id:?}");
        Ok(())
    });
}

#[test]
fn transactions_are_committed_or_rolled_back() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let pool = ChannelPool::transactional(&rig.connection, 2);
        let publish = async |channel: &Channel| -> Outcome {
            Ok(channel.queue("q")?.publish(&Message::new("m")).await?)
        };
        let channel = pool.get().await?;
        publish(&channel).await?;
        channel.tx_commit().await?;
        publish(&channel).await?;
        // Not committed.
        drop(channel);
        assert_eq!(pool.idle(), 1);
        let channel = pool.get().await?;
        channel.transaction(publish).await?;
        drop(channel);
        assert_eq!(queue.purge().await?, 2);
        Ok(())
    });
}

#[test]
fn an_idle_channel_keeps_no_message_from_others() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let transactional = ChannelPool::transactional(&rig.connection, 1);
        let plain = ChannelPool::new(&rig.connection, 1);
        for (pool, acknowledged) in
            [(&transactional, true), (&transactional, false), (&plain, false)]
        {
            let channel = pool.get().await?;
            let got = channel.basic_get("q").await?.ok_or("no message")?;
            if acknowledged {
                // Rolled back.
                got.delivery.ack()?;
            } else {
                let _unsettled = got.delivery.into_message();
            }
            drop(channel);
            assert_eq!(pool.idle(), 0);
            // The broker requeues the message when it has read the close of that channel.
            let mut got = queue.get().await?;
            while got.is_none() {
                got = queue.get().await?;
            }
            got.ok_or("no message")?.delivery.nack(true)?;
        }
        // A channel whose transaction has ended returns.
        let channel = transactional.get().await?;
        channel.basic_get("q").await?.ok_or("no message")?.delivery.ack()?;
        channel.tx_commit().await?;
        drop(channel);
        assert_eq!((transactional.idle(), queue.purge().await?), (1, 0));
        Ok(())
    });
}

/// The client holds a message that is too large for it.
#[test]
fn an_idle_channel_holds_no_message_that_the_client_does_not_accept() -> Outcome {
    let broker = Broker::start()?;
    let limits = ClientConfig::default().limits(Limits::default().body_max(4));
    let target = broker.uri().parse::<Target>()?.protocol(limits);
    let connection = amqp_client_blocking::connect_target(target)?;
    let queue = connection.open_channel().wait()?.queue_declare("q", QueueOptions::new()).wait()?;
    queue.publish_confirmed(&Message::new("large")).wait()?;
    for pool in [ChannelPool::transactional(&connection, 1), ChannelPool::new(&connection, 1)] {
        let channel = pool.get().wait()?;
        let got = channel.basic_get("q").wait();
        assert!(matches!(got, Err(CallError::Unusable { .. })), "{got:?}");
        assert_eq!(channel.unsettled(), 1);
        drop(channel);
        assert_eq!(pool.idle(), 0);
        // The close of that channel requeues it.
        while broker.queue("q").ok_or("no queue")?.messages.is_empty() {
            connection.after(Duration::from_millis(1)).wait()?;
        }
    }
    Ok(())
}

#[test]
fn a_pool_survives_losses_and_ends_with_the_connection() {
    on_each_adapter(async |rig: Rig| {
        for pool in
            [ChannelPool::transactional(&rig.connection, 1), ChannelPool::new(&rig.connection, 1)]
        {
            for _ in 0..3 {
                let channel = pool.get().await?;
                channel.basic_qos(1).await?;
                let losses = rig.connection.health().losses;
                drop(channel);
                let connections = rig.broker.connections();
                connections.iter().for_each(|connection| rig.broker.cut(connection.id));
                while rig.connection.health().losses == losses {
                    rig.connection.after(Duration::from_millis(1)).await?;
                }
                let channel = pool.get().await?;
                assert!(channel.is_open());
                assert!(channel.queue_declare("q", QueueOptions::new()).await.is_ok());
            }
            let used = pool.get().await?;
            let mut waiting = pin!(pool.get());
            assert!(waiting.as_mut().now_or_never().is_none());
            if pool.idle() == 0 && rig.connection.health().losses >= 6 {
                rig.connection.close().await?;
                drop(used);
                assert!(waiting.await.is_err());
                assert!(pool.get().await.is_err());
            }
        }
        Ok(())
    });
}
