//! Messages that fail are tried again, parked in the end, and never lost.

mod common;

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amqp_client_core::{
    BrokerVersion, Connection, Delivery, Message, MessageProperties, QueueOptions, QueueType,
};
use amqp_client_patterns::handler::{Attempt, RoutingKey, State, Text, Verdict};
use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_patterns::work::{Work, WorkError};
use common::{BoxError, Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use tokio::sync::Notify;

const SHORT: Duration = Duration::from_millis(5);

fn retry(times: u32) -> Retry {
    Retry::times(times).from(SHORT).to(2 * SHORT)
}

async fn take(rig: &Rig, queue: &str) -> Result<Delivery, BoxError> {
    loop {
        if let Ok(true) = rig.connection.queue_exists(queue).await {
            if let Some(got) = rig.channel.basic_get(queue).await? {
                return Ok(got.delivery);
            }
        }
        rig.connection.after(Duration::from_millis(2)).await?;
    }
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let value = delivery.properties().headers().ok().flatten()?.get(name)?;
    value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
}

async fn is_empty(rig: &Rig, queue: &str) -> Outcome {
    rig.channel.basic_recover().await?;
    assert_eq!(rig.channel.queue_declare_passive(queue).await?.message_count(), 0, "{queue}");
    Ok(())
}

/// Returns whether the broker has no message that waits or is unacknowledged.
fn all_are_done(rig: &Rig) -> bool {
    rig.broker.queues().iter().all(|queue| queue.messages.is_empty() && queue.unacknowledged == 0)
}

type Log = Arc<Mutex<Vec<(u32, String)>>>;

#[test]
fn a_message_comes_back_after_a_delay_as_it_was() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        queue.bind("amq.topic", "order.*").await?;
        let properties = MessageProperties::new().message_id("4711").app_id("shop");
        let message = Message::text("three fish").with(&properties)?;
        rig.channel.exchange("amq.topic")?.publish_confirmed("order.created", &message).await?;
        let (log, done) = (Log::default(), Arc::new(Notify::new()));
        let handler = async |Attempt(attempt): Attempt,
                             key: RoutingKey,
                             properties: MessageProperties,
                             Text(text): Text,
                             State((log, done)): State<(Log, Arc<Notify>)>| {
            assert_eq!((properties.message_id.as_deref(), &*text), (Some("4711"), "three fish"));
            log.lock().expect("no panic").push((attempt, key.to_string()));
            match attempt {
                1 | 2 => return Err(Verdict::retry("busy")),
                _ => done.notify_one(),
            }
            Ok(())
        };
        let work = Work::on(&queue)
            .state((log.clone(), done.clone()))
            .retry(retry(4))
            .route("order.created", handler);
        let summary = work.until(done.notified()).await?;
        assert_eq!((summary.done, summary.retried, summary.refused), (1, 2, 0));
        let key = "order.created".to_owned();
        let expected = [1, 2, 3].map(|attempt| (attempt, key.clone()));
        assert_eq!(*log.lock().expect("no panic"), expected);
        for queue in ["q", "q.retry.5", "q.retry.10", "q.failed"] {
            is_empty(&rig, queue).await?;
        }
        Ok(())
    });
}

#[test]
fn a_message_that_never_succeeds_is_parked_once_and_can_start_again() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let work = || {
            let failing = async |Attempt(attempt): Attempt| Err::<(), _>(format!("no {attempt}"));
            Work::on(&queue).retry(retry(3)).each(failing)
        };
        for _ in 0..2 {
            let mut parked = None;
            let stop = async { parked = take(&rig, "q.failed").await.ok() };
            let summary = work().until(stop).await?;
            assert_eq!((summary.retried, summary.refused, summary.done), (3, 1, 0));
            let parked = parked.ok_or("nothing is parked")?;
            assert_eq!(header(&parked, "x-failure").as_deref(), Some("no 4"));
            assert_eq!(header(&parked, "x-attempts").as_deref(), Some("4"));
            assert_eq!(header(&parked, "x-retries"), None);
            for queue in ["q", "q.retry.5", "q.retry.10", "q.failed"] {
                let queue = rig.channel.queue_declare_passive(queue).await?;
                assert_eq!(queue.message_count(), 0, "{}", queue.name());
            }
            // An operator moves it back: its attempts count from 1.
            queue.publish_confirmed(&Message::from(&parked)).await?;
            parked.ack()?;
        }
        Ok(())
    });
}

