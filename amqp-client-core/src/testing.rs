//! Deliveries for unit tests of handlers, without a broker, a socket or a runtime.
//!
//! A handler takes a [`Delivery`], which only a consumer makes. A [`TestQueue`] makes deliveries, too, and says what became of them:
//!
//! ```
//! # use amqp_client_core as amqp_client_tokio;
//! use amqp_client_tokio::testing::{Settlement, TestDelivery, TestQueue};
//! use amqp_client_tokio::{CallError, Delivery};
//!
//! // The handler under test.
//! fn handle(delivery: Delivery) -> Result<(), CallError> {
//!     match delivery.text() {
//!         Ok(_) => delivery.ack(),
//!         Err(_) => delivery.reject(false),
//!     }
//! }
//!
//! let mut queue = TestQueue::new()?;
//! handle(queue.deliver(TestDelivery::new("an order").routing_key("order.created"))?)?;
//! handle(queue.deliver(TestDelivery::new(vec![0xff]))?)?;
//! drop(queue.deliver(TestDelivery::new("dropped"))?);
//! assert_eq!(queue.settled(), [
//!     Some(Settlement::Ack),
//!     Some(Settlement::Reject { requeue: false }),
//!     Some(Settlement::Nack { requeue: true }),
//! ]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To test a whole program, use a broker: `amqp-test-broker` runs in memory.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_proto::method::{BasicAck, BasicConsumeOk, BasicDeliver, BasicNack, BasicReject, Method};
use amqp_proto::{
    Body, ChannelEvent, DeliveryTag, Event, FieldTable, Misuse, RawProperties, ServerConfig,
    ServerEvent, ShortStr, TooLong, Transmit, Unusable,
};
use bytes::{Buf as _, BufMut as _, BytesMut};

pub use amqp_proto::Settlement;

use crate::config::Config;
use crate::consumer::Consumer;
use crate::delivery::Delivery;
use crate::driver::Driver;
use crate::error::CallError;
use crate::message::{Message, MessageProperties};
use crate::options::ConsumeOptions;
use crate::state::ChannelState;

/// A delivery to be made by [`TestQueue::deliver`].
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::testing::TestDelivery;
///
/// let again = TestDelivery::new("an order").exchange("orders").routing_key("created").redelivered(true);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TestDelivery {
    message: Message,
    exchange: Vec<u8>,
    routing_key: Vec<u8>,
    redelivered: bool,
}

impl TestDelivery {
    /// A delivery of a body, without properties, from the default exchange.
    pub fn new(body: impl Body) -> Self {
        Self::from(Message::new(body))
    }

    /// Sets the exchange that the message was published to.
    pub fn exchange(mut self, exchange: impl AsRef<[u8]>) -> Self {
        self.exchange = exchange.as_ref().to_vec();
        self
    }

    /// Sets the routing key that the message was published with.
    pub fn routing_key(mut self, routing_key: impl AsRef<[u8]>) -> Self {
        self.routing_key = routing_key.as_ref().to_vec();
        self
    }

    /// Sets properties and headers, as [`Message::with`] does.
    ///
    /// # Errors
    /// [`TooLong`], which names the property that takes more than 255 bytes.
    pub fn with(mut self, properties: &MessageProperties) -> Result<Self, TooLong> {
        self.message = self.message.with(properties)?;
        Ok(self)
    }

    /// Sets whether the message may have been delivered before.
    pub const fn redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }
}

impl From<Message> for TestDelivery {
    fn from(message: Message) -> Self {
        let (exchange, routing_key) = (Vec::new(), Vec::new());
        Self { message, exchange, routing_key, redelivered: false }
    }
}

/// A queue with one consumer, for unit tests of handlers; see the [module](self).
///
/// Behind it are a connection and its server in memory, so everything is checked as in production: a tag that is settled twice is an
/// error. The channel of the deliveries accepts commands, but the server replies to none of them, and no time passes: a handler that
/// awaits a reply or a confirm waits forever.
pub struct TestQueue {
    ends: Ends,
    consumer: Consumer,
}

/// Both ends of a connection.
struct Ends {
    client: Driver,
    server: amqp_proto::Connection,
    /// Bytes for the server, up to a part of a frame.
    sent: BytesMut,
    now: Instant,
    settled: Vec<Option<Settlement>>,
}

/// The default of [`Limits::body_max`](amqp_proto::Limits::body_max), which applies here.
const BODY_MAX: u64 = 128 * 1024 * 1024;

/// The consumer tag of all deliveries.
const TAG: &str = "test";

