use amqp_proto::method::{
    Arguments as _, BasicCancel, BasicConsume, BasicGet, BasicQos, BasicRecover,
};
use amqp_proto::session::SessionChannel;
use amqp_proto::{
    Body, CommandError, DeliveryTag, EncodeProperties, GetReply, Misuse, Prepared, RawProperties,
    RequestId, Route, Settlement, ShortStr, TooLong,
};
use std::cell::Cell;

use super::{Channel, Heads, NotNow, Outgoing};
use crate::consumer::Consumer;
use crate::delivery::{Delivery, Got, OnPanic};
use crate::error::{CallError, PublishError};
use crate::intercept::Source;
use crate::options::{ConsumeOptions, check_consumer, name};
use crate::reply::{Reply, typed};
use crate::state::Tally;

/// Requests about messages (spec 1.8).
impl Channel {
    /// Sets the prefetch limit: the number of unacknowledged deliveries of each consumer that starts from now on; 0 is no limit
    /// (`basic.qos`). [`ConsumeOptions::prefetch`] sets the limit of one consumer.
    pub fn basic_qos(&self, prefetch_count: u16) -> Reply<()> {
        self.request(Ok::<_, CallError>(BasicQos { prefetch_count, ..<_>::default() }))
    }

    /// Starts a consumer (`basic.consume`).
    pub fn basic_consume(
        &self,
        queue: impl AsRef<[u8]>,
        options: ConsumeOptions,
    ) -> Reply<Consumer> {
        let (pausable, prefetch) = (options.pausable, options.prefetch);
        let method = match self.consume_method(queue.as_ref(), options) {
            Ok(method) => method,
            Err(error) => return Reply::failed(error),
        };
        let (tag, queue) = (method.consumer_tag.clone(), self.shown(&method.queue));
        let (from, limit) = (method.queue.clone(), Cell::new(0));
        Reply::send_by(
            self,
            self.lock(),
            BasicConsume::NAME,
            |protocol| {
                limit.set(prefetch.unwrap_or_else(|| protocol.prefetch().prefetch_count));
                start_consumer(protocol, method, prefetch)
            },
            |state, id| {
                state.log.consumer_starts(&tag, &from, limit.get());
                state.queues.insert(id.into(), tag, pausable);
            },
            |sending, reply| {
                let tag = typed::<BasicConsume>(sending, reply)?.consumer_tag.detached();
                Ok(Consumer::new(sending.channel.clone(), sending.id.into(), tag, queue))
            },
        )
    }

    /// Starts a consumer without waiting for a reply (`basic.consume` with `no_wait`): the consumer and its tag are available at
    /// once. If the broker refuses the consumer, it closes the channel, which ends the consumer.
    ///
    /// If the consumer is cancelled before the broker has begun to deliver, RabbitMQ (at least up to 3.10) can fail.
    ///
    /// # Errors
    /// [`CallError`], if the request was not sent.
    pub fn basic_consume_no_wait(
        &self,
        queue: impl AsRef<[u8]>,
        options: ConsumeOptions,
    ) -> Result<Consumer, CallError> {
        let (pausable, prefetch) = (options.pausable, options.prefetch);
        let method =
            BasicConsume { no_wait: true, ..self.consume_method(queue.as_ref(), options)? };
        let (tag, queue) = (method.consumer_tag.clone(), self.shown(&method.queue));
        let from = method.queue.clone();
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut limit = 0;
        let id = self.count_request(state, |protocol| {
            limit = prefetch.unwrap_or_else(|| protocol.prefetch().prefetch_count);
            start_consumer(protocol, method, prefetch)
        })?;
        let id = id.into();
        if let Some(channel) = state.channel(self.place()) {
            channel.log.consumer_starts(&tag, &from, limit);
            channel.queues.insert(id, tag.clone(), pausable);
        }
        state.log_due();
        state.wake_driver();
        drop(guard);
        Ok(Consumer::new(self.clone(), id, tag, queue))
    }

    /// Returns the name of the queue, if there is an interceptor to be told.
    fn shown(&self, queue: &ShortStr) -> Option<ShortStr> {
        self.is_intercepted().then(|| queue.clone())
    }

