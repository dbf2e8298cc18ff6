//! Calls, and the servers that carry them out.

mod common;

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_blocking::Wait as _;
use amqp_client_core::proto::Properties;
use amqp_client_core::{
    ConsumerEnd, ExchangeOptions, FieldTable, Message, MessageProperties, Queue, QueueOptions,
    RawProperties, ShortStr,
};
use amqp_client_patterns::codec::{Cbor, Json};
use amqp_client_patterns::handler::{State, Text};
use amqp_client_patterns::rpc::{
    IntoReply, RemoteError, ReplyError, RpcClient, RpcError, RpcOptions, RpcServer, ServeError,
    Served,
};
use amqp_test_broker::Broker;
use common::{BoxError, Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use futures_util::future::{Either, join, join_all, select};
use tokio::sync::{Semaphore, oneshot};

async fn shout(Text(text): Text) -> String {
    text.to_uppercase()
}

/// Runs a server until `work` is done.
async fn beside<S>(
    server: RpcServer<S>,
    work: impl Future<Output = Outcome>,
) -> Result<Served, BoxError> {
    let mut outcome = Ok(());
    let served = server.until(async { outcome = work.await }).await?;
    outcome.map(|()| served)
}

/// A queue without a server, and a client.
async fn alone(rig: &Rig) -> Result<(Queue, RpcClient), BoxError> {
    let queue = rig.channel.queue_declare("q", QueueOptions::new()).await?;
    Ok((queue, RpcClient::open(&rig.connection).await?))
}

/// Waits until the queue holds that many messages.
async fn until_queued(rig: &Rig, count: usize) -> Outcome {
    while rig.broker.queue("q").ok_or("no queue")?.messages.len() != count {
        rig.connection.after(Duration::from_millis(1)).await?;
    }
    Ok(())
}

/// Cuts all connections without a word.
fn cut(rig: &Rig) {
    rig.broker.connections().iter().for_each(|connection| rig.broker.cut(connection.id));
}

fn is_unused(client: &RpcClient) -> bool {
    client.pending_calls() == 0 && client.late_replies() == 0
}

fn remote(error: RpcError) -> Result<(String, String), RpcError> {
    match error {
        RpcError::Remote(RemoteError { code, text, .. }) => Ok((code, text)),
        error => Err(error),
    }
}

#[test]
fn a_call_returns_the_reply() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let served = beside(RpcServer::on(&queue).serve(shout), async {
            let reply = client.call("q", "hello").await?;
            assert_eq!(reply.body(), b"HELLO");
            assert_eq!(reply.properties().content_type()?.ok_or("none")?, "text/plain");
            let calls = (0..300).map(|n| client.call("q", format!("n{n}")));
            for (n, reply) in join_all(calls).await.into_iter().enumerate() {
                assert_eq!(reply?.body(), format!("N{n}").as_bytes());
            }
            Ok(())
        });
        let served = served.await?;
        assert_eq!((served.done, served.failed, served.unfinished), (301, 0, 0));
        assert!(is_unused(&client));
        until_queued(&rig, 0).await
    });
}

