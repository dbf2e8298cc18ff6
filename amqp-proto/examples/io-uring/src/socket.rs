//! A socket on io_uring: at most one receive and one send are under way.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use amqp_proto::Connection;
use bytes::{Buf as _, BytesMut};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

/// Number of bytes that are received, and sent, at once.
const SIZE: usize = 64 * 1024;

/// The ids of the operations, by which completions are recognized.
const RECEIVE: u64 = 1;
const SEND: u64 = 2;

/// A ring that can wait with a timeout (since Linux 5.11).
pub(crate) fn ring() -> io::Result<IoUring> {
    let ring = IoUring::new(4)?;
    match ring.params().is_feature_ext_arg() {
        true => Ok(ring),
        false => Err(io::Error::new(ErrorKind::Unsupported, "the kernel is older than 5.11")),
    }
}

/// Memory that the kernel may have.
struct Lent {
    bytes: Box<[u8]>,
    /// The position at which an operation on it continues.
    position: usize,
    /// Up to where it is filled.
    end: usize,
    /// The kernel reads or writes it: until the operation has completed, nothing else touches it or frees it.
    is_lent: bool,
}

impl Lent {
    fn new() -> Self {
        Self { bytes: vec![0; SIZE].into(), position: 0, end: 0, is_lent: false }
    }
}

/// A connected socket.
pub(crate) struct Socket {
    ring: IoUring,
    stream: TcpStream,
    receiving: Lent,
    sending: Lent,
    input: BytesMut,
}

impl Socket {
    pub(crate) fn new(ring: IoUring, stream: TcpStream) -> Self {
        let (receiving, sending) = (Lent::new(), Lent::new());
        Self { ring, stream, receiving, sending, input: BytesMut::new() }
    }

    /// Returns whether there is anything that the kernel has not taken yet.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.is_lent
    }

    /// Begins to send the queued bytes, unless a send is in progress. Commands continue to queue bytes meanwhile.
    pub(crate) fn send(&mut self, connection: &mut Connection) -> io::Result<()> {
        if self.sending.is_lent {
            return Ok(());
        }
        let Some(transmit) = connection.poll_transmit(Instant::now()) else { return Ok(()) };
        let count = transmit.remaining().min(SIZE);
        transmit.copy_to_slice(&mut self.sending.bytes[..count]);
        (self.sending.position, self.sending.end) = (0, count);
        self.start(SEND)
    }

    /// Begins to receive, unless it does already.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        match self.receiving.is_lent {
            true => Ok(()),
            false => self.start(RECEIVE),
        }
    }

    /// Waits for an operation to complete, or for the connection's next timer.
    pub(crate) fn wait(&mut self, connection: &mut Connection) -> io::Result<()> {
        let submitted = match connection.poll_timeout() {
            None => self.ring.submit_and_wait(1),
            Some((at, _)) => {
                let time = Timespec::from(at.saturating_duration_since(Instant::now()));
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match submitted {
            Err(error) if error.raw_os_error() == Some(TIMER_EXPIRED) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        while let Some(completion) = self.next_completion() {
            self.completed(connection, completion.user_data(), completion.result())?;
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn completed(
        &mut self,
        connection: &mut Connection,
        operation: u64,
        result: i32,
    ) -> io::Result<()> {
        let lent = if operation == SEND { &mut self.sending } else { &mut self.receiving };
        lent.is_lent = false;
        let count = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
        match operation {
            SEND if count == 0 => return Err(ErrorKind::WriteZero.into()),
            SEND => {
                // The kernel may have taken less than all of it.
                self.sending.position += count;
                if self.sending.position < self.sending.end {
                    self.start(SEND)?;
                }
            }
            _ if count == 0 => connection.handle_eof(Instant::now()),
            _ => {
                self.input.extend_from_slice(&self.receiving.bytes[..count]);
                // Its error is the connection's state, which the loop looks at.
                let _over = connection.handle_input(Instant::now(), &mut self.input);
            }
        }
        Ok(())
    }

    /// Hands an operation to the kernel, with its buffer.
    #[expect(unsafe_code, reason = "the kernel is promised that the buffer stays")]
    fn start(&mut self, operation: u64) -> io::Result<()> {
        let fd = Fd(self.stream.as_raw_fd());
        let lent = if operation == SEND { &mut self.sending } else { &mut self.receiving };
        let entry = if operation == SEND {
            let rest = &lent.bytes[lent.position..lent.end];
            opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32).build()
        } else {
            opcode::Recv::new(fd, lent.bytes.as_mut_ptr(), SIZE as u32).build()
        }
        .user_data(operation);
        // SAFETY: The entry points into `lent.bytes`, a box, which stays in place when this socket is moved. While `is_lent` is
        // set, which only the operation's completion ends, no other operation is started on it and nothing reads or writes it. It
        // is not freed either: dropping the socket waits for the completion, or leaks it. The descriptor belongs to `stream`,
        // which is dropped after it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("more operations than expected"))?;
        lent.is_lent = true;
        Ok(())
    }
}

/// `ETIME`: the result of a wait that has timed out.
const TIMER_EXPIRED: i32 = 62;

impl Drop for Socket {
    /// Waits until the kernel no longer uses the memory.
    fn drop(&mut self) {
        // Both operations end with the stream.
        let _gone = self.stream.shutdown(Shutdown::Both);
        while self.receiving.is_lent || self.sending.is_lent {
            if self.ring.submit_and_wait(1).is_err() {
                // It is unknown when the kernel is done, so the memory is leaked.
                std::mem::forget(std::mem::take(&mut self.receiving.bytes));
                std::mem::forget(std::mem::take(&mut self.sending.bytes));
                return;
            }
            while let Some(completion) = self.next_completion() {
                match completion.user_data() {
                    SEND => self.sending.is_lent = false,
                    _ => self.receiving.is_lent = false,
                }
            }
        }
    }
}
