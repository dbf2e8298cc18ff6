//! The patterns of `amqp-client-patterns`, as programs use them.

use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use amqp_client_core::{BrokerFeature, ConsumeOptions, Message, PublisherOptions, QueueOptions};
use amqp_client_patterns::batch::Batching;
use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::{Attempt, State, Text, Verdict};
use amqp_client_patterns::partitions::{Group, Member, Partitions, PartitionsError, key_of};
use amqp_client_patterns::pool::ChannelPool;
use amqp_client_patterns::process::ProcessExt as _;
use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_patterns::rpc::{ReplyError, RpcClient, RpcError, RpcServer};
use amqp_client_patterns::work::Work;
use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use smol::channel::{Sender, unbounded};

use super::{Outcome, behaviours, name, next};

/// An order succeeds at its second attempt. One of nothing never does.
async fn charge(
    Text(order): Text,
    Attempt(attempt): Attempt,
    State(charged): State<Sender<String>>,
) -> Result<(), Verdict> {
    match (&*order, attempt) {
        ("", _) => return Err(Verdict::refuse("an order of nothing")),
        (_, 1) => return Err("busy".into()),
        _ => {}
    }
    Ok(charged.send(order).await?)
}

async fn divide(Json((a, b)): Json<(u32, u32)>) -> Result<Json<u32>, ReplyError> {
    a.checked_div(b).map(Json).ok_or_else(|| ReplyError::new("zero", "division by zero"))
}

