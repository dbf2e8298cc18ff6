use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::{BrokerFeature, Channel, Connection, ConsumeOptions};
use futures_util::FutureExt as _;
use futures_util::stream::SelectAll;

use super::group::{Numbered, Observer};
use super::member::Kind;
use super::slot::Slot;
use super::watch::Times;
use super::{Group, GroupEvent, Member, Partitions, PartitionsError};

/// A member that is about to join a group: set options, then await it. See [`Partitions::join`].
#[must_use = "nothing happens until it is awaited"]
pub struct Join(State);

enum State {
    /// `None` only until it joins.
    Options(Option<Box<Options>>),
    Joining(Pin<Box<dyn Future<Output = Result<Group, PartitionsError>> + Send>>),
}

struct Options {
    partitions: Partitions,
    connection: Connection,
    member: Member,
    prefetch: u16,
    even_if_unbalanced: bool,
    times: Times,
    observer: Observer,
}

impl Partitions {
    /// Joins the group that consumes these partitions.
    ///
    /// Each member consumes all partitions, with a [priority](Member) for each. From version 4.0 on, RabbitMQ delivers the messages of a
    /// partition to the consumer with the highest priority only. When a member joins, the owner of a partition first acknowledges what
    /// it has; then the new member gets the rest. When a member leaves or dies, the next one gets what was not acknowledged. So the
    /// messages of a partition are handled in their order, by whatever members.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use amqp_client_tokio::{PublisherOptions, connect};
    /// use amqp_client_patterns::partitions::{Member, Partitions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = amqp_test_broker::Broker::start()?;
    /// # let connection = connect(&broker.uri()).await?;
    /// # let orders = Partitions::new("orders", 12)?;
    /// # let channel = connection.open_channel().await?;
    /// # orders.topology(connection.broker_version().as_ref()).apply(&channel).await?;
    /// # orders.publisher(&connection, PublisherOptions::new()).await?.send("customer-4711", "three fish").await?;
    /// let mut group = orders.join(&connection, Member::random()).even_if_unbalanced().await?;
    /// while let Some(delivery) = group.next().await {
    ///     let delivery = delivery?;
    ///     println!("partition {}: {}", delivery.partition(), delivery.text()?);
    ///     delivery.ack()?;
    /// #   break;
    /// }
    /// group.leave(Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Members notice that another one is dead when its connection ends. If its machine freezes or is cut off, that takes up to two
    /// [heartbeats](amqp_client_core::Target::heartbeat): 5 to 10 seconds are a good choice for groups.
    ///
    /// # Errors
    /// The future returns [`PartitionsError`]: among others, if the broker is older than 4.0, or has no such partitions.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the group.
    pub fn join(&self, connection: &Connection, member: Member) -> Join {
        let times = Times {
            silence: Duration::from_secs(10),
            stalled_after: Duration::from_secs(60),
            held_at_most: Duration::from_secs(30 * 60),
        };
        Join(State::Options(Some(Box::new(Options {
            partitions: self.clone(),
            connection: connection.clone(),
            member,
            prefetch: 20,
            even_if_unbalanced: false,
            times,
            observer: Observer(None),
        }))))
    }
}

impl Join {
    /// Sets the prefetch limit: how many messages of each partition may be unacknowledged. Default 20. 0 counts as 1.
    ///
    /// When a partition moves to another member, that one waits until these are acknowledged. So choose a number that is handled within
    /// a second or so.
    pub fn prefetch(self, messages: u16) -> Self {
        self.with(|options| options.prefetch = messages.max(1))
    }

    /// Joins also if the broker does not spread partitions: RabbitMQ before 4.0. There, the member that came first has all partitions,
    /// and another one gets them when it is gone.
    pub fn even_if_unbalanced(self) -> Self {
        self.with(|options| options.even_if_unbalanced = true)
    }

