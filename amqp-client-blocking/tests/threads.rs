//! Features of the client for threads: iteration, waits with a timeout, many threads on one channel.

use std::thread;
use std::time::Duration;

use amqp_client_blocking::{
    Callbacks, ConnectionEvent, ConsumeOptions, Message, NextError, OnPanic, PublisherOptions,
    QueueOptions, Received, Wait as _, connect, recv_any, recv_any_or_event,
};
use amqp_test_broker::Broker;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[test]
fn many_threads_use_one_channel() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let work = |number: usize| -> Outcome {
        let name = format!("q{number}");
        let queue = channel.queue_declare(&name, QueueOptions::new()).wait()?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
        for body in 0..100u8 {
            publisher.send(&name, vec![body]).wait()?;
        }
        let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
        for (expected, delivery) in (0..100u8).zip(&mut consumer) {
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
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    let mut consumer = queue.consume(ConsumeOptions::new().no_ack(true)).wait()?;
    let soon = Duration::from_millis(1);
    assert_eq!(consumer.next_timeout(soon).err(), Some(NextError::TimedOut { after: soon }));
    queue.publish(&Message::new("here")).wait()?;
    assert_eq!(consumer.next_timeout(Duration::from_secs(30))?.body(), b"here");
    consumer.cancel().wait()?;
    assert_eq!(consumer.next_timeout(soon).err(), Some(NextError::Cancelled));
    assert!(consumer.into_iter().next().is_none());
    Ok(())
}

#[test]
fn messages_and_events_are_waited_for_at_once() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let mut events = connection.events();
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    let mut consumers = vec![queue.consume(ConsumeOptions::new().no_ack(true)).wait()?];
    let soon = Some(Duration::from_millis(1));
    assert!(recv_any_or_event(&mut consumers, &mut events, soon).is_none());
    queue.publish(&Message::new("here")).wait()?;
    let received = recv_any_or_event(&mut consumers, &mut events, None).ok_or("nothing")?;
    let Received::Delivery { consumer: 0, next: Some(delivery) } = received else {
        panic!("{received:?}")
    };
    assert_eq!(delivery?.body(), b"here");
    // A loss, while the thread waits.
    let cutting = thread::spawn(move || {
        broker.connections().iter().for_each(|connection| broker.cut(connection.id));
        broker
    });
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(ConnectionEvent::Recovered(_))) {
        match recv_any_or_event(&mut consumers, &mut events, None).ok_or("nothing")? {
            Received::Event(event) => seen.push(event),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(seen.first(), Some(ConnectionEvent::Lost { .. })), "{seen:?}");
    let _broker = cutting.join().map_err(|_| "the thread panicked")?;
    queue.publish(&Message::new("again")).wait()?;
    let received = recv_any_or_event(&mut consumers, &mut events, None).ok_or("nothing")?;
    assert!(matches!(received, Received::Delivery { consumer: 0, next: Some(Ok(_)) }));
    connection.close().wait()?;
    let received = recv_any_or_event(&mut consumers, &mut events, None).ok_or("nothing")?;
    assert!(matches!(received, Received::Event(ConnectionEvent::Closed(_))), "{received:?}");
    for _ in 0..2 {
        let received = recv_any_or_event(&mut consumers, &mut events, None).ok_or("nothing")?;
        assert!(matches!(received, Received::Ended), "{received:?}");
    }
    Ok(())
}

#[test]
fn several_consumers_are_waited_for_at_once() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
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

#[test]
fn no_consumer_is_preferred_while_several_have_deliveries() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let mut consumers = Vec::new();
    for name in ["q0", "q1", "q2"] {
        let queue = channel.queue_declare(name, QueueOptions::new()).wait()?;
        for _ in 0..100 {
            queue.publish(&Message::new("x")).wait()?;
        }
        consumers.push(queue.consume(ConsumeOptions::new().no_ack(true)).wait()?);
    }
    while connection.health().delivered_bytes < 300 {
        thread::yield_now();
    }
    let mut taken = [0; 3];
    for _ in 0..90 {
        let (index, _) = recv_any(&mut consumers, None).ok_or("nothing came")?;
        taken[index] += 1;
    }
    // The probability of fewer than 8 of 90 for one of them is about one in a million.
    assert!(taken.iter().all(|count| *count >= 8), "{taken:?}");
    Ok(())
}

/// Every thread may be the one that moves the bytes, and leaves at any time: to the next, or to the helper.
#[test]
fn threads_that_come_and_go_leave_no_thread_waiting() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let work = |number: u64| -> Outcome {
        let name = format!("q{number}");
        let queue = channel.queue_declare(&name, QueueOptions::new()).wait()?;
        let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
        for round in 0..300 {
            queue.publish(&Message::new("here")).wait()?;
            // Some threads give up early, at varying times.
            let short = Duration::from_micros(number * round % 50);
            match consumer.next_timeout(short) {
                Ok(delivery) => delivery.ack()?,
                Err(NextError::TimedOut { .. }) => {
                    consumer.next().wait().ok_or("cancelled")??.ack()?
                }
                Err(end) => return Err(end.into()),
            }
            if round % 7 == number % 7 {
                let _given_up = channel.queue_purge(&name).wait_timeout(short);
            }
        }
        Ok(consumer.cancel().wait()?)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=6).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

