//! Workers: what becomes of messages, whatever their handlers do.

mod common;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amqp_client_core::{
    ConsumeOptions, Delivery, FieldTable, Message, MessageProperties, OnPanic, Queue, QueueOptions,
};
use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::{Attempt, RoutingKey, State, Text, Verdict};
use amqp_client_patterns::work::{Failure, Summary, Work, WorkError, WorkEvent};
use common::{BoxError, Outcome, Rig, Seen, on_each_adapter};
use futures_util::future::{Either, select};
use tokio::sync::{Notify, Semaphore};

async fn take(rig: &Rig, queue: &str) -> Result<Delivery, BoxError> {
    loop {
        if let Some(got) = rig.channel.basic_get(queue).await? {
            return Ok(got.delivery);
        }
        rig.connection.after(Duration::from_millis(2)).await?;
    }
}

async fn publish_all(queue: &Queue, bodies: impl IntoIterator<Item = String>) -> Outcome {
    for body in bodies {
        queue.publish_confirmed(&Message::new(body)).await?;
    }
    Ok(())
}

#[test]
fn messages_are_routed_handled_and_acknowledged() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        for key in ["order.created", "order.paid.late", "customer", "q"] {
            queue.bind("amq.topic", key).await?;
            let exchange = rig.channel.exchange("amq.topic")?;
            exchange.publish_confirmed(key, &Message::text("x")).await?;
        }
        let seen = Seen::new();
        let created =
            async |State(seen): State<Seen>, key: RoutingKey| seen.add(format!("1 {key}"));
        let orders = async |State(seen): State<Seen>, key: RoutingKey| seen.add(format!("2 {key}"));
        let rest = async |State(seen): State<Seen>, key: RoutingKey, delivery: Delivery| {
            seen.add(format!("3 {key}"));
            delivery.ack()
        };
        let work = Work::on(&queue)
            .state(seen.clone())
            .route("order.created", created)
            .route("order.#", orders)
            .otherwise(rest);
        let summary = work.until(async { assert_eq!(seen.next(4).await.len(), 4) }).await?;
        assert_eq!((summary.done, summary.refused, summary.unfinished.len()), (4, 0, 0));
        rig.wait_for_count("q", 0).await?;
        rig.channel.basic_recover().await?;
        assert_eq!(rig.channel.queue_delete("q").await?, 0);
        Ok(())
    });
}

#[test]
fn as_many_handlers_run_at_once_as_allowed() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, (0..10).map(|number| number.to_string())).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Semaphore::new(0)));
        let handler = {
            let (seen, gate) = (seen.clone(), gate.clone());
            move |Text(text): Text| {
                let (seen, gate) = (seen.clone(), gate.clone());
                async move {
                    seen.add(text);
                    gate.acquire().await.expect("it is open").forget();
                }
            }
        };
        let work = Work::on(&queue).at_once(3).prefetch(8).each(handler);
        let done = async {
            assert_eq!(seen.next(3).await, ["0", "1", "2"]);
            // The broker has sent 8, and the others wait.
            rig.wait_for_count("q", 2).await.expect("a count");
            rig.connection.after(Duration::from_millis(5)).await.expect("open");
            assert!(seen.is_empty().await, "a fourth handler runs");
            gate.add_permits(4);
            assert_eq!(seen.next(4).await.len(), 4);
            gate.add_permits(3);
        };
        let summary = work.until(done).await?;
        assert_eq!((summary.done, summary.unfinished.len()), (7, 0));
        rig.wait_for_count("q", 3).await
    });
}

#[test]
fn messages_of_one_key_are_handled_in_order_and_others_pass_them() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let bodies = ["a1", "a2", "b1", "a3", "b2", "b3"];
        publish_all(&queue, bodies.map(str::to_owned)).await?;
        let gates: Arc<HashMap<char, Semaphore>> =
            Arc::new(['a', 'b'].map(|key| (key, Semaphore::new(0))).into());
        let seen = Seen::new();
        let handler = async |Text(text): Text, State((seen, gates)): State<(Seen, Gates)>| {
            seen.add(text.clone());
            let key = text.chars().next().expect("a key");
            gates[&key].acquire().await.expect("it is open").forget();
            seen.add(format!("{text} done"));
        };
        type Gates = Arc<HashMap<char, Semaphore>>;
        let work = Work::on(&queue)
            .state((seen.clone(), gates.clone()))
            .at_once(4)
            .prefetch(10)
            .in_order_of(|delivery| delivery.body()[0])
            .each(handler);
        let done = async {
            assert_eq!(seen.next(2).await, ["a1", "b1"]);
            gates[&'b'].add_permits(3);
            assert_eq!(seen.next(5).await, ["b1 done", "b2", "b2 done", "b3", "b3 done"]);
            gates[&'a'].add_permits(3);
            assert_eq!(seen.next(5).await, ["a1 done", "a2", "a2 done", "a3", "a3 done"]);
        };
        assert_eq!(work.until(done).await?.done, 6);
        Ok(())
    });
}

