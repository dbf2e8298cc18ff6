//! The faults that the in-memory broker can inject, as clients see them.

mod once;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{
    Config, ConfirmError, ConnectError, Connection, ConsumeOptions, ConsumerEnd, MessageProperties,
    PublisherOptions, QueueOptions, Target,
};
use amqp_client_tokio::{connect, connect_over, connect_target};
use amqp_test_broker::{Broker, Options};
use once::open;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Far longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let asking = async {
        while !holds() {
            // A view of the broker is a copy: it is taken again until it shows the expected state.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A connection through a socket, or through a pipe.
async fn open_by(
    broker: &Broker,
    through_pipe: bool,
) -> Result<Connection, Box<dyn std::error::Error>> {
    if !through_pipe {
        return Ok(open(&broker.uri()).await?);
    }
    let (connection, driver) = connect_over(broker.pipe(), Config::default());
    tokio::spawn(driver);
    connection.ready().await?;
    Ok(connection)
}

fn persistent() -> PublisherOptions {
    PublisherOptions::new().properties(MessageProperties::new().persistent())
}

#[tokio::test]
async fn a_broker_that_was_stopped_starts_again_with_what_it_had() -> Outcome {
    let broker = Broker::start()?;
    let connection = open(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    channel.queue_declare("kept", QueueOptions::new()).await?;
    channel.queue_declare("gone", QueueOptions::new().durable(false)).await?;
    channel.default_exchange().publisher(persistent())?.send("kept", "m").await?;
    broker.stop();
    let close = connection.closed().await;
    let close = close.as_close().ok_or("closed otherwise")?;
    assert_eq!(
        (close.reply_code.0, close.reply_text.to_string().as_str()),
        (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
    );
    let refused = open(&broker.uri()).await.expect_err("nobody listens");
    assert!(
        matches!(&refused, ConnectError::Unreachable { error, .. }
        if error.kind() == std::io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    // The same through no socket.
    let (piped, driver) = connect_over(broker.pipe(), Config::default());
    tokio::spawn(driver);
    assert_eq!(piped.ready().await, Err(ConnectionError::Eof));
    broker.stop();

    broker.start_again()?;
    broker.start_again()?;
    assert!(broker.queue("gone").is_none());
    let channel = open(&broker.uri()).await?.open_channel().await?;
    let got = channel.basic_get_no_ack("kept").await?.ok_or("it is lost")?;
    assert_eq!(got.delivery.body(), b"m");
    Ok(())
}

/// Clients wait for the broker to start again.
#[tokio::test]
async fn clients_recover_when_the_broker_starts_again() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("q", QueueOptions::new()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    for _ in 0..3 {
        broker.stop();
        broker.start_again()?;
        until("the consumer is back", || {
            broker.queue("q").is_some_and(|queue| queue.consumers == 1)
        })
        .await;
    }
    channel.default_exchange().publisher(persistent())?.send("q", "m").await?;
    assert_eq!(consumer.next().await.ok_or("ended")??.body(), b"m");
    Ok(())
}

#[tokio::test]
async fn the_next_publishes_are_refused_and_reach_no_queue() -> Outcome {
    let broker = Broker::start()?;
    let channel = open(&broker.uri()).await?.open_channel().await?;
    channel.queue_declare("q", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(persistent())?;
    broker.nack_next(2);
    let mut confirmations = Vec::new();
    for body in ["a", "b", "c", "d"] {
        confirmations.push(publisher.publish("q", body).await?);
    }
    let mut outcomes = Vec::new();
    for confirmation in confirmations {
        outcomes.push(confirmation.await);
    }
    let nacked = || Err(ConfirmError::Nacked);
    assert_eq!(outcomes, [nacked(), nacked(), Ok(()), Ok(())]);
    let view = broker.queue("q").ok_or("no queue")?;
    let bodies: Vec<_> = view.messages.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [b"c", b"d"]);
    Ok(())
}

#[tokio::test]
async fn confirms_are_held_until_they_are_not() -> Outcome {
    let broker = Broker::start_with(Options::new().nondeterminism(3))?;
    let channel = open(&broker.uri()).await?.open_channel().await?;
    channel.queue_declare("q", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(persistent())?;
    broker.hold_confirms(true);
    let held = publisher.publish("q", "m").await?;
    let mut held = pin!(held);
    until("the message is there", || {
        broker.queue("q").is_some_and(|queue| queue.messages.len() == 1)
    })
    .await;
    // A later request gets its reply, and the publish gets no confirm.
    channel.basic_qos(1).await?;
    assert!(held.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    broker.hold_confirms(false);
    held.await?;
    Ok(())
}

/// A confirm that was held for a closed channel does not reach the next channel with its number.
#[tokio::test]
async fn held_confirms_reach_no_other_channel() -> Outcome {
    let broker = Broker::start()?;
    let connection = open(&broker.uri()).await?;
    broker.hold_confirms(true);
    let first = connection.open_channel().await?;
    first.queue_declare("q", QueueOptions::new()).await?;
    let publisher = first.default_exchange().publisher(persistent())?;
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(publisher.publish("q", "m").await?);
    }
    first.close().await?;
    let second = connection.open_channel().await?;
    assert_eq!(second.id(), first.id());
    let publisher = second.default_exchange().publisher(persistent())?;
    broker.nack_next(1);
    let nacked = publisher.publish("q", "m").await?;
    let mut nacked = pin!(nacked);
    second.basic_qos(1).await?;
    assert!(nacked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    broker.hold_confirms(false);
    assert_eq!(nacked.await, Err(ConfirmError::Nacked));
    publisher.send("q", "m").await?;
    for lost in lost {
        assert!(matches!(lost.await, Err(ConfirmError::Unconfirmed(_))));
    }
    assert_eq!(broker.queue("q").map(|queue| queue.messages.len()), Some(4));
    Ok(())
}

/// Also a frozen one, and one without a socket. A frozen one is not notified of a close.
#[tokio::test]
async fn a_frozen_connection_can_be_cut_but_gets_no_close() -> Outcome {
    let broker = Broker::start()?;
    for through_pipe in [false, true] {
        let connection = open_by(&broker, through_pipe).await?;
        let views = broker.connections();
        let [view] = &views[..] else { return Err("it is the only one".into()) };
        broker.freeze(view.id);
        broker.close_connection(view.id);
        // Another client is served meanwhile, from its first word to its last.
        open(&broker.uri()).await?.close().await?;
        assert!(connection.is_open());
        broker.cut(view.id);
        let error = tokio::time::timeout(LIMIT, connection.closed()).await?;
        assert_eq!(error, ConnectionError::Eof);
        until("all are gone", || broker.connections().is_empty()).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_is_cut_or_closed_and_others_are_not() -> Outcome {
    let broker = Broker::start()?;
    let uri = |name: &str| format!("{}?name={name}", broker.uri());
    let (first, second) = (open(&uri("first")).await?, open(&uri("second")).await?);
    let id = |name: &'static str| {
        let named = Some(name.into());
        let mut views = broker.connections().into_iter();
        let view = views.find(|view| view.client_properties.get("connection_name") == named);
        view.map(|view| view.id).ok_or(name)
    };
    broker.cut(id("first")?);
    assert_eq!(first.closed().await, ConnectionError::Eof);
    assert!(id("first").is_err(), "{:?}", broker.connections());
    let channel = second.open_channel().await?;
    channel.queue_declare("q", QueueOptions::new().exclusive(true)).await?;
    let second_id = id("second")?;
    assert_eq!(broker.queue("q").and_then(|queue| queue.owner), Some(second_id));
    broker.close_connection(second_id);
    let close = second.closed().await;
    assert_eq!(close.reply_code().map(|code| code.0), Some(320), "{close:?}");
    assert!(broker.queues().is_empty());
    Ok(())
}

/// Nothing comes, and nothing is lost.
#[tokio::test]
async fn a_frozen_connection_continues_where_it_stopped() -> Outcome {
    let broker = Broker::start()?;
    for through_pipe in [false, true] {
        let connection = open_by(&broker, through_pipe).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("q", QueueOptions::new().exclusive(true)).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        let view = &broker.connections()[0];
        broker.freeze(view.id);
        let mut asked = pin!(channel.basic_qos(1));
        let other = open(&broker.uri()).await?.open_channel().await?;
        other.basic_qos(1).await?;
        assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        broker.thaw(view.id);
        asked.await?;
        queue.publish(&amqp_client_core::Message::new("m")).await?;
        assert_eq!(consumer.next().await.ok_or("ended")??.body(), b"m");
        connection.close().await?;
        until("all are gone", || broker.connections().len() <= 1).await;
        drop(other);
        until("all are gone", || broker.connections().is_empty()).await;
    }
    Ok(())
}

/// Heartbeats show it.
#[tokio::test]
async fn the_client_of_a_frozen_connection_gives_it_up() -> Outcome {
    let broker = Broker::start_with(Options::new().heartbeat(Duration::from_secs(1)))?;
    let connection = open(&broker.uri()).await?;
    broker.freeze(broker.connections()[0].id);
    let closed = tokio::time::timeout(LIMIT, connection.closed()).await;
    assert_eq!(closed, Ok(ConnectionError::PeerSilent(Duration::from_secs(2))));
    let id = broker.connections()[0].id;
    broker.thaw(id);
    until("the broker notices", || broker.connections().is_empty()).await;
    Ok(())
}

#[tokio::test]
async fn logins_are_refused_while_they_are() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri()).await?;
    broker.refuse_logins(true);
    let error = open(&broker.uri()).await.expect_err("nobody is let in");
    assert!(format!("{error:?}").contains("ACCESS_REFUSED"), "{error}");
    connection.open_channel().await?;
    broker.refuse_logins(false);
    open(&broker.uri()).await?;
    Ok(())
}

#[tokio::test]
async fn queues_can_be_looked_into() -> Outcome {
    let broker = Broker::start_with(Options::new().virtual_host("other"))?;
    let target: Target = broker.uri().replace("/%2f", "/other").parse()?;
    let connection = connect_target(target.without_recovery()).await?;
    let channel = connection.open_channel().await?;
    let options = QueueOptions::new().max_priority(3).dead_letter_exchange("");
    let queue = channel.queue_declare("q", options).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    for (body, priority) in [("low", 0), ("high", 2), ("middle", 1)] {
        let properties = MessageProperties::new().priority(priority);
        let message = amqp_client_core::Message::new(body).with(&properties)?;
        publisher.send_message("q", &message).await?;
    }
    let taken = queue.get().await?.ok_or("nothing there")?;
    assert!(broker.queue("q").is_none(), "it is in another virtual host");
    let [view] = &broker.queues()[..] else { panic!("there is one") };
    assert_eq!(
        (view.virtual_host.to_string(), view.name.to_string()),
        ("other".into(), "q".into())
    );
    assert_eq!((view.durable, view.auto_delete, view.owner), (true, false, None));
    assert_eq!(view.arguments.get("x-max-priority").and_then(|value| value.as_i64()), Some(3));
    assert_eq!((view.consumers, view.unacknowledged), (0, 1));
    let shown: Vec<_> =
        view.messages.iter().map(|message| (&message.body[..], message.redelivered)).collect();
    assert_eq!(shown, [(&b"middle"[..], false), (b"low", false)]);
    assert_eq!(view.messages[0].properties.priority()?, Some(1));
    let [connection_view] = &broker.connections()[..] else { panic!("there is one") };
    assert_eq!((connection_view.channels, connection_view.unacknowledged), (1, 1));
    taken.delivery.nack(true)?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    let delivery = consumer.next().await.ok_or("ended")??;
    assert_eq!((delivery.body(), delivery.redelivered()), (&b"high"[..], true));
    queue.delete().await?;
    assert!(broker.queues().is_empty());
    assert!(matches!(consumer.next().await, Some(Ok(_) | Err(ConsumerEnd::Cancelled))));
    Ok(())
}
