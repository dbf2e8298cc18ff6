//! TCP packets, and the blocks of the file that hold them (draft-ietf-opsawg-pcapng).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::tap::Direction;

/// The largest number of bytes of a frame in one packet. The length field of an IP packet has 16 bits.
const SEGMENT_MAX: usize = 60_000;

/// The largest length of a comment, in bytes. Only errors with long causes exceed it, and are cut.
const COMMENT_MAX: usize = 1000;

/// The protocol number of TCP.
const TCP: u8 = 6;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// The TCP option "window scale", which counts windows in units of 16 KiB, and a byte of padding. Without the option, Wireshark would
/// report full windows.
const WINDOW_SCALE: [u8; 4] = [3, 3, 14, 1];

/// Appends the head of the file: a section, and one interface.
pub(super) fn begin_file(out: &mut Vec<u8>) {
    block(out, 0x0A0D_0D0A, |out| {
        // The byte order, version 1.0, and an unknown length.
        out.extend_from_slice(&0x1A2B_3C4D_u32.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&[0xff; 8]);
    });
    block(out, 1, |out| {
        // Packets begin with an IP header (LINKTYPE_RAW) and have any length.
        out.extend_from_slice(&[101, 0, 0, 0, 0, 0, 0, 0]);
        // Times are in nanoseconds.
        option(out, 9, &[9]);
        option(out, 0, &[]);
    });
}

/// The state of a TCP stream.
pub(super) struct Flow {
    client: SocketAddr,
    broker: SocketAddr,
    /// The next sequence numbers.
    client_seq: u32,
    broker_seq: u32,
}

impl Flow {
    /// Appends the handshake of a stream.
    pub(super) fn begin(
        (client, broker): (SocketAddr, SocketAddr),
        time: SystemTime,
        comment: &str,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut flow = Self { client, broker, client_seq: 0, broker_seq: 0 };
        flow.packet((Direction::Sent, SYN), &[], time, comment, out);
        flow.packet((Direction::Received, SYN | ACK), &[], time, "", out);
        flow.packet((Direction::Sent, ACK), &[], time, "", out);
        flow
    }

    /// Appends the packets of a frame.
    pub(super) fn send(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        time: SystemTime,
        comment: &str,
        out: &mut Vec<u8>,
    ) {
        let mut comment = comment;
        for segment in bytes.chunks(SEGMENT_MAX) {
            self.packet((direction, PUSH | ACK), segment, time, comment, out);
            comment = "";
        }
    }

    /// Appends the end of a stream.
    pub(super) fn end(&mut self, time: SystemTime, comment: &str, out: &mut Vec<u8>) {
        self.packet((Direction::Sent, FIN | ACK), &[], time, "", out);
        self.packet((Direction::Received, FIN | ACK), &[], time, "", out);
        self.packet((Direction::Sent, ACK), &[], time, comment, out);
    }

    fn packet(
        &mut self,
        (direction, flags): (Direction, u8),
        data: &[u8],
        time: SystemTime,
        comment: &str,
        out: &mut Vec<u8>,
    ) {
        let (from, to, seq, ack) = match direction {
            Direction::Sent => (self.client, self.broker, self.client_seq, self.broker_seq),
            Direction::Received => (self.broker, self.client, self.broker_seq, self.client_seq),
        };
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        block(out, 6, |out| {
            let [n0, n1, n2, n3, high @ ..] = nanos.to_le_bytes();
            // Interface 0, the time, and the size twice, which is filled in below: as captured, and on the wire.
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&high);
            out.extend_from_slice(&[n0, n1, n2, n3]);
            let sizes = out.len();
            out.extend_from_slice(&[0; 8]);
            let start = out.len();
            segment((from, to), (seq, ack), flags, data, out);
            let size = u32::try_from(out.len() - start).unwrap_or_default().to_le_bytes();
            put(out, sizes, &size);
            put(out, sizes + 4, &size);
            pad(out, start);
            if !comment.is_empty() {
                let cut =
                    (0..=COMMENT_MAX.min(comment.len())).rfind(|at| comment.is_char_boundary(*at));
                let comment = comment.get(..cut.unwrap_or(0)).unwrap_or_default();
                option(out, 1, comment.as_bytes());
                option(out, 0, &[]);
            }
        });
        // SYN and FIN count as a byte each.
        let len =
            u32::try_from(data.len()).unwrap_or_default() + u32::from(flags & (SYN | FIN) != 0);
        match direction {
            Direction::Sent => self.client_seq = self.client_seq.wrapping_add(len),
            Direction::Received => self.broker_seq = self.broker_seq.wrapping_add(len),
        }
    }
}