#[test]
fn values_are_encoded_and_methods_share_a_queue() {
    async fn sum(Json(numbers): Json<Vec<u32>>, State(bonus): State<u32>) -> Json<u32> {
        Json(numbers.iter().sum::<u32>() + bonus)
    }
    async fn half(Cbor(number): Cbor<u32>) -> Result<Cbor<u32>, ReplyError> {
        match number % 2 {
            0 => Ok(Cbor(number / 2)),
            _ => Err(ReplyError::new("odd", "cannot be halved")),
        }
    }
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let server = RpcServer::on(&queue).state(7u32).at_once(4);
        let server = server.register("sum", sum)?.register("half", half)?;
        let again = RpcServer::on(&queue).register("sum", shout)?.register("sum", shout);
        let again = again.err().ok_or("registered twice")?;
        assert_eq!(
            again.to_string(),
            "the method \"sum\" is registered already; give each handler a name of its own"
        );
        let served = beside(server, async {
            let sum = client.call_as::<_, u32, Json>("q", &[1, 2]).method("sum");
            let half = client.call_as::<_, u32, Cbor>("q", &10).method("half");
            let (sum, half) = join(sum, half).await;
            assert_eq!((sum?, half?), (10, 5));
            let odd = client.call_as::<_, u32, Cbor>("q", &9).method("half").await;
            let odd = remote(odd.err().ok_or("halved")?)?;
            assert_eq!(odd, ("odd".to_owned(), "cannot be halved".to_owned()));
            for other in [client.call("q", ""), client.call("q", "").method("product")] {
                let (code, _) = remote(other.await.err().ok_or("it is known")?)?;
                assert_eq!(code, RemoteError::UNKNOWN_METHOD);
            }
            let wrong = client.call_as::<_, u32, Json>("q", "text").method("sum").await;
            let (code, text) = remote(wrong.err().ok_or("it is a list")?)?;
            assert_eq!(code, RemoteError::BAD_REQUEST);
            assert!(text.starts_with("the body does not decode as JSON: invalid type"), "{text}");
            let other = client.call_as::<_, String, Json>("q", &[1]).method("sum").await;
            assert!(matches!(other, Err(RpcError::Reply(_))), "{other:?}");
            Ok(())
        });
        let served = served.await?;
        assert_eq!((served.done, served.failed, served.refused), (3, 1, 3));
        Ok(())
    });
}

#[test]
fn methods_come_and_go_while_the_server_runs() {
    async fn whisper(Text(text): Text) -> String {
        text.to_lowercase()
    }
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let server = RpcServer::on(&queue).register("shout", shout)?;
        let methods = server.methods();
        assert_eq!(format!("{server:?}").matches("\"shout\"").count(), 1, "{server:?}");
        let served = beside(server, async {
            let call = async |method| client.call("q", "Hi").method(method).await;
            assert_eq!(call("shout").await?.body(), b"HI");
            let unknown = remote(call("whisper").await.err().ok_or("it is known")?)?;
            assert_eq!(unknown.0, RemoteError::UNKNOWN_METHOD);
            methods.register("whisper", whisper)?;
            assert!(methods.clone().register("whisper", shout).is_err());
            assert_eq!(methods.names(), ["shout", "whisper"]);
            assert_eq!(call("whisper").await?.body(), b"hi");
            assert!(methods.unregister("shout") && !methods.unregister("shout"));
            let unknown = remote(call("shout").await.err().ok_or("it is known")?)?;
            assert_eq!(unknown.0, RemoteError::UNKNOWN_METHOD);
            // A method can take itself off, and finishes.
            let own = methods.clone();
            methods.register("once", move || {
                own.unregister("once");
                async { "done" }
            })?;
            assert_eq!(call("once").await?.body(), b"done");
            assert_eq!(methods.names(), ["whisper"]);
            Ok(())
        });
        assert_eq!(served.await?.done, 3);
        Ok(())
    });
}

#[test]
fn failures_and_panics_reach_the_caller_at_once() {
    struct Unsendable;
    impl IntoReply for Unsendable {
        fn into_reply(self) -> Result<Message, ReplyError> {
            let mut headers = FieldTable::new();
            headers.insert("large", "x".repeat(200_000))?;
            Ok(Message::new("").with(&MessageProperties::new().headers(headers))?)
        }
    }
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let server = RpcServer::on(&queue)
            .register("fails", async || -> Result<(), BoxError> {
                Ok("x".parse::<u32>().map(drop)?)
            })?
            .register("panics", async || -> () { panic!("on {}", "purpose") })?
            .register("panics at once", || -> std::future::Ready<()> { panic!("early") })?
            .register("cannot reply", async || Unsendable)?
            .register("fine", async || "fine")?;
        let served = beside(server, async {
            let failed = [
                ("fails", RemoteError::FAILED, "invalid digit found in string"),
                ("panics", RemoteError::PANICKED, "the handler panicked: on purpose"),
                ("panics at once", RemoteError::PANICKED, "the handler panicked: early"),
                ("cannot reply", RemoteError::BAD_REPLY, "the properties need a frame of"),
            ];
            for (method, code, text) in failed {
                let error = client.call("q", "").method(method).await.err().ok_or("it failed")?;
                assert!(error.may_have_run());
                let (found, said) = remote(error)?;
                assert_eq!(found, code, "{said}");
                assert!(said.starts_with(text), "{said}");
                assert_eq!(client.call("q", "").method("fine").await?.body(), b"fine");
            }
            Ok(())
        });
        let served = served.await?;
        assert_eq!((served.done, served.failed, served.panicked), (4, 2, 2));
        Ok(())
    });
}

