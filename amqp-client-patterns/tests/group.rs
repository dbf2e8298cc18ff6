//! Groups: members that share partitions.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use amqp_client_core::{
    BrokerVersion, ConnectionEvent, ConsumeOptions, PublisherOptions, QueueOptions, ReplyCode,
};
use amqp_client_patterns::partitions::{
    Group, GroupEnd, GroupEvent, Member, PartitionDelivery, PartitionPublisher, Partitions,
    PartitionsError,
};
use amqp_test_broker::Options;
use common::{BoxError, Outcome, Rig, on_each_adapter, on_each_adapter_with};
use futures_util::future::{Either, FutureExt as _, join as both, select};

const COUNT: u32 = 8;

fn rabbitmq_4_3() -> Options {
    Options::new().rabbitmq_4_3()
}

async fn declared(rig: &Rig) -> Result<Partitions, BoxError> {
    let orders = Partitions::new("orders", COUNT)?;
    orders.topology(rig.connection.broker_version().as_ref()).apply(&rig.channel).await?;
    Ok(orders)
}

async fn publisher(rig: &Rig, orders: &Partitions) -> Result<PartitionPublisher, BoxError> {
    Ok(orders.publisher(&rig.connection, PublisherOptions::new()).await?)
}

/// A key of this partition.
fn key(orders: &Partitions, partition: u32) -> String {
    let keys = (0..).map(|number| format!("key {number}"));
    let mut own = keys.filter(|key| orders.partition_of(key) == partition);
    own.next().expect("every partition has keys")
}

/// Publishes the numbers from 0 on to each partition.
async fn fill(rig: &Rig, orders: &Partitions, count: u32) -> Outcome {
    let publisher = publisher(rig, orders).await?;
    for number in 0..count {
        for partition in 0..orders.count() {
            drop(publisher.publish(key(orders, partition), number.to_string()).await?);
        }
    }
    Ok(publisher.wait_for_confirms().await?)
}

async fn next(group: &mut Group) -> Result<PartitionDelivery, BoxError> {
    Ok(group.next().await.ok_or("the group has ended")??)
}

fn number(delivery: &PartitionDelivery) -> Result<u32, BoxError> {
    Ok(delivery.text()?.parse()?)
}

/// The first numbers that came, by partition, and who got them.
#[derive(Default)]
struct Ledger(BTreeMap<u32, Vec<(u32, usize)>>);

impl Ledger {
    fn note(&mut self, delivery: &PartitionDelivery, member: usize) -> Result<(), BoxError> {
        let number = number(delivery)?;
        let seen = self.0.entry(delivery.partition()).or_default();
        if seen.iter().all(|(known, _)| *known != number) {
            assert_eq!(number as usize, seen.len(), "partition {}", delivery.partition());
            seen.push((number, member));
        }
        Ok(())
    }

    fn is_complete(&self, count: u32) -> bool {
        self.0.len() == COUNT as usize && self.0.values().all(|seen| seen.len() == count as usize)
    }

    fn owners(&self, number: u32) -> Vec<Option<usize>> {
        let owner = |seen: &Vec<(u32, usize)>| seen.get(number as usize).map(|(_, owner)| *owner);
        (0..COUNT).map(|partition| self.0.get(&partition).and_then(owner)).collect()
    }
}

/// Lets members take and acknowledge messages until `enough`.
async fn take_until(
    groups: &mut [&mut Group],
    ledger: &mut Ledger,
    enough: impl Fn(&Ledger) -> bool,
) -> Outcome {
    while !enough(ledger) {
        let (delivery, member) = poll_fn(|cx| {
            for (member, group) in groups.iter_mut().enumerate() {
                if let Poll::Ready(next) = pin!(group.next()).poll(cx) {
                    return Poll::Ready((next, member));
                }
            }
            Poll::Pending
        })
        .await;
        let delivery = delivery.ok_or("a group has ended")??;
        ledger.note(&delivery, member)?;
        delivery.ack()?;
    }
    Ok(())
}

