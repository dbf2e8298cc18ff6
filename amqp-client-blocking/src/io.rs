//! Sockets, and names resolved and addresses connected to in threads of their own.

use std::any::TypeId;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use amqp_client_core::Settings;
use amqp_client_core::adapter::Runtime;
use amqp_client_core::adapter::connect_socket;
use amqp_client_core::adapter::{Alarm, Wait as _};
use amqp_client_core::adapter::{Filler, Transport};
use bytes::BytesMut;
use mio::event::{Event, Source};
use mio::{Interest, Token};
use socket2::SockRef;

use crate::shared_loop;

/// The token of streams.
const STREAM: Token = Token(0);

/// Threads, and the sockets of the system.
pub(crate) struct Threads;

impl Runtime for Threads {
    type Transport = Stream<mio::net::TcpStream>;
    type Registration = Registration;
    type Timer = Alarm;

    fn timer() -> Alarm {
        Alarm::default()
    }

    async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        elsewhere("amqp-resolve", move || Ok((host, port).to_socket_addrs()?.collect())).await
    }

    async fn connect(
        addr: SocketAddr,
        settings: Settings,
    ) -> io::Result<(Self::Transport, Self::Registration)> {
        let timeout = settings.get_connect_timeout();
        let connect = |socket: TcpStream| {
            elsewhere("amqp-connect", move || {
                SockRef::from(&socket).connect_timeout(&addr.into(), timeout)?;
                Ok(socket)
            })
        };
        let stream = connect_socket(addr, &settings, connect).await?;
        // `connect_timeout` leaves a socket that blocks.
        stream.set_nonblocking(true)?;
        registration(mio::net::TcpStream::from_std(stream))
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        // If no thread can be started, the task is dropped, and its waiters get an error.
        let _none = thread::Builder::new().name("amqp-task".to_owned()).spawn(|| task.wait());
    }

    fn drive(
        registration: Registration,
        drive: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        shared_loop::start(registration, Box::pin(drive))
    }
}

/// Runs something that blocks in a thread of its own. If nobody waits for it any more, its result is dropped.
async fn elsewhere<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    type Slot<T> = (Option<io::Result<T>>, Option<Waker>);
    let slot: Arc<Mutex<Slot<T>>> = Arc::new(Mutex::new((None, None)));
    let filled = slot.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let spawned = thread.spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(run));
        let result =
            result.unwrap_or_else(|_| Err(io::Error::other("the thread that connects panicked")));
        let mut slot = filled.lock().unwrap_or_else(PoisonError::into_inner);
        slot.0 = Some(result);
        let waker = slot.1.take();
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
    });
    spawned.map_err(|error| no_thread(name, &error))?;
    poll_fn(|cx| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = slot.0.take() {
            return Poll::Ready(result);
        }
        slot.1 = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// Returns the error for a thread that could not be started.
fn no_thread(name: &str, error: &io::Error) -> io::Error {
    let text = format!(
        "cannot start the thread {name} ({error}); check the limits on threads and memory of this process"
    );
    // As Unix calls it. A later attempt may succeed.
    io::Error::new(io::ErrorKind::WouldBlock, text)
}

/// The registration of a stream with the poll.
pub(crate) struct Registration {
    pub(crate) poll: mio::Poll,
    pub(crate) readiness: Arc<Readiness>,
}

/// Makes a stream non-blocking, and registers it.
pub(crate) fn registration<S>(mut stream: S) -> io::Result<(Stream<S>, Registration)>
where
    S: Source + Read + Write + 'static,
{
    let poll = mio::Poll::new()?;
    poll.registry().register(&mut stream, STREAM, Interest::READABLE | Interest::WRITABLE)?;
    let readiness = Arc::<Readiness>::default();
    let stream = Stream {
        stream,
        readiness: readiness.clone(),
        filler: Filler::default(),
        short_is_all: is_socket::<S>(),
    };
    Ok((stream, Registration { poll, readiness }))
}

/// Returns whether a stream is a plain socket, whose buffer is empty after a short read. A stream with a layer of its own,
/// such as packets or TLS records, may hold more.
fn is_socket<S: 'static>() -> bool {
    #[cfg(unix)]
    let sockets = [TypeId::of::<mio::net::TcpStream>(), TypeId::of::<mio::net::UnixStream>()];
    #[cfg(not(unix))]
    let sockets: [TypeId; 0] = [];
    sockets.contains(&TypeId::of::<S>())
}