impl TestQueue {
    /// Creates a queue and its consumer.
    ///
    /// # Errors
    /// None in practice: both ends of the connection belong to the client.
    pub fn new() -> Result<Self, CallError> {
        let now = Instant::now();
        let (connection, client) = Driver::new(Config::default(), now);
        // Without this capability, `nack` would go out as `reject`.
        let capable = FieldTable::new().with("basic.nack", true);
        let properties = capable.and_then(|own| FieldTable::new().with("capabilities", own));
        let config = ServerConfig::default().server_properties(properties.unwrap_or_default());
        let server = amqp_proto::Connection::server(Arc::new(config), now);
        let mut ends = Ends { client, server, sent: BytesMut::new(), now, settled: Vec::new() };
        ends.run(connection.ready())?.map_err(|error| CallError::Ended(error.into()))?;
        let channel = ends.run(connection.open_channel())??;
        let options = ConsumeOptions::new().consumer_tag(TAG);
        let consumer = ends.run(channel.basic_consume(TAG, options))??;
        Ok(Self { ends, consumer })
    }

    /// Delivers a message. Delivery tags count up from 1.
    ///
    /// # Errors
    /// [`CallError`], if a name takes more than 255 bytes, if the body is larger than 128 MiB, or if the handler has closed the channel
    /// or cancelled the consumer.
    pub fn deliver(&mut self, delivery: TestDelivery) -> Result<Delivery, CallError> {
        let TestDelivery { message, exchange, routing_key, redelivered } = delivery;
        let deliver = BasicDeliver {
            consumer_tag: ShortStr::truncated(TAG),
            delivery_tag: self.ends.settled.len() as u64 + 1,
            redelivered,
            exchange: ShortStr::named("exchange", exchange)?,
            routing_key: ShortStr::named("routing key", routing_key)?,
        };
        let size = message.body().len() as u64;
        if size > BODY_MAX {
            let why = Unusable::BodyTooLarge { size, limit: BODY_MAX };
            let delivery_tag = DeliveryTag::new(deliver.delivery_tag);
            return Err(CallError::Unusable { delivery_tag, why });
        }
        let properties: &RawProperties = message.properties();
        self.ends.exchange();
        self.consumer.channel().check()?;
        let mut channel = self.ends.server.channel(self.consumer.channel().id())?;
        channel.send_content(deliver, properties, message.body())?;
        // The tag is used even if the client does not accept the message.
        self.ends.settled.push(None);
        self.ends.exchange();
        self.consumer.channel().check()?;
        self.consumer.try_next().ok_or(CallError::Misuse(Misuse::UnknownConsumer))
    }

    /// Returns what became of each delivery, in their order: how the broker was told to settle it, or `None` if it is unsettled.
    ///
    /// A dropped delivery is requeued, which is a `Nack`; see [`Delivery`].
    pub fn settled(&mut self) -> Vec<Option<Settlement>> {
        self.ends.exchange();
        self.ends.settled.clone()
    }
}

impl Ends {
    /// Runs a future of the client until it is ready.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> Result<T, CallError> {
        let mut future = pin!(future);
        // None of them takes more than a few round trips.
        for _ in 0..16 {
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(value) = polled {
                return Ok(value);
            }
            self.exchange();
        }
        Err(CallError::Ended(ChannelState::lost_reason()))
    }

    /// Both ends pass on what they have to say, until neither has more.
    fn exchange(&mut self) {
        let Self { client, server, sent, now, .. } = self;
        let mut moved = true;
        while std::mem::take(&mut moved) {
            // Heartbeats are not needed: no time passes.
            while client.turn(*now, Waker::noop()).writes() {
                let bytes = client.output().chunk();
                let len = bytes.len();
                sent.extend_from_slice(bytes);
                client.written(*now, len);
                moved = true;
                let _over = server.handle_input(*now, sent);
            }
            while let Some(event) = server.poll_event() {
                answer(server, &mut self.settled, event);
            }
            while let Some(transmit) = server.poll_transmit(*now) {
                let len = Transmit::remaining(transmit);
                client.input().put(transmit.copy_to_bytes(len));
                client.received(*now);
                moved = true;
            }
        }
    }
}

/// The server accepts everything that a queue and a consumer need, and notes settlements.
fn answer(server: &mut amqp_proto::Connection, settled: &mut [Option<Settlement>], event: Event) {
    let (id, method) = match event {
        Event::Server(ServerEvent::Login { .. }) => return drop(server.accept_login()),
        Event::Server(ServerEvent::Open { .. }) => return drop(server.accept_open()),
        Event::Channel(id, ChannelEvent::Method(method)) => (id, method),
        _ => return,
    };
    let (tag, multiple, settlement) = match method {
        Method::BasicConsume(consume) => {
            if let Ok(mut channel) = server.channel(id) {
                let _ended = channel.send(BasicConsumeOk { consumer_tag: consume.consumer_tag });
            }
            return;
        }
        Method::BasicAck(BasicAck { delivery_tag, multiple }) => {
            (delivery_tag, multiple, Settlement::Ack)
        }
        Method::BasicNack(BasicNack { delivery_tag, multiple, requeue }) => {
            (delivery_tag, multiple, Settlement::Nack { requeue })
        }
        Method::BasicReject(BasicReject { delivery_tag, requeue }) => {
            (delivery_tag, false, Settlement::Reject { requeue })
        }
        _ => return,
    };
    for (own, outcome) in (1..).zip(settled) {
        // With `multiple`, 0 stands for all.
        let is_meant = own == tag || multiple && (own < tag || tag == 0);
        if is_meant && outcome.is_none() {
            *outcome = Some(settlement);
        }
    }
}

