//! The copies that workers publish, of messages to be tried again and of those that are parked.

mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amqp_client_blocking::{Wait as _, connect_target};
use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, Published, Scope, Settled, Source,
};
use amqp_client_core::{
    ConnectionEvent, FieldTable, Message, MessageProperties, QueueOptions, Target, Value, proto,
};
use amqp_client_patterns::handler::Verdict;
use amqp_client_patterns::retry::Retry;
use amqp_client_patterns::work::Work;
use amqp_test_broker::{Broker, QueueView};
use common::{BoxError, Outcome, Rig, on_each_adapter};
use tokio::sync::{Notify, Semaphore};

/// Waits until a queue is as expected.
async fn until(
    rig: &Rig,
    queue: &str,
    expected: impl Fn(&QueueView) -> bool,
) -> Result<QueueView, BoxError> {
    loop {
        if let Some(view) = rig.broker.queue(queue).filter(&expected) {
            return Ok(view);
        }
        rig.connection.after(Duration::from_millis(1)).await?;
    }
}

async fn is_done(rig: &Rig) -> Outcome {
    until(rig, "q", |queue| queue.messages.is_empty() && queue.unacknowledged == 0).await?;
    Ok(())
}

/// The copy of a message is larger than the message, by its headers.
#[test]
fn a_message_whose_headers_fill_a_frame_is_parked_with_all_of_them() {
    /// Bytes that the headers of a message leave in a frame of 128 KiB, about, and the headers for which there is room.
    const LEFT: [(usize, &[&str]); 4] = [
        (2000, &["x-attempts", "x-failure", "x-original-exchange", "x-original-routing-key"]),
        (400, &["x-attempts", "x-original-exchange", "x-original-routing-key"]),
        // The broker adds `x-death` to the first copy.
        (200, &[]),
        (80, &[]),
    ];
    on_each_adapter(async |rig: Rig| {
        for (left, added) in LEFT {
            let queue = rig.queue("q").await?;
            let large = "x".repeat(128 * 1024 - left);
            let mut headers = FieldTable::new();
            headers.insert("large", Value::from(&*large))?;
            let message = Message::new("m").with(&MessageProperties::new().headers(headers))?;
            queue.publish_confirmed(&message).await?;
            let retry = Retry::times(1).from(Duration::from_millis(1));
            let work =
                Work::on(&queue).retry(retry).each(async || Verdict::retry("busy".repeat(400)));
            let mut parked = None;
            let stop = async {
                parked = until(&rig, "q.failed", |queue| !queue.messages.is_empty()).await.ok();
                is_done(&rig).await.expect("the original is acknowledged");
            };
            work.until(stop).await?;
            let parked = parked.ok_or("it is not parked")?;
            let headers = parked.messages[0].properties.headers()?.ok_or("no headers")?;
            assert_eq!(headers.get("large"), Some(Value::from(&*large)));
            for name in ["x-attempts", "x-failure", "x-original-exchange", "x-original-routing-key"]
            {
                assert_eq!(headers.get(name).is_some(), added.contains(&name), "{left}: {name}");
            }
            for queue in ["q", "q.failed"] {
                rig.channel.queue_delete(queue).await?;
            }
        }
        Ok(())
    });
}

/// Otherwise many failures at once would use up the channels of the connection.
#[test]
fn copies_that_are_published_at_once_share_a_channel() {
    const COUNT: u16 = 50;
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.queue("q.failed").await?;
        for _ in 0..COUNT {
            rig.publish(&queue, "m").await?;
        }
        let (started, gate) = (AtomicUsize::new(0), Semaphore::new(0));
        let handler = async || {
            started.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await.expect("it is open").forget();
            Verdict::refuse("never")
        };
        let work = Work::on(&queue).at_once(COUNT).failed_to("q.failed").each(handler);
        let mut channels = 0;
        let stop = async {
            until(&rig, "q", |_| started.load(Ordering::Relaxed) == usize::from(COUNT)).await?;
            rig.broker.hold_confirms(true);
            gate.add_permits(COUNT.into());
            until(&rig, "q.failed", |queue| queue.messages.len() == usize::from(COUNT)).await?;
            channels = rig.broker.connections()[0].channels;
            rig.broker.hold_confirms(false);
            is_done(&rig).await
        };
        let mut outcome = Ok(());
        work.until(async { outcome = stop.await }).await?;
        // The test's, the worker's, and that for copies.
        assert_eq!(channels, 3);
        outcome
    });
}

