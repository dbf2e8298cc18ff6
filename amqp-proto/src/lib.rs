//! AMQP 0-9-1 as pure state machines: the protocol, without I/O.
//!
//! Use this crate with your own event loop, or to write an adapter to a runtime. It converts bytes
//! to events and commands to bytes, keeps the timers, and implements the rules of the protocol: the
//! handshake, heartbeats, channels, consumers, acknowledgements, publisher confirms, flow control,
//! closing, and restoring the state of a lost connection. It opens no socket, does no TLS, starts
//! no thread and reads no clock. Both sides of a connection are included; the server's side is for
//! tests, mocks and proxies, and routes no messages.
//!
//! # Concepts
//!
//! - A [`Connection`] is one side of one AMQP connection. One `Connection` corresponds to one
//!   transport, which has to carry bytes in order, and is discarded with it.
//! - A *channel* is a numbered conversation within a connection. [`Connection::channel`] returns a
//!   short-lived [`Channel`] view for issuing commands; between commands, the application holds
//!   only the [`ChannelId`].
//! - A *command* is a method call on a connection or channel. It checks its arguments, queues bytes
//!   and returns; it never waits. A command with a reply is a [request](Channel::request). There is
//!   one for each synchronous method of the protocol. A [`RequestId`] identifies each request.
//! - An [`Event`] reports what happened: a reply, a delivery, a confirm, the close of a channel.
//! - [`Transmit`] is the queue of bytes to write.
//! - *Timers* are for heartbeats, for the peer's silence, and for deadlines of handshakes and
//!   closes. The loop waits for only one timer, [the next](Connection::poll_timeout).
//!
//! # Driving a connection
//!
//! A loop has to keep one invariant:
//!
//! > **The loop waits only when the connection has no more events and nothing more to write.**
//! > Before it waits, `poll_event` has returned `None`, and after that `poll_transmit` has returned
//! > `None` or the transport accepts no more. It never waits for longer than until `poll_timeout`.
//!
//! Commands may be issued at any time, in any number. The more commands are issued between two
//! waits, the fewer and larger are the writes.
//!
//! ```no_run
//! use std::io::{self, ErrorKind, Read as _, Write as _};
//! use std::net::TcpStream;
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use amqp_proto::{ClientConfig, Connection, ConnectionError, Event};
//! use bytes::{Buf as _, BytesMut};
//!
//! /// Runs a client until the connection has ended, and returns the reason.
//! fn run(
//!     config: ClientConfig,
//!     mut stream: TcpStream,
//!     mut app: impl FnMut(&mut Connection, Event),
//! ) -> ConnectionError {
//!     let mut connection = Connection::client(Arc::new(config), Instant::now());
//!     let mut input = BytesMut::new();
//!     loop {
//!         // On each turn, not only when waiting timed out: even a client that is always busy
//!         // receiving must send heartbeats.
//!         connection.handle_timeout(Instant::now());
//!         // Events before bytes: commands of the application leave with the same write.
//!         while let Some(event) = connection.poll_event() {
//!             app(&mut connection, event);
//!         }
//!         let written = write(&mut stream, &mut connection);
//!         // Last of all, so that the reply to a close is written.
//!         if let Err(reason) = connection.check() {
//!             return reason;
//!         }
//!         // Also when writing failed: the peer may have sent the reason before it disconnected.
//!         let read = read(&mut stream, &mut connection, &mut input);
//!         if let Err(error) = read.and(written) {
//!             connection.handle_transport_error(Instant::now(), &error);
//!         }
//!     }
//! }
//!
//! /// While the transport is full, the loop keeps reading, or both peers can deadlock.
//! const RETRY: Duration = Duration::from_millis(10);
//!
//! fn write(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
//!     stream.set_write_timeout(Some(RETRY))?;
//!     while let Some(transmit) = connection.poll_transmit(Instant::now()) {
//!         match stream.write(transmit.chunk()) {
//!             Ok(0) => return Err(ErrorKind::WriteZero.into()),
//!             Ok(count) => transmit.advance(count),
//!             Err(error) => return unless_timeout(error),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! fn read(
//!     stream: &mut TcpStream,
//!     connection: &mut Connection,
//!     input: &mut BytesMut,
//! ) -> io::Result<()> {
//!     let timer = connection.poll_timeout();
//!     let timer = timer.map(|(at, _)| at.saturating_duration_since(Instant::now()));
//!     let retry = (connection.queued() > 0).then_some(RETRY);
//!     let wait = timer.into_iter().chain(retry).min();
//!     stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
//!     let mut chunk = [0; 64 * 1024];
//!     match stream.read(&mut chunk) {
//!         Ok(0) => connection.handle_eof(Instant::now()),
//!         Ok(count) => {
//!             input.extend_from_slice(&chunk[..count]);
//!             // An error is reported by an event as well.
//!             let _ = connection.handle_input(Instant::now(), input);
//!         }
//!         Err(error) => return unless_timeout(error),
//!     }
//!     Ok(())
//! }
//!
//! fn unless_timeout(error: io::Error) -> io::Result<()> {
//!     match error.kind() {
//!         ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
//!         _ => Err(error),
//!     }
//! }
//! ```
//!
//! The guide [Embedding in your own event loop](embedding) explains this step by step, with common
//! mistakes. `examples/event_loop.rs` has the same loop with an application in it. With a
//! non-blocking transport, readiness replaces the timeouts: wait for input, for room if
//! [`queued`](Connection::queued) is not zero, and for the timer. If commands come from other
//! threads, protect the connection by a lock and let each command wake the loop.
//! [`take_transmit`](Connection::take_transmit) lets the loop write without holding the lock.
//!
//! # Guarantees
//!
//! - **Commands are atomic.** A command queues all of its bytes, or returns an error and queues
//!   none. A message is contiguous, and gets its number for the confirm when its bytes are queued.
//! - **Requests are pipelined.** Any number of requests may be pending on a channel, from the
//!   moment it is being opened. Each reply is matched to its request. Opening a channel, declaring
//!   ten queues and consuming from them takes one round trip. Requests and everything else on a
//!   channel reach the peer in the order of the commands. Acknowledgements are held back until the
//!   next `poll_transmit`, or until another command on their channel, and merged as far as that
//!   acknowledges nothing else.
//! - **Once closed, every call returns the reason.** A closed connection stays closed, and each
//!   later call returns the same error. A closed channel does so for as long as it [has its
//!   number](#numbers-that-are-used-again). [`Event::Closed`] and [`ChannelEvent::Closed`] are
//!   emitted exactly once, as the last event, whatever the reason is; a connection that ends closes
//!   its channels first. So every wait for an event ends.
//! - **Everything is limited.** Frames, bodies, channels and the bytes that wait to be written have
//!   limits, see [`Limits`]; the depth of field tables has [one](wire::MAX_TABLE_DEPTH) as well.
//!   Limits are checked before memory is reserved, and no buffer is sized by a number that the peer
//!   sent. Everything else is bounded by the application: events by the input given to
//!   [`handle_input`](Connection::handle_input) between two drains, unacknowledged deliveries by
//!   the prefetch count, unconfirmed publishes by the number of publishes.
//! - **One bad message affects no other.** A message whose properties do not decode arrives with
//!   its body; reading the property returns the error. A body above the limit makes a delivery
//!   [`Unusable`]; the connection stays open.
//! - **No panics, whatever the peer sends,** and no `unsafe` code.
//! - **No clock.** Time is passed in as `now`. The only requirement is that it does not run
//!   backwards.
//!
//! # Back-pressure
//!
//! Outgoing: only messages wait. [`publish`](Channel::publish) fails with [`PublishError::Gated`]
//! while a [`Gate`] is shut; everything else (acknowledgements, requests, heartbeats, closing) is
//! always accepted. The gate determines what to wait for before the same message is tried again:
//! for [`Gate::Full`], until the transport accepts bytes; for [`Gate::Blocked`],
//! [`Event::Unblocked`]; for [`Gate::Flow`], [`ChannelEvent::Flow`]. A message that finds the gates
//! open is accepted as a whole, however large it is.
//!
//! Incoming: there are two mechanisms. The prefetch count ([`BasicQos`](method::BasicQos)) bounds
//! unacknowledged deliveries. And a loop may stop reading from its transport. It reports that to
//! [`handle_reading`](Connection::handle_reading), so that the peer does not count as silent. A
//! small delivery shares the buffer into which it was read; [detach](Delivery::detach) deliveries
//! that are kept for long.
//!
//! # Numbers that are used again
//!
//! A channel's number is free for another channel once its [`ChannelEvent::Closed`] has been
//! polled, and not before: all events of the earlier channel precede the first event of the later
//! one. So an application forgets a [`ChannelId`] when it gets that event. Until a new channel
//! uses the number, [`Connection::channel`] returns [`Misuse::NoSuchChannel`].
//!
//! A [`RequestId`] or [`ConsumerId`] is never used twice on a connection. A [`DeliveryTag`] and a
//! [`PublishSeq`] are valid on their channel only, and count from 1 again on the next channel.
//!
//! # Errors
//!
//! Errors are grouped by who is to blame: the peer, whose bytes do not decode ([`DecodeError`]) or
//! break a rule ([`Violation`]); the caller, who requests something impossible ([`Misuse`]); or
//! nobody, when one side just closes ([`Close`]). In [`error`], [`ConnectionError`] and
//! [`ChannelError`] are the reasons why a connection or channel is closed. [`OpenChannelError`],
//! [`CommandError`] and [`PublishError`] are the reasons why one command was not carried out, which
//! affects nothing else. Errors can be cloned and compared, and carry the peer's reply code and
//! text if there are any.
//!
//! # Testing
//!
//! A client, a server and a buffer in each direction make a connection. No test needs a socket, or
//! has to wait:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use amqp_proto::method::{FromReply as _, Method, QueueDeclare, QueueDeclareOk};
//! use amqp_proto::{ChannelEvent, Connection, ConnectionError, Event, ServerEvent, TimerReason};
//! use bytes::{BufMut as _, BytesMut};
//!
//! /// Hands to one end what the other has written.
//! fn carry(
//!     from: &mut Connection,
//!     to: &mut Connection,
//!     now: Instant,
//! ) -> Result<(), ConnectionError> {
//!     let mut wire = BytesMut::new();
//!     while let Some(transmit) = from.poll_transmit(now) {
//!         wire.put(transmit);
//!     }
//!     to.handle_input(now, &mut wire)
//! }
//!
//! let now = Instant::now();
//! let mut client = Connection::client(Arc::default(), now);
//! let mut server = Connection::server(Arc::default(), now);
//! while !client.is_open() {
//!     carry(&mut client, &mut server, now)?;
//!     while let Some(event) = server.poll_event() {
//!         match event {
//!             Event::Server(ServerEvent::Login { .. }) => server.accept_login()?,
//!             Event::Server(ServerEvent::Open { .. }) => server.accept_open()?,
//!             _ => {}
//!         }
//!     }
//!     carry(&mut server, &mut client, now)?;
//! }
//! assert!(matches!(client.poll_event(), Some(Event::Opened(_))));
//!
//! // A client opens a channel and declares a queue, without waiting in between.
//! let id = client.open_channel()?;
//! let queue = QueueDeclare { queue: "orders".try_into()?, ..Default::default() };
//! let declare = client.channel(id)?.request(queue)?;
//! carry(&mut client, &mut server, now)?;
//! while let Some(event) = server.poll_event() {
//!     if let Event::Channel(id, ChannelEvent::Method(Method::QueueDeclare(declare))) = event {
//!         let queue = declare.queue;
//!         let reply = QueueDeclareOk { queue, message_count: 7, consumer_count: 0 };
//!         server.channel(id)?.send(reply)?;
//!     }
//! }
//! carry(&mut server, &mut client, now)?;
//! assert_eq!(client.poll_event(), Some(Event::Channel(id, ChannelEvent::Opened)));
//! match client.poll_event() {
//!     Some(Event::Channel(_, ChannelEvent::Reply { request, reply })) if request == declare => {
//!         let declared = QueueDeclareOk::from_reply(reply).ok_or("not queue.declare-ok")?;
//!         assert_eq!(declared.message_count, 7);
//!     }
//!     other => panic!("{other:?}"),
//! }
//!
//! // Half a minute passes in no time.
//! let (due, reason) = client.poll_timeout().ok_or("no timer")?;
//! assert_eq!(reason, TimerReason::Heartbeat);
//! client.handle_timeout(due);
//! assert!(client.poll_transmit(due).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Without the standard library
//!
//! Without its default feature `std`, the crate needs `alloc` only. Then it has no conversions from
//! and to `std::time::SystemTime` and no kinds of I/O errors, and [`time::Instant`] is the crate's
//! own type. A program that makes instants with a [`time::Clock`] compiles with the feature as well.
//!
//! # Modules
//!
//! - The crate root has everything that a loop and its application need: [`Connection`] and
//!   [`Channel`], events, messages, numbers, errors.
//! - [`content`]: messages as frames, to read and write them by hand.
//! - [`embedding`]: a guide, without code of its own.
//! - [`config`]: the configuration of both sides, including limits.
//! - [`error`]: errors, by who is to blame.
//! - [`frame`]: single frames and the protocol header, to read and write them by hand.
//! - [`method`]: one struct per method of the protocol and of RabbitMQ's extensions, with its
//!   fields under the specification's names.
//! - [`sasl`]: SASL mechanisms, and the trait for further ones.
//! - [`session`]: one logical connection over many transports.
//! - [`time`]: the type of `now`.
//! - [`uri`]: `amqp://` URIs.
//! - [`wire`]: the primitive types: strings, field tables and their values.
#![cfg_attr(not(any(test, feature = "fuzzing")), no_std)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod body;
mod body_pool;
mod channel;
pub mod config;
mod connection;
pub mod content;
mod counts;
mod delivery;
#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}
pub mod error;
mod event;
mod event_queue;
pub mod frame;
#[cfg(any(all(test, feature = "std"), feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
pub mod method;
mod outbound;
mod properties;
mod reply_code;
pub mod sasl;
pub mod session;
pub mod time;
mod transmit;
pub mod uri;
pub mod wire;