#[test]
fn a_quorum_queue_counts_what_is_requeued_at_once() {
    on_each_adapter(async |rig: Rig| {
        let options = QueueOptions::new().queue_type(QueueType::Quorum);
        let queue = rig.channel.queue_declare("q", options).await?;
        rig.publish(&queue, "m").await?;
        let failing = async |Attempt(attempt): Attempt| Err::<(), _>(format!("no {attempt}"));
        let work = Work::on(&queue).retry(retry(3).strategy(RetryStrategy::Requeue)).each(failing);
        let mut parked = None;
        let summary = work.until(async { parked = take(&rig, "q.failed").await.ok() }).await?;
        assert_eq!((summary.retried, summary.refused), (3, 1));
        let parked = parked.ok_or("nothing is parked")?;
        assert_eq!(header(&parked, "x-failure").as_deref(), Some("no 4"));
        assert!(!rig.connection.queue_exists("q.retry.5").await?);
        Ok(())
    });
}

/// The copy is published, and the connection is lost before its confirm and the acknowledgement of the original.
#[test]
fn a_loss_between_copy_and_acknowledgement_duplicates_and_loses_nothing() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let log = Log::default();
        let handler = async |Attempt(attempt): Attempt, State(log): State<Log>| {
            log.lock().expect("no panic").push((attempt, String::new()));
            match attempt {
                1 => Err("busy"),
                _ => Ok(()),
            }
        };
        let work = Work::on(&queue).state(log.clone()).retry(retry(5)).each(handler);
        let attempts = |wanted| {
            log.lock().expect("no panic").iter().filter(|(attempt, _)| *attempt == wanted).count()
        };
        let stop = async {
            // The first copy is on its way once the handler has run.
            while attempts(1) == 0 {
                rig.connection.after(Duration::from_millis(1)).await.expect("open");
            }
            rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
            rig.broker.hold_confirms(false);
            while attempts(2) == 0 {
                rig.connection.after(Duration::from_millis(1)).await.expect("open");
            }
            // The original is delivered again, and duplicates that wait come back.
            while attempts(1) < 2 || !all_are_done(&rig) {
                rig.connection.after(Duration::from_millis(1)).await.expect("open");
            }
        };
        rig.broker.hold_confirms(true);
        let summary = work.until(stop).await?;
        assert!(summary.done >= 1, "{summary:?}");
        is_empty(&rig, "q.failed").await
    });
}

#[test]
fn queues_that_cannot_be_used_are_errors_at_the_start() {
    on_each_adapter(async |rig: Rig| {
        let generated = rig.channel.queue_declare("", QueueOptions::temporary()).await?;
        let work = Work::on(&generated).retry(retry(1)).each(async || ());
        assert!(matches!(work.run().await, Err(WorkError::QueueName(_))));

        let queue = rig.queue("q").await?;
        let other = QueueOptions::new().max_length(7);
        rig.channel.queue_declare("q.retry.5", other).await?;
        let error = Work::on(&queue).retry(retry(1)).each(async || ()).run().await;
        let error = format!("{:?}", error.err().ok_or("it runs")?);
        assert!(error.contains("for queue 'q.retry.5' in vhost"), "{error}");

        // The queue was not declared to delay messages itself.
        let native = retry(1).strategy(RetryStrategy::Native);
        let error = Work::on(&queue).retry(native).each(async || ()).run().await;
        let error = format!("{:?}", error.err().ok_or("it runs")?);
        assert!(error.contains("for queue 'q' in vhost"), "{error}");
        assert_eq!(retry(1).declare(&rig.connection, "other").await?, RetryStrategy::Queues);
        Ok(())
    });
}