    /// Sets after which time without deliveries a partition counts as [revoked](GroupEvent::Revoked). Default 10 seconds.
    pub fn silence(self, time: Duration) -> Self {
        self.with(|options| options.times.silence = time)
    }

    /// Sets how often the member looks at the partitions of others for [messages that wait](GroupEvent::Stalled). Default 60 seconds.
    /// Each look asks the broker for the number of messages of each.
    pub fn stalled_after(self, time: Duration) -> Self {
        self.with(|options| options.times.stalled_after = time)
    }

    /// Sets for how long a delivery may be unsettled. After it, the group [ends](super::GroupEnd::Stuck), so that other members get its
    /// partitions. Default 30 minutes; at most 23 hours, because the broker takes single messages back after 24 hours, which breaks
    /// their order.
    pub fn held_at_most(self, time: Duration) -> Self {
        let longest = Duration::from_secs(23 * 3600);
        self.with(|options| options.times.held_at_most = time.min(longest))
    }

    /// Calls `observer` for each [event](GroupEvent). The group waits while it runs.
    pub fn on_event(self, observer: impl FnMut(&GroupEvent) + Send + 'static) -> Self {
        self.with(|options| options.observer = Observer(Some(Box::new(observer))))
    }

    fn with(mut self, set: impl FnOnce(&mut Options)) -> Self {
        if let State::Options(Some(options)) = &mut self.0 {
            set(options);
        }
        self
    }
}

impl Future for Join {
    type Output = Result<Group, PartitionsError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Joining(joining) => return joining.poll_unpin(cx),
                State::Options(options) => match options.take() {
                    Some(options) => self.0 = State::Joining(Box::pin(join(*options))),
                    None => return Poll::Pending,
                },
            }
        }
    }
}

async fn join(options: Options) -> Result<Group, PartitionsError> {
    let Options { partitions, connection, member, prefetch, .. } = options;
    let broker = connection.broker_version();
    let balances = broker.as_ref().is_some_and(|it| it.has(BrokerFeature::SingleActivePriorities));
    if !balances && !options.even_if_unbalanced {
        return Err(PartitionsError::Unbalanced { broker });
    }
    partitions.check(&connection).await?;
    let (member, slot) = match member.kind {
        Kind::AnySlot => {
            let slot = Slot::take(&connection, &partitions).await?;
            (Member::slot(slot.number()), Some(slot))
        }
        _ => (member, None),
    };
    let priorities = member.priorities(partitions.count()).unwrap_or_default();
    let channel = connection.open_channel().await?;
    // Whatever ends this group, messages keep their order: nothing is cancelled, and nothing is requeued alone.
    channel.hold_until_closed();
    let events = channel.events();
    channel.basic_qos(prefetch).await?;
    let mut requests = Vec::new();
    // Dropped before the requests: a request that is dropped cancels its consumer, unless the channel is being closed.
    let unfinished = CloseOnDrop(Some(&channel));
    requests.extend(partitions.queues.iter().zip(priorities).map(|(queue, priority)| {
        let options = ConsumeOptions::new().argument("x-priority", priority);
        channel.basic_consume(queue, options)
    }));
    let mut consumers = SelectAll::new();
    for (partition, request) in (0..).zip(&mut requests) {
        consumers.push(Numbered { partition, consumer: request.await? });
    }
    unfinished.keep_open();
    let (channel, consumers) = ((channel, events), (consumers, options.prefetch));
    Ok(Group::new(&partitions, channel, consumers, slot, options.times, options.observer))
}

/// Closes a channel, without waiting for it.
struct CloseOnDrop<'a>(Option<&'a Channel>);

impl CloseOnDrop<'_> {
    fn keep_open(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.0 {
            // Once polled, the channel closes.
            let _closing = channel.close().now_or_never();
        }
    }
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Join");
        if let State::Options(Some(options)) = &self.0 {
            shown.field("partitions", options.partitions.name()).field("member", &options.member);
        }
        shown.finish_non_exhaustive()
    }
}
