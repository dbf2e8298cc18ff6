//! A scope whose result settles its delivery.

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use amqp_client_core::{ConsumeOptions, Consumer, Delivery};
use amqp_client_patterns::process::{ProcessError, ProcessExt as _};
use common::{BoxError, Outcome, Rig, on_each_adapter};

async fn next(consumer: &mut Consumer) -> Result<Delivery, BoxError> {
    Ok(consumer.next().await.ok_or("it ended")??)
}

/// A queue with one message, and its consumer.
async fn one(rig: &Rig) -> Result<Consumer, BoxError> {
    let queue = rig.queue("q").await?;
    rig.publish(&queue, "m").await?;
    Ok(queue.consume(ConsumeOptions::new()).await?)
}

/// Checks that the queue has so many messages, with those that are unsettled.
async fn left(rig: &Rig, consumer: Consumer, expected: u32) -> Outcome {
    consumer.cancel().await?;
    drop(consumer);
    rig.channel.basic_recover().await?;
    assert_eq!(rig.channel.queue_declare_passive("q").await?.message_count(), expected);
    Ok(())
}

async fn nothing_left(rig: &Rig, consumer: Consumer) -> Outcome {
    left(rig, consumer, 0).await
}

#[test]
fn success_acknowledges() {
    on_each_adapter(async |rig: Rig| {
        let mut consumer = one(&rig).await?;
        let delivery = next(&mut consumer).await?;
        let length = delivery.process().run(async |message| Ok::<_, String>(message.body().len()));
        assert_eq!(length.await?, 1);
        nothing_left(&rig, consumer).await
    });
}

#[test]
fn a_failure_requeues_or_rejects() {
    on_each_adapter(async |rig: Rig| {
        let mut consumer = one(&rig).await?;
        let failing = async |_| Err::<(), _>("no".to_owned());
        for redelivered in [false, true] {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.redelivered(), redelivered);
            let outcome = delivery.process().run(failing).await;
            let Err(ProcessError::Failed(why)) = outcome else { return Err("it succeeded".into()) };
            assert_eq!(why, "no");
        }
        let delivery = next(&mut consumer).await?;
        assert!(delivery.process().reject_redelivered(true).run(failing).await.is_err());
        nothing_left(&rig, consumer).await?;

        let mut consumer = one(&rig).await?;
        let delivery = next(&mut consumer).await?;
        assert!(delivery.process().requeue(false).run(failing).await.is_err());
        nothing_left(&rig, consumer).await
    });
}

#[test]
fn a_scope_that_is_dropped_requeues_and_one_that_panics_rejects() {
    on_each_adapter(async |rig: Rig| {
        let mut consumer = one(&rig).await?;
        let delivery = next(&mut consumer).await?;
        let process = delivery.process().requeue(false);
        {
            let mut waits = pin!(process.run(async |_| {
                std::future::pending::<()>().await;
                Ok::<(), String>(())
            }));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(matches!(waits.as_mut().poll(&mut cx), Poll::Pending));
        }
        let delivery = next(&mut consumer).await?;
        assert!(delivery.redelivered());

        let process = delivery.process().requeue(false);
        let mut panics =
            Box::pin(process.run(async |_| -> Result<(), String> { panic!("on purpose") }));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut cx = Context::from_waker(Waker::noop());
            panics.as_mut().poll(&mut cx).is_ready()
        }));
        assert!(caught.is_err());
        nothing_left(&rig, consumer).await
    });
}

#[test]
fn a_closed_channel_is_an_error() {
    on_each_adapter(async |rig: Rig| {
        let mut consumer = one(&rig).await?;
        let delivery = next(&mut consumer).await?;
        rig.channel.close().await?;
        let outcome = delivery.process().run(async |_| Ok::<(), String>(())).await;
        assert!(matches!(outcome, Err(ProcessError::NotAcknowledged(_))), "{outcome:?}");
        Ok(())
    });
}

/// The code did not panic, so its message is not dropped.
#[test]
fn a_scope_that_a_panic_elsewhere_drops_requeues() {
    on_each_adapter(async |rig: Rig| {
        let mut consumer = one(&rig).await?;
        let delivery = next(&mut consumer).await?.process().requeue(false);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut waits = pin!(delivery.run(async |_| {
                std::future::pending::<()>().await;
                Ok::<(), String>(())
            }));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(&mut cx).is_ready(), "on purpose");
        }));
        assert!(caught.is_err());
        left(&rig, consumer, 1).await
    });
}