#[test]
fn a_missing_server_is_an_error_at_once() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let missing = client.call("nobody", "?").timeout(Duration::MAX).await;
        let error = missing.err().ok_or("somebody replied")?;
        assert!(matches!(error, RpcError::NoServer(_)) && !error.may_have_run());
        let text =
            "no queue took the request (exchange \"\", routing key \"nobody\"); start the server";
        assert!(error.to_string().starts_with(text), "{error}");

        rig.channel.exchange_declare("rpc", "topic", ExchangeOptions::new()).await?;
        let unbound = client.call("shout", "?").via("rpc").await;
        assert!(matches!(unbound, Err(RpcError::NoServer(_))), "{unbound:?}");
        queue.bind("rpc", "shout").await?;
        let served = beside(RpcServer::on(&queue).serve(shout), async {
            assert_eq!(client.call("shout", "via").via("rpc").await?.body(), b"VIA");
            Ok(())
        });
        assert_eq!(served.await?.done, 1);
        assert!(is_unused(&client) && client.is_open());

        // The broker closes the channel of the client.
        let missing = async {
            until_queued(&rig, 1).await.expect("the other call was sent");
            client.call("q", "?").via("no such exchange").await
        };
        let (other, missing) = join(client.call("q", "?"), missing).await;
        assert!(matches!(missing, Err(RpcError::Lost(_))), "{missing:?}");
        assert!(matches!(other, Err(RpcError::Lost(_))), "{other:?}");
        assert!(!client.is_open());
        let later = client.call("q", "?").await;
        assert!(matches!(later, Err(RpcError::Ended(_))), "{later:?}");
        assert_eq!(client.pending_calls(), 0);
        Ok(())
    });
}

#[test]
fn a_call_times_out_and_its_late_reply_is_dropped() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let after = Duration::from_millis(40);
        let late = client.call("q", "late").timeout(after).await;
        assert!(matches!(late, Err(RpcError::TimedOut { sent: true, .. })), "{late:?}");
        // The broker drops the request that has expired.
        until_queued(&rig, 0).await?;
        assert!(is_unused(&client));

        let (started, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let slow = {
            let (started, gate) = (started.clone(), gate.clone());
            move || {
                started.fetch_add(1, Ordering::SeqCst);
                let gate = gate.clone();
                async move { gate.acquire().await.map(|_permit| "slow") }
            }
        };
        beside(RpcServer::on(&queue).serve(slow), async {
            // A request that expires before the server has it is never started.
            while started.load(Ordering::SeqCst) == 0 {
                let slow = client.call("q", "slow").timeout(Duration::from_millis(100)).await;
                let error = slow.err().ok_or("it was fast")?;
                assert_eq!(error.to_string(), "no reply to the request within 100ms");
            }
            gate.add_permits(1);
            while client.late_replies() == 0 {
                rig.connection.after(Duration::from_millis(1)).await?;
            }
            // A reply that comes before its call is polled again is taken, if the call waits longer.
            assert_eq!(client.call("q", "").timeout(Duration::MAX).await?.body(), b"slow");
            Ok(())
        })
        .await?;
        let late = u64::from(started.load(Ordering::SeqCst)) - 1;
        assert_eq!((client.pending_calls(), client.late_replies()), (0, late));
        let never = client.call("q", "").timeout(Duration::ZERO).await;
        assert!(matches!(never, Err(RpcError::TimedOut { sent: false, .. })), "{never:?}");
        assert_eq!(client.pending_calls(), 0);
        Ok(())
    });
}

