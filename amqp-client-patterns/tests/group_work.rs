//! Workers that handle the messages of a group.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amqp_client_core::{Connection, ConnectionEvent, Message, OnPanic, PublisherOptions};
use amqp_client_patterns::handler::{Attempt, PartitionKey, State, Text, Verdict};
use amqp_client_patterns::partitions::{GroupEnd, Member, PartitionPublisher, Partitions};
use amqp_client_patterns::retry::Retry;
use amqp_client_patterns::work::{Summary, Work, WorkError, WorkEvent};
use amqp_test_broker::Options;
use common::{BoxError, Outcome, Rig, Seen, on_each_adapter_with};
use futures_util::future::join;
use tokio::sync::{Notify, Semaphore};

const SHORT: Duration = Duration::from_millis(5);

/// One partition, so that all keys share it.
struct Orders {
    partitions: Partitions,
    publisher: PartitionPublisher,
}

impl Orders {
    async fn new(rig: &Rig) -> Result<Self, BoxError> {
        let partitions = Partitions::new("orders", 1)?;
        let version = rig.connection.broker_version();
        partitions.topology(version.as_ref()).apply(&rig.channel).await?;
        let publisher = partitions.publisher(&rig.connection, PublisherOptions::new()).await?;
        Ok(Self { partitions, publisher })
    }

    /// Publishes messages whose first character is their key.
    async fn send(&self, messages: &[&str]) -> Outcome {
        for message in messages {
            self.publisher.send(&message[..1], (*message).to_owned()).await?;
        }
        Ok(())
    }

    async fn work(&self, rig: &Rig) -> Result<GroupWork, BoxError> {
        let group = self.partitions.join(&rig.connection, Member::random()).await?;
        Ok(Work::on_group(group).retry(soon(3)))
    }
}

type GroupWork =
    Work<(), amqp_client_patterns::work::NoRoutes, amqp_client_patterns::partitions::Group>;

fn soon(times: u32) -> Retry {
    Retry::times(times).from(SHORT).to(SHORT)
}

fn on_each(test: impl AsyncFn(Rig) -> Outcome) {
    on_each_adapter_with(&Options::new().rabbitmq_4_3(), test);
}

/// What the handlers of one key saw, in its order.
fn of_key(key: char, seen: &[String]) -> Vec<&str> {
    seen.iter().filter(|seen| seen.starts_with(key)).map(|seen| &**seen).collect()
}

#[test]
fn keys_of_a_partition_run_at_once_and_each_in_its_order() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Semaphore::new(0)));
        let handler =
            async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Semaphore>)>| {
                seen.add(format!("{text} begins"));
                gate.acquire().await.expect("it is open").forget();
                seen.add(format!("{text} ends"));
            };
        let test = async {
            orders.send(&["a1", "a2", "b1", "b2", "c1"]).await?;
            let mut first = seen.next(3).await;
            first.sort();
            assert_eq!(first, ["a1 begins", "b1 begins", "c1 begins"]);
            gate.add_permits(5);
            let rest = seen.next(7).await;
            assert_eq!(of_key('a', &rest), ["a1 ends", "a2 begins", "a2 ends"]);
            assert_eq!(of_key('b', &rest), ["b1 ends", "b2 begins", "b2 ends"]);
            Outcome::Ok(())
        };
        let work = orders.work(&rig).await?.at_once(8).state((seen.clone(), gate.clone()));
        let summary = run(work.each(handler).until(test)).await?;
        assert_eq!((summary.done, summary.unfinished.len()), (5, 0));
        rig.wait_for_count("orders.0", 0).await
    });
}

/// Waits for a worker.
async fn run(
    worker: impl Future<Output = Result<Summary, WorkError>>,
) -> Result<Summary, BoxError> {
    Ok(worker.await?)
}

