//! Options of quorum queues and streams, and those that are obsolete.

use std::time::Duration;

use super::queue::QueueOptions;
use super::queue_values::{
    DeadLetterStrategy, DelayedRetry, LeaderLocator, MasterLocator, QueueMode,
};
use super::whole_seconds;

/// # Options of quorum queues
impl QueueOptions {
    /// Limits how often the delivery of a message may fail before a quorum queue drops or dead-letters the message. By default,
    /// RabbitMQ 3.10 has no limit and RabbitMQ 4 has a limit of 20. [`Delivery`](crate::Delivery#failed-deliveries) describes
    /// which deliveries count.
    ///
    /// Give the queue a [dead-letter exchange](Self::dead_letter_exchange). Without one, a message over the limit is lost.
    pub fn delivery_limit(self, times: u32) -> Self {
        self.argument("x-delivery-limit", i64::from(times))
    }

    /// Removes the limit of failed deliveries from a quorum queue on RabbitMQ 4: sets `x-delivery-limit` to -1.
    pub fn no_delivery_limit(self) -> Self {
        self.argument("x-delivery-limit", -1)
    }

    /// Delivers requeued messages of a quorum queue again only after a delay (`x-delayed-retry-type`). Since RabbitMQ 4.3. The
    /// delay is `min` times the number of deliveries, and at most `max`. Without a delay of at least 1 ms, RabbitMQ does not delay.
    pub fn delayed_retry(mut self, of: DelayedRetry, min: Duration, max: Duration) -> Self {
        self.arguments.set_time("x-delayed-retry-min", min);
        self.arguments.set_time("x-delayed-retry-max", max);
        self.argument("x-delayed-retry-type", of.as_str())
    }

    /// Sets how a quorum queue dead-letters messages.
    pub fn dead_letter_strategy(self, strategy: DeadLetterStrategy) -> Self {
        self.argument("x-dead-letter-strategy", strategy.as_str())
    }

    /// Sets how long a consumer may keep a delivery without settling it (`x-consumer-timeout`). Since RabbitMQ 3.12; from 4.3 on
    /// for quorum queues only.
    ///
    /// In 4.3, the broker cancels a consumer that takes longer and requeues its deliveries. Earlier versions close the channel.
    pub fn consumer_timeout(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-consumer-timeout", time);
        self
    }

    /// Sets how long a quorum queue waits for the node of a consumer that it cannot reach, before it requeues the consumer's
    /// deliveries (`x-consumer-disconnected-timeout`). Since RabbitMQ 4.3; by default 60 seconds.
    pub fn consumer_disconnected_timeout(mut self, time: Duration) -> Self {
        self.arguments.set_time("x-consumer-disconnected-timeout", time);
        self
    }

    /// Sets the number of replicas with which a quorum queue begins.
    pub fn quorum_initial_group_size(self, replicas: u32) -> Self {
        self.argument("x-quorum-initial-group-size", i64::from(replicas))
    }

    /// Sets the number of replicas that a quorum queue should have, to which the cluster adds replicas later. Since RabbitMQ 3.13.
    pub fn quorum_target_group_size(self, replicas: u32) -> Self {
        self.argument("x-quorum-target-group-size", i64::from(replicas))
    }
}

/// # Options of streams
impl QueueOptions {
    /// Sets the age from which on a stream deletes messages (`x-max-age`), in whole seconds, rounded up. It deletes whole segments,
    /// so messages may get older.
    pub fn max_age(self, age: Duration) -> Self {
        self.argument("x-max-age", whole_seconds(age))
    }

    /// Sets the size of the files in which a stream is stored, in bytes; at most 3 GB.
    pub fn stream_max_segment_size(self, bytes: u32) -> Self {
        self.argument("x-stream-max-segment-size-bytes", i64::from(bytes))
    }

    /// Sets the size of the Bloom filter of a stream's chunks, from 16 to 255 bytes. Since RabbitMQ 3.13; see
    /// [`ConsumeOptions::stream_filter`](crate::ConsumeOptions::stream_filter).
    pub fn stream_filter_size(self, bytes: u8) -> Self {
        self.argument("x-stream-filter-size-bytes", i32::from(bytes))
    }

    /// Sets the number of replicas of a stream (`x-initial-cluster-size`).
    pub fn initial_cluster_size(self, replicas: u32) -> Self {
        self.argument("x-initial-cluster-size", i64::from(replicas))
    }
}

/// # Options about the place of a queue
impl QueueOptions {
    /// Sets the node on which the queue has its leader. Quorum queues and streams; since RabbitMQ 4.0 also classic queues.
    pub fn leader_locator(self, locator: LeaderLocator) -> Self {
        self.argument("x-queue-leader-locator", locator.as_str())
    }
}

/// # Obsolete options
///
/// They are here for brokers and queues that have them.
impl QueueOptions {
    /// Sets where a classic queue keeps its messages. RabbitMQ 3.12 and later ignore this.
    pub fn queue_mode(self, mode: QueueMode) -> Self {
        self.argument("x-queue-mode", mode.as_str())
    }

    /// Sets the version of a classic queue's storage, 1 or 2. RabbitMQ 4.3 has only version 2.
    pub fn queue_version(self, version: u8) -> Self {
        self.argument("x-queue-version", i32::from(version))
    }

    /// Sets the node on which a classic queue is created. RabbitMQ 4.3 refuses this by default: use
    /// [`leader_locator`](Self::leader_locator).
    pub fn master_locator(self, locator: MasterLocator) -> Self {
        self.argument("x-queue-master-locator", locator.as_str())
    }

    /// Limits the number of messages of a quorum queue that are in memory. RabbitMQ 3.10 and later ignore this.
    pub fn max_in_memory_length(self, messages: u32) -> Self {
        self.argument("x-max-in-memory-length", i64::from(messages))
    }

    /// Limits the size of the messages of a quorum queue that are in memory, in bytes. RabbitMQ 3.10 and later ignore this.
    pub fn max_in_memory_bytes(self, bytes: u32) -> Self {
        self.argument("x-max-in-memory-bytes", i64::from(bytes))
    }
}