/// The events of a group.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<GroupEvent>>>);

impl Events {
    fn observer(&self) -> impl FnMut(&GroupEvent) + Send + use<> {
        let events = self.0.clone();
        move |event| events.lock().expect("no panic").push(event.clone())
    }

    fn take(&self) -> Vec<GroupEvent> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

#[test]
fn members_have_the_partitions_that_their_slots_say() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        let members = [Member::slot(0), Member::slot(1), Member::slot(2)];
        let mut first = orders.join(&rig.connection, members[0].clone()).await?;
        let mut second = orders.join(&rig.connection, members[1].clone()).await?;
        let mut third = orders.join(&rig.connection, members[2].clone()).await?;
        fill(&rig, &orders, 30).await?;
        let mut ledger = Ledger::default();
        let mut groups = [&mut first, &mut second, &mut third];
        take_until(&mut groups, &mut ledger, |ledger| ledger.is_complete(30)).await?;
        for number in 0..30 {
            assert_eq!(ledger.owners(number), orders.owners(&members));
        }
        for group in [first, second, third] {
            assert_eq!(group.leave(Duration::from_secs(60)).await?, 0);
        }
        Ok(())
    });
}

/// A member that joins gets its partitions once the old owners have acknowledged what they have.
#[test]
fn a_new_member_takes_over_in_order() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        fill(&rig, &orders, 40).await?;
        let members = [Member::named("a"), Member::named("b")];
        let mut first = orders.join(&rig.connection, members[0].clone()).prefetch(3).await?;
        let mut ledger = Ledger::default();
        let started = |ledger: &Ledger| ledger.owners(4).iter().all(Option::is_some);
        take_until(&mut [&mut first], &mut ledger, started).await?;
        let mut second = orders.join(&rig.connection, members[1].clone()).prefetch(3).await?;
        let mut groups = [&mut first, &mut second];
        take_until(&mut groups, &mut ledger, |ledger| ledger.is_complete(40)).await?;
        assert_eq!(ledger.owners(39), orders.owners(&members));
        Ok(())
    });
}

/// What a member has taken and not acknowledged, or not even taken, is delivered to the next one, before anything else.
#[test]
fn leaving_changes_no_order() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        for leaves in [true, false] {
            let orders = Partitions::new(format!("orders {leaves}"), COUNT)?;
            let broker = rig.connection.broker_version();
            orders.topology(broker.as_ref()).apply(&rig.channel).await?;
            fill(&rig, &orders, 20).await?;
            let mut first = orders.join(&rig.connection, Member::named("a").weight(9)).await?;
            let mut second = orders.join(&rig.connection, Member::named("b")).await?;
            let all = (0..COUNT).map(|partition| (partition, (0..20).collect::<VecDeque<_>>()));
            let mut left: BTreeMap<_, _> = all.collect();
            let mut held = Vec::new();
            while held.len() < 30 {
                let delivery = next(&mut first).await?;
                // Every third one is acknowledged.
                if number(&delivery)? % 3 == 0 {
                    let numbers = left.get_mut(&delivery.partition()).ok_or("it is below COUNT")?;
                    let number = number(&delivery)?;
                    numbers.retain(|other| *other != number);
                    delivery.ack()?;
                } else {
                    held.push(delivery);
                }
            }
            if leaves {
                assert_eq!(first.leave(Duration::ZERO).await?, 30);
            } else {
                drop(first);
            }
            drop(held);
            while !left.is_empty() {
                let delivery = next(&mut second).await?;
                let partition = delivery.partition();
                let numbers = left.get_mut(&partition).ok_or("nothing is left in it")?;
                assert_eq!(numbers.pop_front(), Some(number(&delivery)?), "{partition}");
                if numbers.is_empty() {
                    left.remove(&partition);
                }
                delivery.ack()?;
            }
            second.leave(Duration::ZERO).await?;
        }
        Ok(())
    });
}

