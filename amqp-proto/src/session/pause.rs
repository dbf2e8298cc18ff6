//! Pausing a consumer whose deliveries nobody takes.
//!
//! All consumers of a connection share its bytes. If a consumer has no prefetch limit and takes nothing, its deliveries block the
//! deliveries of all others. AMQP has no method that stops one consumer: `channel.flow` stops a whole channel, and RabbitMQ
//! refuses it. So the session cancels the consumer, requeues what still arrives for it, and starts it again when the application
//! wants more. The application does not notice: the consumer keeps its number, and no event reports its end.
//!
//! The broker gets the consumer with another tag then. RabbitMQ: a quorum queue remembers a consumer that was cancelled until
//! its deliveries are settled. When the same tag starts again on the same channel before that, the channel gets nothing, hangs
//! for 30 seconds and breaks (seen with 3.10.8). A consumer that the broker has cancelled gets another tag for the same reason, if
//! deliveries are unsettled when it is started again.
//!
//! | [`Pause`] | the broker has the consumer | next |
//! |---|---|---|
//! | `Running` | yes, or it is being restored | [`pause_consumer`](Session::pause_consumer) sends `basic.cancel` |
//! | `Cancelling` | until it replies | `basic.cancel-ok` |
//! | `Paused` | no | [`resume_consumer`](Session::resume_consumer) asks whether the queue is still there |
//! | `Resuming` | not yet | `basic.consume-ok` |
//!
//! A loss ends each pause. The broker has requeued the consumer's deliveries then, so recovery starts it like all others.

use super::record::Mode;
use super::record::consumers::Pause;
use super::report::Entity;
use super::state::Session;
use super::topology::{Declaration, Purpose};
use crate::method::QueueDeclare;
use crate::{ChannelId, ConsumerId, RequestId};

impl Session {
    /// Pauses a consumer that has got more than the application takes. Returns whether it did.
    ///
    /// The broker delivers nothing more to the consumer, and deliveries in flight are requeued without blame. Deliveries that
    /// were received before are not affected: they can be settled, and requeued with
    /// [`SessionChannel::nack`](super::SessionChannel::nack) if there are too many. The consumer continues with
    /// [`resume_consumer`](Self::resume_consumer), or when the connection or channel is recovered. It can be cancelled and
    /// discarded like any other.
    ///
    /// Only a consumer that loses nothing by a pause is paused. It must acknowledge, have been started, and not be exclusive. Its
    /// channel must not be transactional. Its queue must not be a stream, have a single active consumer, or be deleted when unused
    /// (auto-delete, `x-expires`). The session knows these properties only for queues that it has declared. Set `lasting` if the
    /// application knows that other queues do not have them. A policy of the broker may let a queue expire as well, which no client
    /// can see.
    pub fn pause_consumer(&mut self, id: ChannelId, consumer: ConsumerId, lasting: bool) -> bool {
        let cx = &mut self.context;
        // Also while the channel is being restored: the restore would never end if this consumer stopped reading.
        let Some(record) = cx.channels.get_mut(id) else { return false };
        // In a transaction, a requeue would wait for the commit. A watched consumer may belong to a stream.
        if matches!(record.mode, Mode::Tx { .. }) || record.streams.watches(consumer) {
            return false;
        }
        let Some(found) = record.consumers.get_mut(consumer) else { return false };
        let consume = &found.consume;
        let stays = cx.topology.outlasts_consumers(&consume.queue).unwrap_or(lasting);
        if found.pause != Pause::Running || consume.no_ack || consume.exclusive || !stays {
            return false;
        }
        let channel = cx.connection.channel(id).ok();
        let cancel = channel.and_then(|mut own| own.pause_consumer(found.tag(), consumer));
        let Some(cancel) = cancel else { return false };
        found.pause = Pause::Cancelling { cancel, resume: false };
        true
    }

    /// Starts a [paused](Self::pause_consumer) consumer again; does nothing for others.
    ///
    /// At the broker, the consumer has a new tag: the old tag with a number in front. Deliveries
    /// ([`Delivery::consumer_tag`](crate::Delivery::consumer_tag)) and the broker's own tools show the new tag. The session accepts
    /// both tags.
    ///
    /// If the queue was deleted in between, the consumer ends as if the broker had cancelled it
    /// ([`ChannelEvent::Cancelled`](crate::ChannelEvent::Cancelled)). If the broker refuses the consumer for another reason,
    /// [`ChannelEvent::ConsumerFailed`](crate::ChannelEvent::ConsumerFailed) reports it.
    pub fn resume_consumer(&mut self, id: ChannelId, consumer: ConsumerId) {
        let Some(record) = self.context.channels.get_mut(id) else { return };
        let Some(found) = record.consumers.get_mut(consumer) else { return };
        match &mut found.pause {
            Pause::Running | Pause::Resuming => return,
            Pause::Cancelling { resume, .. } => {
                *resume = true;
                return;
            }
            Pause::Paused => found.pause = Pause::Resuming,
        }
        let queue = found.consume.queue.clone();
        record.rename(consumer);
        let declare = QueueDeclare { queue: queue.clone(), passive: true, ..<_>::default() };
        let mut step = Declaration::new(declare.into(), Entity::Queue(queue), None);
        step.purpose = Purpose::Resume(id, consumer);
        self.restore_part([step].into(), []);
    }

    /// Handles the reply to the cancel of a consumer that is being paused. Returns whether it is one.
    pub(super) fn handle_paused(&mut self, id: ChannelId, request: RequestId) -> bool {
        let Some(record) = self.context.channels.get_mut(id) else { return false };
        let paused = record.consumers.iter_mut().find_map(|found| match found.pause {
            Pause::Cancelling { cancel, resume } if cancel == request => Some((found, resume)),
            _ => None,
        });
        let Some((found, resume)) = paused else { return false };
        found.pause = Pause::Paused;
        let consumer = found.id;
        if resume {
            self.resume_consumer(id, consumer);
        }
        true
    }
}