/// RabbitMQ closes the channel if an expiration does not fit into 32 bits.
#[test]
fn a_request_expires_with_its_call() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let day = Duration::from_secs(24 * 60 * 60);
        for (timeout, expires) in [(day, true), (50 * day, false), (Duration::MAX, false)] {
            let properties = MessageProperties::new().app_id("shop").reply_to("elsewhere");
            let call = client.call("q", "?").timeout(timeout).properties(properties);
            let mut call = pin!(call.method("m"));
            assert!(call.as_mut().now_or_never().is_none());
            until_queued(&rig, 1).await?;
            let got = queue.get_no_ack().await?.ok_or("no request")?.delivery;
            let properties = got.message_properties()?;
            assert_eq!(properties.expiration.is_some(), expires);
            assert!(properties.expiration.is_none_or(|left| left <= day && left > day / 2));
            assert_eq!(properties.app_id.as_deref(), Some("shop"));
            assert_eq!(properties.kind.as_deref(), Some("m"));
            let address = properties.reply_to.ok_or("no address")?;
            assert!(address.starts_with("amq.rabbitmq.reply-to."), "{address}");
        }
        assert_eq!(client.pending_calls(), 0);
        Ok(())
    });
}

/// It expires after the time that is left when it is sent, not when the connection was lost.
#[test]
fn a_request_that_is_sent_again_expires_with_its_call() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.channel.queue_declare("q", QueueOptions::new()).await?;
        let replies = rig.channel.queue_declare("replies", QueueOptions::new()).await?;
        let expiration = async || -> Result<Duration, BoxError> {
            until_queued(&rig, 1).await?;
            let request = queue.get_no_ack().await?.ok_or("no request")?.delivery;
            Ok(request.message_properties()?.expiration.ok_or("no expiration")?)
        };
        let (before, outage) = (Duration::from_millis(20), Duration::from_millis(50));
        for options in [RpcOptions::new(), RpcOptions::new().reply_queue(&replies)] {
            let client = RpcClient::open_with(&rig.connection, options).await?;
            let call = client.call("q", "?").timeout(Duration::from_secs(3600)).idempotent();
            rig.broker.hold_confirms(true);
            let work = async {
                let first = expiration().await?;
                rig.connection.after(before).await?;
                rig.broker.refuse_logins(true);
                cut(&rig);
                rig.connection.after(outage).await?;
                rig.broker.refuse_logins(false);
                rig.broker.hold_confirms(false);
                let second = expiration().await?;
                assert!(second <= first - before - outage, "{first:?}, then {second:?}");
                Ok::<_, BoxError>(())
            };
            match select(pin!(call), pin!(work)).await {
                Either::Left((reply, _)) => return Err(format!("{reply:?}").into()),
                Either::Right((done, _)) => done?,
            }
        }
        Ok(())
    });
}

#[test]
fn a_call_that_is_dropped_is_forgotten() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        drop(client.call("q", "never polled"));
        {
            let mut call = pin!(client.call("q", "dropped"));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert_eq!(client.pending_calls(), 1);
        }
        assert_eq!(client.pending_calls(), 0);
        until_queued(&rig, 1).await?;
        beside(RpcServer::on(&queue).serve(shout), async {
            assert_eq!(client.call("q", "next").await?.body(), b"NEXT");
            Ok(())
        })
        .await?;
        assert_eq!(client.late_replies(), 1);
        Ok(())
    });
}

#[test]
fn a_loss_ends_the_calls_that_wait_for_a_reply() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        for held in [false, true] {
            // Whether the request is confirmed makes no difference.
            rig.broker.hold_confirms(held);
            let lost = client.call("q", "lost").timeout(Duration::MAX);
            let (lost, ()) = join(lost, async {
                until_queued(&rig, 1).await.expect("it is queued");
                cut(&rig);
            })
            .await;
            rig.broker.hold_confirms(false);
            let error = lost.err().ok_or("who replied?")?;
            assert!(matches!(error, RpcError::Lost(ConsumerEnd::Ended(_))), "{error:?}");
            assert!(error.may_have_run() && error.is_transient());
            queue.purge().await?;
        }
        // The next call waits until the connection is restored.
        let losses = rig.connection.health().losses;
        cut(&rig);
        while rig.connection.health().losses == losses {
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        let served = beside(RpcServer::on(&queue).serve(shout), async {
            assert_eq!(client.call("q", "again").await?.body(), b"AGAIN");
            Ok(())
        });
        served.await?;
        assert!(is_unused(&client) && client.is_open());
        Ok(())
    });
}

