//! What only a client for threads has: iterating, waiting for a while, many threads on one channel.

use std::thread;
use std::time::Duration;

use amqp_client_blocking::{
    Connection, ConsumeOptions, Deliveries as _, Message, PublisherOptions, QueueOptions,
    Wait as _, recv_any,
};
use amqp_test_broker::Broker;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[test]
fn many_threads_use_one_channel() -> Outcome {
    let broker = Broker::start()?;
    let connection = Connection::open(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let work = |number: usize| -> Outcome {
        let name = format!("q{number}");
        let queue = channel.queue_declare(&name, QueueOptions::new()).wait()?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for body in 0..100u8 {
            publisher.send(&name, vec![body]).wait()?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
        for (expected, delivery) in (0..100u8).zip(consumer.deliveries()) {
            let delivery = delivery?;
            assert_eq!(delivery.body(), [expected]);
            delivery.ack()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

#[test]
fn a_consumer_is_waited_for_as_long_as_one_likes() -> Outcome {
    let broker = Broker::start()?;
    let connection = Connection::open(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).wait()?;
    assert!(consumer.next_timeout(Duration::from_millis(1)).is_none());
    queue.publish(&Message::new("here")).wait()?;
    let delivery = consumer.next_timeout(Duration::from_secs(30)).ok_or("nothing came")?;
    assert_eq!(delivery.ok_or("cancelled")??.body(), b"here");
    consumer.cancel().wait()?;
    assert!(consumer.deliveries().next().is_none());
    Ok(())
}

#[test]
fn several_consumers_are_waited_for_at_once() -> Outcome {
    let broker = Broker::start()?;
    let connection = Connection::open(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queues: Vec<_> = (0..3)
        .map(|number| channel.queue_declare(format!("q{number}"), QueueOptions::new()).wait())
        .collect::<Result<_, _>>()?;
    let mut consumers: Vec<_> = queues
        .iter()
        .map(|queue| queue.consume(ConsumeOptions::new().no_ack(true)).wait())
        .collect::<Result<_, _>>()?;
    assert!(recv_any(&mut consumers, Some(Duration::from_millis(1))).is_none());
    for index in [2, 0, 1] {
        let publisher = thread::spawn({
            let queue = queues[index].clone();
            move || queue.publish(&Message::new("here")).wait()
        });
        let (from, delivery) = recv_any(&mut consumers, None).ok_or("nothing came")?;
        assert_eq!(from, index);
        assert_eq!(delivery.ok_or("cancelled")??.body(), b"here");
        publisher.join().map_err(|_| "the thread panicked")??;
    }
    Ok(())
}