    fn consume_method(
        &self,
        queue: &[u8],
        options: ConsumeOptions,
    ) -> Result<BasicConsume, CallError> {
        let number = self.with_state(|state| {
            state.consumers += 1;
            state.consumers
        });
        let method = options.into_method(queue, &format!("ctag-{}.{number}", self.id()))?;
        self.check_options(&method.arguments, |version| check_consumer(&method, version))?;
        Ok(method)
    }

    /// Ends a consumer by its tag (`basic.cancel`); see [`Consumer::cancel`].
    pub fn basic_cancel(&self, consumer_tag: impl AsRef<[u8]>) -> Reply<()> {
        let tag = match name("consumer tag", consumer_tag) {
            Ok(tag) => tag,
            Err(error) => return Reply::failed(error.into()),
        };
        // The consumer's stream is ended by an event that precedes the reply, even if the reply is not awaited.
        self.request(Ok::<_, CallError>(BasicCancel { consumer_tag: tag, no_wait: false }))
    }

    /// Fetches one message (`basic.get`). Returns `None` if the queue is empty. For many messages, a consumer is far faster.
    pub fn basic_get(&self, queue: impl AsRef<[u8]>) -> Reply<Option<Got>> {
        self.get(queue, false)
    }

    /// Fetches one message that needs no acknowledgement (`basic.get` with `no-ack`). If the connection is lost before the
    /// message arrives, the message is lost. Returns `None` if the queue is empty.
    pub fn basic_get_no_ack(&self, queue: impl AsRef<[u8]>) -> Reply<Option<Got>> {
        self.get(queue, true)
    }

    fn get(&self, queue: impl AsRef<[u8]>, no_ack: bool) -> Reply<Option<Got>> {
        let method = name("queue", queue).map(|queue| BasicGet { queue, no_ack, ..<_>::default() });
        let queue = method.as_ref().ok().and_then(|method| self.shown(&method.queue));
        self.request_with(method.map_err(Into::into), move |sending, reply| {
            match typed::<BasicGet>(sending, reply)? {
                GetReply::Message { delivery, message_count } => {
                    let observers = sending.channel.connection().shared().observers.as_ref();
                    let observer = observers.zip(queue.as_ref()).and_then(|(observers, queue)| {
                        observers.deliver(&delivery, Source::Get { queue, message_count })
                    });
                    let channel = sending.channel.clone();
                    let delivery = Delivery::new(channel, delivery, OnPanic::default(), observer);
                    Ok(Some(Got { delivery, message_count }))
                }
                GetReply::Unusable { delivery_tag, why } => {
                    Err(CallError::Unusable { delivery_tag, why })
                }
                _ => Ok(None),
            }
        })
    }

    /// Requests redelivery of all unacknowledged deliveries of the channel (`basic.recover` with `requeue`). The earlier deliveries,
    /// and those that arrive before the reply, become stale: settling them is `Ok` and does nothing, see [`Delivery::ack`]. Consumers
    /// do not return stale deliveries. Deliveries that need no acknowledgement are not affected.
    pub fn basic_recover(&self) -> Reply<()> {
        let reply = self.request(Ok::<_, CallError>(BasicRecover { requeue: true }));
        // Deliveries are stale at once, not only after the driver's next turn.
        self.lock().dispatch();
        reply
    }

    /// Acknowledges one delivery by its delivery tag (`basic.ack`). [`Delivery::ack`] is simpler; this method is for stored delivery
    /// tags.
    ///
    /// A delivery tag from before a loss of the connection settles nothing: see [`Delivery::ack`].
    ///
    /// # Errors
    /// [`CallError`]. An unknown or settled delivery tag is reported here and does not close the channel.
    pub fn basic_ack(&self, tag: DeliveryTag) -> Result<(), CallError> {
        self.settle(tag, Settlement::Ack, |protocol| protocol.ack(tag))
    }