#[test]
fn an_idempotent_call_is_sent_again_and_one_with_a_reply_queue_waits_on() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.channel.queue_declare("q", QueueOptions::new()).await?;
        let replies = rig.channel.queue_declare("replies", QueueOptions::new()).await?;
        for options in [RpcOptions::new(), RpcOptions::new().reply_queue(&replies)] {
            let client = RpcClient::open_with(&rig.connection, options.clone()).await?;
            let runs = Arc::new(AtomicU32::new(0));
            let server = RpcServer::on(&queue).at_once(8).grace(Duration::ZERO);
            let handler = {
                let (runs, connection) = (runs.clone(), rig.connection.clone());
                move || {
                    let first = runs.fetch_add(1, Ordering::SeqCst) == 0;
                    let (runs, connection) = (runs.clone(), connection.clone());
                    async move {
                        // The request is delivered again after the loss.
                        while first && runs.load(Ordering::SeqCst) < 2 {
                            let _ = connection.after(Duration::from_millis(1)).await;
                        }
                        // The first run replies to nobody, or to the call that goes on waiting.
                        "done"
                    }
                }
            };
            let work = async {
                let call = client.call("q", "work").idempotent();
                let (reply, ()) = join(call, async {
                    while runs.load(Ordering::SeqCst) == 0 {
                        rig.connection.after(Duration::from_millis(1)).await.expect("time");
                    }
                    cut(&rig);
                })
                .await;
                assert_eq!(reply?.body(), b"done");
                Ok(())
            };
            beside(server.serve(handler), work).await?;
            assert_eq!(client.pending_calls(), 0);
            queue.purge().await?;
        }
        Ok(())
    });
}

#[test]
fn the_end_of_the_connection_ends_calls_and_servers() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let call = client.call("q", "?").timeout(Duration::MAX);
        let idempotent = client.call("q", "?").timeout(Duration::MAX).idempotent();
        let runs = Arc::new(AtomicU32::new(0));
        let began = runs.clone();
        let server = RpcServer::on(&queue).at_once(2).serve(move || {
            began.fetch_add(1, Ordering::SeqCst);
            pending::<()>()
        });
        let close = async {
            while runs.load(Ordering::SeqCst) < 2 {
                rig.connection.after(Duration::from_millis(1)).await.expect("time");
            }
            rig.connection.close().await
        };
        let ((call, idempotent), (server, close)) =
            join(join(call, idempotent), join(server.run(), close)).await;
        close?;
        assert!(matches!(call, Err(RpcError::Lost(_))), "{call:?}");
        assert!(matches!(idempotent, Err(RpcError::Lost(_))), "{idempotent:?}");
        let Err(ServeError::Ended { served, .. }) = server else {
            return Err(format!("{server:?}").into());
        };
        assert_eq!(served.unfinished, 2);
        let later = client.call("q", "?").await.err().ok_or("who replied?")?;
        assert!(matches!(later, RpcError::Ended(_)), "{later:?}");
        assert!(RpcClient::open(&rig.connection).await.is_err());
        assert!(RpcServer::on(&queue).serve(shout).run().await.is_err());
        Ok(())
    });
}

#[test]
fn a_reply_queue_that_is_deleted_ends_the_client() {
    on_each_adapter(async |rig: Rig| {
        let (_, direct) = alone(&rig).await?;
        let replies = rig.channel.queue_declare("replies", QueueOptions::new()).await?;
        let options = RpcOptions::new().reply_queue(&replies).timeout(Duration::MAX);
        let client = RpcClient::open_with(&rig.connection, options).await?;
        let (call, deleted) = join(client.call("q", "?"), async {
            until_queued(&rig, 1).await?;
            Ok::<_, BoxError>(replies.delete().await?)
        })
        .await;
        deleted?;
        assert!(matches!(call, Err(RpcError::Lost(ConsumerEnd::Cancelled))), "{call:?}");
        let later = client.call("q", "?").await;
        assert!(matches!(later, Err(RpcError::Ended(ConsumerEnd::Cancelled))), "{later:?}");
        assert!(!client.is_open() && direct.is_open());
        Ok(())
    });
}

