//! Extreme values that nobody sends on purpose, and that the in-memory broker must withstand.

mod once;

use std::mem::ManuallyDrop;
use std::time::Duration;

use amqp_client_core::proto::{FieldArray, FieldTable, Properties, RawProperties};
use amqp_client_core::{
    Channel, ConfirmError, ConsumeOptions, Message, MessageProperties, PublisherOptions, Queue,
    QueueOptions,
};
use amqp_test_broker::{Broker, Options};
use once::open;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A channel of a broker of its own.
async fn channel() -> Result<(Broker, Channel), Box<dyn std::error::Error>> {
    let broker = Broker::start()?;
    let channel = open(&broker.uri()).await?.open_channel().await?;
    Ok((broker, channel))
}

/// One more than fits into 16 bits.
#[tokio::test]
async fn a_consumer_has_65_536_deliveries_unacknowledged() -> Outcome {
    let (_broker, channel) = channel().await?;
    let queue = channel.queue_declare("q", QueueOptions::new()).await?;
    for _ in 0..65_536 {
        queue.publish(&Message::new("")).await?;
    }
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    // Those that are dropped would be requeued.
    let mut deliveries = Vec::new();
    for number in 1..=65_536 {
        let delivery = consumer.next().await.ok_or("cancelled")??;
        assert_eq!(delivery.delivery_tag().get(), number);
        deliveries.push(delivery);
    }
    // A prefetch limit holds at that number, too.
    channel.basic_qos(1).await?;
    let mut limited = queue.consume(ConsumeOptions::new()).await?;
    consumer.cancel().await?;
    queue.publish(&Message::new("first")).await?;
    queue.publish(&Message::new("second")).await?;
    let first = limited.next().await.ok_or("cancelled")??;
    assert_eq!(first.body(), b"first");
    channel.basic_qos(1).await?;
    assert!(limited.try_next().is_none());
    deliveries.pop().ok_or("none")?.ack_up_to()?;
    assert!(queue.get_no_ack().await?.is_some_and(|second| second.delivery.body() == b"second"));
    Ok(())
}

/// A queue that holds nothing, and passes messages on to the next.
async fn chain(channel: &Channel, length: usize) -> Result<Queue, Box<dyn std::error::Error>> {
    let declared: Vec<_> = (0..length)
        .map(|number| {
            let options = QueueOptions::new()
                .max_length(0)
                .dead_letter_exchange("")
                .dead_letter_routing_key(format!("q{}", number + 1));
            channel.queue_declare(format!("q{number}"), options)
        })
        .collect();
    for queue in declared {
        queue.await?;
    }
    Ok(channel.queue_declare(format!("q{length}"), QueueOptions::new()).await?)
}

#[tokio::test]
async fn a_message_dies_in_3_000_queues_one_after_the_other() -> Outcome {
    let (_broker, channel) = channel().await?;
    let last = chain(&channel, 3_000).await?;
    channel.queue("q0")?.publish(&Message::new("x")).await?;
    let got = last.get_no_ack().await?.ok_or("it is lost")?;
    assert_eq!(got.delivery.body(), b"x");
    Ok(())
}

/// Its headers cannot say where it has been.
#[tokio::test]
async fn an_unreadable_message_passes_through_the_broker() -> Outcome {
    let (_broker, channel) = channel().await?;
    let to = |queue| {
        let options = QueueOptions::new().max_length(0).dead_letter_exchange("");
        options.dead_letter_routing_key(queue)
    };
    let queue = channel.queue_declare("a", to("b")).await?;
    channel.queue_declare("b", to("a")).await?;
    // The headers' length field is larger than the headers.
    let unreadable = RawProperties::unchecked(b"\x20\0\xff\xff\xff\xff".as_slice().into());
    queue.publish(&Message::new("x").with_encoded(unreadable)).await?;
    assert!(queue.get_no_ack().await?.is_none(), "it is dropped where it has been before");
    Ok(())
}