#[test]
fn heartbeats_go_on_while_the_caller_computes() -> Outcome {
    let options = amqp_test_broker::Options::new().heartbeat(Duration::from_secs(1));
    let broker = Broker::start_with(options)?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    // Silence for twice the interval would end it, seen from either end.
    let computing = std::time::Instant::now();
    while computing.elapsed() < Duration::from_millis(3500) {
        std::hint::spin_loop();
    }
    assert!(connection.is_open());
    queue.publish(&Message::new("still here")).wait()?;
    assert!(queue.get_no_ack().wait()?.is_some());
    Ok(())
}

#[test]
fn callbacks_may_do_anything() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let mut answers = Vec::new();
    let (questions, replies) = (
        channel.queue_declare("questions", QueueOptions::new()).wait()?,
        channel.queue_declare("replies", QueueOptions::new()).wait()?,
    );
    for question in ["one", "two", "quit"] {
        questions.publish(&Message::new(question)).wait()?;
    }
    let mut callbacks = Callbacks::new();
    let consumer = questions.consume(ConsumeOptions::new()).wait()?;
    callbacks.add(consumer, |delivery| {
        // A request in a callback gets its reply, although more deliveries arrive before.
        channel.queue_declare_passive("replies").wait()?;
        if delivery.body() == b"quit" {
            channel.basic_cancel(delivery.consumer_tag()).wait()?;
        }
        replies.publish(&Message::new(delivery.body().to_vec())).wait()?;
        Ok(delivery.ack()?)
    });
    callbacks.add(replies.consume(ConsumeOptions::new()).wait()?, |delivery| {
        answers.push(String::from_utf8(delivery.body().to_vec())?);
        if delivery.body() == b"quit" {
            delivery.channel().basic_cancel(delivery.consumer_tag()).wait()?;
        }
        Ok(delivery.ack()?)
    });
    callbacks.run()?;
    assert!(callbacks.is_empty());
    drop(callbacks);
    assert_eq!(answers, ["one", "two", "quit"]);
    Ok(())
}

#[test]
fn callbacks_return_the_error_of_a_handler_and_the_end_of_the_consumer() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    queue.publish(&Message::new("odd")).wait()?;
    let mut callbacks = Callbacks::new();
    callbacks.add(queue.consume(ConsumeOptions::new().no_ack(true)).wait()?, |_| Err("odd".into()));
    let timeout = Duration::from_secs(30);
    let error = callbacks.run_once(timeout).expect_err("the callback failed");
    assert_eq!(error.to_string(), "odd");
    assert!(!callbacks.run_once(Duration::from_millis(1))?, "nothing came");
    queue.delete().wait()?;
    let error = callbacks.run_once(timeout).expect_err("the broker has cancelled the consumer");
    assert!(error.is::<amqp_client_blocking::ConsumerEnd>(), "{error:?}");
    assert!(callbacks.is_empty());
    Ok(())
}

#[test]
fn closing_in_a_callback_ends_the_others() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    queue.publish(&Message::new("stop")).wait()?;
    let mut callbacks = Callbacks::new();
    callbacks.add(queue.consume(ConsumeOptions::new().no_ack(true)).wait()?, |delivery| {
        delivery.channel().close().wait()?;
        Ok(connection.close().wait()?)
    });
    assert!(callbacks.run_once(Duration::from_secs(30))?);
    callbacks.run_once(Duration::from_secs(30)).expect_err("its channel is closed");
    Ok(())
}

#[test]
fn a_panic_of_a_callback_can_be_caught() -> Outcome {
    let broker = Broker::start()?;
    let connection = connect(&broker.uri())?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
    for text in ["poison", "wholesome"] {
        queue.publish(&Message::new(text)).wait()?;
    }
    let mut taken = Vec::new();
    let mut callbacks = Callbacks::new();
    let consumer = queue.consume(ConsumeOptions::new()).wait()?.on_panic(OnPanic::Reject);
    callbacks.add(consumer, |delivery| {
        assert!(delivery.body() != b"poison", "poisoned");
        taken.push(delivery.text()?.to_owned());
        delivery.channel().basic_cancel(delivery.consumer_tag()).wait()?;
        Ok(delivery.ack()?)
    });
    callbacks.run()?;
    drop(callbacks);
    assert_eq!(taken, ["wholesome"]);
    assert!(queue.get_no_ack().wait()?.is_none());
    Ok(())
}
