//! A record of what the broker did, for tests to compare with what clients received.

use bytes::Bytes;

use amqp_proto::{ChannelError, ChannelId, ReplyCode, ShortStr};

use crate::SessionId;
use crate::engine::{At, Engine};
use crate::name::Name;

/// Something that the broker did; see [`Engine::observe`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A client's transport was accepted.
    Connected,
    /// A client opened a channel.
    ChannelOpened {
        /// Whose it is.
        session: SessionId,
        /// Its number.
        channel: ChannelId,
    },
    /// A message was accepted and routed; one of a transaction when that is committed.
    Accepted {
        /// Its body.
        body: Bytes,
        /// Number of queues to which it was routed.
        queues: usize,
    },
    /// A message was delivered to a consumer.
    Delivered {
        /// Its body.
        body: Bytes,
    },
    /// A client settled a delivery, and that took effect.
    Settled {
        /// The message's body.
        body: Bytes,
        /// The way in which it was settled.
        verdict: Verdict,
    },
    /// A message was returned more often than its queue allows, and was removed from it.
    LimitReached {
        /// Its body.
        body: Bytes,
    },
    /// A client closed a channel, or its connection, before it settled that delivery. Queues that count failures count it.
    Abandoned {
        /// The client's session.
        session: SessionId,
        /// The channel.
        channel: ChannelId,
        /// The message's body.
        body: Bytes,
        /// The reason why the client closed it.
        text: String,
    },
    /// A client purged a queue.
    Purged {
        /// The queue.
        queue: ShortStr,
    },
    /// A client deleted a queue.
    Deleted {
        /// The queue.
        queue: ShortStr,
    },
    /// A client bound a queue to an exchange.
    Bound {
        /// The client's session.
        session: SessionId,
        /// The queue.
        queue: ShortStr,
        /// The routing key.
        routing_key: ShortStr,
    },
    /// A client started a consumer.
    Started {
        /// The consumer.
        consumer: ConsumerView,
        /// Its prefetch limit; 0 is none.
        prefetch: u16,
    },
    /// The broker cancelled a consumer.
    Cancelled(
        /// The consumer, which is no more.
        ConsumerView,
    ),
    /// A request was refused, which closed its channel or its connection.
    Refused {
        /// Whose it was.
        session: SessionId,
        /// On which channel.
        channel: ChannelId,
        /// The class and the method of the request.
        cause: (u16, u16),
        /// The reply code.
        code: ReplyCode,
        /// The reply text.
        text: String,
    },
}

/// The way in which a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has no other")]
pub enum Verdict {
    /// Acknowledged: the message is removed.
    Acked,
    /// Rejected without requeue: the message is dropped or dead-lettered.
    Rejected,
    /// Requeued by `basic.reject`, which counts against the delivery limit of RabbitMQ 4.
    Blamed,
    /// Requeued otherwise.
    Requeued,
}

/// A consumer, as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ConsumerView {
    /// The queue that it consumes from.
    pub queue: ShortStr,
    /// Whose it is.
    pub session: SessionId,
    /// On which channel.
    pub channel: ChannelId,
    /// Its tag.
    pub tag: ShortStr,
}

impl Engine {
    /// From now on, the broker records what it does, for [`take_notes`](Self::take_notes).
    pub fn observe(&mut self) {
        self.notes.get_or_insert_default();
    }

    /// Returns what the broker did since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push(note());
        }
    }

    /// Records the unsettled deliveries of a channel that its client closes.
    pub(crate) fn note_abandoned(&mut self, at: At, reason: &ChannelError) {
        let Some(notes) = &mut self.notes else { return };
        let Some(close) = reason.as_close() else { return };
        let session = self.sessions.get(&at.session);
        let Some(channel) = session.and_then(|session| session.channels.get(&at.channel)) else {
            return;
        };
        notes.extend(channel.unsettled().map(|(_, unacked)| Note::Abandoned {
            session: at.session,
            channel: at.channel,
            body: unacked.message.body.clone(),
            text: close.reply_text.to_string(),
        }));
    }

    /// Returns the bodies of the messages that a client has not settled for good, by channel and delivery tag: those that a
    /// transaction has settled that is not committed are among them.
    pub fn unacknowledged(
        &self,
        id: SessionId,
    ) -> impl Iterator<Item = (ChannelId, u64, Bytes)> + '_ {
        let channels = self.sessions.get(&id).into_iter().flat_map(|session| &session.channels);
        channels.flat_map(|(id, channel)| {
            let unacked = channel.unsettled();
            unacked.map(move |(tag, unacked)| (*id, tag, unacked.message.body.clone()))
        })
    }

    /// Returns all consumers.
    pub fn consumers(&self) -> impl Iterator<Item = ConsumerView> + '_ {
        self.queues.iter().flat_map(|(name, queue)| {
            queue.consumers.iter().map(move |consumer| ConsumerView {
                queue: name.text.clone(),
                session: consumer.session,
                channel: consumer.channel,
                tag: consumer.tag.clone(),
            })
        })
    }

    /// Returns how many messages of a queue of the virtual host `/` are ready for delivery; nothing if there is no such queue.
    #[must_use]
    pub fn ready_count(&self, queue: impl AsRef<[u8]>) -> Option<usize> {
        let queue = self.queues.get(&Name::in_default(queue))?;
        Some(queue.messages.len())
    }

    /// Returns the sizes of the bodies of those messages, in order.
    pub fn ready_sizes(&self, queue: impl AsRef<[u8]>) -> impl Iterator<Item = usize> {
        let queue = self.queues.get(&Name::in_default(queue));
        queue.into_iter().flat_map(|queue| queue.messages.iter().map(|message| message.body.len()))
    }

    /// Returns the names of all queues.
    pub fn queue_names(&self) -> impl Iterator<Item = &ShortStr> {
        self.queues.keys().map(|name| &name.text)
    }
}
