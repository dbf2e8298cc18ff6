//! A capture file for Wireshark, in the format pcapng.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use amqp_proto::ConnectionError;

use super::sink::Sink;
use super::{Frame, Kind, Tap, Transport};
use crate::error::chain;

mod packet;

use packet::{Flow, begin_file};

/// A tap that writes a capture file for Wireshark and tshark.
///
/// The file is in the format pcapng. Each transport is a TCP stream of its own, with its handshake and its end. A comment on the
/// first packet of a stream names the connection and the transport, and a comment on the last packet says why the transport
/// ended. With TLS, the file has the decrypted frames, so no key is needed to read them.
///
/// The broker's address is that of the TCP connection, if the client knows it; otherwise it is 192.0.2.1. The broker's port is always
/// 5672, by which Wireshark recognizes AMQP. The client's address is made up, and each transport has another port. The packets are not
/// those of the network: each packet has one frame, or a part of a large frame. A frame with masked credentials may be shorter or
/// longer than the original.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Target, tap};
/// use std::fs::File;
///
/// let capture = tap::Pcap::new(File::create("amqp.pcapng")?);
/// let target = Target::new("localhost", 5672).tap(capture);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```sh
/// tshark -r amqp.pcapng -Y amqp
/// ```
///
/// The frames of one read or write of the connection are written together, and then the writer is flushed. So the writer needs no
/// buffer of its own, and the file is readable after a crash. If the writer fails, nothing more is written, and the connection is
/// not affected; see [`error`](Self::error). A writer that blocks delays the connection. The file contains the
/// messages: it is as confidential as the messages, and grows with each of them.
pub struct Pcap<W> {
    sink: Sink<W, Streams>,
}

/// The TCP streams of a capture.
#[derive(Default)]
struct Streams {
    /// The head of the file is written.
    begun: bool,
    flows: HashMap<(u64, u64), Flow>,
    /// Number of streams so far. The client's address and port of a stream are computed from it.
    count: u32,
}

/// The broker's address in a capture, if the client does not know it.
const UNKNOWN_BROKER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The first address and the first port of clients: addresses reserved for documentation, and a port of the dynamic range.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const CLIENT_PORT: u16 = 49_152;

/// The port by which Wireshark recognizes AMQP.
const PORT: u16 = 5672;

impl<W: Write + Send + 'static> Pcap<W> {
    /// Writes to `writer`, for example a file.
    pub fn new(writer: W) -> Self {
        Self { sink: Sink::new(writer, Streams::default()) }
    }

    /// Returns the error of the writer, if the writer has failed. Nothing was written after the error.
    #[must_use]
    pub fn error(&self) -> Option<Arc<io::Error>> {
        self.sink.error()
    }

    /// Returns the number of frames that were not written because the writer has failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }
}

/// Shows the number of dropped frames, and the error of the writer.
impl<W: Write + Send + 'static> fmt::Debug for Pcap<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pcap")
            .field("dropped", &self.dropped())
            .field("error", &self.error())
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Tap for Pcap<W> {
    fn connected(&self, transport: &Transport) {
        self.sink.append(0, |streams, out| {
            streams.begin(transport, out);
        });
    }

    fn frame(&self, frame: &Frame<'_>) {
        let comment = match frame.kind {
            _ if frame.masked => "credentials are masked",
            Kind::Cut => "the transport ended before the rest of this frame",
            Kind::Unreadable => "these bytes are not AMQP 0-9-1",
            _ => "",
        };
        self.sink.append(1, |streams, out| {
            let flow = streams.begin(frame.transport, out);
            flow.send(frame.direction, frame.bytes, frame.system_time(), comment, out);
        });
    }

    fn flush(&self) {
        self.sink.flush();
    }

    fn disconnected(&self, transport: &Transport, at: Instant, reason: Option<&ConnectionError>) {
        let comment = match reason {
            Some(reason) => format!("disconnected: {}", chain(reason)),
            None => "disconnected: the program dropped the connection".to_owned(),
        };
        self.sink.append(0, |streams, out| {
            let flow = streams.begin(transport, out);
            flow.end(transport.system_time(at), &comment, out);
            streams.flows.remove(&(transport.connection, transport.number));
        });
    }
}

impl Streams {
    /// Returns the stream of a transport. Begins the stream and the file, unless they have begun.
    fn begin(&mut self, transport: &Transport, out: &mut Vec<u8>) -> &mut Flow {
        if !std::mem::replace(&mut self.begun, true) {
            begin_file(out);
        }
        let Self { flows, count, .. } = self;
        flows.entry((transport.connection, transport.number)).or_insert_with(|| {
            let broker = transport.peer.map_or(UNKNOWN_BROKER, |peer| peer.ip());
            let ends = (client(broker, *count), SocketAddr::new(broker, PORT));
            *count = count.wrapping_add(1);
            let comment =
                format!("connection {}, transport {}", transport.connection, transport.number);
            let comment = match transport.peer {
                Some(peer) => format!("{comment}, to {peer}"),
                None => comment,
            };
            Flow::begin(ends, transport.since_system_time, &comment, out)
        })
    }
}

/// Returns an address and a port that no other stream of the file has.
fn client(broker: IpAddr, number: u32) -> SocketAddr {
    let ports = u32::from(u16::MAX - CLIENT_PORT) + 1;
    let port = CLIENT_PORT + u16::try_from(number % ports).unwrap_or_default();
    let host = number / ports;
    let address = match broker {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::from_bits(CLIENT_V4.to_bits() + host)),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from_bits(CLIENT_V6.to_bits() + u128::from(host))),
    };
    SocketAddr::new(address, port)
}