#[test]
fn a_worker_that_is_stopped_lets_handlers_finish_and_returns_the_rest() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, ["quick", "hangs", "waits"].map(str::to_owned)).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Notify::new()));
        let handler = async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Notify>)>| {
            seen.add(&*text);
            match &*text {
                "quick" => gate.notified().await,
                _ => std::future::pending().await,
            }
        };
        let work = Work::on(&queue)
            .state((seen.clone(), gate.clone()))
            .at_once(2)
            .prefetch(3)
            .grace(Duration::from_millis(100))
            .each(handler);
        let stop = async {
            assert_eq!(seen.next(2).await, ["quick", "hangs"]);
            rig.wait_for_count("q", 0).await.expect("a count");
            // The handler finishes after the worker was stopped.
            gate.notify_one();
        };
        let summary = work.until(stop).await?;
        assert_eq!(summary.done, 1);
        let [unfinished] = &summary.unfinished[..] else { return Err("one is unfinished".into()) };
        assert_eq!(unfinished.body(), b"hangs");
        rig.wait_for_count("q", 1).await?;
        drop(summary);
        rig.wait_for_count("q", 2).await
    });
}

#[test]
fn verdicts_settle_messages() {
    on_each_adapter(async |rig: Rig| {
        let dead = rig.queue("dead").await?;
        let options = QueueOptions::new().dead_letter_exchange("").dead_letter_routing_key("dead");
        let queue = rig.channel.queue_declare("q", options).await?;
        publish_all(&queue, ["requeue", "retry", "error", "refuse", "{"].map(str::to_owned))
            .await?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let (seen, log) = (Seen::new(), events.clone());
        let handler = async |text: Text,
                             json: Result<Json<u8>, BoxError>,
                             delivery: Redelivered,
                             State(seen): State<Seen>| {
            let Text(text) = text;
            seen.add(&*text);
            assert!(json.is_err());
            match (&*text, delivery.0) {
                (_, true) => Ok(Verdict::Done),
                ("requeue", _) => Ok(Verdict::Requeue),
                ("retry", _) => Ok(Verdict::retry("busy")),
                ("refuse", _) => Err(Verdict::refuse("never")),
                _ => Err("disk full".into()),
            }
        };
        use amqp_client_patterns::handler::Redelivered;
        let work = Work::on(&queue).state(seen.clone()).each(handler).on_event(move |event| {
            log.lock().expect("no panic").push(event.to_string());
        });
        let summary = work.until(async { drop(seen.next(9).await) }).await?;
        assert_eq!(
            (summary.done, summary.requeued, summary.retried, summary.refused),
            (4, 1, 3, 1)
        );
        let letter = take(&rig, "dead").await?;
        assert_eq!(letter.body(), b"refuse");
        letter.ack()?;
        let events = events.lock().expect("no panic").clone();
        let busy = "message 3 with the routing key \"q\": retry: busy";
        assert!(events.iter().any(|event| event == busy), "{events:?}");
        assert_eq!(events.len(), 4);
        drop(dead);
        Ok(())
    });
}