    /// Acknowledges all deliveries of the channel up to this delivery tag (`basic.ack` with `multiple`); 0 means all. See
    /// [`Delivery::ack_up_to`] for deliveries that were not taken yet.
    ///
    /// # Errors
    /// As [`basic_ack`](Self::basic_ack).
    pub fn basic_ack_up_to(&self, tag: DeliveryTag) -> Result<(), CallError> {
        self.settle_up_to(tag, Settlement::Ack, |protocol| protocol.ack_up_to(tag))
    }

    /// Returns one delivery to the broker by its delivery tag (`basic.nack`). The broker requeues it if `requeue` is set, and
    /// otherwise drops or dead-letters it. See [`Delivery::nack`].
    ///
    /// # Errors
    /// As [`basic_ack`](Self::basic_ack).
    pub fn basic_nack(&self, tag: DeliveryTag, requeue: bool) -> Result<(), CallError> {
        self.settle(tag, Settlement::Nack { requeue }, |protocol| protocol.nack(tag, requeue))
    }

    /// Returns all deliveries of the channel up to this delivery tag, like [`basic_nack`](Self::basic_nack); 0 means all.
    ///
    /// # Errors
    /// As [`basic_ack`](Self::basic_ack).
    pub fn basic_nack_up_to(&self, tag: DeliveryTag, requeue: bool) -> Result<(), CallError> {
        let nack = Settlement::Nack { requeue };
        self.settle_up_to(tag, nack, |protocol| protocol.nack_up_to(tag, requeue))
    }

    /// Rejects one delivery by its delivery tag (`basic.reject`); see [`Delivery::reject`].
    ///
    /// # Errors
    /// As [`basic_ack`](Self::basic_ack).
    pub fn basic_reject(&self, tag: DeliveryTag, requeue: bool) -> Result<(), CallError> {
        self.settle(tag, Settlement::Reject { requeue }, |protocol| protocol.reject(tag, requeue))
    }

