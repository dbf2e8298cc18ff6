//! A scripted server that speaks raw bytes.
//!
//! It knows the outer shape of AMQP frames and nothing else, so that a test can make it break every
//! rule. All reads have a deadline: a test against it fails, it doesn't hang.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use amqp_testkit::ScriptedPeer;
//!
//! # fn main() -> std::io::Result<()> {
//! let peer = ScriptedPeer::bind()?;
//! let addr = peer.addr();
//! let script = peer.spawn(|peer| {
//!     let mut connection = peer.accept()?;
//!     assert_eq!(connection.read_protocol_header()?, *b"AMQP\x00\x00\x09\x01");
//!     connection.write(b"AMQP\x00\x01\x00\x00")?;
//!     connection.close()
//! });
//! let mut client = TcpStream::connect(addr)?;
//! client.write_all(b"AMQP\x00\x00\x09\x01")?;
//! let mut reply = Vec::new();
//! client.read_to_end(&mut reply)?;
//! assert_eq!(reply, b"AMQP\x00\x01\x00\x00");
//! script.join().expect("the script panicked")?;
//! # Ok(())
//! # }
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::net;
use crate::wait::wait_for;

/// The time that a read waits by default.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The byte that ends a frame.
const FRAME_END: u8 = 0xCE;

/// A listening server whose every reply the test writes itself.
#[derive(Debug)]
pub struct ScriptedPeer {
    listener: TcpListener,
    addr: SocketAddr,
    deadline: Duration,
}

impl ScriptedPeer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn bind() -> io::Result<Self> {
        let listener = net::listen()?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, deadline: DEADLINE })
    }

    /// Sets how long [`accept`](Self::accept) and the reads of its connections wait.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URI for a client.
    #[must_use]
    pub fn uri(&self) -> String {
        net::amqp_uri(self.addr)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when none comes in time.
    pub fn accept(&self) -> io::Result<PeerConnection> {
        let stream = wait_for(self.deadline, "a connection to the scripted peer", || {
            match self.listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        PeerConnection::new(stream, self.deadline)
    }

    /// Runs a script on its own thread; the handle returns the script's result.
    pub fn spawn<T: Send + 'static>(
        self,
        script: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        thread::spawn(move || script(&self))
    }
}

/// A frame as it is on the wire, taken apart but not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawFrame {
    /// The type byte.
    pub kind: u8,
    /// The channel.
    pub channel: u16,
    /// The bytes between the header and the end octet.
    pub payload: Vec<u8>,
}

/// The bytes of a frame, whatever its parts are.
#[must_use]
pub fn frame_bytes(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a payload that a frame can hold");
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.push(kind);
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.push(FRAME_END);
    bytes
}

/// One connection, accepted or [made](Self::connect). Dropped without [`close`](Self::close) it just closes the socket.
#[derive(Debug)]
pub struct PeerConnection {
    stream: TcpStream,
    deadline: Duration,
}