/// Appends an IP packet with a TCP segment.
fn segment(
    (from, to): (SocketAddr, SocketAddr),
    (seq, ack): (u32, u32),
    flags: u8,
    data: &[u8],
    out: &mut Vec<u8>,
) {
    let options = if flags & SYN == 0 { &[][..] } else { &WINDOW_SCALE };
    let head = 20 + options.len();
    let len = u16::try_from(head + data.len()).unwrap_or_default();
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ip_v4(from, to, len, out),
        (from, to) => ip_v6(to_v6(from), to_v6(to), len, out),
    };
    let start = out.len();
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&ack.to_be_bytes());
    // The length of the head in words, the largest window, no checksum yet, and no urgent data.
    let words = u8::try_from(head / 4).unwrap_or_default();
    out.extend_from_slice(&[words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.extend_from_slice(options);
    out.extend_from_slice(data);
    let pseudo_header = addresses + u64::from(TCP) + u64::from(len);
    let sum = checksum(pseudo_header + sum(out.get(start..).unwrap_or_default()));
    put(out, start + 16, &sum);
}

/// Appends an IPv4 header. Returns the sum of the addresses.
fn ip_v4(from: Ipv4Addr, to: Ipv4Addr, len: u16, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    let [high, low] = (20 + len).to_be_bytes();
    // Version, length, not fragmented, time to live, TCP, no checksum yet.
    out.extend_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum_of_head = checksum(sum(out.get(start..).unwrap_or_default()));
    put(out, start + 10, &sum_of_head);
    sum(&from.octets()) + sum(&to.octets())
}

/// Appends an IPv6 header. Returns the sum of the addresses.
fn ip_v6(from: Ipv6Addr, to: Ipv6Addr, len: u16, out: &mut Vec<u8>) -> u64 {
    let [high, low] = len.to_be_bytes();
    out.extend_from_slice(&[0x60, 0, 0, 0, high, low, TCP, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    sum(&from.octets()) + sum(&to.octets())
}

const fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Adds up words of 16 bits (RFC 1071). Adding two words at a time has the same result, because [`checksum`] folds the sum.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let mut rest = [0; 4];
    for (place, byte) in rest.iter_mut().zip(words.remainder()) {
        *place = *byte;
    }
    let pairs = words.map(|pair| pair.first_chunk().copied().unwrap_or_default()).chain([rest]);
    pairs.map(|pair| u64::from(u32::from_be_bytes(pair))).sum()
}

/// Returns the checksum of words with this sum.
fn checksum(sum: u64) -> [u8; 2] {
    let mut sum = sum;
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

/// Appends a block: its type, its length before and after the contents.
fn block(out: &mut Vec<u8>, kind: u32, contents: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    contents(out);
    let len = u32::try_from(out.len() + 4 - start).unwrap_or_default().to_le_bytes();
    out.extend_from_slice(&len);
    put(out, start + 4, &len);
}

/// Appends an option of a block.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
    let start = out.len();
    out.extend_from_slice(value);
    pad(out, start);
}

/// Fills up to a multiple of four bytes.
fn pad(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    out.resize(start + len.next_multiple_of(4), 0);
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