/// The partition that is behind the delivery must not go on without it.
#[test]
fn a_delivery_that_is_dropped_ends_the_group() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        fill(&rig, &orders, 5).await?;
        let events = Events::default();
        let mut group =
            orders.join(&rig.connection, Member::random()).on_event(events.observer()).await?;
        let (dropped, other) = (next(&mut group).await?, next(&mut group).await?);
        let partition = dropped.partition();
        drop(dropped);
        let end = group.next().await.ok_or("it says why")?;
        assert_eq!(end.err(), Some(GroupEnd::Dropped { partition }));
        assert!(group.next().await.is_none(), "that was said once");
        assert!(other.ack().is_err(), "its channel is closed");
        let revoked =
            events.take().into_iter().filter(|event| matches!(event, GroupEvent::Revoked { .. }));
        assert!(revoked.count() > 0, "its partitions are revoked");
        let mut again = orders.join(&rig.connection, Member::random()).await?;
        let all = |ledger: &Ledger| ledger.is_complete(5);
        take_until(&mut [&mut again], &mut Ledger::default(), all).await
    });
}

/// Wherever the future was dropped, the next member gets everything in order.
#[test]
fn joining_may_be_cancelled() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        fill(&rig, &orders, 10).await?;
        for polls in 0.. {
            let mut joining = pin!(orders.join(&rig.connection, Member::random()));
            let mut left = polls;
            let joined = poll_fn(|cx| match joining.as_mut().poll(cx) {
                Poll::Ready(joined) => Poll::Ready(Some(joined)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            });
            match joined.await {
                None => {}
                Some(group) => {
                    drop(group?);
                    break;
                }
            }
        }
        let mut group = orders.join(&rig.connection, Member::random()).await?;
        let all = |ledger: &Ledger| ledger.is_complete(10);
        take_until(&mut [&mut group], &mut Ledger::default(), all).await
    });
}

#[test]
fn a_member_that_lost_its_connection_gets_its_partitions_again() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        fill(&rig, &orders, 30).await?;
        let events = Events::default();
        let joining = orders.join(&rig.connection, Member::random()).prefetch(4);
        let mut group = joining.on_event(events.observer()).await?;
        let mut ledger = Ledger::default();
        for round in 1..=3 {
            let some = |ledger: &Ledger| ledger.owners(round * 5).iter().all(Option::is_some);
            take_until(&mut [&mut group], &mut ledger, some).await?;
            let (dropped, kept) = (next(&mut group).await?, next(&mut group).await?);
            events.take();
            let mut lost = rig.connection.events();
            rig.broker.connections().iter().for_each(|own| rig.broker.cut(own.id));
            while !matches!(lost.next().await, Some(ConnectionEvent::Recovered(_))) {}
            // The broker delivers both again.
            drop(dropped);
            kept.ack()?;
            let again = next(&mut group).await?;
            let came = events.take();
            let revoked = came.iter().filter(|event| matches!(event, GroupEvent::Revoked { .. }));
            assert!(revoked.count() >= 1, "{came:?}");
            let partition = again.partition();
            assert!(came.contains(&GroupEvent::Assigned { partition }), "{came:?}");
            ledger.note(&again, 0)?;
            again.ack()?;
        }
        take_until(&mut [&mut group], &mut ledger, |ledger| ledger.is_complete(30)).await
    });
}

#[test]
fn a_broker_that_does_not_balance_is_an_error() {
    on_each_adapter(async |rig: Rig| {
        let orders = declared(&rig).await?;
        let refused = orders.join(&rig.connection, Member::random()).await.err();
        let text = refused.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(text.contains("3.10.8") && text.contains("even_if_unbalanced"), "{text}");
        let Some(PartitionsError::Unbalanced { broker }) = refused else { panic!("{text}") };
        assert_eq!(broker, Some(BrokerVersion::rabbitmq(3, 10, 8)));
        // The first one has everything, until it leaves.
        let join = || orders.join(&rig.connection, Member::random()).even_if_unbalanced();
        let (mut first, mut second) = (join().await?, join().await?);
        fill(&rig, &orders, 4).await?;
        let mut ledger = Ledger::default();
        let half = |ledger: &Ledger| ledger.owners(1).iter().all(Option::is_some);
        take_until(&mut [&mut first], &mut ledger, half).await?;
        first.leave(Duration::from_secs(60)).await?;
        take_until(&mut [&mut second], &mut ledger, |ledger| ledger.is_complete(4)).await
    });
}

