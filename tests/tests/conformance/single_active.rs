//! Single active consumers: which consumer of a queue gets its messages, by priority, type of queue and version.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use amqp_client_core::{
    Channel, ConsumeOptions, Consumer, Delivery, Message, Queue, QueueOptions, QueueType,
};
use amqp_client_tokio::{Connection, connect};

use crate::{HANGS, brokers, version};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A consumer with a channel of its own, and the deliveries that it has not settled.
struct Member {
    channel: Channel,
    consumer: Consumer,
    held: Vec<Delivery>,
}

/// A queue with a single active consumer, and those who wait for its messages.
struct Scene {
    connection: Connection,
    queue: Queue,
    members: BTreeMap<&'static str, Member>,
    published: u32,
}

impl Scene {
    async fn new(uri: &str, kind: QueueType) -> Result<Self, Box<dyn std::error::Error>> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("conformance.{}.single.{number}", std::process::id());
        let connection = connect(uri).await?;
        let options = QueueOptions::new().queue_type(kind).single_active_consumer();
        let queue = connection.open_channel().await?.queue_declare(name, options).await?;
        Ok(Self { connection, queue, members: BTreeMap::new(), published: 0 })
    }

    async fn join(&mut self, name: &'static str, priority: i64, prefetch: u16) -> Outcome {
        let channel = self.connection.open_channel().await?;
        let options = ConsumeOptions::new().prefetch(prefetch).argument("x-priority", priority);
        let consumer = channel.basic_consume(self.queue.name(), options).await?;
        self.members.insert(name, Member { channel, consumer, held: Vec::new() });
        Ok(())
    }

    /// Publishes some messages: their bodies are 1, 2, 3...
    async fn publish(&mut self, count: u32) -> Outcome {
        for _ in 0..count {
            self.published += 1;
            self.queue.publish_confirmed(&Message::new(self.published.to_string())).await?;
        }
        Ok(())
    }

    fn member(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).expect("it has joined")
    }

    /// The next deliveries of a member have to be these.
    async fn gets(&mut self, name: &str, numbers: &[u32]) -> Outcome {
        let member = self.member(name);
        for number in numbers {
            let next = tokio::time::timeout(HANGS, member.consumer.next()).await;
            let next = next.map_err(|_| format!("{name} does not get {number}"))?;
            let delivery = next.ok_or_else(|| format!("{name} has ended before {number}"))??;
            if delivery.text()? != number.to_string() {
                return Err(format!("{name} gets {} and not {number}", delivery.text()?).into());
            }
            member.held.push(delivery);
        }
        Ok(())
    }

    /// A member settles one delivery, and the broker knows it.
    async fn settle(
        &mut self,
        name: &str,
        number: u32,
        settle: impl FnOnce(Delivery) -> Outcome,
    ) -> Outcome {
        let member = self.member(name);
        let place = member.held.iter().position(|held| held.text() == Ok(&*number.to_string()));
        settle(member.held.remove(place.ok_or("it holds no such message")?))?;
        // The channel has processed it before it replies.
        Ok(member.channel.basic_qos(0).await?)
    }

    async fn acks(&mut self, name: &str, number: u32) -> Outcome {
        self.settle(name, number, |delivery| Ok(delivery.ack()?)).await
    }

    async fn closes(&mut self, name: &str) -> Outcome {
        let member = self.members.remove(name).expect("it has joined");
        member.channel.hold_until_closed();
        Ok(member.channel.close().await?)
    }

    /// Waits until so many messages are ready: those of a closed channel come back after the reply to its close.
    async fn holds(&mut self, count: u32) -> Outcome {
        let channel = self.connection.open_channel().await?;
        let ready = async || channel.queue_declare_passive(self.queue.name()).await;
        while ready().await?.message_count() != count {}
        Ok(())
    }

    async fn finish(self) -> Outcome {
        let channel = self.connection.open_channel().await?;
        channel.queue_delete(self.queue.name()).await?;
        Ok(self.connection.close().await?)
    }
}

