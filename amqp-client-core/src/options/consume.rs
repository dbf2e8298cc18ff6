use std::time::Duration;

use amqp_proto::method::BasicConsume;
use amqp_proto::{FieldArray, LongStr, Timestamp, Value};

use super::{Arguments, name, takes_arguments, whole_seconds};
use crate::error::CallError;

/// Options of a consumer. By default, deliveries need an acknowledgement.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Channel;
/// use amqp_client_tokio::{ConsumeOptions, StreamOffset};
///
/// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let stream = channel.queue("events")?;
/// // A stream needs a prefetch limit.
/// let options = ConsumeOptions::new().prefetch(100).stream_offset(StreamOffset::First);
/// let consumer = stream.consume(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use]
pub struct ConsumeOptions {
    consumer_tag: Vec<u8>,
    no_local: bool,
    no_ack: bool,
    exclusive: bool,
    /// True if the consumer may be paused. Not part of the request.
    pub(crate) pausable: Option<bool>,
    /// The consumer's own prefetch limit, which a request of its own sets.
    pub(crate) prefetch: Option<u16>,
    arguments: Arguments,
}

/// The position at which a consumer of a stream begins (`x-stream-offset`).
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{ConsumeOptions, StreamOffset};
///
/// let options = ConsumeOptions::new().stream_offset(StreamOffset::Offset(1_000_000));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamOffset {
    /// The first message in the stream.
    First,
    /// The last chunk of messages.
    Last,
    /// The next message that is published.
    Next,
    /// The message with this offset.
    Offset(i64),
    /// The first messages from this time on.
    Timestamp(Timestamp),
    /// The first messages from that long ago on, in whole seconds, rounded up.
    Interval(Duration),
}

impl ConsumeOptions {
    /// Creates the options of a consumer that acknowledges.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the consumer's name within the channel. Without one, the client generates a name.
    ///
    /// Do not reuse a name on the same channel before the deliveries of the earlier consumer are settled. RabbitMQ 3.10 then
    /// confuses the new consumer of a quorum queue with the earlier one: the new one gets no deliveries, and its channel fails
    /// after 30 seconds.
    pub fn consumer_tag(mut self, tag: impl AsRef<[u8]>) -> Self {
        self.consumer_tag = tag.as_ref().to_vec();
        self
    }

    /// Sets the consumer's prefetch limit: the number of deliveries that it may have unacknowledged; 0 is no limit. By default, it
    /// is the limit of the channel ([`basic_qos`](crate::Channel::basic_qos)). It has no effect on a consumer without
    /// acknowledgements.
    ///
    /// The limit of the channel applies to consumers that start later as before. If the two differ, the client sends `basic.qos`
    /// before and after `basic.consume`, without waiting for the replies: there is still one round trip. After a loss, the consumer
    /// has its limit again.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::{ConsumeOptions, Queue};
    /// # async fn example(jobs: Queue, prices: Queue) -> Result<(), Box<dyn std::error::Error>> {
    /// // On the same channel.
    /// let slow = jobs.consume(ConsumeOptions::new().prefetch(1)).await?;
    /// let fast = prices.consume(ConsumeOptions::new().prefetch(500)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub const fn prefetch(mut self, prefetch_count: u16) -> Self {
        self.prefetch = Some(prefetch_count);
        self
    }

    /// Sets whether deliveries need no acknowledgement. Deliveries in flight are then lost when the consumer or the connection
    /// ends, and only the speed of the network limits the deliveries.
    pub const fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// Sets whether the consumer has exclusive access to the queue.
    pub const fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Sets whether the broker leaves out messages that this connection published. RabbitMQ ignores this option.
    pub const fn no_local(mut self, no_local: bool) -> Self {
        self.no_local = no_local;
        self
    }

    /// Sets whether the consumer may be [paused](crate::Consumer#consumers-that-lag): cancelled for as long as it takes nothing
    /// and keeps other consumers of its connection waiting.
    ///
    /// By default, it may be paused if its queue was declared on this connection. For other queues, only the application knows
    /// whether the queue continues to exist without a consumer. Set `true` if it does. Consumers that would lose something by a
    /// pause are never paused.
    pub const fn pausable(mut self, pausable: bool) -> Self {
        self.pausable = Some(pausable);
        self
    }

    /// Sets the consumer's priority (`x-priority`). Consumers of higher priority get messages first.
    pub fn priority(self, priority: i32) -> Self {
        self.argument("x-priority", priority)
    }

    /// Sets the position at which a consumer of a stream begins. After a loss, it resumes at the first delivery that was not
    /// settled; see [recovery](crate::recovery#deliveries).
    pub fn stream_offset(self, offset: StreamOffset) -> Self {
        let value = match offset {
            StreamOffset::First => Value::from("first"),
            StreamOffset::Last => Value::from("last"),
            StreamOffset::Next => Value::from("next"),
            StreamOffset::Offset(offset) => Value::from(offset),
            StreamOffset::Timestamp(time) => Value::from(time),
            StreamOffset::Interval(time) => Value::from(whole_seconds(time)),
        };
        self.argument("x-stream-offset", value)
    }

    /// Reads only chunks of a stream that can contain messages with one of these filter values (`x-stream-filter`). Since RabbitMQ
    /// 3.13.
    ///
    /// A message gets its filter value by the header `x-stream-filter-value`. The broker filters chunks of messages by Bloom filters,
    /// so the consumer also gets messages with other values, and has to look at each.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{ConsumeOptions, StreamOffset};
    ///
    /// let options = ConsumeOptions::new()
    ///     .stream_offset(StreamOffset::First)
    ///     .stream_filter(["invoices", "orders"])
    ///     .stream_match_unfiltered();
    /// ```
    pub fn stream_filter(mut self, values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let values = values.into_iter().map(|value| LongStr::from(value.as_ref().to_vec()));
        match FieldArray::from_values(values.map(Value::LongStr)) {
            Ok(values) => self.arguments.set("x-stream-filter", values),
            Err(error) => self.arguments.fail("x-stream-filter", error),
        }
        self
    }

    /// With [`stream_filter`](Self::stream_filter), also reads messages without a filter value.
    pub fn stream_match_unfiltered(self) -> Self {
        self.argument("x-stream-match-unfiltered", true)
    }

    /// Sets how long the consumer may keep a delivery without settling it (`x-consumer-timeout`). Quorum queues, since RabbitMQ 4.3.
    /// The broker cancels a consumer that takes longer, and requeues its deliveries.
    pub fn consumer_timeout(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-consumer-timeout", time);
        self
    }

    /// Cancels the consumer when its mirrored queue gets another leader, instead of delivering messages twice
    /// (`x-cancel-on-ha-failover`). RabbitMQ 3 only: later versions have no mirrored queues.
    pub fn cancel_on_ha_failover(self) -> Self {
        self.argument("x-cancel-on-ha-failover", true)
    }

    /// Creates the request; `generated` is the consumer tag if the options have none.
    pub(crate) fn into_method(
        self,
        queue: &[u8],
        generated: &str,
    ) -> Result<BasicConsume, CallError> {
        let tag =
            if self.consumer_tag.is_empty() { generated.as_bytes() } else { &self.consumer_tag };
        Ok(BasicConsume {
            queue: name("queue", queue)?,
            consumer_tag: name("consumer tag", tag)?,
            no_local: self.no_local,
            no_ack: self.no_ack,
            exclusive: self.exclusive,
            arguments: self.arguments.finish()?,
            ..BasicConsume::default()
        })
    }
}

takes_arguments! { ConsumeOptions }