#[test]
fn other_partitions_than_those_of_the_broker_are_an_error() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let join = async |count| {
            let orders = Partitions::new("orders", count)?;
            orders.join(&rig.connection, Member::random()).await.map(drop)
        };
        assert!(matches!(join(COUNT).await, Err(PartitionsError::Missing { .. })));
        let orders = declared(&rig).await?;
        join(COUNT).await?;
        assert!(matches!(join(COUNT - 1).await, Err(PartitionsError::OtherCount { .. })));
        // A partition in the middle is missing.
        let missing = orders.queue(3).ok_or("there are eight")?;
        rig.channel.queue_delete(missing).await?;
        let Err(PartitionsError::Call(error)) = join(COUNT).await else { panic!("it is missing") };
        assert_eq!(error.reply_code(), Some(ReplyCode::NOT_FOUND));
        assert!(error.to_string().contains("orders.3"), "{error}");
        Ok(())
    });
}

#[test]
fn a_deleted_partition_ends_the_group() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        let mut group = orders.join(&rig.connection, Member::random()).await?;
        rig.channel.queue_delete(orders.queue(3).ok_or("there are eight")?).await?;
        let end = group.next().await.ok_or("it says why")?;
        assert!(matches!(end, Err(GroupEnd::Ended { partition: 3, .. })), "{end:?}");
        assert!(group.next().await.is_none(), "that was said once");
        assert!(!group.channel().is_open(), "others have the other partitions");
        Ok(())
    });
}

#[test]
fn members_take_the_lowest_free_slot() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        // Another connection has slot 1.
        let elsewhere = amqp_client_blocking::connect(&rig.broker.uri())?;
        let own = QueueOptions::new().exclusive(true);
        let taken = elsewhere.open_channel();
        let taken = taken.await?;
        taken.queue_declare("orders.slot.1", own).await?;
        let join = || orders.join(&rig.connection, Member::any_slot());
        let (first, second) = both(join(), join()).await;
        let (first, second) = (first?, second?);
        let mut slots = [first.slot(), second.slot()];
        slots.sort_unstable();
        assert_eq!(slots, [Some(0), Some(2)]);
        let (gone, _stays) =
            if first.slot() == Some(0) { (first, second) } else { (second, first) };
        gone.leave(Duration::ZERO).await?;
        // The broker deletes the queue after the reply.
        while rig.connection.queue_exists("orders.slot.0").await? {}
        assert_eq!(join().await?.slot(), Some(0));
        Ok(())
    });
}

#[test]
fn a_slot_that_another_member_takes_after_a_loss_is_reported() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        let events = Events::default();
        let joining = orders.join(&rig.connection, Member::any_slot()).on_event(events.observer());
        let mut group = joining.silence(Duration::from_millis(1)).await?;
        let elsewhere = amqp_client_blocking::connect(&rig.broker.uri())?;
        let [_, other] = &rig.broker.connections()[..] else { panic!("there are two") };
        loop {
            let mut states = rig.connection.events();
            // The broker frees the slot when it cuts the connection.
            let cut = rig.broker.connections().into_iter().filter(|own| own.id != other.id);
            cut.for_each(|own| rig.broker.cut(own.id));
            let taking = elsewhere.open_channel().await?;
            let exclusive = QueueOptions::new().exclusive(true);
            let taken = taking.queue_declare("orders.slot.0", exclusive).await;
            while !matches!(states.next().await.ok_or("closed")?, ConnectionEvent::Recovered(_)) {}
            match taken {
                Ok(_) => break,
                // The member was faster.
                Err(error) => assert_eq!(error.reply_code(), Some(ReplyCode::RESOURCE_LOCKED)),
            }
        }
        while !events.take().contains(&GroupEvent::SlotLost { slot: 0 }) {
            assert!(group.next().now_or_never().is_none(), "there is nothing");
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        Ok(())
    });
}