impl PeerConnection {
    /// Connects to a server, as a client whose every word the test writes itself.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(addr)?, DEADLINE)
    }

    fn new(stream: TcpStream, deadline: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Self { stream, deadline })
    }

    /// Sets how long each read waits from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// The client's address.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub fn client_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Reads exactly `n` bytes.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when they don't come in time,
    /// [`io::ErrorKind::UnexpectedEof`] when the client closes before.
    pub fn read_exact(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        let end = Instant::now() + self.deadline;
        let mut have = 0;
        while have < n {
            match self.read_some(&mut bytes[have..], end)? {
                0 => {
                    let message = format!("the client closed after {have} of {n} bytes");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                more => have += more,
            }
        }
        Ok(bytes)
    }

    /// Reads the eight bytes with which a client begins.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](Self::read_exact). The bytes aren't judged.
    pub fn read_protocol_header(&mut self) -> io::Result<[u8; 8]> {
        let bytes = self.read_exact(8)?;
        Ok(bytes.try_into().expect("eight bytes were read"))
    }

    /// Reads one frame.
    ///
    /// # Errors
    ///
    /// As [`read_exact`](Self::read_exact), and [`io::ErrorKind::InvalidData`] when the frame
    /// doesn't end with the end byte.
    pub fn read_frame(&mut self) -> io::Result<RawFrame> {
        let head = self.read_exact(7)?;
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = self.read_exact(len as usize + 1)?;
        let end = payload.pop();
        if end != Some(FRAME_END) {
            let message = format!("a frame of {len} bytes ends with {end:02x?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(RawFrame { kind: head[0], channel, payload })
    }

    /// Reads until the client closes, and returns the bytes.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when the client does not close in time, and errors of the socket
    /// ([`io::ErrorKind::ConnectionReset`] if the client resets).
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        let end = Instant::now() + self.deadline;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.read_some(&mut chunk, end)? {
                0 => return Ok(bytes),
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    ///
    /// An error of the socket.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes one well-formed frame, without checks of the payload.
    ///
    /// # Errors
    ///
    /// An error of the socket.
    pub fn write_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        self.write(&frame_bytes(kind, channel, payload))
    }

    /// Ends the sending side; reading goes on.
    ///
    /// # Errors
    ///
    /// When the connection is gone already.
    pub fn close_write(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Closes in an orderly way: the client reads what was written, then the end of the stream.
    ///
    /// # Errors
    ///
    /// When the connection is gone already.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        // Unread bytes would turn the close into a reset, which may overtake what was written.
        self.stream.set_nonblocking(true)?;
        while matches!(self.stream.read(&mut [0; 4096]), Ok(1..)) {}
        Ok(())
    }

    /// Closes with a reset: the client gets an error, perhaps before it has read everything.
    ///
    /// # Errors
    ///
    /// An error of the socket.
    pub fn reset(self) -> io::Result<()> {
        net::reset_on_close(&self.stream)
    }

    /// One read that ends by `end`; 0 is the end of the stream.
    fn read_some(&mut self, into: &mut [u8], end: Instant) -> io::Result<usize> {
        loop {
            // A timeout of zero would mean none at all.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let message = format!("the client was silent for {:?}", self.deadline);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, PeerConnection) {
        let peer = ScriptedPeer::bind().unwrap();
        let client = TcpStream::connect(peer.addr()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        (client, peer.accept().unwrap())
    }

    #[test]
    fn the_uri_names_the_address() {
        let peer = ScriptedPeer::bind().unwrap();
        assert_eq!(peer.uri(), format!("amqp://guest:guest@{}/%2f", peer.addr()));
    }

    #[test]
    fn frames_pass_both_ways() {
        let (mut client, mut peer) = pair();
        client.write_all(&[8, 0x12, 0x34, 0, 0, 0, 2, 0xAA, 0xBB, 0xCE]).unwrap();
        let frame = peer.read_frame().unwrap();
        assert_eq!(frame, RawFrame { kind: 8, channel: 0x1234, payload: vec![0xAA, 0xBB] });
        peer.write_frame(3, 7, &[1]).unwrap();
        let mut bytes = [0; 9];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [3, 0, 7, 0, 0, 0, 1, 1, 0xCE]);
    }

    #[test]
    fn a_frame_without_its_end_octet_is_reported() {
        let (mut client, mut peer) = pair();
        client.write_all(&[1, 0, 0, 0, 0, 0, 0, 0xCD]).unwrap();
        assert_eq!(peer.read_frame().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn reads_have_one_deadline_and_report_a_disconnect() {
        let (mut client, mut peer) = pair();
        client.write_all(b"AMQ").unwrap();
        peer.set_deadline(Duration::from_millis(5));
        assert_eq!(peer.read_exact(4).unwrap_err().kind(), io::ErrorKind::TimedOut);
        peer.set_deadline(DEADLINE);
        drop(client);
        assert_eq!(peer.read_protocol_header().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn accept_has_a_deadline() {
        let peer = ScriptedPeer::bind().unwrap().with_deadline(Duration::from_millis(5));
        assert_eq!(peer.accept().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn close_delivers_written_bytes_even_with_unread_input() {
        let (mut client, mut peer) = pair();
        client.write_all(b"nobody reads this").unwrap();
        assert_eq!(peer.read_exact(1).unwrap(), b"n");
        peer.write(b"bye").unwrap();
        peer.close().unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
    }

    #[test]
    fn reset_is_an_error_for_the_client() {
        let (mut client, peer) = pair();
        peer.reset().unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn read_to_close_returns_everything_and_close_write_leaves_reading_open() {
        let (mut client, mut peer) = pair();
        peer.close_write().unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        client.write_all(b"still here").unwrap();
        drop(client);
        assert_eq!(peer.read_to_close().unwrap(), b"still here");
    }
}