#[test]
fn a_message_that_fails_is_tried_again_before_later_ones_of_its_key() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let seen = Seen::new();
        let handler =
            async |Text(text): Text, Attempt(attempt): Attempt, State(seen): State<Seen>| {
                seen.add(format!("{text} {attempt}"));
                match &*text {
                    "a1" if attempt == 1 => panic!("the first attempt panics"),
                    "a1" if attempt < 4 => Verdict::retry("busy"),
                    "a2" => Verdict::retry("never"),
                    "b1" if attempt < 2 => Verdict::Requeue,
                    _ => Verdict::Done,
                }
            };
        let test = async {
            orders.send(&["a1", "a2", "a3", "b1", "b2"]).await?;
            let all = seen.next(4 + 4 + 1 + 2 + 1).await;
            assert_eq!(
                of_key('a', &all),
                ["a1 1", "a1 2", "a1 3", "a1 4", "a2 1", "a2 2", "a2 3", "a2 4", "a3 1"]
            );
            assert_eq!(of_key('b', &all), ["b1 1", "b1 2", "b2 1"]);
            // The message that never succeeds is parked, with the reason and its attempts.
            rig.wait_for_count("orders.failed", 1).await?;
            let parked = rig.channel.basic_get("orders.failed").await?.ok_or("it is there")?;
            let headers = parked.delivery.message_properties()?.headers.ok_or("headers")?;
            assert_eq!(parked.delivery.text()?, "a2");
            assert_eq!(
                headers.get("x-failure").and_then(|why| why.as_str().map(str::to_owned)),
                Some("never".into())
            );
            assert_eq!(headers.get("x-attempts").and_then(|count| count.as_i64()), Some(4));
            Outcome::Ok(parked.delivery.ack()?)
        };
        let work = orders.work(&rig).await?.at_once(8).state(seen.clone());
        let summary = run(work.each(handler).until(test)).await?;
        assert_eq!((summary.done, summary.retried, summary.requeued), (4, 6, 1));
        assert_eq!((summary.refused, summary.panicked), (1, 1));
        rig.wait_for_count("orders.0", 0).await
    });
}

#[test]
fn a_message_that_waits_for_its_retry_lets_other_keys_pass() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let (seen, may_succeed) = (Seen::new(), Arc::new(AtomicBool::new(false)));
        let handler =
            async |Text(text): Text, State((seen, may)): State<(Seen, Arc<AtomicBool>)>| {
                if text.starts_with('a') && !may.load(Ordering::SeqCst) {
                    return Verdict::retry("not yet");
                }
                seen.add(text);
                Verdict::Done
            };
        let test = async {
            orders.send(&["a1", "a2", "b1", "c1", "b2"]).await?;
            assert_eq!(seen.next(3).await, ["b1", "c1", "b2"]);
            may_succeed.store(true, Ordering::SeqCst);
            assert_eq!(seen.next(2).await, ["a1", "a2"]);
            Outcome::Ok(())
        };
        let state = (seen.clone(), may_succeed.clone());
        let work = orders.work(&rig).await?.retry(soon(u32::MAX)).at_once(1).state(state);
        assert_eq!(run(work.each(handler).until(test)).await?.done, 5);
        Ok(())
    });
}

#[test]
fn a_worker_that_stops_leaves_what_it_has_to_the_next_in_order() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Notify::new()));
        let slow = async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Notify>)>| {
            seen.add(&*text);
            match &*text {
                "c1" => gate.notified().await,
                "b1" => std::future::pending().await,
                "d1" => return Verdict::retry("later"),
                _ => {}
            }
            Verdict::Done
        };
        orders.send(&["a1", "b1", "c1", "d1", "b2", "c2", "d2"]).await?;
        let stop = async {
            assert_eq!(seen.next(4).await, ["a1", "b1", "c1", "d1"]);
            // Finishes within the grace period.
            gate.notify_one();
        };
        let work = orders.work(&rig).await?.retry(Retry::times(9)).at_once(8);
        let work = work.grace(Duration::from_millis(50)).state((seen.clone(), gate.clone()));
        let summary = run(work.each(slow).until(stop)).await?;
        assert_eq!(summary.done, 2);
        let unfinished: Vec<_> = summary.unfinished.iter().map(|left| left.text()).collect();
        assert_eq!(unfinished, [Ok("b1")]);
        // They can no longer be settled, and dropping them has no effect.
        assert!(summary.unfinished.into_iter().all(|left| left.ack().is_err()));

        let next = async |Text(text): Text, State(seen): State<Seen>| seen.add(text);
        let stop = async { assert_eq!(seen.next(5).await, ["b1", "d1", "b2", "c2", "d2"]) };
        let work = orders.work(&rig).await?.state(seen.clone());
        assert_eq!(run(work.each(next).until(stop)).await?.done, 5);
        rig.wait_for_count("orders.0", 0).await
    });
}

