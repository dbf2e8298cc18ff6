//! Counters of connections and channels.

mod histogram;
mod prometheus;

pub use histogram::Histogram;
pub use prometheus::PrometheusText;

use std::time::Duration;

/// Defines the counters once, for the struct, for sums, and for programs that export all of them.
macro_rules! counters {
    (
        $(#[$doc:meta])* pub struct Counters { $($(#[doc = $own:literal])* $name:ident,)* }
        $($(#[doc = $other:literal])* $field:ident: $type:ty,)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[doc = $own])* pub $name: u64,)*
            $($(#[doc = $other])* pub $field: $type,)*
        }

        /// The names of all fields, and their docs.
        const DOCS: &[(&str, &str)] = &[
            $((stringify!($name), concat!($($own),*)),)*
            $((stringify!($field), concat!($($other),*)),)*
        ];

        impl Counters {
            /// Returns the name and the value of each counter that is a number. Use this to export all counters, including those that
            /// later versions add.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Adds the counters of a channel.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.blocked_time += other.blocked_time;
                self.confirm_times.add(&other.confirm_times);
                self.process_times.add(&other.process_times);
                self.request_times.add(&other.request_times);
            }
        }
    };
}

counters! {
    /// Counters of a connection or a channel since it was created; see [`Connection::counters`](crate::Connection::counters) and
    /// [`Channel::counters`](crate::Channel::counters).
    ///
    /// The counters only grow. They continue when the connection is lost and recovered, and when a channel is reopened. The counters of
    /// a connection include all its channels, also the channels that no longer exist. In the counters of a channel, those that are
    /// marked "connection only" are 0. Counting is always on, and costs a few instructions per message.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// # fn example(connection: Connection) {
    /// let counters = connection.counters();
    /// println!("{} published, {} confirmed", counters.published, counters.confirmed);
    /// println!("99 % of the confirms took at most {:?}", counters.confirm_times.percentile(99.0));
    /// for (name, value) in counters.iter() {
    ///     println!("amqp_{name}_total {value}");
    /// }
    /// # }
    /// ```
    ///
    /// # How they fit together
    /// On a channel on which all publishes have confirms, each published message is in one of these five places:
    ///
    /// `published` = `confirmed` + `nacked` + `returned` + `unconfirmed` + the messages that still wait for their confirm
    /// ([`Health::unconfirmed`](crate::Health::unconfirmed)).
    ///
    /// Without a loss of the connection, and without transactions, each message that arrived and needs an acknowledgement is in one
    /// of these places: `acked`, `rejected`, `requeued`, or not settled yet ([`Health::unsettled`](crate::Health::unsettled)). At
    /// a loss, the broker requeues the messages that are not settled. No counter counts them until they are delivered again.
    ///
    /// # Times
    /// Only the task that drives the connection reads the clock, at each of its turns: when it writes, and when it reads. Times begin
    /// and end at such turns. The client remembers times for groups of messages, and merges older groups. So a time may be a quarter too
    /// long if there were hundreds of turns meanwhile.
    pub struct Counters {
        /// Messages that the client accepted for publishing, each once. The client has queued them, or keeps them until the connection
        /// is restored ([`OnLoss::Keep`](crate::OnLoss::Keep)).
        published,
        /// Bytes of the bodies of the published messages.
        published_bytes,
        /// Publishes that failed with a [`PublishError`](crate::PublishError): the message was not sent. In a batch, only the message
        /// that failed is counted. If `try_publish` reports that a message has to wait, the message is not counted.
        publish_failed,
        /// Messages that the broker confirmed.
        confirmed,
        /// Messages that the broker refused (`basic.nack`).
        nacked,
        /// Mandatory messages that reached no queue. On a channel with confirms, a message is counted when its confirm arrives, and not in
        /// `confirmed`. There, a return that matches no unconfirmed message is not counted: the broker or a proxy changed the message,
        /// which then counts as `confirmed`, or the message was published before the channel selected confirms.
        returned,
        /// Messages that ended without a confirm: the connection or the channel was lost first, or the message was kept and then withdrawn,
        /// expired, or refused by a close of the channel. The broker may have accepted them or not.
        unconfirmed,
        /// Number of times that the client sent a kept message again after a loss. A message that is sent for the third time counts twice.
        republished,
        /// Messages that arrived for consumers, whether the application has taken them yet or not. A message that is delivered again
        /// after a loss counts again. If a message arrives for a consumer whose handle was dropped, the client requeues the message, and no
        /// counter counts it.
        delivered,
        /// Bytes of the bodies of the delivered messages. [`Health::delivered_bytes`](crate::Health::delivered_bytes) is the part that
        /// the application has not taken.
        delivered_bytes,
        /// Messages that were fetched with `basic.get`.
        got,
        /// Messages in `delivered` and `got` that the broker marked as redelivered.
        redelivered,
        /// Messages that the client did not accept because they exceed its limits. They are in neither `delivered` nor `got`; see
        /// [`Health::unusable`](crate::Health::unusable).
        unusable,
        /// Deliveries that the application acknowledged. Deliveries that need no acknowledgement are not counted. In a transaction, a
        /// delivery is counted at once, and again if it is settled again after a rollback.
        acked,
        /// Deliveries that were returned to the broker without requeueing (`basic.reject`, `basic.nack`): dropped or dead-lettered.
        rejected,
        /// Deliveries that were returned to the broker to be requeued: by the application, or by the client because the application dropped
        /// or never took them.
        requeued,
        /// Calls that settled nothing, because the broker had requeued the delivery already. See [`Delivery::ack`](crate::Delivery::ack).
        stale,
        /// Requests made on channels, such as declarations. Includes requests without a reply, and requests that failed.
        requests,
        /// Requests that failed: they could not be sent, the broker refused them, they timed out, or the connection or the channel was
        /// lost before the reply. Requests whose future was dropped are not counted.
        requests_failed,
        /// Connection only: channels that were opened. A channel that is reopened counts once.
        channels_opened,
        /// Connection only: opened channels that are closed for good.
        channels_closed,
        /// Connection only: bytes that were read from the transport. With TLS, the decrypted bytes.
        bytes_read,
        /// Connection only: bytes that the transport accepted. With TLS, the bytes before encryption.
        bytes_written,
        /// Connection only: reads that returned bytes.
        reads,
        /// Connection only: writes that accepted bytes.
        writes,
        /// Connection only: number of times that the connection was lost.
        losses,
        /// Connection only: number of times that the connection was recovered after a loss.
        recoveries,
        /// Connection only: number of times that the broker reported that it blocks publishing (`connection.blocked`). A broker that
        /// already blocks publishing can report this again, for another reason.
        blocked,
    }

    /// Connection only: the time for which the broker has blocked publishing, up to the driver's last turn.
    blocked_time: Duration,
    /// Times from when a message was handed to the transport until its confirm was read. Includes `confirmed`, `nacked` and `returned`
    /// messages. The time of a message that was sent again after a loss begins when it was sent first.
    confirm_times: Histogram,
    /// Times from when the application took a delivery until its acknowledgement, rejection or requeue was handed to the transport.
    /// Includes only deliveries that the application settled. A consumer takes all messages that have arrived at once. So messages that
    /// arrived together have the same beginning: the driver's last turn before the consumer took them.
    ///
    /// The client does not remember which delivery was taken when, but only the first delivery that was taken at each time. With one
    /// consumer per channel, that is exact. If several consumers share a channel, or `basic.get` is used on it, then the time of a
    /// delivery can begin when another consumer took a later or an earlier one, and a delivery that was taken later than newer ones of
    /// another consumer has no time. If [`ack_up_to`](crate::Delivery::ack_up_to) settles deliveries that the application has not
    /// taken, these can be included.
    process_times: Histogram,
    /// Times from when a request was handed to the transport until its reply was read. If a request waits for a connection, its time
    /// begins when the application made it.
    request_times: Histogram,
}

/// The times of a channel.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) confirms: Histogram,
    pub(crate) processing: Histogram,
    pub(crate) requests: Histogram,
}

/// The counters of a channel that are numbers, without those that only a connection has, and without those that are counted where
/// outcomes and deliveries are stored. The times are separate, because most closed channels have none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) published: u64,
    pub(crate) published_bytes: u64,
    pub(crate) publish_failed: u64,
    pub(crate) returned: u64,
    pub(crate) republished: u64,
    pub(crate) got: u64,
    pub(crate) redelivered: u64,
    pub(crate) unusable: u64,
    pub(crate) acked: u64,
    pub(crate) rejected: u64,
    pub(crate) requeued: u64,
    pub(crate) stale: u64,
    pub(crate) requests: u64,
    pub(crate) requests_failed: u64,
}

impl Numbers {
    pub(crate) fn with_times(&self, times: Option<&Times>) -> Counters {
        let Self {
            published,
            published_bytes,
            publish_failed,
            returned,
            republished,
            got,
            redelivered,
            unusable,
            acked,
            rejected,
            requeued,
            stale,
            requests,
            requests_failed,
        } = *self;
        let mut counters = Counters {
            published,
            published_bytes,
            publish_failed,
            returned,
            republished,
            got,
            redelivered,
            unusable,
            acked,
            rejected,
            requeued,
            stale,
            requests,
            requests_failed,
            ..Counters::default()
        };
        if let Some(Times { confirms, processing, requests }) = times {
            counters.confirm_times = *confirms;
            counters.process_times = *processing;
            counters.request_times = *requests;
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_every_counter() {
        let mut one = Counters { published: 1, blocked: 2, ..Counters::default() };
        one.confirm_times.record(Duration::from_micros(3), 1);
        let mut sum = one;
        sum.add(&one);
        assert_eq!(sum.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!((sum.published, sum.blocked, sum.confirm_times.count()), (2, 4, 2));
        let names: Vec<_> = sum.iter().map(|(name, _)| name).collect();
        assert_eq!(names.first(), Some(&"published"));
        assert_eq!(names.len(), 28);
    }
}