/// The known readiness of a stream: remembering it costs less than asking the system.
///
/// Only the thread that runs the loop uses it; the loop's handover orders its memory.
#[derive(Debug)]
pub(crate) struct Readiness {
    readable: AtomicBool,
    writable: AtomicBool,
    /// The peer has ended the stream, or it is broken: a read returns the reason, and no event comes for it again.
    closed: AtomicBool,
}

impl Default for Readiness {
    /// Assumed ready: the first attempt corrects it.
    fn default() -> Self {
        let [readable, writable] = [true, true].map(AtomicBool::new);
        Self { readable, writable, closed: AtomicBool::new(false) }
    }
}

impl Readiness {
    /// Applies an event of the stream.
    pub(crate) fn take(&self, event: &Event) {
        if event.token() != STREAM {
            return;
        }
        let closed = event.is_read_closed() || event.is_write_closed() || event.is_error();
        self.closed.fetch_or(closed, Ordering::Relaxed);
        self.readable.fetch_or(closed || event.is_readable(), Ordering::Relaxed);
        self.writable.fetch_or(closed || event.is_writable(), Ordering::Relaxed);
    }
}

/// A stream that does not block.
pub(crate) struct Stream<S> {
    stream: S,
    readiness: Arc<Readiness>,
    filler: Filler,
    /// A read that comes short has left nothing, until the next event.
    short_is_all: bool,
}

impl<S: Read + Write> Transport for Stream<S> {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Self { stream, readiness, filler, short_is_all } = self;
        if !readiness.readable.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let mut is_short = false;
        let polled = filler.fill(input, |room| {
            let read = attempt(&readiness.readable, || stream.read(room));
            is_short = matches!(read, Poll::Ready(Ok(count)) if count < room.len());
            read
        });
        if *short_is_all && is_short && !readiness.closed.load(Ordering::Relaxed) {
            readiness.readable.store(false, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        attempt(&self.readiness.writable, || self.stream.write_vectored(pieces))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        attempt(&self.readiness.writable, || self.stream.flush())
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket closes when it is dropped.
        Poll::Ready(Ok(()))
    }
}

/// Runs an operation that does not block, if the stream is ready for it, and returns its result.
fn attempt<T>(
    ready: &AtomicBool,
    mut operation: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    while ready.load(Ordering::Relaxed) {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.store(false, Ordering::Relaxed);
            }
            result => return Poll::Ready(result),
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use amqp_client_core::adapter::Wait as _;
    use amqp_client_core::{ConnectError, ConnectStep, Endpoint};

    use super::*;

    #[test]
    fn a_socket_has_the_options_of_its_settings() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let settings = Settings::default().receive_buffer(Some(24 * 1024));
        let (stream, _) = Threads::connect(listener.local_addr()?, settings).wait()?;
        let socket = SockRef::from(&stream.stream);
        // Linux doubles the size.
        assert!([24 * 1024, 48 * 1024].contains(&socket.recv_buffer_size()?));
        assert!(socket.tcp_nodelay()?);
        Ok(())
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_not_blamed_on_the_host_name() {
        let error = no_thread("amqp-resolve", &io::Error::other("no room"));
        let error = ConnectError::Unreachable {
            endpoint: Endpoint::new("rabbit", 5672),
            step: ConnectStep::Dns,
            error: Arc::new(error),
        };
        assert_eq!(
            amqp_client_core::proto::error::chain(&error).to_string(),
            "cannot reach rabbit:5672 (step: DNS): cannot start the thread amqp-resolve (no room); check the limits on threads \
             and memory of this process"
        );
    }

    #[test]
    fn a_panic_of_a_thread_is_an_error_for_its_waiter() {
        let result = elsewhere("amqp-test", || -> io::Result<()> { panic!("nothing comes of it") });
        let result = result.wait_timeout(Duration::from_secs(30)).expect("there is a result");
        result.expect_err("it panicked");
    }
}