/// The broker delivers the message again.
#[test]
fn a_copy_that_waits_for_the_broker_is_not_published_after_a_loss() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.queue("q.failed").await?;
        rig.publish(&queue, "1").await?;
        let recovered = Arc::new(Notify::new());
        let notify = recovered.clone();
        rig.connection.on_recover(move |_| notify.notify_one());
        let mut events = rig.connection.events();
        let (called, gate) = (Notify::new(), Semaphore::new(1));
        let handler = async || {
            called.notify_one();
            gate.acquire().await.expect("it is open").forget();
            Verdict::refuse("never")
        };
        let work = Work::on(&queue).failed_to("q.failed").each(handler);
        let stop = async {
            called.notified().await;
            is_done(&rig).await?;
            rig.publish(&queue, "2").await?;
            called.notified().await;
            rig.broker.set_alarm(Some("memory"));
            while !matches!(events.next().await, Some(ConnectionEvent::Blocked { .. })) {}
            gate.add_permits(1);
            // The worker runs in the same task, and before this future.
            rig.connection.after(Duration::from_millis(1)).await?;
            rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
            recovered.notified().await;
            rig.broker.set_alarm(None);
            gate.add_permits(1);
            called.notified().await;
            is_done(&rig).await
        };
        let mut outcome = Ok(());
        work.until(async { outcome = stop.await }).await?;
        assert_eq!(rig.broker.queue("q.failed").map(|queue| queue.messages.len()), Some(2));
        outcome
    });
}

thread_local! {
    static IN_SCOPE: Cell<bool> = const { Cell::new(false) };
}

/// Records to which queues messages are published, and whether that happens in the scope of a delivery.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<(String, bool)>>>);

impl Intercept for Places {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let to = String::from_utf8_lossy(message.routing_key()).into_owned();
        self.0.lock().expect("nobody panics under it").push((to, IN_SCOPE.get()));
        None
    }

    fn deliver(&self, _: &proto::Delivery, _: Source<'_>) -> Option<Box<dyn Processing>> {
        Some(Box::new(InScope))
    }
}

struct InScope;

impl Processing for InScope {
    fn settled(self: Box<Self>, _: Settled) {}

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Self))
    }
}

impl Scope for InScope {
    fn enter(&self, run: &mut dyn FnMut()) {
        let before = IN_SCOPE.replace(true);
        run();
        IN_SCOPE.set(before);
    }
}

/// So a copy belongs to the trace of its original.
#[test]
fn copies_are_published_in_the_scope_of_the_delivery() -> Outcome {
    let (broker, places) = (Broker::start()?, Places::default());
    let target: Target = broker.uri().parse()?;
    let connection = connect_target(target.intercept(places.clone()))?;
    let test = async {
        let queue =
            connection.open_channel().await?.queue_declare("q", QueueOptions::new()).await?;
        queue.publish_confirmed(&Message::new("m")).await?;
        let retry = Retry::times(1).from(Duration::from_millis(1));
        let work = Work::on(&queue).retry(retry).each(async || Verdict::retry("busy"));
        let parked = async {
            while broker.queue("q.failed").is_none_or(|queue| queue.messages.is_empty()) {
                connection.after(Duration::from_millis(1)).await.expect("it is open");
            }
        };
        work.until(parked).await?;
        Outcome::Ok(())
    };
    test.wait()?;
    let expected = [("q", false), ("q.retry.1", true), ("q.failed", true)];
    let expected = expected.map(|(queue, inside)| (queue.to_owned(), inside));
    assert_eq!(*places.0.lock().expect("nobody panics under it"), expected);
    Ok(())
}
