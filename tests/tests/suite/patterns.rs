//! The patterns of `amqp-client-patterns`, as programs use them.

use std::time::Duration;

use amqp_client_core::{ConsumeOptions, Message, PublisherOptions, QueueOptions};
use amqp_client_patterns::batch::Batching;
use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::{Attempt, State, Text, Verdict};
use amqp_client_patterns::partitions::{Partitions, PartitionsError, key_of};
use amqp_client_patterns::pool::ChannelPool;
use amqp_client_patterns::process::ProcessExt as _;
use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_patterns::rpc::{ReplyError, RpcClient, RpcError, RpcServer};
use amqp_client_patterns::work::Work;
use futures_util::future::{join, join_all};
use smol::channel::{Sender, unbounded};

use super::{behaviours, name, next};

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
}