#[test]
fn a_refused_message_is_parked_or_rejected_and_handled_again_if_it_cannot_be_parked() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let seen = Seen::new();
        let handler = async |Text(text): Text, State(seen): State<Seen>| {
            seen.add(&*text);
            if text == "a1" { Verdict::refuse("wrong") } else { Verdict::Done }
        };
        let reports = Seen::new();
        let report = reports.clone();
        let test = async {
            orders.send(&["a1", "a2"]).await?;
            assert_eq!(seen.next(1).await, ["a1"]);
            assert_eq!(reports.next(1).await, ["parked"]);
            rig.queue("parked").await?;
            assert_eq!(seen.next(2).await, ["a1", "a2"]);
            rig.wait_for_count("parked", 1).await
        };
        let work = orders.work(&rig).await?.failed_to("parked").state(seen.clone());
        let work = work.on_event(move |event| {
            if let WorkEvent::NotPublished { queue, .. } = event {
                report.add(*queue);
            }
        });
        let summary = run(work.each(handler).until(test)).await?;
        assert_eq!((summary.done, summary.refused), (1, 2));
        Ok(())
    });
}

#[test]
fn a_worker_goes_on_after_a_loss_and_settles_nothing_twice() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let (seen, gate) = (Seen::new(), Arc::new(Semaphore::new(0)));
        let handler =
            async |Text(text): Text, State((seen, gate)): State<(Seen, Arc<Semaphore>)>| {
                seen.add(&*text);
                if text == "d1" {
                    return Verdict::retry("later");
                }
                gate.acquire().await.expect("it is open").forget();
                Verdict::Done
            };
        let test = async {
            orders.send(&["a1", "a2", "b1", "d1"]).await?;
            let mut before = seen.next(3).await;
            before.sort();
            assert_eq!(before, ["a1", "b1", "d1"]);
            let mut lost = rig.connection.events();
            rig.broker.connections().iter().for_each(|own| rig.broker.cut(own.id));
            while !matches!(lost.next().await, Some(ConnectionEvent::Recovered(_))) {}
            // The handlers of the lost connection still run: their keys are busy. They settle nothing.
            gate.add_permits(2);
            let mut after = seen.next(3).await;
            after.sort();
            assert_eq!(after, ["a1", "b1", "d1"]);
            gate.add_permits(3);
            assert_eq!(seen.next(1).await, ["a2"]);
            rig.wait_for_count("orders.0", 0).await
        };
        let state = (seen.clone(), gate.clone());
        let later = Duration::from_millis(400);
        let work = orders.work(&rig).await?.retry(Retry::times(9).from(later)).at_once(8);
        let summary = run(work.state(state).each(handler).until(test)).await?;
        // Two were handled twice.
        assert_eq!(summary.done, 5);
        assert_eq!(rig.connection.health().stale, 2);
        rig.wait_for_count("orders.0", 1).await
    });
}

#[test]
fn a_worker_says_why_its_group_has_ended() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        let hangs = async || std::future::pending::<()>().await;
        orders.send(&["a1"]).await?;
        let joining = orders.partitions.join(&rig.connection, Member::random());
        let group = joining.held_at_most(Duration::from_millis(20)).await?;
        let ended = Work::on_group(group).grace(Duration::ZERO).each(hangs).run().await;
        let Err(WorkError::GroupEnded { end: GroupEnd::Stuck { partition: 0, .. }, summary }) =
            ended
        else {
            panic!("{ended:?}");
        };
        assert_eq!(summary.unfinished.len(), 1);

        let work = orders.work(&rig).await?.grace(Duration::ZERO).each(hangs);
        let delete = async { rig.channel.queue_delete("orders.0").await.map(drop) };
        let (ended, deleted) = join(work.run(), delete).await;
        deleted?;
        let Err(WorkError::GroupEnded { end: GroupEnd::Ended { partition: 0, .. }, .. }) = ended
        else {
            panic!("{ended:?}");
        };
        Ok(())
    });
}

