//! Frame taps: see each frame that a connection sends and receives.
//!
//! ```no_run
//! # use amqp_client_core as amqp_client_tokio;
//! use amqp_client_tokio::{Target, tap};
//! use std::fs::File;
//!
//! let target: Target = "amqp://localhost".parse()?;
//! // One line per frame, for people.
//! let target = target.tap(tap::Lines::new(std::io::stderr()));
//! // A capture for Wireshark.
//! let target = target.tap(tap::Pcap::new(File::create("amqp.pcapng")?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A tap sees the frames of all transports of a connection: those of the first attempt, of failed handshakes, and of each
//! reconnect. With TLS, a tap sees the frames before they are encrypted, and after they are decrypted.
//!
//! | To | use |
//! |---|---|
//! | read the frames as text, or log them | [`Lines`] |
//! | look at frames in Wireshark or tshark | [`Pcap`] |
//! | do anything else | an implementation of [`Tap`] |
//!
//! Set a tap with [`Target::tap`](crate::Target::tap), or with [`Config::tap`](crate::Config::tap) for a connection over your own
//! transport. Each call adds a tap, so a connection can have several.
//!
//! # Credentials
//!
//! Passwords and tokens are masked before a tap sees them: the responses in `connection.start-ok` and `connection.secure-ok`, and
//! the secret in `connection.update-secret`. Each is replaced by eight `*`, so that its length is hidden, too. Such a
//! frame is [`masked`](Frame::masked), and its size differs from the size on the wire. The headers and bodies of messages are not
//! masked.
//!
//! # Cost
//!
//! Without a tap, a connection checks once per read, write and turn that there is none. With a tap, it copies the frames
//! that arrive or leave in pieces, and calls the tap once per frame.

mod driver;
mod lines;
mod pcap;
mod sink;
mod split;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use amqp_proto::content::ContentHeader;
use amqp_proto::frame::{FRAME_OVERHEAD, FrameKind};
use amqp_proto::method::Method;
use amqp_proto::{ConnectionError, DecodeError};
use bytes::Bytes;
pub(crate) use driver::{ConnectionTap, TransportTap};
pub use lines::Lines;
pub use pcap::Pcap;

/// Sees the frames of a connection. Set it with [`Target::tap`](crate::Target::tap) or [`Config::tap`](crate::Config::tap).
///
/// The task of the connection calls these methods, without a lock. A method that blocks delays this connection. A tap can be
/// used by several connections at the same time. It can use handles, but it must not wait for their results, not even for those of
/// another connection: on threads, the thread that calls the tap may be the only one that would bring them. A panic does not harm
/// the connection: it is caught, and the tap misses that call.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::Target;
/// use amqp_client_tokio::tap::{Direction, Frame, Tap};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// /// Counts the heartbeats of the broker.
/// #[derive(Default)]
/// struct Heartbeats(AtomicU64);
///
/// impl Tap for Heartbeats {
///     fn frame(&self, frame: &Frame<'_>) {
///         if frame.is_heartbeat() && frame.direction == Direction::Received {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let heartbeats = Arc::new(Heartbeats::default());
/// let target = Target::new("localhost", 5672).tap(heartbeats.clone());
/// ```
pub trait Tap: Send + Sync + 'static {
    /// A transport is connected. Its frames follow.
    fn connected(&self, _transport: &Transport) {}

    /// A frame was sent or received.
    ///
    /// A sent frame is reported when the transport has taken its last byte. A received frame is reported before the client acts
    /// on it. Bytes that are not a whole frame are reported, too; see [`Kind`].
    fn frame(&self, frame: &Frame<'_>);

    /// The last frame of one read or of one write was reported. A tap that collects output should write the output now.
    fn flush(&self) {}

    /// The client no longer uses a transport. `at` is the time by the clock of the connection. If `reason` is `None`, the program has
    /// dropped the task of the connection.
    fn disconnected(
        &self,
        _transport: &Transport,
        _at: Instant,
        _reason: Option<&ConnectionError>,
    ) {
    }
}

impl<T: Tap + ?Sized> Tap for Arc<T> {
    fn connected(&self, transport: &Transport) {
        (**self).connected(transport);
    }

    fn frame(&self, frame: &Frame<'_>) {
        (**self).frame(frame);
    }

    fn flush(&self) {
        (**self).flush();
    }

    fn disconnected(&self, transport: &Transport, at: Instant, reason: Option<&ConnectionError>) {
        (**self).disconnected(transport, at, reason);
    }
}

