//! Workers and servers whose handlers hang, or whose other code panics.

mod common;

use std::fmt;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_blocking::Wait as _;
use amqp_client_core::{
    ClientConfig, Limits, Message, MessageProperties, OnPanic, Overflow, QueueOptions, SendError,
    Settings, Target,
};
use amqp_client_patterns::handler::{State, Text, Verdict};
use amqp_client_patterns::retry::Retry;
use amqp_client_patterns::rpc::{
    RemoteError, ReplyError, RpcClient, RpcError, RpcServer, ServeError,
};
use amqp_client_patterns::work::{Work, WorkError};
use amqp_test_broker::Broker;
use common::{BoxError, Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use futures_util::future::{Either, join, select};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Waits until a queue has this many messages that are ready.
async fn until_ready(rig: &Rig, queue: &str, expected: usize) -> Outcome {
    while rig.broker.queue(queue).ok_or("no queue")?.messages.len() != expected {
        rig.connection.after(Duration::from_millis(1)).await?;
    }
    Ok(())
}

/// Waits until all messages of the queue are in it again.
async fn until_requeued(rig: &Rig, expected: usize) -> Outcome {
    loop {
        let view = rig.broker.queue("q").ok_or("no queue")?;
        match (view.messages.len(), view.unacknowledged) {
            (ready, 0) if ready == expected => return Ok(()),
            (ready, unacknowledged) if ready + unacknowledged < expected => {
                return Err("a message is lost".into());
            }
            _ => rig.connection.after(Duration::from_millis(1)).await?,
        }
    }
}

async fn panic_of<T>(future: impl Future<Output = T>) -> Result<String, BoxError> {
    let caught = AssertUnwindSafe(future).catch_unwind().await;
    let panic = caught.err().ok_or("it did not panic")?;
    Ok((*panic.downcast_ref::<&str>().ok_or("another panic")?).to_owned())
}

/// With [`OnPanic::Reject`], a delivery that is dropped by a panic is rejected, and its message dropped. But these handlers did not
/// panic.
#[test]
fn a_panic_outside_of_handlers_loses_no_message() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let running = Semaphore::new(0);
        let handler = async |Text(text): Text| {
            if text == "fails" {
                return Verdict::retry("busy");
            }
            running.add_permits(1);
            pending().await
        };
        let work = || {
            let work = Work::on(&queue).on_panic(OnPanic::Reject).at_once(3).prefetch(10);
            work.in_order_of(|delivery| delivery.body().first().copied())
        };
        // Two run, and one waits for its key.
        for body in ["a", "b", "b again"] {
            rig.publish(&queue, body).await?;
        }
        let two = || async { running.acquire_many(2).await.expect("it is open").forget() };

        let stop = async {
            two().await;
            panic!("in the future that stops it");
        };
        let stopped = work().each(handler).until(stop);
        assert_eq!(panic_of(stopped).await?, "in the future that stops it");
        until_requeued(&rig, 3).await?;

        let beside = async {
            two().await;
            panic!("beside it, in its task");
        };
        // The block is dropped while the thread is panicking.
        let both = async { join(work().each(handler).run(), beside).await };
        assert_eq!(panic_of(both).await?, "beside it, in its task");
        until_requeued(&rig, 3).await?;

        // The message of the event is settled nevertheless.
        rig.publish(&queue, "fails").await?;
        let observed = work().on_event(|_| panic!("in the observer")).each(handler).run();
        assert_eq!(panic_of(observed).await?, "in the observer");
        until_requeued(&rig, 4).await
    });
}

#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("in the text of an error");
    }
}

impl std::error::Error for Unspeakable {}

/// Otherwise one message would end one worker after the other.
#[test]
fn a_message_whose_key_or_error_panics_ends_no_worker() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        for body in ["no key", "no text", "good"] {
            rig.publish(&queue, body).await?;
        }
        let done = Notify::new();
        let handler = async |Text(text): Text| match &*text {
            "good" => Ok(()).inspect(|()| done.notify_one()),
            _ => Err(Unspeakable),
        };
        let work = Work::on(&queue).retry(Retry::times(0)).in_order_of(|delivery| {
            assert_ne!(delivery.body(), b"no key", "on purpose");
        });
        let parked = async {
            done.notified().await;
            until_ready(&rig, "q.failed", 2).await.expect("they are parked");
        };
        let summary = work.each(handler).until(parked).await?;
        assert_eq!((summary.done, summary.refused, summary.panicked), (1, 2, 1));
        Ok(())
    });
}

#[test]
fn an_error_whose_text_panics_is_a_reply() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let client = RpcClient::open(&rig.connection).await?;
        let handler = async || Err::<(), ReplyError>(Unspeakable.into());
        let mut called = None;
        let call = async { called = Some(client.call("q", "").await) };
        RpcServer::on(&queue).serve(handler).until(call).await?;
        let Some(Err(RpcError::Remote(error))) = called else { return Err("no error".into()) };
        assert_eq!(error.code, RemoteError::FAILED);
        Ok(())
    });
}

/// Loses the connection while the handler of the first of two messages hangs, and waits until that is delivered again.
async fn lose_connection(rig: &Rig, called: &Notify) -> Outcome {
    let recovered = Arc::new(Notify::new());
    let notify = recovered.clone();
    rig.connection.on_recover(move |_| notify.notify_one());
    called.notified().await;
    rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
    recovered.notified().await;
    until_ready(rig, "q", 1).await
}

async fn end(rig: &Rig, closed: bool) -> Outcome {
    match closed {
        true => rig.connection.close().await?,
        false => drop(rig.channel.queue_delete("q").await?),
    }
    Ok(())
}

