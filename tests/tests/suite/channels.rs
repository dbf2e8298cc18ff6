use amqp_client_core::proto::method::{AccessRequest, ChannelFlow, QueueBind, QueueDeclare};
use amqp_client_core::proto::{ChannelError, Initiator, Misuse, OpenChannelError, ReplyCode};
use amqp_client_core::{CallError, ChannelEvent, QueueOptions};

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::{assert_refused, behaviours, name};

behaviours! {
    async fn channels_have_numbers_that_are_used_again(world) {
        let connection = world.connection().await?;
        let first = connection.open_channel().await?;
        let second = connection.open_channel().await?;
        assert_ne!(first.id(), second.id());
        let number = first.id();
        first.close().await?;
        assert!(!first.is_open());
        let third = connection.open_channel().await?;
        assert_eq!(third.id(), number);
        // The old handle does not speak for the new channel.
        assert!(first.basic_qos(1).await.is_err());
        third.basic_qos(1).await?;
    }

    async fn a_channel_reports_its_mode(world) {
        let connection = world.connection().await?;
        let plain = connection.open_channel().await?;
        assert!(plain.is_flowing() && !plain.is_confirming() && !plain.is_transactional());
        let confirming = connection.open_channel().await?;
        confirming.confirm_select().await?;
        assert!(confirming.is_confirming() && !confirming.is_transactional());
        let transactional = connection.open_channel().await?;
        transactional.tx_select().await?;
        assert!(transactional.is_transactional() && !transactional.is_confirming());
        transactional.close().await?;
        assert!(!transactional.is_transactional() && !transactional.is_flowing());
    }

    async fn a_channel_can_be_closed_twice(world) {
        let connection = world.open(world.target()).await?;
        let [closed, refused, last] = [
            connection.open_channel().await?,
            connection.open_channel().await?,
            connection.open_channel().await?,
        ];
        let together = closed.clone();
        let (first, second) = smol::future::zip(closed.close(), together.close()).await;
        first?;
        second?;
        closed.close().await?;
        // A channel that the broker has closed returns the reason, each time.
        assert_refused(refused.queue_declare_passive(name("none")).await, 404, "queue.declare");
        for _ in 0..2 {
            let error = refused.close().await.expect_err("the broker has closed it");
            assert_eq!(error.reply_code(), Some(ReplyCode::NOT_FOUND));
        }
        connection.close().await?;
        last.close().await?;
    }

    async fn channels_can_have_numbers_of_ones_choice(world) {
        let connection = world.connection().await?;
        let channel = connection.open_channel_numbered(17).await?;
        assert_eq!(channel.id().get(), 17);
        channel.queue_declare("", super::temporary()).await?;
        let error = connection.open_channel_numbered(17).await.expect_err("it is in use");
        assert_eq!(error, CallError::NoChannel(OpenChannelError::InUse { number: 17 }));
        assert_eq!(connection.open_channel().await?.id().get(), 1);
        channel.close().await?;
        connection.open_channel_numbered(17).await?;
        assert!(connection.open_channel_numbered(0).await.is_err());
    }

    async fn a_channel_is_found_by_its_number_or_opened(world) {
        let connection = world.connection().await?;
        let opened = connection.channel_numbered(7).await?;
        assert_eq!(opened.id().get(), 7);
        opened.confirm_select().await?;
        let found = connection.channel_numbered(7).await?;
        assert!(found.is_confirming(), "it is the same");
        // The last handle closes it.
        drop(opened);
        let queue = found.queue_declare("", super::temporary()).await?;
        drop(queue);
        // Channels without a chosen number are found as well, and two tasks open one.
        let other = connection.open_channel().await?;
        let number = other.id().get();
        assert_eq!(connection.channel_numbered(number).await?.id(), other.id());
        let [first, second] = [connection.channel_numbered(9), connection.channel_numbered(9)];
        let [third, dropped] = [connection.channel_numbered(9), connection.channel_numbered(9)];
        drop(dropped);
        let (second, first) = (second.await?, first.await?);
        drop(first);
        second.basic_qos(1).await?;
        third.await?.basic_qos(1).await?;
        assert_eq!(connection.health().channels, 3);
        // One that the broker or the client has closed is opened anew, although it has handles.
        assert_refused(second.queue_declare_passive(name("none")).await, 404, "queue.declare");
        let anew = connection.channel_numbered(9).await?;
        anew.basic_qos(1).await?;
        assert!(!second.is_open());
        anew.close().await?;
        connection.channel_numbered(9).await?.basic_qos(1).await?;
        let number = connection.negotiated().ok_or("not open")?.channel_max;
        for number in [0, number.checked_add(1).unwrap_or(0)] {
            let error = connection.channel_numbered(number).await.expect_err("out of range");
            assert!(matches!(error, CallError::NoChannel(OpenChannelError::NoSuchNumber { .. })));
        }
    }

    async fn a_number_is_free_once_the_broker_has_closed_its_channel(world) {
        let connection = world.connection().await?;
        let channel = connection.channel_numbered(7).await?;
        let mut closing = pin!(channel.close());
        // A channel that is being closed is of no use to anybody. Another thread may read the reply during the first poll.
        let closed = poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx))).await;
        let found = connection.channel_numbered(7).await;
        assert!(!matches!(&found, Ok(channel) if !channel.is_open()), "{found:?}");
        drop(found);
        match closed {
            Poll::Ready(closed) => closed?,
            Poll::Pending => closing.await?,
        }
        drop(connection.channel_numbered(7).await);
        loop {
            match connection.channel_numbered(7).await {
                Ok(channel) => break channel.basic_qos(1).await?,
                Err(CallError::NoChannel(OpenChannelError::InUse { number: 7 })) => {
                    connection.after(Duration::from_millis(1)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn callbacks_get_the_reason_of_a_closed_channel(world) {
        let connection = world.connection().await?;
        // The broker ends it, this end does, its handles are gone, or it is over already.
        let (sender, reasons) = smol::channel::unbounded();
        let tell = |sender: &smol::channel::Sender<_>| {
            let sender = sender.clone();
            move |reason| sender.try_send(reason).expect("somebody listens")
        };
        let bad = connection.open_channel().await?;
        bad.on_close(tell(&sender));
        bad.on_close(tell(&sender));
        assert_refused(bad.queue_declare_passive(name("missing")).await, 404, "queue.declare");
        for _ in 0..2 {
            let reason: ChannelError = reasons.recv().await?;
            assert_eq!(reason.as_close().map(|close| close.reply_code), Some(ReplyCode::NOT_FOUND));
        }
        bad.on_close(tell(&sender));
        assert_eq!(Some(reasons.recv().await?), bad.check().err());
        let closed = connection.open_channel().await?;
        closed.on_close(tell(&sender));
        closed.close().await?;
        let dropped = connection.open_channel().await?;
        dropped.on_close(tell(&sender));
        drop(dropped);
        for _ in 0..2 {
            let close = reasons.recv().await?.as_close().cloned().ok_or("no close")?;
            assert_eq!(close.by, Initiator::Local);
        }
        let last = connection.open_channel().await?;
        last.on_close(tell(&sender));
        connection.close().await?;
        assert!(matches!(reasons.recv().await?, ChannelError::Connection(_)));
    }

    async fn callbacks_get_the_reason_of_a_closed_connection_and_may_block(world) {
        let connection = world.open(world.target()).await?;
        let other = world.connection().await?;
        let (sender, reasons) = smol::channel::unbounded();
        connection.on_close(move |reason| {
            // A closed connection returns an error at once.
            assert!(!reason.to_string().is_empty());
            sender.try_send(reason).expect("somebody listens");
        });
        drop(connection);
        let reason = reasons.recv().await?;
        assert!(reason.is_local_close(), "{reason:?}");
        assert!(other.is_open());
    }

    async fn as_many_channels_open_as_were_agreed_on_and_not_one_more(world) {
        let uri = format!("{}?channel_max=8", world.uri);
        let connection = world.open(uri.parse()?).await?;
        let mut channels = Vec::new();
        for _ in 0..8 {
            channels.push(connection.open_channel().await?);
        }
        let error = connection.open_channel().await.expect_err("all are in use");
        let expected = CallError::NoChannel(OpenChannelError::Exhausted { channel_max: 8 });
        assert_eq!(error, expected);
        channels.pop().ok_or("no channel")?.close().await?;
        connection.open_channel().await?;
    }

    async fn a_channel_without_handles_closes(world) {
        let uri = format!("{}?channel_max=1", world.uri);
        let connection = world.open(uri.parse()?).await?;
        for _ in 0..20 {
            let channel = loop {
                // The number is free as soon as the broker has agreed to the close.
                match connection.open_channel().await {
                    Ok(channel) => break channel,
                    Err(CallError::NoChannel(OpenChannelError::Exhausted { .. })) => {
                        std::thread::yield_now();
                        let _round_trip = connection.update_secret("guest", "round trip").await;
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            channel.basic_qos(1).await?;
        }
    }

    async fn an_error_ends_one_channel_and_leaves_the_others(world) {
        let connection = world.connection().await?;
        let (bad, good) = (connection.open_channel().await?, connection.open_channel().await?);
        let mut events = bad.events();
        assert_refused(bad.queue_declare_passive(name("missing")).await, 404, "queue.declare");
        let event = events.next().await.ok_or("no event")?;
        let ChannelEvent::Closed(ChannelError::Closed(close)) = event else { panic!("{event:?}") };
        assert_eq!(close.by, Initiator::Peer);
        assert_eq!(close.reply_code, ReplyCode::NOT_FOUND);
        // Every call on the closed channel returns the same error.
        assert_refused(bad.basic_qos(1).await, 404, "queue.declare");
        assert_refused(bad.call_no_wait(no_wait_bind()), 404, "queue.declare");
        let publishing = bad.default_exchange();
        let error = publishing.publish("x", &amqp_client_core::Message::new("")).await;
        assert!(error.expect_err("closed").to_string().contains("404"));
        good.basic_qos(1).await?;
    }

    async fn a_channel_can_be_closed_with_a_code(world) {
        let channel = world.channel().await?;
        channel.close_with(ReplyCode::REPLY_SUCCESS, "enough").await?;
        let ChannelError::Closed(close) = channel.closed().await else { panic!("no close") };
        assert_eq!((close.by, &*close.reply_text.to_string()), (Initiator::Local, "enough"));
    }

    async fn requests_are_pipelined_and_replied_to_in_order(world) {
        let channel = world.channel().await?;
        let names: Vec<_> = (0..200).map(|_| name("pipelined")).collect();
        let declares: Vec<_> =
            names.iter().map(|queue| channel.queue_declare(queue, super::temporary())).collect();
        for (queue, declare) in names.iter().zip(declares) {
            assert_eq!(declare.await?.name(), &**queue);
        }
    }

    async fn a_failure_in_a_pipeline_fails_later_requests(world) {
        let channel = world.channel().await?;
        let good = channel.queue_declare(name("before"), super::temporary());
        let bad = channel.queue_declare_passive(name("missing"));
        let behind = channel.queue_declare(name("behind"), super::temporary());
        good.await?;
        assert_refused(bad.await, 404, "queue.declare");
        assert_refused(behind.await, 404, "queue.declare");
    }

    async fn any_request_can_be_made_by_its_method(world) {
        let channel = world.channel().await?;
        let queue = name("raw").as_str().try_into()?;
        let declare = QueueDeclare { queue, exclusive: true, ..QueueDeclare::default() };
        let answer = channel.call(declare.clone()).await?;
        assert_eq!(answer.queue, declare.queue);
        let without_answer = QueueDeclare { no_wait: true, ..declare };
        channel.call_no_wait(without_answer.clone())?;
        let error = channel.call(without_answer).await.expect_err("no answer comes");
        assert_eq!(error, CallError::Misuse(Misuse::HasNoReply("queue.declare")));
        channel.basic_qos(1).await?;
    }

    async fn flow_and_access_request_get_replies(world) {
        let channel = world.channel().await?;
        assert!(channel.call(ChannelFlow { active: true }).await?.active);
        assert_refused(channel.call(ChannelFlow { active: false }).await, 540, "channel.flow");
        let channel = world.connection().await;
        drop(channel);
        let channel = world.open(world.target()).await?.open_channel().await?;
        assert_eq!(channel.call(AccessRequest::default()).await?.reserved_1, 1);
    }

    async fn names_that_are_too_long_are_refused_at_the_call(world) {
        let channel = world.channel().await?;
        let long = "x".repeat(256);
        let error = channel.queue_declare(&long, QueueOptions::new()).await.expect_err("too long");
        let CallError::Name(error) = error else { panic!("{error:?}") };
        assert_eq!((error.what, error.length), ("queue", 256));
        assert!(channel.exchange_delete(&long).await.is_err());
        assert!(channel.basic_cancel(&long).await.is_err());
        assert!(channel.queue(&long).is_err());
        channel.basic_qos(1).await?;
    }
}

fn no_wait_bind() -> QueueBind {
    QueueBind { no_wait: true, ..QueueBind::default() }
}
