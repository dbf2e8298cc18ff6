//! Messages with keys, over several queues.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amqp_client_core::proto::FieldTable;
use amqp_client_core::{ConsumeOptions, Message, MessageProperties, PublisherOptions};
use amqp_client_patterns::partitions::{
    KeyedMessageError, PartitionSendError, Partitions, PartitionsError, key_of,
};
use common::{BoxError, Rig, on_each_adapter};
use futures_util::future::join;

const COUNT: u32 = 4;

async fn declared(rig: &Rig) -> Result<Partitions, BoxError> {
    let orders = Partitions::new("orders", COUNT)?;
    orders.topology(rig.connection.broker_version().as_ref()).apply(&rig.channel).await?;
    Ok(orders)
}

/// The key of a message that is a number.
fn key(number: u32, keys: u32) -> String {
    format!("key {}", number % keys)
}

/// Consumes all partitions until each of the `count` messages has come. Returns them by key, in the order in which they came.
async fn by_key(
    rig: &Rig,
    orders: &Partitions,
    keys: u32,
    count: u32,
) -> Result<BTreeMap<u32, Vec<u32>>, BoxError> {
    let mut messages = BTreeMap::<u32, Vec<u32>>::new();
    for partition in 0..orders.count() {
        let own = |number: &u32| orders.partition_of(key(*number, keys)) == partition;
        let mut missing = (0..count).filter(own).collect::<BTreeSet<_>>();
        let queue = rig.channel.queue(orders.queue(partition).ok_or("no such partition")?)?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        while !missing.is_empty() {
            let delivery = consumer.next().await.ok_or("the consumer has ended")??;
            let number = delivery.text()?.parse()?;
            missing.remove(&number);
            assert!(own(&number), "{number} is in partition {partition}");
            assert_eq!(key_of(&delivery).as_deref(), Some(key(number, keys).as_bytes()));
            messages.entry(number % keys).or_default().push(number);
            delivery.ack()?;
        }
    }
    Ok(messages)
}

#[test]
fn messages_of_a_key_are_in_one_partition_in_their_order() {
    on_each_adapter(async |rig: Rig| {
        let orders = declared(&rig).await?;
        let publisher = orders.publisher(&rig.connection, PublisherOptions::new()).await?;
        for number in 0..300 {
            drop(publisher.publish(key(number, 17), number.to_string()).await?);
        }
        publisher.wait_for_confirms().await?;
        for (first, numbers) in by_key(&rig, &orders, 17, 300).await? {
            assert_eq!(numbers, (first..300).step_by(17).collect::<Vec<_>>());
        }
        Ok(())
    });
}

/// What was not confirmed is repeated before anything new. So each message comes for the first time in its order.
#[test]
fn the_order_of_a_key_survives_lost_connections() {
    on_each_adapter(async |rig: Rig| {
        let orders = declared(&rig).await?;
        let options = PublisherOptions::new().window(40, usize::MAX);
        let publisher = orders.publisher(&rig.connection, options).await?;
        let publishing = async {
            for number in 0..600 {
                drop(publisher.publish(key(number, 5), number.to_string()).await?);
            }
            Ok::<_, BoxError>(publisher.wait_for_confirms().await?)
        };
        let cutting = async {
            for published in [100, 300, 500] {
                while publisher.channel().counters().published < published {
                    rig.connection.after(Duration::from_micros(100)).await?;
                }
                rig.broker.connections().iter().for_each(|own| rig.broker.cut(own.id));
            }
            Ok::<_, BoxError>(())
        };
        let (published, cut) = join(publishing, cutting).await;
        published?;
        cut?;
        for (first, numbers) in by_key(&rig, &orders, 5, 600).await? {
            let mut news = Vec::new();
            for number in numbers {
                if news.last().is_none_or(|last| number > *last) {
                    news.push(number);
                }
            }
            assert_eq!(news, (first..600).step_by(5).collect::<Vec<_>>());
        }
        Ok(())
    });
}

#[test]
fn a_message_that_would_break_the_order_is_refused() {
    on_each_adapter(async |rig: Rig| {
        let orders = declared(&rig).await?;
        let publisher = orders.publisher(&rig.connection, PublisherOptions::new()).await?;
        let copied = |name| FieldTable::new().with(name, "elsewhere");
        let refused = [
            (MessageProperties::new().priority(0), KeyedMessageError::Priority),
            (MessageProperties::new().headers(copied("CC")?), KeyedMessageError::Copies("CC")),
            (MessageProperties::new().headers(copied("BCC")?), KeyedMessageError::Copies("BCC")),
        ];
        for (properties, reason) in refused {
            let message = Message::new("m").with(&properties)?;
            match publisher.send_message("key", &message).await {
                Err(PartitionSendError::Message(found)) => assert_eq!(found, reason),
                other => panic!("{other:?}"),
            }
            let options = PublisherOptions::new().properties(properties);
            match orders.publisher(&rig.connection, options).await {
                Err(PartitionsError::Message(found)) => assert_eq!(found, reason),
                other => panic!("{other:?}"),
            }
        }
        let properties = MessageProperties::new().kind("order").headers(copied("cc")?);
        publisher.send_message("key", &Message::new("m").with(&properties)?).await?;
        // A key may be empty, and any bytes. It has to fit into the headers, which may not be larger than a frame.
        publisher.send("", "m").await?;
        publisher.send([0, 255], "m").await?;
        let too_large = publisher.send(vec![0; 1 << 20], "m").await;
        assert!(too_large.is_err(), "it does not fit into a frame");
        publisher.send("key", "m").await?;
        Ok(())
    });
}

#[test]
fn another_number_of_partitions_is_noticed() {
    on_each_adapter(async |rig: Rig| {
        let publisher = async |count| {
            let orders = Partitions::new("orders", count)?;
            orders.publisher(&rig.connection, PublisherOptions::new()).await
        };
        let missing = publisher(COUNT).await;
        assert!(matches!(&missing, Err(PartitionsError::Missing { .. })), "{missing:?}");
        declared(&rig).await?;
        publisher(COUNT).await?;
        let fewer = publisher(COUNT - 1).await;
        assert!(matches!(&fewer, Err(PartitionsError::OtherCount { .. })), "{fewer:?}");
        let more = publisher(COUNT + 1).await;
        assert!(matches!(&more, Err(PartitionsError::Missing { .. })), "{more:?}");
        for count in [0, 65_537, u32::MAX] {
            let refused = Partitions::new("orders", count);
            assert!(matches!(refused, Err(PartitionsError::Count { .. })), "{refused:?}");
        }
        // The names of 100 partitions end with up to 3 bytes.
        assert!(Partitions::new("n".repeat(252), 100).is_ok());
        let too_long = Partitions::new("n".repeat(253), 100);
        assert!(matches!(too_long, Err(PartitionsError::Name(_))), "{too_long:?}");
        Ok(())
    });
}