/// The handler of the lost connection hangs, so the message that is delivered again waits for it.
#[test]
fn a_handler_that_hangs_since_before_a_loss_does_not_keep_a_worker_or_server_that_has_ended() {
    on_each_adapter(async |rig: Rig| {
        for (closed, serves) in [(false, false), (false, true), (true, false)] {
            let queue = rig.queue("q").await?;
            rig.publish(&queue, "1").await?;
            rig.publish(&queue, "2").await?;
            let called = Arc::new(Notify::new());
            let handler = async |State(called): State<Arc<Notify>>| {
                called.notify_one();
                pending::<()>().await;
            };
            let grace = if closed { Duration::MAX } else { Duration::from_millis(20) };
            let trouble = async {
                lose_connection(&rig, &called).await?;
                end(&rig, closed).await
            };
            if serves {
                let server = RpcServer::on(&queue).state(called.clone()).grace(grace);
                let (ended, outcome) = join(server.serve(handler).run(), trouble).await;
                outcome?;
                assert!(matches!(ended, Err(ServeError::Ended { .. })), "{ended:?}");
            } else {
                let worker = Work::on(&queue).state(called.clone()).grace(grace);
                let (ended, outcome) = join(worker.each(handler).run(), trouble).await;
                outcome?;
                assert!(matches!(ended, Err(WorkError::Ended { .. })), "{ended:?}");
            }
        }
        Ok(())
    });
}

/// RabbitMQ: a message is refused if one of its queues refuses it, although the others take it.
#[test]
fn a_call_that_the_broker_refuses_may_have_run() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let full = QueueOptions::new().max_length(0).overflow(Overflow::RejectPublish);
        let full = rig.channel.queue_declare("full", full).await?;
        for queue in [&queue, &full] {
            queue.bind("amq.fanout", "").await?;
        }
        let client = RpcClient::open(&rig.connection).await?;
        let called = Notify::new();
        let server = RpcServer::on(&queue).state(Arc::new(called)).serve(
            async |State(called): State<Arc<Notify>>| {
                called.notify_one();
                pending::<()>().await;
            },
        );
        let mut error = None;
        let call = async { error = client.call("", "m").via("amq.fanout").await.err() };
        server.grace(Duration::ZERO).until(call).await?;
        let error = error.ok_or("there is a reply")?;
        assert!(matches!(error, RpcError::NotSent(SendError::NotConfirmed(_))), "{error}");
        assert!(error.may_have_run());
        Ok(())
    });
}

/// The broker closes the channel for a reply with the user id of somebody else, and delivers its request again.
#[test]
fn a_reply_that_the_broker_refuses_ends_one_server_and_no_more() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("q").await?;
        let client = RpcClient::open(&rig.connection).await?;
        let handler = async |Text(text): Text| {
            let properties = MessageProperties::new();
            Message::text(&*text).with(&match &*text {
                "bad" => properties.user_id("somebody"),
                _ => properties,
            })
        };
        let bad = Message::text("bad").with(&MessageProperties::new().reply_to("nobody"))?;
        queue.publish_confirmed(&bad).await?;
        let servers = async {
            let ended = RpcServer::on(&queue).serve(handler).run().await;
            assert!(matches!(ended, Err(ServeError::Ended { .. })), "{ended:?}");
            RpcServer::on(&queue).serve(handler).run().await
        };
        match select(pin!(servers), pin!(client.call("q", "good"))).await {
            Either::Left((ended, _)) => Err(format!("a second one: {ended:?}").into()),
            Either::Right((reply, _)) => {
                assert_eq!(reply?.body(), b"good");
                Ok(())
            }
        }
    });
}

#[test]
fn a_server_that_is_stopped_while_the_broker_is_silent_says_what_it_did() -> Outcome {
    let broker = Broker::start()?;
    let settings = Settings::default().call_timeout(Some(Duration::from_millis(200)));
    let target = broker.uri().parse::<Target>()?.settings(settings);
    let connection = amqp_client_blocking::connect_target(target)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    queue.publish_confirmed(&Message::new("m")).wait()?;
    let called = Arc::new(Notify::new());
    let server = RpcServer::on(&queue).state(called.clone());
    let server = server.serve(async |State(called): State<Arc<Notify>>| called.notify_one());
    let stop = async {
        called.notified().await;
        broker.connections().iter().for_each(|connection| broker.freeze(connection.id));
    };
    match server.until(stop).wait() {
        Err(ServeError::NotConfirmed { served, .. }) => assert_eq!(served.done, 1),
        other => return Err(format!("{other:?}").into()),
    }
    Ok(())
}

/// It holds its prefetch limit, so the worker gets nothing else.
#[test]
fn a_message_that_the_client_does_not_accept_is_reported() -> Outcome {
    let broker = Broker::start()?;
    let limits = ClientConfig::default().limits(Limits::default().body_max(4));
    let target = broker.uri().parse::<Target>()?.protocol(limits);
    let connection = amqp_client_blocking::connect_target(target)?;
    let queue = connection.open_channel().wait()?.queue_declare("q", QueueOptions::new()).wait()?;
    queue.publish_confirmed(&Message::new("large")).wait()?;
    let (reported, mut reports) = mpsc::unbounded_channel();
    let work = Work::on(&queue).on_event(move |event| {
        let _listening = reported.send(event.to_string());
    });
    let mut report = None;
    let stop = async { report = reports.recv().await };
    work.each(async || ()).until(stop).wait()?;
    let expected = "message 1: the client does not accept it: message body of 5 bytes exceeds";
    assert!(report.as_ref().is_some_and(|text| text.starts_with(expected)), "{report:?}");
    // The worker has ended, and no longer holds it.
    while broker.queue("q").ok_or("no queue")?.messages.is_empty() {
        connection.after(Duration::from_millis(1)).wait()?;
    }
    Ok(())
}