#[test]
fn requests_and_replies_of_other_programs() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let replies = rig.channel.queue_declare("replies", QueueOptions::new()).await?;
        // A correlation id of any bytes.
        let id = ShortStr::named("id", [0xFF, 0x00, b'x'])?;
        let properties = Properties {
            correlation_id: Some(id.clone()),
            reply_to: Some(replies.name().clone()),
            ..Properties::default()
        };
        let request = Message::new("raw").with_encoded(RawProperties::from(&properties));
        rig.channel.default_exchange().publish_confirmed("q", &request).await?;
        rig.publish(&queue, "no address").await?;
        let served = beside(RpcServer::on(&queue).serve(shout), async {
            while rig.broker.queue("replies").ok_or("no queue")?.messages.is_empty() {
                rig.connection.after(Duration::from_millis(1)).await?;
            }
            // The server has handled the second as well when it replies to the third.
            client.call("q", "third").await?;
            Ok(())
        });
        let served = served.await?;
        assert_eq!((served.done, served.without_reply_to), (3, 1));
        let reply = replies.get_no_ack().await?.ok_or("no reply")?.delivery;
        assert_eq!(reply.body(), b"RAW");
        assert_eq!(reply.properties().correlation_id()?, Some(id));
        until_queued(&rig, 0).await?;

        // Replies that are for nobody.
        let call = client.call("q", "?").timeout(Duration::MAX);
        let (call, forged) = join(call, async {
            until_queued(&rig, 1).await?;
            let request = queue.get_no_ack().await?.ok_or("no request")?.delivery;
            let properties = request.message_properties()?;
            let address = properties.reply_to.ok_or("no address")?;
            let id = properties.correlation_id.ok_or("no id")?;
            let (prefix, number) = id.split_once('-').ok_or("no prefix")?;
            for forged in [
                number.to_owned(),
                format!("{prefix}-+{number}"),
                format!("{prefix}-{}", u64::MAX),
                format!("{prefix}-{number}0000000000000000000000"),
                format!("{prefix}-"),
                String::new(),
            ] {
                let properties = MessageProperties::new().correlation_id(forged);
                let reply = Message::new("forged").with(&properties)?;
                rig.channel.default_exchange().publish(&address, &reply).await?;
            }
            let without = Message::new("without an id");
            rig.channel.default_exchange().publish(&address, &without).await?;
            for reply in ["first", "second"] {
                let reply =
                    Message::new(reply).with(&MessageProperties::new().correlation_id(&id))?;
                rig.channel.default_exchange().publish(&address, &reply).await?;
            }
            Ok::<_, BoxError>(())
        })
        .await;
        forged?;
        assert_eq!(call?.body(), b"first");
        while client.late_replies() < 8 {
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        Ok(())
    });
}

#[test]
fn a_server_that_is_stopped_requeues_what_it_has_not_finished() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let (started, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let handler = {
            let (started, gate) = (started.clone(), gate.clone());
            move |Text(text): Text| {
                started.fetch_add(1, Ordering::SeqCst);
                let gate = gate.clone();
                async move {
                    match &*text {
                        "finishes" => gate.acquire().await.map(|_permit| text),
                        _ => pending().await,
                    }
                }
            }
        };
        let server = RpcServer::on(&queue).at_once(2).serve(handler);
        let server = server.grace(Duration::from_millis(300));
        let until_started = async |count| {
            while started.load(Ordering::SeqCst) < count {
                rig.connection.after(Duration::from_millis(1)).await.expect("it is open");
            }
        };
        let (stop, stopped) = oneshot::channel();
        let calls = async {
            let finishes = client.call("q", "finishes");
            let others = async {
                until_started(1).await;
                let hangs = client.call("q", "hangs");
                let third = async {
                    until_started(2).await;
                    client.call("q", "is not taken").await
                };
                join(hangs, third).await
            };
            let stop = async {
                until_started(2).await;
                until_queued(&rig, 1).await.expect("the third waits");
                stop.send(()).expect("the server runs");
            };
            let finishes = join(finishes, stop);
            match select(pin!(finishes), pin!(others)).await {
                Either::Left(((reply, ()), _)) => Ok(reply?),
                Either::Right((others, _)) => Err(BoxError::from(format!("{others:?}"))),
            }
        };
        // A handler finishes after the server was stopped.
        let stopped = stopped.map(|_| gate.add_permits(1));
        let (reply, served) = join(calls, server.until(stopped)).await;
        assert_eq!(reply?.body(), b"finishes");
        let served = served?;
        assert_eq!((served.done, served.unfinished), (1, 1));
        until_queued(&rig, 2).await
    });
}

