use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use crate::engine::Engine;
use crate::pipe::Pipe;
use crate::{Options, SessionId};

/// A broker that runs: an [`Engine`] behind a TCP port of this machine, driven by threads.
///
/// It ends when this is dropped.
///
/// ```
/// let broker = amqp_test_broker::Broker::start()?;
/// println!("{}", broker.uri());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Broker {
    addr: SocketAddr,
    uri: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something has changed: there may be something to write, or another timer.
    pub(crate) changed: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) over: bool,
    /// Tasks to wake when something has changed.
    pub(crate) wakers: Vec<Waker>,
    /// The clients' transports, to be shut down with the broker.
    streams: Vec<(SessionId, TcpStream)>,
}

impl Broker {
    /// Starts a broker on a free port of the loopback interface.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Options::new())
    }

    /// Starts a broker on a free port of the loopback interface, set up like that.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start_with(options: Options) -> io::Result<Self> {
        Self::listen(([127, 0, 0, 1], 0).into(), options)
    }

    /// Starts a broker on that address.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn listen(addr: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let (name, password) = options.first_user();
        let uri = format!("amqp://{}:{}@{addr}/%2f", encoded(name), encoded(password));
        let shared = Arc::new(Shared::new(options));
        let (acceptor, timer) = (shared.clone(), shared.clone());
        thread::Builder::new()
            .name("broker-accept".into())
            .spawn(move || acceptor.accept(&listener))?;
        thread::Builder::new().name("broker-timer".into()).spawn(move || timer.keep_time())?;
        Ok(Self { addr, uri, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URI to connect to.
    #[must_use]
    pub fn uri(&self) -> String {
        self.uri.clone()
    }

    /// A connection to it through memory, with no socket. See [`Pipe`].
    #[must_use]
    pub fn pipe(&self) -> Pipe {
        Pipe::new(self.shared.clone())
    }

    /// Drops all connections and starts anew, as when the power fails for a moment. Durable queues and exchanges, their
    /// bindings and their persistent messages are still there.
    pub fn restart(&self) {
        let mut state = self.shared.lock();
        for (_, stream) in state.streams.drain(..) {
            // It may be gone already.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        state.engine.restart(Instant::now());
        self.shared.notify(state);
    }

    /// Raises an alarm, as RabbitMQ does when memory or disk run short: clients are told to stop publishing, and nothing
    /// more is read from those that do. `None` ends it.
    pub fn set_alarm(&self, reason: Option<&str>) {
        let mut state = self.shared.lock();
        state.engine.set_alarm(Instant::now(), reason);
        self.shared.notify(state);
    }
}

/// A part of a URI in which everything but letters and digits is percent-encoded.
fn encoded(text: &str) -> String {
    let octets = text.bytes().map(|octet| match octet.is_ascii_alphanumeric() {
        true => char::from(octet).to_string(),
        false => format!("%{octet:02x}"),
    });
    octets.collect()
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        for (_, stream) in state.streams.drain(..) {
            // It may be gone already.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        self.shared.notify(state);
        // The acceptor waits for a connection.
        let _woken = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn new(options: Options) -> Self {
        let engine = Engine::new(options, Instant::now());
        let (wakers, streams) = (Vec::new(), Vec::new());
        let state = Mutex::new(State { engine, over: false, wakers, streams });
        Self { state, changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed: whoever waits looks again.
    pub(crate) fn notify(&self, mut state: MutexGuard<'_, State>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until something has changed.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.lock().over {
                return;
            }
            let served = stream.and_then(|stream| self.clone().serve(stream));
            if let Err(error) = served {
                eprintln!("amqp-test-broker: {error}");
            }
        }
    }

    /// Serves a client with two threads, one for each direction.
    fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reading, mut writing, kept) = (stream.try_clone()?, stream.try_clone()?, stream);
        let id = {
            let mut state = self.lock();
            let id = state.engine.connect(Instant::now());
            state.streams.push((id, kept));
            id
        };
        let writer = self.clone();
        thread::Builder::new().name("broker-write".into()).spawn(move || {
            // A client that takes nothing more is noticed by the reader, too.
            let _gone = writer.write(id, &mut writing);
            let _gone = writing.shutdown(Shutdown::Both);
        })?;
        thread::Builder::new().name("broker-read".into()).spawn(move || {
            let _gone = self.read(id, &mut reading);
            let mut state = self.lock();
            state.engine.handle_eof(id, Instant::now());
            state.streams.retain(|(other, _)| *other != id);
            self.notify(state);
        })?;
        Ok(())
    }

    fn read(&self, id: SessionId, stream: &mut TcpStream) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        let mut input = BytesMut::new();
        loop {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            input.extend_from_slice(&chunk[..count]);
            let mut state = self.lock();
            state.engine.handle_input(id, Instant::now(), &mut input);
            self.notify(state);
            self.wait_for_want(id);
        }
    }

    /// Reads no more from a client while it has to stop publishing.
    fn wait_for_want(&self, id: SessionId) {
        let mut state = self.lock();
        while !state.over && !state.engine.wants_input(id) {
            state = self.wait(state);
        }
    }

    fn write(&self, id: SessionId, stream: &mut TcpStream) -> io::Result<()> {
        loop {
            let mut state = self.lock();
            let octets = loop {
                if state.over {
                    return Ok(());
                }
                if let Some(transmit) = state.engine.poll_transmit(id, Instant::now()) {
                    let count = transmit.remaining().min(256 * 1024);
                    break transmit.copy_to_bytes(count);
                }
                if state.engine.is_over(id) {
                    return Ok(());
                }
                state = self.wait(state);
            };
            drop(state);
            stream.write_all(&octets)?;
        }
    }

    fn keep_time(&self) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            let due = state.engine.poll_timeout();
            if due.is_some_and(|at| at <= now) {
                state.engine.handle_timeout(now);
                self.notify(state);
                state = self.lock();
                continue;
            }
            let wait =
                due.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