/// One transport of a connection, for example a TCP connection. A connection that recovers has several, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transport {
    /// The number of the connection, among the connections of this process that have a tap. It counts from 1.
    pub connection: u64,
    /// The number of the transport, among the transports of this connection. It counts from 1. If the first attempts to connect
    /// of a [`Target`](crate::Target) fail in the handshake, each of them counts as a connection.
    pub number: u64,
    /// The address of the broker, if the client opened the transport.
    pub peer: Option<SocketAddr>,
    /// When the client began to use the transport, by the clock of the connection.
    pub since: Instant,
    /// When the client began to use the transport, by the clock of the system.
    pub since_system_time: SystemTime,
}

impl Transport {
    /// Converts a time of the connection's clock to a time of the system's clock. The system's clock is read once per transport, so
    /// these times never run backwards during a transport.
    #[must_use]
    pub fn system_time(&self, at: Instant) -> SystemTime {
        let after = at.saturating_duration_since(self.since);
        self.since_system_time.checked_add(after).unwrap_or(self.since_system_time)
    }
}

/// Shows the numbers: `2.1` is the first transport of the second connection.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.connection, self.number)
    }
}

/// The side that sent a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Direction {
    /// The client sent the frame.
    Sent,
    /// The broker sent the frame.
    Received,
}

/// The kind of bytes in a [`Frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The protocol header: eight bytes with which a client begins a connection, and with which a broker refuses the version.
    ProtocolHeader,
    /// A whole frame.
    Frame(FrameKind),
    /// The beginning of a frame. The transport ended before the rest of the frame.
    Cut,
    /// Bytes that are not frames, for example because the peer is not an AMQP broker. The bytes of one read are reported together. All
    /// later bytes in this direction are unreadable, too.
    Unreadable,
}

/// A frame that was sent or received. If the bytes are not a whole frame, [`kind`](Self::kind) says so.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Frame<'a> {
    /// The transport.
    pub transport: &'a Transport,
    /// The side that sent the frame.
    pub direction: Direction,
    /// The time at which the transport took or returned the last byte, by the clock of the connection.
    pub at: Instant,
    /// The kind of the bytes.
    pub kind: Kind,
    /// The bytes on the wire: type, channel, size, payload and end octet.
    pub bytes: &'a [u8],
    /// True if credentials in the bytes are replaced by `*`.
    pub masked: bool,
}

impl Frame<'_> {
    /// Returns the time at which the transport took or returned the last byte, by the clock of the system; see
    /// [`Transport::system_time`].
    #[must_use]
    pub fn system_time(&self) -> SystemTime {
        self.transport.system_time(self.at)
    }

    /// Returns the number of the channel. 0 is the connection itself. `None` if this is not a whole frame.
    #[must_use]
    pub fn channel(&self) -> Option<u16> {
        match (self.kind, self.bytes) {
            (Kind::Frame(_), &[_, high, low, ..]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// Returns the payload of a whole frame, and otherwise all bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self.kind {
            Kind::Frame(_) => {
                let end = self.bytes.len().saturating_sub(1);
                self.bytes.get(FRAME_OVERHEAD - 1..end).unwrap_or_default()
            }
            _ => self.bytes,
        }
    }

    /// Decodes the method, if this is a method frame.
    #[must_use]
    pub fn method(&self) -> Option<Result<Method, DecodeError>> {
        self.decoded(FrameKind::Method, Method::decode)
    }

    /// Decodes the content header of a message, if this is a header frame.
    #[must_use]
    pub fn content_header(&self) -> Option<Result<ContentHeader, DecodeError>> {
        self.decoded(FrameKind::Header, ContentHeader::decode)
    }

    /// Returns whether this is a heartbeat.
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.kind == Kind::Frame(FrameKind::Heartbeat)
    }

    fn decoded<T>(&self, kind: FrameKind, decode: fn(&Bytes) -> T) -> Option<T> {
        let is_one = self.kind == Kind::Frame(kind);
        is_one.then(|| decode(&Bytes::copy_from_slice(self.payload())))
    }
}

/// Shows the number of bytes, but none of them: there may be a body.
impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("transport", &format_args!("{}", self.transport))
            .field("direction", &self.direction)
            .field("kind", &self.kind)
            .field("channel", &self.channel())
            .field("bytes", &self.bytes.len())
            .field("masked", &self.masked)
            .finish_non_exhaustive()
    }
}

/// The taps of a configuration.
#[derive(Clone, Default)]
pub(crate) struct Taps(Vec<Arc<dyn Tap>>);

impl Taps {
    pub(crate) fn add(&mut self, tap: impl Tap) {
        self.0.push(Arc::new(tap));
    }
}

/// Shows the number of taps.
impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.len())
    }
}