impl fmt::Debug for TestQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestQueue").field("settled", &self.ends.settled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use amqp_proto::ReplyCode;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_delivery_has_everything_that_was_asked_for() -> Outcome {
        let mut queue = TestQueue::new()?;
        let properties = MessageProperties::new().message_id("4711").priority(3).persistent();
        for size in [0, 1, 1_000_000] {
            let message = Message::new(vec![7; size]).with(&properties)?;
            let made = TestDelivery::from(message.clone()).exchange("x").routing_key("a.b");
            let delivery = queue.deliver(made.redelivered(size > 0))?;
            assert_eq!(
                (delivery.exchange(), delivery.routing_key()),
                ("x".try_into()?, "a.b".try_into()?)
            );
            assert_eq!((delivery.redelivered(), delivery.body().len()), (size > 0, size));
            assert_eq!(delivery.message_properties()?, properties);
            assert_eq!(Message::from(&delivery), message);
            assert!(!delivery.is_stale() && !delivery.no_ack());
            delivery.ack()?;
        }
        assert_eq!(queue.settled(), [Some(Settlement::Ack); 3]);
        let long = queue.deliver(TestDelivery::new("").routing_key("x".repeat(256)));
        assert!(matches!(long, Err(CallError::Name(_))), "{long:?}");
        Ok(())
    }

    #[test]
    fn every_way_to_settle_is_seen() -> Outcome {
        let mut queue = TestQueue::new()?;
        let mut held: Vec<_> = (0..8)
            .map(|number| queue.deliver(TestDelivery::new(vec![number])))
            .collect::<Result<_, _>>()?;
        assert_eq!(queue.settled(), [None; 8]);
        let (panics, dropped) = (held.pop().ok_or("none")?, held.pop().ok_or("none")?);
        let mut next = || held.remove(0);
        let (_first, second, third) = (next().into_message(), next(), next());
        second.ack_up_to()?;
        third.nack(false)?;
        next().reject(true)?;
        next().nack(true)?;
        // Out of their order.
        drop(dropped);
        let task = std::thread::spawn(move || {
            let _held = panics;
            panic!("a handler that fails");
        });
        task.join().expect_err("it panics");
        let nack = |requeue| Some(Settlement::Nack { requeue });
        let reject = |requeue| Some(Settlement::Reject { requeue });
        let (acked, unsettled) = (Some(Settlement::Ack), None);
        assert_eq!(
            queue.settled(),
            [
                acked,
                acked,
                nack(false),
                reject(true),
                nack(true),
                unsettled,
                nack(true),
                reject(true)
            ]
        );
        Ok(())
    }

    #[test]
    fn a_handler_may_send_commands_of_any_size() -> Outcome {
        let mut queue = TestQueue::new()?;
        for size in [0, 10_000, 100_000, 1_000_000, 3_000_000] {
            let delivery = queue.deliver(TestDelivery::new("copied"))?;
            let (channel, copy) = (delivery.channel().clone(), Message::new(vec![7; size]));
            queue.ends.run(channel.default_exchange().publish("archive", &copy))??;
            delivery.ack()?;
        }
        assert_eq!(queue.settled(), [Some(Settlement::Ack); 5]);
        Ok(())
    }

    #[test]
    fn a_message_that_does_not_arrive_is_an_error_that_says_why() -> Outcome {
        let mut queue = TestQueue::new()?;
        let large = usize::try_from(BODY_MAX + 1)?;
        let error = queue.deliver(TestDelivery::new(vec![0; large])).err().ok_or("too large")?;
        assert!(matches!(error, CallError::Unusable { .. }), "{error}");
        let delivery = queue.deliver(TestDelivery::new("the last one"))?;
        drop(delivery.channel().basic_cancel(delivery.consumer_tag()));
        delivery.ack()?;
        for _ in 0..3 {
            let error = queue.deliver(TestDelivery::new("too late")).err().ok_or("cancelled")?;
            assert!(matches!(error, CallError::Misuse(Misuse::UnknownConsumer)), "{error}");
        }
        assert_eq!(queue.settled()[0], Some(Settlement::Ack));
        Ok(())
    }

    #[test]
    fn a_handler_may_close_the_channel_and_keep_a_delivery_for_longer_than_the_queue() -> Outcome {
        let mut queue = TestQueue::new()?;
        let kept = queue.deliver(TestDelivery::new("kept"))?;
        let closing = queue.deliver(TestDelivery::new("closes"))?;
        let close = closing.channel().close_with(ReplyCode::REPLY_SUCCESS, "enough");
        let mut close = pin!(close);
        assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(queue.deliver(TestDelivery::new("too late")).is_err());
        assert_eq!(queue.settled(), [None, None]);
        drop(queue);
        assert!(kept.ack().is_err(), "there is no connection any more");
        Ok(())
    }
}
