use amqp_proto::ShortStr;

/// Where a delivery comes from, for an [`Intercept`](super::Intercept).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source<'a> {
    /// A consumer (`basic.deliver`).
    Consumer {
        /// The queue, as the consumer was started with it. Empty if that named the queue declared last on the channel.
        queue: &'a ShortStr,
        /// The consumer tag.
        consumer_tag: &'a ShortStr,
    },
    /// A message that was fetched (`basic.get-ok`).
    Get {
        /// The queue, as the request named it. Empty if that named the queue declared last on the channel.
        queue: &'a ShortStr,
        /// Number of messages left in the queue.
        message_count: u32,
    },
}