    /// Settles a delivery that the application did not settle. A transaction has no influence on this.
    /// Returns whether it did: not if the channel is closed, or the delivery was settled by a later `ack_up_to`. A channel that is
    /// holding does not requeue.
    pub(crate) fn settle_apart(&self, tag: DeliveryTag, settlement: Settlement) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Ok((channel, mut protocol)) = self.both_sides(state) else { return false };
        use Settlement::{Nack, Reject};
        let requeues = matches!(settlement, Nack { requeue: true } | Reject { requeue: true });
        if channel.holding && requeues {
            return protocol.hold(tag).is_ok();
        }
        let settled = protocol.settle_apart(tag, settlement).is_ok();
        if settled && channel.tally.settled(tag, settlement) {
            state.time_later(self.place());
        }
        state.wake_driver();
        settled
    }

    /// Settles deliveries. Stale deliveries were requeued by the broker, so there is nothing to settle. They are counted. They
    /// are no error, because an error would end workers that do nothing wrong.
    #[inline]
    fn settle(
        &self,
        tag: DeliveryTag,
        how: Settlement,
        settle: impl FnOnce(&mut SessionChannel<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CallError> {
        self.settle_and_count(|protocol, tally| {
            settle(protocol)?;
            Ok(tally.settled(tag, how))
        })
    }

    /// Like `settle`, for all deliveries up to that one.
    fn settle_up_to(
        &self,
        tag: DeliveryTag,
        how: Settlement,
        settle: impl FnOnce(&mut SessionChannel<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CallError> {
        self.settle_and_count(|protocol, tally| tally.settle_up_to(protocol, tag, how, settle))
    }

    /// `settle` returns whether to time what it settled.
    #[inline]
    fn settle_and_count(
        &self,
        settle: impl FnOnce(&mut SessionChannel<'_>, &mut Tally) -> Result<bool, CommandError>,
    ) -> Result<(), CallError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (channel, mut protocol) = self.both_sides(state)?;
        match settle(&mut protocol, &mut channel.tally) {
            Ok(timed) => {
                if timed {
                    state.time_later(self.place());
                }
                state.wake_driver();
            }
            Err(CommandError::Misuse(Misuse::StaleDelivery(tag))) => {
                channel.tally.counters.stale += 1;
                state.log_stale(self.place(), tag);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Publishes a message and returns once it is queued for sending (`basic.publish`). It waits only while the broker
    /// has blocked publishing, or the transport is far behind.
    ///
    /// The outcome is not reported. Use a [`Publisher`](crate::Publisher) to learn whether the broker accepted the message.
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn basic_publish(
        &self,
        route: &Route<'_>,
        properties: &impl EncodeProperties,
        body: impl Body,
    ) -> Result<(), PublishError> {
        self.publish_unwatched((*route, properties), body).await
    }

    /// Encodes a message template, everything but the body, for [`basic_publish_prepared`](Self::basic_publish_prepared).
    ///
    /// # Errors
    /// [`TooLong`], for the exchange's name or the routing key.
    pub fn prepare(
        &self,
        route: &Route<'_>,
        properties: &RawProperties,
    ) -> Result<Prepared, TooLong> {
        Prepared::new(self.id(), route, properties)
    }

    /// Publishes a body with a [prepared](Self::prepare) template. This is the fastest way to publish; see
    /// [`basic_publish`](Self::basic_publish).
    ///
    /// ```no_run
    /// # use amqp_client_core::Channel;
    /// # use amqp_client_core::proto::{RawProperties, Route};
    /// # async fn example(channel: Channel) -> Result<(), Box<dyn std::error::Error>> {
    /// let tick = channel.prepare(&Route::new("ticks", "EURUSD"), &RawProperties::EMPTY)?;
    /// for price in 0..1_000_000_u32 {
    ///     channel.basic_publish_prepared(&tick, &price.to_be_bytes()).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`PublishError`]: the message was not sent.
    ///
    /// # Cancel safety
    /// The message is queued as a whole or not at all.
    pub async fn basic_publish_prepared(
        &self,
        prepared: &Prepared,
        body: impl Body,
    ) -> Result<(), PublishError> {
        self.publish_unwatched(prepared, body).await
    }

    /// Publishes several bodies with a [prepared](Self::prepare) template, taking the lock once for all messages that can be sent
    /// without waiting.
    ///
    /// # Errors
    /// [`PublishError`]: the first messages may have been sent, and the rest were not.
    ///
    /// # Cancel safety
    /// Each message is queued as a whole or not at all. If the future is dropped, the first messages may be queued and the rest not.
    pub async fn basic_publish_all<B: Body>(
        &self,
        prepared: &Prepared,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<(), PublishError> {
        let timeout = self.connection().shared().settings.publish_timeout;
        let outgoing = Outgoing { heads: prepared, publisher: None, kept: None };
        self.publish_all_soon(&outgoing, bodies.into_iter(), timeout, |_| {}).await
    }

    #[inline]
    async fn publish_unwatched(
        &self,
        heads: impl Heads,
        body: impl Body,
    ) -> Result<(), PublishError> {
        let outgoing = Outgoing { heads, publisher: None, kept: None };
        let fast = self.connection().shared().is_fast();
        let body = if fast {
            // Most often, the message can be sent at once.
            match self.try_publish(&outgoing, body, None) {
                Ok(_) => return Ok(()),
                Err(NotNow::Failed(error, _)) => return Err(error),
                Err(NotNow::Wait(_, body)) => body,
            }
        } else {
            body
        };
        let timeout = self.connection().shared().settings.publish_timeout;
        self.publish_later(&outgoing, body, timeout, fast).await.map(drop)
    }
}

/// Queues the start of a consumer. If it has a prefetch limit of its own, the limit of the channel is changed in front of the start
/// and set again behind it: the broker carries out the requests in their order.
fn start_consumer(
    protocol: &mut SessionChannel<'_>,
    method: BasicConsume,
    prefetch: Option<u16>,
) -> Result<RequestId, CommandError> {
    let before = protocol.prefetch();
    let Some(prefetch_count) = prefetch.filter(|own| *own != before.prefetch_count) else {
        return protocol.request(method);
    };
    // Nobody waits for the replies to these two. If the broker refuses one, it closes the channel, and the consumer ends.
    protocol.request(BasicQos { prefetch_count, ..before.clone() })?;
    let started = protocol.request(method);
    // Also if the start was refused by this side. The channel has accepted the first of the three, so it accepts this one.
    let _limited = protocol.request(before);
    started
}