#[test]
fn what_cannot_be_handled_is_parked_with_the_reason() {
    on_each_adapter(async |rig: Rig| {
        let (queue, _failed) = (rig.queue("q").await?, rig.queue("q.failed").await?);
        let other = rig.queue("other").await?;
        queue.bind("amq.topic", "#").await?;
        let headers = FieldTable::new().with("mine", 1)?.with("x-delivery-count", 7)?;
        let properties = MessageProperties::new()
            .user_id("guest")
            .expiration(Duration::from_secs(3600))
            .content_type("application/json")
            .message_id("4711")
            .headers(headers);
        let exchange = rig.channel.exchange("amq.topic")?;
        let message = Message::new("{").with(&properties)?;
        exchange.publish_confirmed("order.created", &message).await?;
        let work = Work::on(&queue).failed_to("q.failed").route("order.*", async |_: Json<u8>| ());
        let mut parked = Vec::new();
        let stop = async {
            parked.push(take(&rig, "q.failed").await.expect("it is parked"));
            exchange.publish_confirmed("nobody", &Message::text("x")).await.expect("sent");
            parked.push(take(&rig, "q.failed").await.expect("it is parked"));
        };
        let summary = work.until(stop).await?;
        assert_eq!((summary.refused, summary.done, summary.unfinished.len()), (2, 0, 0));
        let properties = parked[0].message_properties()?;
        let header = |name: &str| {
            let headers = parked[0].properties().headers().ok().flatten()?;
            headers.get(name).and_then(|value| value.as_str().map(str::to_owned))
        };
        assert_eq!(parked[0].body(), b"{");
        assert_eq!(properties.message_id.as_deref(), Some("4711"));
        assert_eq!((properties.user_id, properties.expiration), (None, None));
        let why = header("x-failure").ok_or("no reason")?;
        assert!(why.starts_with("the body does not decode as JSON: "), "{why}");
        assert_eq!(header("x-original-exchange").as_deref(), Some("amq.topic"));
        assert_eq!(header("x-original-routing-key").as_deref(), Some("order.created"));
        let headers = parked[0].properties().headers()?.ok_or("no headers")?;
        assert_eq!(headers.get("mine").and_then(|value| value.as_i64()), Some(1));
        assert_eq!(headers.get("x-attempts").and_then(|value| value.as_i64()), Some(8));
        assert!(headers.get("x-delivery-count").is_none());
        assert_eq!(rig.count("other").await?, 0);
        drop((other, parked));
        rig.channel.basic_recover().await?;
        rig.wait_for_count("q", 0).await
    });
}

#[test]
fn a_message_that_cannot_be_parked_is_not_lost() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let (seen, errors) = (Seen::new(), Seen::new());
        let log = errors.clone();
        let handler = async |State(seen): State<Seen>, Attempt(_): Attempt| {
            seen.add("called");
            Verdict::refuse("never")
        };
        let work =
            Work::on(&queue).state(seen.clone()).failed_to("q.failed").each(handler).on_event(
                move |event| match event {
                    WorkEvent::NotPublished { queue, .. } => log.add(*queue),
                    WorkEvent::Failed { by, .. } => assert_eq!(*by, Failure::Handler),
                    other => panic!("{other}"),
                },
            );
        let stop = async {
            assert_eq!(errors.next(1).await, ["q.failed"]);
            rig.queue("q.failed").await.expect("it is declared");
            rig.wait_for_count("q.failed", 1).await.expect("it is parked in the end");
        };
        let summary = work.until(stop).await?;
        // The second attempt succeeds, unless the queue is declared late.
        assert!(summary.refused >= 2, "{summary:?}");
        Ok(())
    });
}

#[test]
fn a_panic_is_contained_and_its_message_settled_by_policy() {
    on_each_adapter(async |rig: Rig| {
        let dead = rig.queue("dead").await?;
        let options = QueueOptions::new().dead_letter_exchange("").dead_letter_routing_key("dead");
        let queue = rig.channel.queue_declare("q", options).await?;
        publish_all(&queue, ["bad", "good"].map(str::to_owned)).await?;
        let seen = Seen::new();
        let handler = async |Text(text): Text, State(seen): State<Seen>, again: Redelivered| {
            seen.add(&*text);
            assert!(text == "good" || again.0, "on purpose");
        };
        use amqp_client_patterns::handler::Redelivered;
        let work = || Work::on(&queue).state(seen.clone()).at_once(2).each(handler);
        let summary = work().until(async { drop(seen.next(3).await) }).await?;
        assert_eq!((summary.panicked, summary.retried, summary.done), (1, 1, 2));

        publish_all(&queue, ["bad", "good"].map(str::to_owned)).await?;
        let summary =
            work().on_panic(OnPanic::Reject).until(async { drop(seen.next(2).await) }).await?;
        assert_eq!((summary.panicked, summary.refused, summary.done), (1, 1, 1));
        rig.wait_for_count("dead", 1).await?;

        // A panic of a handler that owns its delivery, and one before the first await.
        publish_all(&queue, ["bad"].map(str::to_owned)).await?;
        let owner = |State(seen): State<Seen>, delivery: Delivery| {
            seen.add("called");
            assert!(delivery.redelivered(), "on purpose");
            async move { delivery.ack() }
        };
        let work = Work::on(&queue).state(seen.clone()).each(owner);
        let summary = work.until(async { drop(seen.next(2).await) }).await?;
        assert_eq!((summary.panicked, summary.done), (1, 1), "{summary:?}");
        drop(dead);
        Ok(())
    });
}