behaviours! {
    async fn a_worker_tries_again_and_parks(world) {
        let channel = world.channel().await?;
        let name = name("orders");
        let queue = channel.queue_declare(&name, QueueOptions::new()).await?;
        for order in ["three fish", ""] {
            queue.publish_confirmed(&Message::text(order)).await?;
        }
        let (sender, charged) = unbounded();
        let delay = Duration::from_millis(10);
        let retry = Retry::times(3).from(delay).to(delay).strategy(RetryStrategy::Queues);
        let (failed, waiting) = (format!("{name}.failed"), format!("{name}.retry.10"));
        let mut parked = None;
        let stop = async {
            assert_eq!(charged.recv().await.as_deref(), Ok("three fish"));
            while parked.is_none() {
                channel.connection().after(delay).await.expect("it is open");
                parked = channel.basic_get_no_ack(&failed).await.expect("the queue is there");
            }
        };
        let summary = Work::on(&queue).state(sender).at_once(2).retry(retry).each(charge).until(stop);
        let summary = summary.await?;
        assert_eq!((summary.done, summary.retried, summary.refused), (1, 1, 1));
        let parked = parked.ok_or("nothing is parked")?.delivery;
        let headers = parked.properties().headers()?.ok_or("no headers")?;
        let reason = headers.get("x-failure").ok_or("no reason")?;
        assert_eq!(reason.as_str(), Some("an order of nothing"));
        for queue in [&name, &failed, &waiting] {
            assert_eq!(channel.queue_delete(queue).await?, 0, "{queue}");
        }
    }

    async fn calls_return_replies_and_errors(world) {
        let (channel, queue) = world.queue().await?;
        let client = RpcClient::open(channel.connection()).await?;
        let (sender, done) = unbounded::<()>();
        let served = RpcServer::on(&queue).at_once(4).serve(divide).until(done.recv());
        let calls = async {
            let call = |a, b| client.call_as::<_, u32, Json>(queue.name(), &(a, b));
            let quotients = join_all((1..=20).map(|number| call(number * 2, 2))).await;
            let error = call(1, 0).await;
            sender.close();
            (quotients, error)
        };
        let ((quotients, error), served) = join(calls, served).await;
        for (number, quotient) in (1..=20).zip(quotients) {
            assert_eq!(quotient?, number);
        }
        let Err(RpcError::Remote(error)) = error else { return Err(format!("{error:?}").into()) };
        assert_eq!((&*error.code, &*error.text), ("zero", "division by zero"));
        assert_eq!((served?.done, client.pending_calls()), (20, 0));
        let nobody = client.call(name("nobody"), "").await;
        assert!(matches!(nobody, Err(RpcError::NoServer(_))), "{nobody:?}");
    }

    async fn deliveries_come_in_batches(world) {
        let (_, queue) = world.queue().await?;
        for number in 0..5u8 {
            queue.publish_confirmed(&Message::new(vec![number])).await?;
        }
        let mut batches = Batching::on(&queue, 3, Duration::from_millis(50)).start().await?;
        let mut bodies = Vec::new();
        while bodies.len() < 5 {
            let batch = batches.next().await.ok_or("it has ended")??;
            assert!((1..=3).contains(&batch.len()));
            bodies.extend(batch.iter().map(|delivery| delivery.body()[0]));
            batch.ack()?;
        }
        assert_eq!(bodies, [0, 1, 2, 3, 4]);
        drop(batches);
        assert_eq!(queue.purge().await?, 0);
    }

    async fn channels_of_a_pool_are_used_again(world) {
        let (channel, queue) = world.queue().await?;
        let pool = ChannelPool::transactional(channel.connection(), 1);
        for number in 0..4 {
            let channel = pool.get().await?;
            channel.queue(queue.name())?.publish(&Message::new("m")).await?;
            // Every second one is rolled back when the channel returns.
            if number % 2 == 0 {
                channel.tx_commit().await?;
            }
        }
        drop(pool.get().await?);
        assert_eq!((pool.idle(), queue.purge().await?), (1, 2));
    }

    async fn the_result_of_a_scope_settles_its_delivery(world) {
        let (_, queue) = world.queue().await?;
        queue.publish_confirmed(&Message::text("42")).await?;
        for expected in [false, true] {
            let delivery = queue.get().await?.ok_or("no message")?.delivery;
            let redelivered = delivery.redelivered();
            let processed = delivery.process().run(async move |message| match redelivered {
                false => Err("busy"),
                true => Ok(message.body().len()),
            });
            assert_eq!(processed.await.is_ok(), expected);
        }
        assert_eq!(queue.purge().await?, 0);
    }

    async fn partitions_keep_the_messages_of_a_key_in_order(world) {
        let channel = world.channel().await?;
        let connection = channel.connection();
        let orders = Partitions::new(name("orders"), 3)?;
        let topology = orders.topology(connection.broker_version().as_ref());
        topology.apply(&channel).await?;
        // Nothing changes when another program declares them.
        topology.apply(&world.channel().await?).await?;
        let publisher = orders.publisher(connection, PublisherOptions::new()).await?;
        for number in 0..60 {
            drop(publisher.publish(format!("customer {}", number % 7), number.to_string()).await?);
        }
        publisher.wait_for_confirms().await?;
        let mut by_key = vec![Vec::new(); 7];
        for partition in 0..3 {
            let queue = channel.queue(orders.queue(partition).ok_or("there are three")?)?;
            let mut consumer = queue.consume(ConsumeOptions::new()).await?;
            let keys = (0..60).map(|number| format!("customer {}", number % 7));
            for _ in keys.filter(|key| orders.partition_of(key) == partition) {
                let delivery = next(&mut consumer).await?;
                let number: usize = delivery.text()?.parse()?;
                let key = format!("customer {}", number % 7);
                assert_eq!(key_of(&delivery).as_deref(), Some(key.as_bytes()));
                by_key[number % 7].push(number);
                delivery.ack()?;
            }
            consumer.cancel().await?;
            queue.delete().await?;
        }
        for (first, numbers) in by_key.into_iter().enumerate() {
            assert_eq!(numbers, (first..60).step_by(7).collect::<Vec<_>>());
        }
        let gone = orders.publisher(connection, PublisherOptions::new()).await;
        assert!(matches!(gone, Err(PartitionsError::Missing { .. })), "{gone:?}");
    }

    async fn members_of_a_group_share_partitions_in_order(world) {
        let channel = world.channel().await?;
        let connection = channel.connection();
        let orders = Partitions::new(name("orders"), 6)?;
        orders.topology(connection.broker_version().as_ref()).apply(&channel).await?;
        let broker = connection.broker_version();
        let balances = broker.is_some_and(|it| it.has(BrokerFeature::SingleActivePriorities));
        if !balances {
            let refused = orders.join(connection, Member::slot(0)).await.err();
            assert!(matches!(refused, Some(PartitionsError::Unbalanced { .. })), "{refused:?}");
        }
        let publisher = orders.publisher(connection, PublisherOptions::new()).await?;
        let keys: Vec<_> = (0..6).map(|partition| key_in(&orders, partition)).collect();
        let publish = async |numbers: Range<usize>| {
            for number in numbers {
                for key in &keys {
                    drop(publisher.publish(key, number.to_string()).await?);
                }
            }
            Outcome::Ok(publisher.wait_for_confirms().await?)
        };
        publish(0..20).await?;
        let (second_connection, members) = (world.open(world.target()).await?, [Member::slot(0), Member::slot(1)]);
        let [one, other] = &members;
        let mut first = orders.join(connection, one.clone()).prefetch(3).even_if_unbalanced().await?;
        // The next number of each partition, and who got the last one.
        let mut next_of = [(0, 0); 6];
        while next_of.iter().any(|(number, _)| *number < 2) {
            settle_next(&mut [&mut first], &mut next_of).await?;
        }
        let joining = orders.join(&second_connection, other.clone()).prefetch(3).even_if_unbalanced();
        let mut second = joining.await?;
        while next_of.iter().any(|(number, _)| *number < 20) {
            settle_next(&mut [&mut first, &mut second], &mut next_of).await?;
        }
        let owners = if balances { orders.owners(&members) } else { vec![Some(0); 6] };
        assert_eq!(next_of.map(|(_, owner)| Some(owner)).to_vec(), owners);
        // What the first one holds when it leaves comes before all later messages.
        publish(20..25).await?;
        let held = (first.next().await, first.next().await);
        assert_eq!(first.leave(Duration::ZERO).await?, 2);
        drop(held);
        while next_of.iter().any(|(number, _)| *number < 25) {
            settle_next(&mut [&mut second], &mut next_of).await?;
        }
        assert_eq!(second.leave(Duration::from_secs(60)).await?, 0);
        for partition in 0..6 {
            channel.queue_delete(orders.queue(partition).ok_or("there are six")?).await?;
        }
    }

    async fn a_worker_of_a_group_tries_again_in_order_and_parks(world) {
        let channel = world.channel().await?;
        let connection = channel.connection();
        let orders = Partitions::new(name("orders"), 2)?;
        orders.topology(connection.broker_version().as_ref()).apply(&channel).await?;
        let publisher = orders.publisher(connection, PublisherOptions::new()).await?;
        for number in 0..10 {
            for key in ["a", "b", "c"] {
                drop(publisher.publish(key, format!("{key}{number}")).await?);
            }
        }
        publisher.wait_for_confirms().await?;
        let (handled, done) = unbounded();
        // Each third message fails at first, and one always.
        let handler = async |Text(text): Text,
                             Attempt(attempt): Attempt,
                             State(handled): State<Sender<String>>| {
            if text == "b5" || (text.ends_with(['3', '6', '9']) && attempt < 3) {
                return Verdict::retry("not yet");
            }
            let _listens = handled.try_send(text);
            Verdict::Done
        };
        let stop = async {
            let done: Vec<String> = done.clone().take(29).collect().await;
            for (key, count) in [("a", 10), ("b", 9), ("c", 10)] {
                let of_key: Vec<_> = done.iter().filter(|text| text.starts_with(key)).collect();
                assert!(of_key.len() == count && of_key.is_sorted(), "{of_key:?}");
            }
        };
        let soon = Duration::from_millis(5);
        let group = orders.join(connection, Member::random()).even_if_unbalanced().await?;
        let retry = Retry::times(4).from(soon).to(soon);
        let work = Work::on_group(group).state(handled).at_once(8).retry(retry);
        let summary = work.each(handler).until(stop).await?;
        assert_eq!((summary.done, summary.retried, summary.refused), (29, 9 * 2 + 4, 1));
        let failed = format!("{}.failed", orders.name().to_str()?);
        let parked = channel.basic_get(&failed).await?.ok_or("it is parked")?.delivery;
        assert_eq!(parked.text()?, "b5");
        parked.ack()?;
        channel.queue_delete(&failed).await?;
        for partition in 0..2 {
            // Nothing is left.
            let queue = orders.queue(partition).ok_or("there are two")?;
            assert_eq!(channel.queue_delete(queue).await?, 0);
        }
    }
}

/// A key of that partition.
fn key_in(orders: &Partitions, partition: u32) -> String {
    let mut keys = (0..).map(|number| format!("customer {number}"));
    keys.find(|key| orders.partition_of(key) == partition).unwrap_or_default()
}

/// Acknowledges the next delivery of any of these groups. It has to be the next of its partition.
async fn settle_next(groups: &mut [&mut Group], next_of: &mut [(usize, usize)]) -> Outcome {
    let (delivery, member) = poll_fn(|cx| {
        let mut polled = groups.iter_mut().map(|group| group.poll_next_unpin(cx)).enumerate();
        let found = polled.find_map(|(member, polled)| match polled {
            Poll::Ready(next) => Some((next, member)),
            Poll::Pending => None,
        });
        found.map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    let delivery = delivery.ok_or("a group has ended")??;
    let (number, owner) = &mut next_of[delivery.partition() as usize];
    assert_eq!(delivery.text()?, number.to_string(), "partition {}", delivery.partition());
    (*number, *owner) = (*number + 1, member);
    Ok(delivery.ack()?)
}
