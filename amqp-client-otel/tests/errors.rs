//! The values of `error.type`, beside those in `spans.rs`.

mod rig;

use std::task::{Context, Waker};
use std::time::Duration;

use amqp_client_tokio::{
    Delivery, FieldTable, Message, MessageProperties, OnLoss, PublisherOptions, RawProperties,
    Recovery, Route, Target, connect_target,
};
use opentelemetry_sdk::trace::SpanData;
use rig::{Rig, process_text, until};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Returns the error of the only span.
#[track_caller]
fn error(spans: &[SpanData]) -> String {
    let [span] = spans else { panic!("{spans:?}") };
    let error = span.attributes.iter().find(|pair| pair.key.as_str() == "error.type");
    error.map_or_else(String::new, |error| error.value.to_string())
}

#[tokio::test]
async fn messages_that_are_not_sent() -> Outcome {
    let rig = Rig::new("errors-unsent", true, |builder| builder).await?;
    let broker = rig.broker.as_ref().ok_or("it is in memory")?;
    let (channel, none) = (&rig.channel, RawProperties::EMPTY);
    let long = "k".repeat(256);
    channel.basic_publish(&Route::new("", &long), &none, "m").await.expect_err("it is too long");
    assert_eq!(error(&rig.take()), "name_too_long");

    let headers = FieldTable::new().with("large", "x".repeat(200_000).as_str())?;
    let message = Message::new("m").with(&MessageProperties::new().headers(headers))?;
    rig.queue.publish(&message).await.expect_err("it fits into no frame");
    assert_eq!(error(&rig.take()), "properties_too_large");

    broker.hold_confirms(true);
    let one = channel.default_exchange().publisher(PublisherOptions::new().window(1, 1024))?;
    let waiting = one.publish("errors-unsent", "m").await?;
    one.try_publish("errors-unsent", "m").expect_err("one waits already");
    assert_eq!(error(&rig.take()), "would_wait");
    // The future is dropped while it waits for the first confirm.
    let mut noop = Context::from_waker(Waker::noop());
    let second = Box::pin(one.publish("errors-unsent", "m")).as_mut().poll(&mut noop);
    assert!(second.is_pending(), "it waits");
    assert_eq!(error(&rig.take()), "abandoned");
    broker.hold_confirms(false);
    waiting.await?;
    assert_eq!(error(&rig.take()), "");
    Ok(())
}

#[tokio::test]
async fn messages_that_wait_too_long_or_are_refused() -> Outcome {
    let mut rig = Rig::new("errors-unconfirmed", true, |builder| builder).await?;
    let broker = rig.broker.take().ok_or("it is in memory")?;
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    // A channel that is opened again keeps its messages, except the one for which it was closed.
    let target: Target = broker.uri().parse()?;
    let target = target.recovery(Recovery::default().reopen_channels(true));
    let reopens = connect_target(target.intercept(rig.otel.clone())).await?;
    let nowhere = reopens.open_channel().await?.exchange("nowhere")?;
    let nowhere = nowhere.publisher(options.clone())?;
    nowhere.send("key", "m").await.expect_err("there is no such exchange");
    assert_eq!(error(&rig.take()), "refused");

    broker.hold_confirms(true);
    let impatient = PublisherOptions::new().window(1, 1024).timeout(Some(Duration::from_millis(1)));
    let impatient = rig.channel.default_exchange().publisher(impatient)?;
    let _first = impatient.publish("errors-unconfirmed", "m").await?;
    impatient.publish("errors-unconfirmed", "m").await.expect_err("the window is full");
    assert_eq!(error(&rig.take()), "timeout");

    drop(broker);
    until("the connection is lost", || rig.connection.health().losses > 0).await;
    let expiring = options.keep_for(Duration::from_millis(1));
    let expiring = rig.channel.default_exchange().publisher(expiring)?;
    rig.take();
    expiring.send("errors-unconfirmed", "m").await.expect_err("it expires before the recovery");
    assert_eq!(error(&rig.take()), "not_resent");
    Ok(())
}

#[tokio::test]
async fn deliveries_that_are_settled_too_late_or_by_a_panic() -> Outcome {
    let rig = Rig::new("errors-late", true, |builder| builder).await?;
    let broker = rig.broker.as_ref().ok_or("it is in memory")?;
    rig.queue.publish_confirmed(&Message::new("body")).await?;
    let delivery = rig.next().await?;
    let losses = rig.connection.health().losses;
    broker.restart();
    until("the connection is lost", || rig.connection.health().losses > losses).await;
    rig.take();
    delivery.ack()?;
    assert_eq!(rig.texts(), [process_text("errors-late", 1, Some("stale"))]);

    let panics = |delivery: Delivery| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = delivery;
            panic!("the handler panics on purpose");
        }))
        .expect_err("it panics");
    };
    let late: [(&dyn Fn(Delivery), &str); 2] =
        [(&panics, "panicked"), (&|delivery| drop(delivery), "channel_closed")];
    for (end, expected) in late {
        let rig = Rig::new("errors-ends", true, |builder| builder).await?;
        rig.queue.publish_confirmed(&Message::new("body")).await?;
        let delivery = rig.next().await?;
        if expected == "channel_closed" {
            rig.channel.close().await?;
        }
        rig.take();
        end(delivery);
        assert_eq!(rig.texts(), [process_text("errors-ends", 1, Some(expected))]);
    }
    Ok(())
}