#[test]
fn a_panic_that_propagates_counts_against_its_message_only() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, ["waits", "bad"].map(str::to_owned)).await?;
        let handler = async |Text(text): Text| match &*text {
            "bad" => panic!("on purpose"),
            _ => std::future::pending::<()>().await,
        };
        let work = Work::on(&queue).at_once(2).on_panic(OnPanic::Propagate).each(handler);
        let caught =
            futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(work.run()));
        let panic = caught.await.err().ok_or("it did not panic")?;
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
        rig.wait_for_count("q", 2).await
    });
}

#[test]
fn a_handler_that_runs_for_long_is_reported_once() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let reports = Seen::new();
        let log = reports.clone();
        let gate = Arc::new(Notify::new());
        let handler = async |State(gate): State<Arc<Notify>>| gate.notified().await;
        let work = Work::on(&queue)
            .state(gate.clone())
            .warn_after(Duration::from_millis(20))
            .on_event(move |event| log.add(event.to_string()))
            .each(handler);
        let stop = async {
            let expected =
                "message 1 with the routing key \"q\": its handler has been running for 20ms";
            assert_eq!(reports.next(1).await, [expected]);
            rig.connection.after(Duration::from_millis(60)).await.expect("open");
            assert!(reports.is_empty().await, "a second report");
            gate.notify_one();
        };
        assert_eq!(work.until(stop).await?.done, 1);
        Ok(())
    });
}

#[test]
fn a_worker_whose_queue_is_deleted_ends_with_the_reason() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        rig.publish(&queue, "m").await?;
        let seen = Seen::new();
        let handler = async |State(seen): State<Seen>| seen.add("called");
        let work = Work::on(&queue).state(seen.clone()).each(handler);
        let deleted = async {
            seen.next(1).await;
            rig.wait_for_count("q", 0).await.expect("a count");
            rig.channel.queue_delete("q").await.expect("it is deleted");
            std::future::pending::<()>().await;
        };
        match select(pin!(work.run()), pin!(deleted)).await {
            Either::Left((Err(WorkError::Ended { summary, .. }), _)) => assert_eq!(summary.done, 1),
            _ => return Err("it goes on".into()),
        }
        let gone = Work::on(&queue).each(async || ()).run().await;
        assert!(matches!(gone, Err(WorkError::Start(_))), "{gone:?}");
        Ok(())
    });
}

/// Whatever ends the worker, it does not wait for a handler for longer than the grace period, or when nobody measures it.
#[test]
fn a_handler_that_hangs_does_not_keep_a_worker_that_has_ended() {
    on_each_adapter(async |rig: Rig| {
        for closed in [false, true] {
            let queue = rig.queue("q").await?;
            publish_all(&queue, ["hangs", "waits"].map(str::to_owned)).await?;
            let seen = Seen::new();
            let handler = async |Text(text): Text, State(seen): State<Seen>| {
                seen.add(text);
                std::future::pending::<()>().await;
            };
            let grace = if closed { Duration::MAX } else { Duration::from_millis(20) };
            let work = Work::on(&queue).state(seen.clone()).grace(grace).each(handler);
            let end = async {
                assert_eq!(seen.next(1).await, ["hangs"]);
                match closed {
                    true => rig.connection.close().await.expect("it is closed"),
                    false => drop(rig.channel.queue_delete("q").await.expect("it is deleted")),
                }
            };
            let (ended, ()) = futures_util::future::join(work.run(), end).await;
            let Err(WorkError::Ended { summary, .. }) = ended else {
                return Err(format!("{ended:?}").into());
            };
            let [unfinished] = &summary.unfinished[..] else { return Err("it has one".into()) };
            assert_eq!((summary.done, unfinished.body()), (0, &b"hangs"[..]));
        }
        Ok(())
    });
}

