//! A connection that is lost keeps everything. A proxy between the client and the broker cuts it.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use amqp_client_core::login::{Token, TokenError};
use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::proto::{RawProperties, ReplyCode, Route};
use amqp_client_core::{
    BrokerVersion, CallError, Channel, ChannelEvent, ConfirmError, Connection, ConnectionEvent,
    ConsumeOptions, Delivery, Entity, Gate, Locked, Message, OnCancel, OnLoss, PublishError,
    PublisherOptions, Queue, QueueOptions, QueueType, Recovery, RecoveryReport, Status,
    StreamOffset, Target,
};
use amqp_testkit::Proxy;

use super::{World, assert_refused, behaviours, name, next, temporary};

/// A connection through a proxy, and its events.
pub(super) struct Scene {
    proxy: Proxy,
    pub(super) connection: Connection,
    events: amqp_client_core::ConnectionEvents,
}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn endpoint(proxy: &Proxy) -> Endpoint {
    Endpoint::new(proxy.addr().ip().to_string(), proxy.addr().port())
}

impl Scene {
    pub(super) async fn set(world: &World) -> Result<Self> {
        Self::set_with(world, |target| target).await
    }

    async fn set_with(world: &World, change: impl FnOnce(Target) -> Target) -> Result<Self> {
        let target = world.target();
        let broker = target.get_endpoints().first().ok_or("no host")?;
        let proxy = Proxy::start(format!("{}:{}", broker.host, broker.port).parse()?)?;
        let target = change(target.endpoints([endpoint(&proxy)]));
        let connection = world.open(target).await?;
        let events = connection.events();
        Ok(Self { proxy, connection, events })
    }

    /// A channel, and a durable queue with messages from 0 to 9.
    async fn ten_messages(&self) -> Result<(Channel, Queue)> {
        let channel = self.connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), QueueOptions::new().durable(true)).await?;
        for number in 0..10u8 {
            queue.publish(&Message::new(vec![number])).await?;
        }
        Ok((channel, queue))
    }

    /// Waits until the loss was noticed.
    async fn lost(&mut self) -> Result<()> {
        while let Some(event) = self.events.next().await {
            if matches!(event, ConnectionEvent::Lost { .. }) {
                return Ok(());
            }
        }
        Err("the connection is over".into())
    }

    /// Waits until everything is restored.
    async fn recovered(&mut self) -> Result<RecoveryReport> {
        while let Some(event) = self.events.next().await {
            if let ConnectionEvent::Recovered(report) = event {
                return Ok((*report).clone());
            }
        }
        Err("the connection is over".into())
    }

    pub(super) async fn cut(&mut self) -> Result<RecoveryReport> {
        self.proxy.cut();
        self.recovered().await
    }
}