/// Only the name shows that it existed.
#[tokio::test]
async fn a_queue_whose_name_is_not_utf_8_dead_letters_to_itself() -> Outcome {
    let (broker, channel) = channel().await?;
    // One that lets the message go round for ever could not be dropped.
    let broker = ManuallyDrop::new(broker);
    let options = QueueOptions::new().message_ttl(Duration::ZERO).dead_letter_exchange("");
    let queue = channel.queue_declare(b"\xff".as_slice(), options).await?;
    queue.publish(&Message::new("x")).await?;
    assert!(queue.get_no_ack().await?.is_none(), "it has gone round once, and is dropped");
    drop(ManuallyDrop::into_inner(broker));
    Ok(())
}

#[tokio::test]
async fn a_message_has_died_as_often_as_can_be_counted() -> Outcome {
    let (_broker, channel) = channel().await?;
    let options = QueueOptions::new().dead_letter_exchange("").dead_letter_routing_key("dead");
    let queue = channel.queue_declare("q", options).await?;
    let dead = channel.queue_declare("dead", QueueOptions::new()).await?;
    let death = FieldTable::new()
        .with("queue", "q")?
        .with("reason", "rejected")?
        .with("count", i64::MAX)?;
    let headers = FieldTable::new().with("x-death", FieldArray::from_values([death])?)?;
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    queue.publish(&Message::new("x").with_encoded((&properties).into())).await?;
    queue.get().await?.ok_or("nothing there")?.delivery.reject(false)?;
    let headers = dead.get_no_ack().await?.ok_or("it is lost")?.delivery.properties().headers()?;
    let deaths = headers.and_then(|headers| headers.get("x-death")).ok_or("no deaths")?;
    let count = deaths.as_array().and_then(|deaths| deaths.iter().next());
    let count = count.as_ref().and_then(|death| death.as_table()?.get("count"));
    assert_eq!(count.and_then(|count| count.as_i64()), Some(i64::MAX));
    Ok(())
}

/// The broker drops it, and must not take the confirm of the next one for its.
#[tokio::test]
async fn a_body_that_is_too_large_closes_the_channel_and_is_not_confirmed() -> Outcome {
    let broker = Broker::start_with(Options::new().max_message_size(1_000))?;
    let connection = open(&broker.uri()).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("q", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    publisher.send("q", vec![7; 1_000]).await?;
    let large = publisher.publish("q", vec![7; 1_001]).await?;
    let small = publisher.publish("q", "small").await;
    let error = large.await.expect_err("it was dropped");
    assert!(
        format!("{error:?}").contains("message size 1001 is larger than configured max size 1000"),
        "{error}"
    );
    if let Ok(small) = small {
        assert!(matches!(small.await, Err(ConfirmError::Unconfirmed(_))));
    }
    let queue = connection.open_channel().await?.queue_declare_passive(queue.name()).await?;
    assert_eq!(queue.message_count(), 1);
    Ok(())
}

/// Another channel has the number of the one that the message was confirmed on.
#[tokio::test]
async fn messages_confirmed_on_a_closed_channel_survive_a_restart_on_a_whim() -> Outcome {
    let mut lost = Vec::new();
    for seed in 0..20 {
        let broker = Broker::start_with(Options::new().nondeterminism(seed))?;
        let connection = open(&broker.uri()).await?;
        let persistent = MessageProperties::new().persistent();
        let options = PublisherOptions::new().properties(persistent);
        let channel = connection.open_channel().await?;
        channel.queue_declare("q", QueueOptions::new()).await?;
        channel.default_exchange().publisher(options.clone())?.send("q", "x").await?;
        channel.close().await?;
        let channel = connection.open_channel().await?;
        let _publisher = channel.default_exchange().publisher(options)?;
        channel.basic_qos(1).await?;
        broker.restart();
        let channel = open(&broker.uri()).await?.open_channel().await?;
        if channel.queue_declare_passive("q").await?.message_count() == 0 {
            lost.push(seed);
        }
    }
    assert!(lost.is_empty(), "confirmed and lost, with seeds {lost:?}");
    Ok(())
}
