//! Values of the options of queues.

/// Defines an enum of words that are the values of an argument.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// Returns the word that the protocol uses.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// The type of a queue in RabbitMQ (`x-queue-type`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{QueueOptions, QueueType};
    ///
    /// let options = QueueOptions::new().queue_type(QueueType::Quorum);
    /// ```
    QueueType {
        /// Stored on one node.
        Classic = "classic",
        /// Replicated by consensus; survives the loss of nodes.
        Quorum = "quorum",
        /// A replicated log that consumers read from any point.
        Stream = "stream",
    }
}

words! {
    /// The behaviour of a queue when it is full (`x-overflow`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{Overflow, QueueOptions};
    ///
    /// // The confirm of a message that does not fit fails with `ConfirmError::Nacked`.
    /// let options = QueueOptions::new().max_length(10_000).overflow(Overflow::RejectPublish);
    /// ```
    Overflow {
        /// Drops or dead-letters its oldest message.
        DropHead = "drop-head",
        /// Refuses the new message: its publisher gets a `basic.nack`.
        RejectPublish = "reject-publish",
        /// The same, and dead-letters the new message. Quorum queues do not support this and drop their oldest message instead.
        RejectPublishDlx = "reject-publish-dlx",
    }
}

words! {
    /// The guarantee with which a quorum queue dead-letters messages (`x-dead-letter-strategy`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{DeadLetterStrategy, Overflow, QueueOptions, QueueType};
    ///
    /// let options = QueueOptions::new()
    ///     .queue_type(QueueType::Quorum)
    ///     .dead_letter_exchange("dead")
    ///     .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce)
    ///     .overflow(Overflow::RejectPublish);
    /// ```
    DeadLetterStrategy {
        /// A dead-lettered message may be lost on its way. The default.
        AtMostOnce = "at-most-once",
        /// The queue keeps a message until all queues to which it is dead-lettered have confirmed it. Needs
        /// [`Overflow::RejectPublish`]; otherwise, RabbitMQ uses `AtMostOnce`.
        AtLeastOnce = "at-least-once",
    }
}

words! {
    /// The node on which a new queue has its leader (`x-queue-leader-locator`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{LeaderLocator, QueueOptions, QueueType};
    ///
    /// let options =
    ///     QueueOptions::new().queue_type(QueueType::Stream).leader_locator(LeaderLocator::Balanced);
    /// ```
    LeaderLocator {
        /// The node to which the client is connected. The default.
        ClientLocal = "client-local",
        /// A node with few leaders.
        Balanced = "balanced",
    }
}

words! {
    /// The node on which a new classic queue is created, up to RabbitMQ 3.13 (`x-queue-master-locator`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{MasterLocator, QueueOptions};
    ///
    /// let options = QueueOptions::new().master_locator(MasterLocator::MinMasters);
    /// ```
    MasterLocator {
        /// The node to which the client is connected. The default.
        ClientLocal = "client-local",
        /// The node with the fewest queues.
        MinMasters = "min-masters",
        /// A random node.
        Random = "random",
    }
}

words! {
    /// The place where a classic queue keeps its messages, up to RabbitMQ 3.11 (`x-queue-mode`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{QueueMode, QueueOptions};
    ///
    /// let options = QueueOptions::new().queue_mode(QueueMode::Lazy);
    /// ```
    QueueMode {
        /// In memory, as long as there is room.
        Default = "default",
        /// On disk.
        Lazy = "lazy",
    }
}

words! {
    /// The deliveries that a quorum queue makes again only after a delay (`x-delayed-retry-type`).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use std::time::Duration;
    ///
    /// use amqp_client_tokio::{DelayedRetry, QueueOptions, QueueType};
    ///
    /// let (from, to) = (Duration::from_secs(1), Duration::from_secs(60));
    /// let options = QueueOptions::new()
    ///     .queue_type(QueueType::Quorum)
    ///     .delayed_retry(DelayedRetry::Failed, from, to);
    /// ```
    DelayedRetry {
        /// None. The default.
        Disabled = "disabled",
        /// All that are requeued.
        All = "all",
        /// Those that count as [failed](crate::Delivery#failed-deliveries), such as rejected ones.
        Failed = "failed",
        /// Those that are requeued and do not count as failed.
        Returned = "returned",
    }
}