#[test]
fn a_delivery_that_is_held_for_too_long_ends_the_group() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        fill(&rig, &orders, 2).await?;
        let time = Duration::from_millis(20);
        let mut group = orders.join(&rig.connection, Member::random()).held_at_most(time).await?;
        let stuck = next(&mut group).await?;
        let partition = stuck.partition();
        let end = loop {
            match group.next().await.ok_or("it says why")? {
                Ok(delivery) => delivery.ack()?,
                Err(end) => break end,
            }
        };
        assert_eq!(end, GroupEnd::Stuck { partition, after: time });
        // The handler still hangs, and the next member has the partition.
        let mut second = orders.join(&rig.connection, Member::random()).await?;
        while next(&mut second).await?.partition() != partition {}
        drop(stuck);
        Ok(())
    });
}

#[test]
fn silent_partitions_are_revoked_and_assigned_again() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        let publisher = publisher(&rig, &orders).await?;
        let events = Events::default();
        let joining = orders.join(&rig.connection, Member::random()).on_event(events.observer());
        let mut group = joining.silence(Duration::from_millis(20)).await?;
        let (assigned, revoked) =
            (GroupEvent::Assigned { partition: 2 }, GroupEvent::Revoked { partition: 2 });
        for _ in 0..2 {
            publisher.send(key(&orders, 2), "0").await?;
            let delivery = next(&mut group).await?;
            assert_eq!(events.take(), std::slice::from_ref(&assigned));
            // While a delivery is held, nobody else gets the partition.
            let long = pin!(rig.connection.after(Duration::from_millis(100)));
            match select(pin!(group.next()), long).await {
                Either::Left(_) => panic!("there is nothing"),
                Either::Right((after, _)) => after?,
            }
            assert_eq!(events.take(), []);
            delivery.ack()?;
            while !events.take().contains(&revoked) {
                assert!(group.next().now_or_never().is_none(), "there is nothing");
                rig.connection.after(Duration::from_millis(1)).await?;
            }
        }
        Ok(())
    });
}

#[test]
fn messages_that_nobody_takes_are_reported() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        // A foreign consumer has partition 5, and hangs.
        let queue = rig.channel.queue(orders.queue(5).ok_or("there are eight")?)?;
        let highest = ConsumeOptions::new().argument("x-priority", i64::MAX).prefetch(1);
        let mut foreign = queue.consume(highest).await?;
        let events = Events::default();
        let joining = orders.join(&rig.connection, Member::random()).on_event(events.observer());
        let time = Duration::from_millis(10);
        let mut group = joining.stalled_after(time).silence(time).await?;
        fill(&rig, &orders, 3).await?;
        let held = foreign.next().await.ok_or("it has ended")??;
        let mut came = Vec::new();
        while came.is_empty() {
            if let Some(Ok(delivery)) = group.next().now_or_never().flatten() {
                delivery.ack()?;
            }
            let all = events.take().into_iter();
            came.extend(all.filter(|event| matches!(event, GroupEvent::Stalled { .. })));
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        assert_eq!(came, [GroupEvent::Stalled { partition: 5, messages: 2 }]);
        held.ack()?;
        Ok(())
    });
}

/// A consumer that is not in the group does not disturb it.
#[test]
fn members_come_before_consumers_without_a_priority() {
    on_each_adapter_with(&rabbitmq_4_3(), async |rig: Rig| {
        let orders = declared(&rig).await?;
        let queue = rig.channel.queue(orders.queue(0).ok_or("there are eight")?)?;
        let _foreign = queue.consume(ConsumeOptions::new()).await?;
        let mut group = orders.join(&rig.connection, Member::random()).await?;
        fill(&rig, &orders, 3).await?;
        let all = |ledger: &Ledger| ledger.is_complete(3);
        take_until(&mut [&mut group], &mut Ledger::default(), all).await
    });
}