/// How consumers follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Oldest,
    Highest,
    TakesOver,
}

/// Runs a script on both brokers, with each type of queue.
async fn on_both(script: impl AsyncFn(&mut Scene, Rule) -> Outcome) -> Outcome {
    with_queues(false, script).await
}

/// The same for scripts that cancel a consumer that has deliveries. After that, a classic queue of RabbitMQ 3.10.8 delivers
/// nothing and refuses messages, so these scripts leave it out.
async fn on_both_with_cancel(script: impl AsyncFn(&mut Scene, Rule) -> Outcome) -> Outcome {
    with_queues(true, script).await
}

async fn with_queues(cancels: bool, script: impl AsyncFn(&mut Scene, Rule) -> Outcome) -> Outcome {
    let (_, rabbitmq, memory) = brokers();
    let moves = version(rabbitmq).ok_or("no version")? >= (4, 0);
    for (kind, rule) in [
        (QueueType::Classic, Rule::Highest),
        (QueueType::Quorum, if moves { Rule::TakesOver } else { Rule::Oldest }),
    ] {
        if rule == Rule::Highest && !moves && cancels {
            continue;
        }
        for uri in [rabbitmq, &memory.uri()] {
            let mut scene = Scene::new(uri, kind).await?;
            let done = script(&mut scene, rule).await;
            done.map_err(|error| format!("{error}, with a {kind:?} queue of {uri}"))?;
            scene.finish().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_higher_priority_takes_over_once_all_is_settled() -> Outcome {
    on_both(async |scene, rule| {
        scene.join("a", i64::MAX - 1, 2).await?;
        scene.publish(4).await?;
        scene.gets("a", &[1, 2]).await?;
        scene.join("b", i64::MAX, 10).await?;
        scene.acks("a", 1).await?;
        if rule == Rule::TakesOver {
            scene.acks("a", 2).await?;
            scene.gets("b", &[3, 4]).await?;
            return Ok(());
        }
        scene.gets("a", &[3]).await?;
        scene.acks("a", 2).await?;
        scene.gets("a", &[4]).await?;
        scene.closes("a").await?;
        scene.gets("b", &[3, 4]).await
    })
    .await
}

#[tokio::test]
async fn an_idle_consumer_hands_over_at_once() -> Outcome {
    on_both(async |scene, rule| {
        scene.join("a", -5, 2).await?;
        scene.join("b", 0, 2).await?;
        scene.publish(2).await?;
        let active = if rule == Rule::TakesOver { "b" } else { "a" };
        scene.gets(active, &[1, 2]).await
    })
    .await
}

#[tokio::test]
async fn an_equal_priority_does_not_take_over() -> Outcome {
    on_both(async |scene, _| {
        scene.join("a", 5, 1).await?;
        scene.join("b", 5, 10).await?;
        scene.join("c", 4, 10).await?;
        scene.publish(3).await?;
        for number in 1..=3 {
            scene.gets("a", &[number]).await?;
            scene.acks("a", number).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_next_is_chosen_by_priority_or_by_age() -> Outcome {
    on_both(async |scene, rule| {
        for (name, priority) in [("a", 9), ("b", 1), ("c", 2), ("d", 2)] {
            scene.join(name, priority, 10).await?;
        }
        scene.publish(1).await?;
        let order = match rule {
            Rule::Oldest => ["a", "b", "c", "d"],
            Rule::Highest | Rule::TakesOver => ["a", "c", "d", "b"],
        };
        for name in order {
            scene.gets(name, &[1]).await?;
            scene.closes(name).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_next_is_chosen_by_prefetch_among_equals() -> Outcome {
    on_both(async |scene, rule| {
        for (name, prefetch) in [("a", 1), ("b", 1), ("c", 2), ("d", 0)] {
            scene.join(name, 0, prefetch).await?;
        }
        scene.publish(1).await?;
        let order = match rule {
            Rule::TakesOver => ["a", "d", "c", "b"],
            Rule::Oldest | Rule::Highest => ["a", "b", "c", "d"],
        };
        for name in order {
            scene.gets(name, &[1]).await?;
            scene.closes(name).await?;
        }
        Ok(())
    })
    .await
}

/// Messages of a consumer that is cancelled come after those that the next one gets at once.
#[tokio::test]
async fn a_cancelled_consumer_leaves_its_messages_behind() -> Outcome {
    on_both_with_cancel(async |scene, _| {
        scene.join("a", 0, 2).await?;
        scene.join("b", 0, 1).await?;
        scene.publish(4).await?;
        scene.gets("a", &[1, 2]).await?;
        scene.member("a").consumer.cancel().await?;
        scene.gets("b", &[3]).await?;
        scene.closes("a").await?;
        scene.holds(3).await?;
        for (settled, next) in [(3, 1), (1, 2), (2, 4)] {
            scene.acks("b", settled).await?;
            scene.gets("b", &[next]).await?;
        }
        Ok(())
    })
    .await
}

/// The same as above, while a hand-over waits for the consumer that is cancelled.
#[tokio::test]
async fn the_cancel_of_the_active_consumer_ends_a_hand_over() -> Outcome {
    on_both_with_cancel(async |scene, _| {
        scene.join("a", 0, 2).await?;
        scene.publish(3).await?;
        scene.gets("a", &[1, 2]).await?;
        scene.join("b", 1, 10).await?;
        scene.member("a").consumer.cancel().await?;
        scene.gets("b", &[3]).await?;
        scene.closes("a").await?;
        scene.gets("b", &[1, 2]).await
    })
    .await
}

#[tokio::test]
async fn a_hand_over_goes_on_without_the_consumer_that_caused_it() -> Outcome {
    on_both(async |scene, rule| {
        scene.join("a", 0, 2).await?;
        scene.publish(4).await?;
        scene.gets("a", &[1, 2]).await?;
        scene.join("b", 0, 10).await?;
        scene.join("c", 1, 10).await?;
        scene.member("c").consumer.cancel().await?;
        scene.acks("a", 1).await?;
        if rule != Rule::TakesOver {
            return scene.gets("a", &[3]).await;
        }
        scene.acks("a", 2).await?;
        // The first consumer waits like the others now, and has less room.
        scene.gets("b", &[3, 4]).await
    })
    .await
}

#[tokio::test]
async fn returned_messages_come_first_after_a_hand_over() -> Outcome {
    // RabbitMQ 4.0 stops a queue with these messages (rabbitmq-server#14141).
    let (_, rabbitmq, _) = brokers();
    if ((4, 0)..(4, 3)).contains(&version(rabbitmq).ok_or("no version")?) {
        return Ok(());
    }
    on_both(async |scene, rule| {
        scene.join("a", 0, 2).await?;
        scene.publish(3).await?;
        scene.gets("a", &[1, 2]).await?;
        scene.join("b", 1, 10).await?;
        if rule == Rule::TakesOver {
            scene.settle("a", 1, |delivery| Ok(delivery.nack(true)?)).await?;
            scene.acks("a", 2).await?;
            return scene.gets("b", &[1, 3]).await;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn both_brokers_get_from_classic_queues_only() -> Outcome {
    let (_, rabbitmq, memory) = brokers();
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let mut said = Vec::new();
        for uri in [rabbitmq, &memory.uri()] {
            let scene = Scene::new(uri, kind).await?;
            let channel = scene.connection.open_channel().await?;
            let got = channel.basic_get(scene.queue.name()).await;
            let name = scene.queue.name().to_string();
            said.push(got.map(drop).map_err(|error| error.to_string().replace(&name, "queue")));
            scene.finish().await?;
        }
        assert_eq!(said[1], said[0], "{kind:?}");
    }
    Ok(())
}