/// An upgrade of the broker must not keep workers from starting.
#[test]
fn queues_of_a_broker_before_3_10_are_used_as_they_are() {
    on_each_adapter(async |rig: Rig| {
        rig.queue("q").await?;
        let old = BrokerVersion::rabbitmq(3, 9, 0);
        let topology = retry(2).topology("q", Some(&old));
        for (name, options) in topology.delays.into_iter().chain([topology.failed]) {
            rig.channel.queue_declare(name, options).await?;
        }
        // One queue is new.
        let longer = retry(3).to(4 * SHORT);
        let strategy = longer.declare(&rig.connection, "q").await?;
        assert_eq!(strategy, RetryStrategy::Queues);
        let expected = longer.topology("q", rig.connection.broker_version().as_ref());
        for (name, _) in expected.delays {
            assert!(rig.broker.queue(&name).is_some(), "{name}");
        }
        Ok(())
    });
}

/// A queue that counts losses as attempts moves messages there.
#[test]
fn the_parking_queue_is_there_before_the_first_delivery() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "first").await?;
        let mut worker =
            pin!(Work::on(&queue).retry(retry(1)).each(async || pending::<()>().await).run());
        while rig.broker.queue("q").ok_or("no queue")?.unacknowledged == 0 {
            assert!(worker.as_mut().now_or_never().is_none());
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        assert!(rig.broker.queue("q.failed").is_some());

        rig.channel.queue_delete("q").await?;
        let again = Work::on(&queue)
            .retry(retry(1).strategy(RetryStrategy::Native))
            .each(async || ())
            .run()
            .await;
        assert!(matches!(again, Err(WorkError::Start(_))), "{again:?}");
        assert!(rig.broker.queue("q").is_none());
        Ok(())
    });
}

/// On the RabbitMQ that `AMQP_URL` names, if it names one: by queues with a time to live, and from RabbitMQ 4.3 by the queue itself.
#[test]
fn rabbitmq_delays_messages() -> Outcome {
    let Ok(uri) = std::env::var("AMQP_URL") else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = amqp_client_tokio::connect(&uri).await?;
        let Some(version) = connection.broker_version() else { return Ok(()) };
        let retry = Retry::times(2).from(Duration::from_millis(300)).to(Duration::from_secs(1));
        let name = format!("patterns.{}", std::process::id());
        tried_and_parked(&connection, &name, QueueOptions::new(), retry).await?;
        match retry.topology(&name, Some(&version)).queue {
            Some(options) => tried_and_parked(&connection, &name, options, retry).await,
            None => Ok(()),
        }
    })
}

async fn tried_and_parked(
    connection: &Connection,
    name: &str,
    options: QueueOptions,
    retry: Retry,
) -> Outcome {
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare(name, options).await?;
    queue.publish_confirmed(&Message::text("m")).await?;
    let failed = format!("{name}.failed");
    let log = Arc::new(Mutex::new(Vec::new()));
    let (attempts, started) = (log.clone(), std::time::Instant::now());
    let failing = move |Attempt(attempt): Attempt| {
        attempts.lock().expect("no panic").push((attempt, started.elapsed()));
        async move { Err::<(), _>(format!("no {attempt}")) }
    };
    let mut parked = None;
    let stop = async {
        while parked.is_none() {
            connection.after(Duration::from_millis(20)).await.expect("open");
            if let Ok(true) = connection.queue_exists(&failed).await {
                parked = channel.basic_get(&failed).await.expect("a reply");
            }
        }
    };
    let summary = Work::on(&queue).retry(retry).each(failing).until(stop).await?;
    let log = log.lock().expect("no panic").clone();
    assert_eq!((summary.retried, summary.refused), (2, 1), "{log:?}");
    assert_eq!(log.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    // Two delays of at least 300 milliseconds. Half of that is a margin for clocks.
    assert!(log[2].1 - log[0].1 > Duration::from_millis(300), "{log:?}");
    let parked = parked.ok_or("nothing is parked")?.delivery;
    assert_eq!(header(&parked, "x-failure").as_deref(), Some("no 3"));
    parked.ack()?;
    let delays = retry.strategy(RetryStrategy::Queues).topology(name, None).delays;
    let queues = delays.into_iter().map(|(name, _)| name).chain([name.to_owned(), failed]);
    for queue in queues {
        channel.queue_delete(queue).await?;
    }
    Ok(())
}