#[test]
fn a_server_ends_with_its_queue_and_can_be_dropped() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        {
            let mut server =
                pin!(RpcServer::on(&queue).serve(async || pending::<()>().await).run());
            let mut call = pin!(client.call("q", "?"));
            while rig.broker.queue("q").ok_or("no queue")?.unacknowledged == 0 {
                assert!(server.as_mut().now_or_never().is_none());
                assert!(call.as_mut().now_or_never().is_none());
                rig.connection.after(Duration::from_millis(1)).await?;
            }
        }
        until_queued(&rig, 1).await?;
        queue.purge().await?;
        let (served, deleted) = join(RpcServer::on(&queue).serve(shout).run(), async {
            assert_eq!(client.call("q", "last").await?.body(), b"LAST");
            Ok::<_, BoxError>(queue.delete().await?)
        })
        .await;
        deleted?;
        let Err(ServeError::Ended { end, served }) = served else { return Err("no end".into()) };
        assert_eq!((end, served.done), (ConsumerEnd::Cancelled, 1));
        Ok(())
    });
}

#[test]
fn the_client_keeps_nothing_open() {
    on_each_adapter(async |rig: Rig| {
        let (queue, client) = alone(&rig).await?;
        let clone = client.clone();
        let channels = rig.connection.health().channels;
        let mut call = Box::pin(clone.call("q", "?"));
        assert!(call.as_mut().now_or_never().is_none());
        drop((client, clone));
        // A call is a handle of its client.
        let reply = async {
            until_queued(&rig, 1).await.expect("it comes");
            RpcServer::on(&queue).serve(shout)
        };
        let server = reply.await;
        beside(server, async {
            assert_eq!(call.await?.body(), b"?");
            Ok(())
        })
        .await?;
        while rig.connection.health().channels >= channels {
            rig.connection.after(Duration::from_millis(1)).await?;
        }
        Ok(())
    });
}

/// Futures can be spawned, and one client serves all tasks.
#[test]
fn futures_are_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    fn sync<T: Send + Sync>() {}
    sync::<RpcClient>();
    let _futures = |client: RpcClient, queue: Queue| {
        drop(send(client.call("q", "").idempotent()));
        drop(send(client.call_as::<_, u8, Json>("q", &1)));
        drop(send(RpcServer::on(&queue).state(1u32).serve(shout).until(pending::<()>())));
    };
}

/// Threads that block: a server, and callers that share a client.
#[test]
fn threads_call_each_other() {
    let broker = Broker::start().expect("a broker");
    let connect = || amqp_client_blocking::connect(&broker.uri()).expect("a connection");
    let connection = connect();
    let channel = connection.open_channel().wait().expect("a channel");
    let queue = channel.queue_declare("q", QueueOptions::new()).wait().expect("a queue");
    let (callers, each) = (4, 200);
    let left = AtomicU32::new(callers);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let all_done = std::future::poll_fn(|_| match left.load(Ordering::SeqCst) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            });
            RpcServer::on(&queue).at_once(8).serve(shout).until(all_done).wait()
        });
        let connection = connect();
        let client = RpcClient::open(&connection).wait().expect("a client");
        let calls: Vec<_> = (0..callers)
            .map(|caller| {
                let client = client.clone();
                scope.spawn(move || {
                    for n in 0..each {
                        let reply = client.call("q", format!("c{caller} {n}")).wait();
                        let reply = reply.expect("a reply");
                        assert_eq!(reply.body(), format!("C{caller} {n}").as_bytes());
                    }
                })
            })
            .collect();
        for call in calls {
            call.join().expect("it does not panic");
            left.fetch_sub(1, Ordering::SeqCst);
        }
        // A request wakes the server, which finds that it is to stop.
        let _unserved = client.call("q", "last").wait_timeout(Duration::from_millis(200));
        let served = server.join().expect("it does not panic").expect("it was stopped");
        assert!(served.done >= u64::from(callers * each), "{served:?}");
        assert!(is_unused(&client));
    });
}
