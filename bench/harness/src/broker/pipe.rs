use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use rustls::{ServerConfig, ServerConnection};

/// A stream, read and written with or without waiting. What would have to wait is [`io::ErrorKind::WouldBlock`].
pub(super) trait Pipe: Send + 'static {
    fn recv(&mut self, into: &mut [u8], wait: bool) -> io::Result<usize>;

    fn send(&mut self, bytes: &[u8], wait: bool) -> io::Result<usize>;

    /// Reads and discards up to `count` bytes, through `scratch`.
    fn discard(&mut self, count: usize, scratch: &mut [u8]) -> io::Result<usize> {
        let count = count.min(scratch.len());
        self.recv(&mut scratch[..count], true)
    }

    fn stream(&self) -> &TcpStream;

    /// Waits until there is something to read or, if that is wanted, room to write.
    fn wait(&self, write: bool) -> io::Result<()> {
        let write = if write { PollFlags::POLLOUT } else { PollFlags::empty() };
        let mut set = [PollFd::new(self.stream().as_fd(), PollFlags::POLLIN | write)];
        poll(&mut set, PollTimeout::NONE)?;
        Ok(())
    }

    fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(bytes, true)?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}

pub(super) struct Plain(pub(super) TcpStream);

fn flags(wait: bool) -> MsgFlags {
    let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    flags | MsgFlags::MSG_NOSIGNAL
}

impl Pipe for Plain {
    fn recv(&mut self, into: &mut [u8], wait: bool) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), into, flags(wait))?)
    }

    fn send(&mut self, bytes: &[u8], wait: bool) -> io::Result<usize> {
        Ok(send(self.0.as_raw_fd(), bytes, flags(wait))?)
    }

    /// The kernel drops them without a copy.
    fn discard(&mut self, count: usize, scratch: &mut [u8]) -> io::Result<usize> {
        let count = count.min(scratch.len());
        Ok(recv(self.0.as_raw_fd(), &mut scratch[..count], MsgFlags::MSG_TRUNC)?)
    }

    fn stream(&self) -> &TcpStream {
        &self.0
    }
}

/// About the number of bytes that a slow link carries at once.
const PACKET: usize = 4096;

/// How late a slow link may be.
const LATE: Duration = Duration::from_millis(50);

/// A connection whose bytes arrive at a limited rate.
pub(super) struct Slow {
    plain: Plain,
    bytes_per_second: f64,
    /// When the link has carried all that was read.
    free_at: Instant,
}

impl Slow {
    pub(super) fn new(stream: TcpStream, bytes_per_second: u32) -> Self {
        let bytes_per_second = f64::from(bytes_per_second);
        Self { plain: Plain(stream), bytes_per_second, free_at: Instant::now() }
    }
}

impl Pipe for Slow {
    fn recv(&mut self, into: &mut [u8], wait: bool) -> io::Result<usize> {
        let part = into.len().min(PACKET);
        let count = self.plain.recv(&mut into[..part], wait)?;
        let now = Instant::now();
        // A sleep that took too long is made up for, so that the rate is kept. A link that was idle does not catch up.
        self.free_at = self.free_at.max(now - LATE)
            + Duration::from_secs_f64(count as f64 / self.bytes_per_second);
        thread::sleep(self.free_at.saturating_duration_since(now));
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8], wait: bool) -> io::Result<usize> {
        self.plain.send(bytes, wait)
    }

    fn stream(&self) -> &TcpStream {
        self.plain.stream()
    }
}

pub(super) struct Tls {
    stream: TcpStream,
    session: ServerConnection,
}

impl Tls {
    pub(super) fn new(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self { stream, session })
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

impl Pipe for Tls {
    fn recv(&mut self, into: &mut [u8], wait: bool) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if !wait {
                let mut set = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
                if poll(&mut set, PollTimeout::ZERO)? == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
            if self.session.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(io::Error::other)?;
            self.flush()?;
        }
    }

    fn send(&mut self, bytes: &[u8], _wait: bool) -> io::Result<usize> {
        let part = bytes.len().min(64 * 1024);
        let taken = self.session.writer().write(&bytes[..part])?;
        self.flush()?;
        Ok(taken)
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