behaviours! {
    async fn everything_is_restored(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let exchange = channel.exchange_declare(name("x"), "topic", Default::default()).await?;
        let queue = channel.queue_declare("", temporary()).await?;
        queue.bind(exchange.name(), "a.*").await?;
        channel.basic_qos(1).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let publisher = exchange.publisher(PublisherOptions::new())?;
        let prepared = channel.prepare(&Route::queue(queue.name()), &RawProperties::EMPTY)?;
        publisher.send("a.b", "before").await?;
        let before = next(&mut consumer).await?;
        assert_eq!(before.body(), b"before");

        let report = scene.cut().await?;
        assert_eq!((report.exchanges, report.queues, report.bindings), (1, 1, 1));
        assert_eq!((report.channels, report.consumers), (1, 1));
        assert_eq!(report.renamed.len(), 1);
        assert_eq!(queue.current_name(), report.renamed[0].1);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert!(before.is_stale());
        before.ack()?;

        publisher.send("a.c", "after").await?;
        let after = next(&mut consumer).await?;
        assert_eq!(after.body(), b"after");
        after.ack()?;
        // By its own name, and by that which it had.
        queue.publish(&Message::new("by name")).await?;
        next(&mut consumer).await?.ack()?;
        channel.basic_publish_prepared(&prepared, "prepared before").await?;
        next(&mut consumer).await?.ack()?;
        assert_eq!(queue.purge().await?, 0);
        exchange.delete().await?;
        scene.connection.close().await?;
    }

    async fn time_passes_while_a_connection_is_lost(world) {
        let mut scene = Scene::set(&world).await?;
        let begun_before = scene.connection.after(Duration::from_millis(50));
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        scene.connection.after(Duration::from_millis(50)).await?;
        begun_before.await?;
        assert_eq!(scene.connection.health().status, Status::Recovering);
        let begun_while_lost = scene.connection.after(Duration::MAX);
        scene.proxy.refuse(false)?;
        scene.recovered().await?;
        scene.connection.close().await?;
        assert!(begun_while_lost.await.is_err());
    }

    async fn the_peer_address_is_that_of_the_present_node(world) {
        let mut scene = Scene::set(&world).await?;
        assert_eq!(scene.connection.peer_addr(), Some(scene.proxy.addr()));
        scene.cut().await?;
        assert_eq!(scene.connection.peer_addr(), Some(scene.proxy.addr()));
        // The other node takes over.
        let target = world.target();
        let broker = target.get_endpoints().first().ok_or("no host")?;
        let other = Proxy::start(format!("{}:{}", broker.host, broker.port).parse()?)?;
        let nodes = [endpoint(&scene.proxy), endpoint(&other)];
        let connection = world.open(target.endpoints(nodes)).await?;
        let mut events = connection.events();
        assert_eq!(connection.peer_addr(), Some(scene.proxy.addr()));
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        while !matches!(events.next().await, Some(ConnectionEvent::Recovered(_)) | None) {}
        assert_eq!(connection.peer_addr(), Some(other.addr()));
        connection.close().await?;
        assert_eq!(connection.peer_addr(), Some(other.addr()));
    }

    async fn what_was_not_settled_is_delivered_again(world) {
        let mut scene = Scene::set(&world).await?;
        let (channel, queue) = scene.ten_messages().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        // Some are settled, some are in the application's hands, some were not taken.
        for _ in 0..3 {
            next(&mut consumer).await?.ack()?;
        }
        let held = [next(&mut consumer).await?, next(&mut consumer).await?];
        // The acknowledgements are sent ahead of this request.
        channel.basic_qos(0).await?;
        scene.cut().await?;
        for number in 3..10u8 {
            let delivery = next(&mut consumer).await?;
            assert_eq!((delivery.body(), delivery.redelivered()), ([number].as_slice(), true));
            delivery.ack()?;
        }
        for delivery in held {
            delivery.ack()?;
        }
        assert_eq!(scene.connection.health().stale, 2);
        assert!(queue.get_no_ack().await?.is_none());
        queue.delete().await?;
    }

    async fn settling_what_is_stale_does_nothing_and_is_counted(world) {
        let mut scene = Scene::set(&world).await?;
        let (channel, queue) = scene.ten_messages().await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let mut stale = Vec::new();
        for _ in 0..10 {
            stale.push(next(&mut consumer).await?);
        }
        scene.cut().await?;
        let mut fresh = Vec::new();
        for _ in 0..10 {
            fresh.push(next(&mut consumer).await?);
        }
        assert!(stale.iter().all(|delivery| delivery.is_stale()));
        assert!(!fresh.iter().any(|delivery| delivery.is_stale()));
        let mut next = || stale.pop().expect("there are ten");
        next().ack()?;
        next().ack_up_to()?;
        next().nack(false)?;
        next().nack_up_to(false)?;
        next().reject(false)?;
        channel.basic_ack_up_to(next().into_message().delivery_tag())?;
        channel.basic_nack_up_to(next().into_message().delivery_tag(), false)?;
        channel.basic_reject(next().into_message().delivery_tag(), false)?;
        // Dropped deliveries are requeued.
        drop(next());
        drop(next());
        assert_eq!(scene.connection.health().stale, 8);
        // None of that has settled another delivery.
        assert_eq!(scene.connection.health().unsettled, 10);
        let last = fresh.pop().expect("there are ten");
        drop(fresh.into_iter().map(Delivery::into_message).collect::<Vec<_>>());
        last.ack_up_to()?;
        channel.basic_qos(0).await?;
        assert_eq!(scene.connection.health().stale, 8);
        assert_eq!(queue.delete_if_empty().await?, 0);
    }

    async fn a_reader_of_a_stream_goes_on_with_the_first_message_that_was_not_settled(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let options = QueueOptions::new().queue_type(QueueType::Stream);
        let stream = channel.queue_declare(name("stream"), options).await?;
        for number in 0..20u8 {
            stream.publish(&Message::new(vec![number])).await?;
        }
        channel.basic_qos(5).await?;
        let options = ConsumeOptions::new().stream_offset(StreamOffset::First);
        let mut consumer = stream.consume(options).await?;
        for number in 0..3u8 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), [number]);
            delivery.ack()?;
        }
        // One is in the application's hands at the loss, and more wait that it never takes.
        let held = next(&mut consumer).await?;
        assert_eq!(held.body(), [3]);
        scene.cut().await?;
        assert!(held.is_stale());
        for number in 3..20u8 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), [number]);
            delivery.ack()?;
        }
        scene.cut().await?;
        stream.publish(&Message::new(vec![20])).await?;
        let last = next(&mut consumer).await?;
        assert_eq!(last.body(), [20]);
        last.ack()?;
        stream.delete().await?;
    }

    async fn a_reader_of_a_stream_misses_nothing_though_it_has_read_nothing(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let options = QueueOptions::new().queue_type(QueueType::Stream);
        let stream = channel.queue_declare(name("stream"), options).await?;
        // It begins with the next message, which is the default.
        let mut consumer = stream.consume(ConsumeOptions::new().prefetch(5)).await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        let to = stream.name().to_string();
        let other = world.channel().await?;
        other.default_exchange().publish_confirmed(&to, &Message::new("meanwhile")).await?;
        scene.proxy.refuse(false)?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.body(), b"meanwhile");
        delivery.ack()?;
        stream.delete().await?;
    }

    async fn consumers_keep_their_own_prefetch_limits(world) {
        let mut scene = Scene::set(&world).await?;
        let limited = |limit| ConsumeOptions::new().prefetch(limit);
        let (channel, first) = scene.ten_messages().await?;
        let (_, second) = scene.ten_messages().await?;
        let (_, third) = scene.ten_messages().await?;
        channel.basic_qos(4).await?;
        let on_channel = |queue: &Queue| channel.queue(queue.name());
        let (second, third) = (on_channel(&second)?, on_channel(&third)?);
        let before = first.consume(limited(3)).await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        // They wait for a connection, and are sent in the order of the calls. One is given up.
        let given_up = third.consume(limited(1));
        let own = second.consume(limited(2));
        let channels = third.consume(ConsumeOptions::new());
        drop(given_up);
        scene.proxy.refuse(false)?;
        let mut consumers = [before, own.await?, channels.await?];
        scene.recovered().await?;
        for _ in 0..2 {
            for (consumer, limit) in consumers.iter_mut().zip([3, 2, 4]) {
                let mut held = Vec::new();
                for _ in 0..limit {
                    held.push(next(consumer).await?);
                }
                let queue = consumer.channel().connection().open_channel().await?;
                // A call that is not ready is held.
                let name = held.first().ok_or("none")?.routing_key();
                let ready = queue.queue_declare_passive(name).await?.message_count();
                assert_eq!(ready, 10 - limit, "{consumer:?}");
                // The next loss returns them.
                std::mem::forget(held);
            }
            scene.cut().await?;
        }
        for queue in [first, second, third] {
            queue.delete().await?;
        }
    }

    async fn calls_wait_for_the_connection_to_come_back(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        assert_eq!(scene.connection.health().status, Status::Recovering);
        assert!(!scene.connection.is_open() && channel.is_open());
        let declared = channel.queue_declare(name("q"), temporary());
        let opening = scene.connection.open_channel();
        assert_eq!(scene.connection.channel_numbered(channel.id().get()).await?.id(), channel.id());
        let late = channel.queue_declare(name("q"), temporary()).timeout(Duration::ZERO);
        assert!(matches!(late.await, Err(CallError::TimedOut { .. })));
        scene.proxy.refuse(false)?;
        let queue = declared.await?;
        let other = opening.await?;
        assert_ne!(other.id(), channel.id());
        other.queue_declare_passive(queue.name()).await?;
        assert!(scene.connection.health().is_open());
        assert_eq!(scene.connection.health().losses, 1);
    }

    async fn publishers_wait_fail_or_keep(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), QueueOptions::new().durable(true)).await?;
        let publisher = |on_loss| {
            channel.default_exchange().publisher(PublisherOptions::new().on_loss(on_loss))
        };
        let (fails, waits, keeps) =
            (publisher(OnLoss::Fail)?, publisher(OnLoss::Wait)?, publisher(OnLoss::Keep)?);
        let key = queue.name().to_string();
        keeps.send(&key, "confirmed").await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        let recovering = Gate::Recovering;
        assert_eq!(fails.publish(&key, "fails").await.err(), Some(PublishError::Gated(recovering)));
        let refused = waits.try_publish(&key, "waits").expect_err("there is no connection");
        assert_eq!(refused.error, PublishError::Gated(recovering));
        let impatient =
            PublisherOptions::new().timeout(Some(Duration::ZERO));
        let impatient = channel.default_exchange().publisher(impatient)?;
        let late = impatient.publish(&key, "late").await.expect_err("there is no connection");
        assert!(matches!(late, PublishError::TimedOut { gate, .. } if gate == recovering), "{late:?}");
        let kept = [keeps.publish(&key, "first").await?, keeps.publish(&key, "second").await?];
        assert!(scene.connection.health().kept_bytes > 0);
        scene.proxy.refuse(false)?;
        waits.send(&key, "third").await?;
        for confirmation in kept {
            confirmation.await?;
        }
        assert_eq!(scene.connection.health().kept_bytes, 0);
        for expected in ["confirmed", "first", "second", "third"] {
            let got = queue.get_no_ack().await?.ok_or("the queue is empty")?;
            assert_eq!(got.delivery.text(), Ok(expected));
        }
        queue.delete().await?;
    }

    async fn what_was_sent_and_not_confirmed_says_so_or_is_sent_again(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), QueueOptions::new().durable(true)).await?;
        let publisher = |on_loss| {
            channel.default_exchange().publisher(PublisherOptions::new().on_loss(on_loss))
        };
        let (waits, keeps) = (publisher(OnLoss::Wait)?, publisher(OnLoss::Keep)?);
        let key = queue.name().to_string();
        keeps.send(&key, "confirmed").await?;
        // Nothing reaches the broker any more.
        scene.proxy.stall(true);
        let unknown = waits.publish(&key, "unknown").await?;
        let kept = keeps.publish(&key, "kept").await?;
        scene.proxy.cut();
        scene.proxy.stall(false);
        assert!(matches!(unknown.await, Err(ConfirmError::Unconfirmed(_))));
        kept.await?;
        let report = scene.recovered().await?;
        assert_eq!(report.republished, 1);
        let mut found = Vec::new();
        while let Some(got) = queue.get_no_ack().await? {
            let headers = got.delivery.properties().headers()?.unwrap_or_default();
            found.push((got.delivery.text()?.to_owned(), headers.get("x-republished").is_some()));
        }
        assert_eq!(found, [("confirmed".to_owned(), false), ("kept".to_owned(), true)]);
        queue.delete().await?;
    }

    async fn what_is_unrecovered_does_not_come_back(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let lasting = channel.queue_declare(name("q"), temporary()).await?;
        let passing = channel.unrecovered().queue_declare(name("q"), temporary()).await?;
        let mut ends = passing.consume(ConsumeOptions::new()).await?;
        let report = scene.cut().await?;
        assert_eq!((report.queues, report.consumers), (1, 0));
        assert!(ends.next().await.ok_or("no end was reported")?.is_err());
        assert!(ends.next().await.is_none());
        lasting.purge().await?;
        assert!(passing.purge().await.is_err());
    }

    async fn a_queue_held_by_another_connection_is_retried(world) {
        let mut scene = Scene::set_with(&world, |target| {
            target.recovery(Recovery::default().locked(Locked::Retry(Duration::from_millis(50))))
        }).await?;
        let channel = scene.connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), temporary()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        // As the lost connection would, of whose end the broker does not know yet.
        let other = world.open(world.target()).await?;
        let taken = loop {
            let channel = other.open_channel().await?;
            match channel.queue_declare(queue.name(), temporary()).await {
                Ok(taken) => break taken,
                Err(error) if error.reply_code() == Some(ReplyCode::RESOURCE_LOCKED) => {}
                Err(error) => return Err(error.into()),
            }
        };
        scene.proxy.refuse(false)?;
        let report = scene.recovered().await?;
        assert_eq!(report.locked, [Entity::Queue(queue.name().clone())]);
        assert_eq!((report.queues, report.consumers, report.failed.len()), (0, 0, 0));
        taken.delete().await?;
        let mut restored = 0;
        while restored < 2 {
            match scene.events.next().await.ok_or("it is over")? {
                ConnectionEvent::Restored { .. } => restored += 1,
                ConnectionEvent::NotRestored { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
        queue.publish(&Message::new("back")).await?;
        assert_eq!(next(&mut consumer).await?.text(), Ok("back"));
    }

    async fn a_channel_can_be_reopened(world) {
        let scene = Scene::set_with(&world, |target| {
            target.recovery(Recovery::default().reopen_channels(true))
        }).await?;
        let channel = scene.connection.open_channel().await?;
        let mut events = channel.events();
        let queue = channel.queue_declare(name("q"), temporary()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        assert_refused(channel.queue_declare_passive(name("none")).await, 404, "queue.declare");
        while !matches!(events.next().await.ok_or("it is over")?, ChannelEvent::Restored) {}
        queue.publish(&Message::new("still here")).await?;
        next(&mut consumer).await?.ack()?;
        assert!(channel.is_open());
    }

    async fn a_cancelled_consumer_can_be_restarted(world) {
        let scene = Scene::set_with(&world, |target| {
            target.recovery(Recovery::default().on_cancel(OnCancel::Resubscribe))
        }).await?;
        let channel = scene.connection.open_channel().await?;
        let options = QueueOptions::new().durable(true);
        let queue = channel.queue_declare(name("q"), options).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let mut events = scene.connection.events();
        // Somebody deletes the queue. It is declared again.
        world.channel().await?.queue_delete(queue.name()).await?;
        let mut restored = 0;
        while restored < 2 {
            restored += usize::from(matches!(
                events.next().await.ok_or("it is over")?,
                ConnectionEvent::Restored { .. }
            ));
        }
        queue.publish(&Message::new("again")).await?;
        next(&mut consumer).await?.ack()?;
        queue.delete().await?;
    }

    async fn a_consumer_that_took_too_long_starts_again(world) {
        let scene = Scene::set_with(&world, |target| {
            target.recovery(Recovery::default().on_cancel(OnCancel::Resubscribe))
        }).await?;
        // Before RabbitMQ 4.3, this closes the channel, and no queue can ask for less than a minute.
        if scene.connection.broker_version() < Some(BrokerVersion::rabbitmq(4, 3, 0)) {
            return Ok(());
        }
        let channel = scene.connection.open_channel().await?;
        let options = QueueOptions::new().queue_type(QueueType::Quorum);
        let options = options.argument("x-consumer-timeout", 1000);
        let queue = channel.queue_declare(name("slow"), options).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        queue.publish(&Message::new("slow")).await?;
        let slow = next(&mut consumer).await?;
        let again = next(&mut consumer).await?;
        assert!(again.redelivered());
        // The first delivery is the broker's again, and nothing happens if it is acknowledged late.
        slow.ack()?;
        again.ack()?;
        queue.publish(&Message::new("after")).await?;
        let after = next(&mut consumer).await?;
        assert_eq!(after.body(), b"after");
        after.ack()?;
        consumer.cancel().await?;
        queue.delete().await?;
    }

    async fn attempts_are_reported_with_their_node_and_are_limited(world) {
        for retry_open in [false, true] {
            let mut scene = Scene::set_with(&world, |target| {
                let recovery = Recovery::default().delay_min(Duration::from_millis(1));
                target.recovery(recovery.attempts_max(Some(3))).retry_open(retry_open)
            }).await?;
            let channel = scene.connection.open_channel().await?;
            scene.proxy.refuse(true)?;
            scene.proxy.cut();
            let node = endpoint(&scene.proxy);
            let mut attempts = 0;
            while let Some(event) = scene.events.next().await {
                match event {
                    ConnectionEvent::Connecting { attempt, node: 0, endpoint } => {
                        attempts += 1;
                        assert_eq!(attempt, attempts);
                        assert_eq!(endpoint, Some(node.clone()));
                    }
                    ConnectionEvent::Waiting { .. } | ConnectionEvent::AttemptFailed { .. } => {
                        assert!(event.to_string().contains(&node.to_string()), "{event}");
                    }
                    ConnectionEvent::Closed(error) => {
                        assert!(error.to_string().contains("attempts: 3, last failure"), "{error}");
                        assert_eq!(channel.closed().await, error.clone().into());
                        assert_eq!(scene.connection.health().status, Status::Closed(error));
                    }
                    _ => {}
                }
            }
            assert_eq!(attempts, 3);
        }
    }

    async fn each_connection_logs_in_with_a_token_of_its_own(world) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let mut scene = Scene::set_with(&world, |target| {
            target.token_source(move || {
                count.fetch_add(1, Ordering::SeqCst);
                async { Ok(Token::new("guest", Duration::from_secs(3600)).username("guest")) }
            })
        }).await?;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let report = scene.cut().await?;
        assert_eq!(asked.load(Ordering::SeqCst), 1 + report.attempts);
        scene.connection.open_channel().await?;
    }

    async fn the_token_of_a_later_connection_is_renewed_in_its_time(world) {
        let begun = Instant::now();
        let (recovered, first) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(true));
        let over = recovered.clone();
        let mut scene = Scene::set_with(&world, |target| {
            target.token_source(move || {
                let over = over.load(Ordering::SeqCst);
                let seconds = if first.swap(false, Ordering::SeqCst) { 60 } else { 1 };
                async move {
                    let token = Token::new("guest", Duration::from_secs(seconds)).username("guest");
                    if over { Err(Arc::new(io::Error::other("no such account")) as TokenError) } else { Ok(token) }
                }
            })
        }).await?;
        scene.cut().await?;
        recovered.store(true, Ordering::SeqCst);
        while let Some(event) = scene.events.next().await {
            if let ConnectionEvent::TokenNotRenewed { .. } = event {
                // The first token would be renewed after 48 s.
                assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
                return Ok(());
            }
        }
        return Err("the connection has ended".into());
    }

    async fn a_kept_message_can_be_withdrawn_and_expires(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        let queue = channel.queue_declare(name("q"), QueueOptions::new()).await?;
        let keep = || PublisherOptions::new().on_loss(OnLoss::Keep).window(2, 1000);
        let publisher = channel.exchange("")?.publisher(keep())?;
        let expiring = channel.exchange("")?.publisher(keep().keep_for(Duration::from_millis(1)))?;
        let key = queue.name().to_string();
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        let withdrawn = publisher.publish(&key, "withdrawn").await?;
        let expired = expiring.publish(&key, "expired").await?;
        // The window is full, until the first is withdrawn.
        assert!(publisher.try_publish(&key, "too many").is_err());
        assert!(withdrawn.withdraw());
        let error = expired.await.expect_err("it has expired");
        assert_eq!(error, ConfirmError::NotResent(PublishError::Expired));
        let kept = publisher.publish(&key, "kept").await?;
        scene.proxy.refuse(false)?;
        kept.await?;
        let got = queue.get_no_ack().await?.ok_or("the queue is empty")?;
        assert_eq!((got.delivery.body(), got.message_count), (&b"kept"[..], 0));
        queue.delete().await?;
    }

    async fn a_token_source_that_panics_costs_an_attempt(world) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let mut scene = Scene::set_with(&world, |target| {
            target.token_source(move || {
                let first = count.fetch_add(1, Ordering::SeqCst) != 1;
                async move {
                    assert!(first, "it panics when it is asked for the second time");
                    Ok(Token::new("guest", Duration::from_secs(3600)).username("guest"))
                }
            })
        }).await?;
        let report = scene.cut().await?;
        assert_eq!((report.attempts, asked.load(Ordering::SeqCst)), (2, 3));

        let target = world.target().token_source(|| async { panic!("it always panics") });
        let error = world.open(target).await.expect_err("there is no token");
        let expected = "the token source returned no token: the token source panicked: it always panics";
        assert_eq!(format!("{error:?}"), expected);
    }

    async fn a_first_connection_can_be_retried(world) {
        let target = world.target();
        let broker = target.get_endpoints().first().ok_or("no host")?;
        let proxy = Proxy::start(format!("{}:{}", broker.host, broker.port).parse()?)?;
        let target = target.endpoints([endpoint(&proxy)]);
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let target = target.token_source(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(Token::new("guest", Duration::from_secs(3600)).username("guest")) }
        });
        proxy.refuse(true)?;
        let error = world.open(target.clone()).await.expect_err("there is no broker");
        assert!(error.is_about_the_node(), "{error}");

        let target = target.retry_open(true);
        let hopeless = target.clone().recovery(Recovery::default().attempts_max(Some(3)));
        let error = world.open(hopeless).await.expect_err("there is no broker");
        let shown = format!("{error:?}");
        assert!(shown.contains("could not connect (attempts: 3"), "{shown}");
        assert!(shown.ends_with("not connected yet"), "{shown}");

        let before = asked.load(Ordering::SeqCst);
        let opening = std::thread::spawn(move || {
            while asked.load(Ordering::SeqCst) <= before + 3 {
                std::thread::yield_now();
            }
            proxy.refuse(false).map(|()| proxy)
        });
        let connection = world.open(target.clone()).await?;
        let proxy = opening.join().map_err(|_| "it panicked")??;
        let channel = connection.open_channel().await?;
        // An exclusive one would be locked until the broker has noticed the loss, and swallow messages that are published until
        // then.
        let queue = channel.queue_declare(name("q"), QueueOptions::new()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        // It is recovered like any other.
        let mut scene = Scene { proxy, events: connection.events(), connection };
        scene.cut().await?;
        queue.publish(&Message::new("m")).await?;
        next(&mut consumer).await?.ack()?;
        queue.delete().await?;

        // Trying again changes nothing about that.
        let target = target.token_source(|| async {
            Ok(Token::new("wrong", Duration::from_secs(3600)).username("guest"))
        });
        let error = world.open(target).await.expect_err("a wrong token");
        assert!(!error.is_about_the_node(), "{error:?}");
    }

    async fn a_connection_closes_while_it_is_lost(world) {
        let mut scene = Scene::set(&world).await?;
        let channel = scene.connection.open_channel().await?;
        scene.proxy.refuse(true)?;
        scene.proxy.cut();
        scene.lost().await?;
        let waiting = channel.queue_declare(name("q"), temporary());
        scene.connection.close().await?;
        assert!(matches!(waiting.await, Err(CallError::Ended(_))));
        assert!(scene.connection.closed().await.is_local_close());
    }

    async fn callbacks_hear_of_each_recovery(world) {
        let mut scene = Scene::set(&world).await?;
        let (tell, told) = std::sync::mpsc::channel();
        scene.connection.on_recover(move |report| {
            let _nobody = tell.send(report.attempts);
        });
        scene.cut().await?;
        scene.cut().await?;
        let wait = move || (told.recv_timeout(super::LIMIT), told.recv_timeout(super::LIMIT));
        let heard = std::thread::spawn(wait).join().map_err(|_| "it panicked")?;
        assert!(heard.0? >= 1 && heard.1? >= 1);
    }

    async fn a_shutdown_loses_no_message(world) {
        let channel = world.channel().await?;
        let other = world.open(world.target()).await?;
        let durable = channel.queue_declare(name("q"), QueueOptions::new().durable(true)).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for _ in 0..5 {
            publisher.send(&durable.name().to_string(), "m").await?;
        }
        let reading = other.open_channel().await?.queue(durable.name())?;
        let mut consumer = reading.consume(ConsumeOptions::new()).await?;
        let first = next(&mut consumer).await?;
        // The handler settles its deliveries while the shutdown waits for it.
        let mut shutting = Box::pin(other.shutdown(Duration::from_secs(30)));
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(shutting.as_mut().poll(cx).is_pending())
        }).await;
        assert!(polled, "a delivery is not settled");
        first.ack()?;
        while let Some(delivery) = consumer.next().await {
            delivery?.ack()?;
        }
        let left = shutting.await?;
        assert!(left.is_nothing(), "{left:?}");
        assert!(!other.is_open());
        durable.delete().await?;
    }

    async fn a_shutdown_does_not_wait_beyond_its_grace(world) {
        let (channel, queue) = world.queue().await?;
        queue.publish(&Message::new("m")).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let kept = next(&mut consumer).await?;
        let left = channel.connection().shutdown(Duration::from_millis(1)).await?;
        assert_eq!((left.unsettled, left.unconfirmed), (1, 0));
        assert!(kept.ack().is_err());
    }
}