pub use body::Body;
#[doc(hidden)]
pub use body::sealed as __sealed;
pub use channel::{Channel, Prepared, Route, Settlement};
pub use config::{ClientConfig, Limits, Oversized, ServerConfig};
pub use connection::Connection;
pub use counts::DeathReason;
pub use delivery::{Delivery, GetReply, Published, Reply, Returned, Unusable};
pub use error::{
    ChannelError, Close, CommandError, ConnectStep, ConnectionError, Gate, Initiator, LoginError,
    Misuse, OpenChannelError, PublishError, TransportFailure, Violation, WrongProtocol,
};
pub use event::{ChannelEvent, Event, Negotiated, ServerEvent, SessionEvent, TimerReason};
pub use ids::{ChannelId, ConsumerId, DeliveryTag, PublishSeq, RequestId};
pub use properties::{EncodeProperties, OrDeliveryMode, Properties, RawProperties};
pub use reply_code::ReplyCode;
pub use sasl::{Mechanism, SaslError, SaslExchange};
pub use transmit::Transmit;
pub use wire::{
    Decimal, DecodeError, DecodeErrorKind, Escaped, FieldArray, FieldError, FieldTable, LongStr,
    Secret, ShortStr, Timestamp, TooLong, Value,
};

use config::FRAME_MAX_CAP;
use frame::FRAME_MIN_SIZE;