#[test]
fn a_panic_that_propagates_leaves_the_group() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        orders.send(&["a1", "a2"]).await?;
        let panics = async |Text(text): Text| assert_ne!(text, "a1", "as it should");
        let work = orders.work(&rig).await?.on_panic(OnPanic::Propagate).each(panics);
        let ended = std::panic::AssertUnwindSafe(work.run());
        let ended = futures_util::future::FutureExt::catch_unwind(ended).await;
        assert!(ended.is_err(), "it panics");
        let seen = Seen::new();
        let next = async |Text(text): Text, State(seen): State<Seen>| seen.add(text);
        let stop = async { assert_eq!(seen.next(2).await, ["a1", "a2"]) };
        let work = orders.work(&rig).await?.state(seen.clone());
        assert_eq!(run(work.each(next).until(stop)).await?.done, 2);
        Ok(())
    });
}

#[test]
fn a_message_that_ends_its_members_is_found_and_parked() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        orders.send(&["a1", "b1", "b2", "c1"]).await?;
        // What members do whose process dies: they give back what they have.
        let dies = async |holding: usize| {
            let mut group = orders.partitions.join(&rig.connection, Member::random()).await?;
            let mut held = Vec::new();
            while held.len() < holding {
                held.push(group.next().await.ok_or("it has ended")??);
            }
            assert_eq!(group.leave(Duration::ZERO).await?, holding);
            Outcome::Ok(())
        };
        dies(4).await?;
        dies(4).await?;
        let seen = Seen::new();
        let handler =
            async |Text(text): Text, State((seen, connection)): State<(Seen, Connection)>| {
                seen.add(format!("{text} begins"));
                connection.after(SHORT).await.expect("it is open");
                seen.add(format!("{text} ends"));
                if text == "b1" {
                    std::future::pending::<()>().await
                }
            };
        // From the second death on, one message at a time is handled. So the first one is done when the next one is fatal.
        let state = (seen.clone(), rig.connection.clone());
        let work = || async {
            let work = orders.work(&rig).await?.deliveries_max(4).at_once(8);
            Result::<_, BoxError>::Ok(work.grace(Duration::ZERO).state(state.clone()).each(handler))
        };
        let fatal = async {
            let seen = seen.next(4).await;
            assert_eq!(seen, ["a1 begins", "a1 ends", "b1 begins", "b1 ends"]);
        };
        assert_eq!(run(work().await?.until(fatal)).await?.done, 1);
        dies(3).await?;
        let parked = async {
            let seen = seen.next(4).await;
            assert_eq!(seen, ["b2 begins", "b2 ends", "c1 begins", "c1 ends"]);
            // What was never with a member that died is handled concurrently again.
            orders.send(&["d1", "e1"]).await.expect("it is sent");
        };
        let both = async {
            parked.await;
            let mut seen = seen.next(2).await;
            seen.sort();
            assert_eq!(seen, ["d1 begins", "e1 begins"]);
        };
        let summary = run(work().await?.until(both)).await?;
        assert_eq!((summary.done, summary.refused), (2, 1));
        let parked = rig.channel.basic_get("orders.failed").await?.ok_or("it is parked")?.delivery;
        assert_eq!(parked.text()?, "b1");
        let headers = parked.message_properties()?.headers.ok_or("headers")?;
        let why = headers.get("x-failure").and_then(|why| why.as_str().map(str::to_owned));
        assert!(why.as_ref().is_some_and(|why| why.contains("delivered 4 times")), "{why:?}");
        Ok(parked.ack()?)
    });
}

#[test]
fn handlers_can_take_the_key_which_a_foreign_message_may_not_have() {
    on_each(async |rig| {
        let orders = Orders::new(&rig).await?;
        orders.send(&["a1"]).await?;
        let queue = rig.channel.queue("orders.0")?;
        queue.publish_confirmed(&Message::new("foreign")).await?;
        let seen = Seen::new();
        let handler = async |PartitionKey(key): PartitionKey, State(seen): State<Seen>| {
            seen.add(String::from_utf8_lossy(&key));
        };
        let stop = async {
            assert_eq!(seen.next(1).await, ["a"]);
            rig.wait_for_count("orders.failed", 1).await
        };
        let work = orders.work(&rig).await?.state(seen.clone());
        let summary = run(work.each(handler).until(stop)).await?;
        assert_eq!((summary.done, summary.refused), (1, 1));
        Ok(())
    });
}