/// Nothing at the broker limits what a consumer without acknowledgements gets.
#[test]
fn a_worker_without_acknowledgements_takes_no_more_than_its_limit() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, (0..100).map(|number| number.to_string())).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Semaphore::new(0)));
        let handler =
            async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Semaphore>)>| {
                seen.add(text);
                drop(gate.acquire().await.expect("it is open"));
            };
        let taken = Arc::new(AtomicU32::new(0));
        let count = taken.clone();
        let work = Work::on(&queue)
            .state((seen.clone(), gate.clone()))
            .consume_options(ConsumeOptions::new().no_ack(true))
            .at_once(2)
            .prefetch(8)
            .in_order_of(move |_| _ = count.fetch_add(1, Ordering::SeqCst))
            .each(handler);
        let stop = async {
            assert_eq!(seen.next(1).await, ["0"]);
            // All have arrived here.
            rig.wait_for_count("q", 0).await.expect("a count");
            rig.connection.after(Duration::from_millis(5)).await.expect("open");
            assert!(taken.load(Ordering::SeqCst) <= 9, "{taken:?} are taken");
            gate.add_permits(1);
            let expected: Vec<_> = (1..100).map(|number| number.to_string()).collect();
            assert_eq!(seen.next(99).await, expected);
        };
        assert_eq!(work.until(stop).await?.done, 100);
        Ok(())
    });
}

#[test]
fn a_worker_goes_on_after_a_loss_of_the_connection() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, ["1", "2"].map(str::to_owned)).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Semaphore::new(0)));
        let handler =
            async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Semaphore>)>| {
                seen.add(text);
                gate.acquire().await.expect("it is open").forget();
                Verdict::refuse("never")
            };
        let failed = rig.queue("q.failed").await?;
        let recovered = Arc::new(Notify::new());
        let notify = recovered.clone();
        rig.connection.on_recover(move |_| notify.notify_one());
        let work = Work::on(&queue)
            .state((seen.clone(), gate.clone()))
            .at_once(2)
            .failed_to("q.failed")
            .in_order_of(|delivery| delivery.body_bytes())
            .each(handler);
        let stop = async {
            assert_eq!(seen.next(2).await, ["1", "2"]);
            rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
            recovered.notified().await;
            rig.wait_for_count("q", 0).await.expect("a count");
            // Both are delivered again. They wait for the handlers of the lost connection, whose verdicts have no effect.
            gate.add_permits(4);
            assert_eq!(seen.next(2).await, ["1", "2"]);
            rig.wait_for_count("q.failed", 2).await.expect("a count");
        };
        let summary = work.until(stop).await?;
        assert_eq!((summary.refused, summary.unfinished.len()), (4, 0));
        drop(failed);
        Ok(())
    });
}

#[test]
fn a_worker_that_is_dropped_or_stopped_at_once_loses_nothing() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        publish_all(&queue, ["1", "2"].map(str::to_owned)).await?;
        let summary: Summary = Work::on(&queue).each(async || ()).until(async {}).await?;
        assert_eq!(summary.done, 0);
        let seen = Seen::new();
        let handler = async |State(seen): State<Seen>| {
            seen.add("called");
            std::future::pending::<()>().await;
        };
        let work = Work::on(&queue).state(seen.clone()).at_once(2).each(handler).run();
        let Either::Right(_) = select(pin!(work), pin!(seen.next(2))).await else {
            return Err("it ended".into());
        };
        rig.wait_for_count("q", 2).await
    });
}

/// Workers can be spawned if their handlers can, and handlers need not be `Send` where nothing is spawned.
#[test]
fn a_worker_is_as_send_as_its_handlers() -> Outcome {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let broker = amqp_test_broker::Broker::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = amqp_client_tokio::connect(&broker.uri()).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("q", QueueOptions::new()).await?;
        queue.publish_confirmed(&Message::new("7")).await?;
        let (seen, stopped) = (Seen::new(), Arc::new(Notify::new()));
        let handler = async |Json(number): Json<u8>, State(seen): State<Seen>| {
            tokio::task::yield_now().await;
            seen.add(number.to_string());
        };
        let (state, stop) = (seen.clone(), stopped.clone());
        let worker = tokio::spawn(is_send(async move {
            let work = Work::on(&queue).state(state).in_order_of(|delivery| delivery.routing_key());
            work.route("x", async |_: Text, _: Delivery| ())
                .otherwise(handler)
                .until(stop.notified())
                .await
        }));
        assert_eq!(seen.next(1).await, ["7"]);
        stopped.notify_one();
        assert_eq!(worker.await??.done, 1);

        let queue = channel.queue("q")?;
        queue.publish_confirmed(&Message::new("8")).await?;
        let local = std::cell::Cell::new(0);
        let handler = |Json(number): Json<u8>| {
            local.set(number);
            async {}
        };
        Work::on(&queue)
            .each(handler)
            .until(async {
                while local.get() == 0 {
                    connection.after(Duration::from_millis(1)).await.expect("open");
                }
            })
            .await?;
        assert_eq!(local.get(), 8);
        Ok(())
    })
}
