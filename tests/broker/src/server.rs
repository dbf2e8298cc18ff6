use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use crate::SessionId;
use crate::engine::Engine;

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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something has changed: there may be something to write, or another timer.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    over: bool,
    /// The clients' transports, to be shut down with the broker.
    streams: Vec<(SessionId, TcpStream)>,
}

impl Broker {
    /// Starts a broker on a free port of the loopback interface.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start() -> io::Result<Self> {
        Self::listen(([127, 0, 0, 1], 0).into())
    }

    /// Starts a broker on that address.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn listen(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let engine = Engine::new(Instant::now());
        let state = State { engine, over: false, streams: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (acceptor, timer) = (shared.clone(), shared.clone());
        thread::Builder::new()
            .name("broker-accept".into())
            .spawn(move || acceptor.accept(&listener))?;
        thread::Builder::new().name("broker-timer".into()).spawn(move || timer.keep_time())?;
        Ok(Self { addr, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URI to connect to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        for (_, stream) in state.streams.drain(..) {
            // It may be gone already.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // The acceptor waits for a connection.
        let _woken = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            drop(state);
            self.changed.notify_all();
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
            self.lock().engine.handle_input(id, Instant::now(), &mut input);
            self.changed.notify_all();
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
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
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
                self.changed.notify_all();
                continue;
            }
            let wait =
                due.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
