use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::engine::Engine;
use crate::pipe::Pipe;
use crate::{ConnectionView, Options, QueueView, SessionId};

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
    /// The thread that has the port, while there is one.
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// The time for which a client may leave its output unread, as in RabbitMQ (`send_timeout`).
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for a client to read why its connection ended, and to disconnect.
const LINGER: Duration = Duration::from_secs(2);

/// The pause of the acceptor when the system has no socket for it.
const REST: Duration = Duration::from_millis(100);

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
    /// True if clients are let in.
    pub(crate) listening: bool,
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
        let timer = shared.clone();
        thread::Builder::new().name("broker-timer".into()).spawn(move || timer.keep_time())?;
        let broker = Self { addr, uri, shared, acceptor: Mutex::new(None) };
        broker.accept_from(listener)?;
        Ok(broker)
    }

    fn accept_from(&self, listener: TcpListener) -> io::Result<()> {
        let shared = self.shared.clone();
        self.shared.lock().listening = true;
        let acceptor = thread::Builder::new().name("broker-accept".into());
        let acceptor = acceptor.spawn(move || shared.accept(&listener))?;
        *self.acceptor() = Some(acceptor);
        Ok(())
    }

    fn acceptor(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread that has the port. Afterwards, the broker does not listen.
    fn close_port(&self) {
        self.shared.lock().listening = false;
        let Some(acceptor) = self.acceptor().take() else { return };
        // It waits for a connection, which may be on every address of this machine.
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        if TcpStream::connect(addr).is_ok() {
            let _panicked = acceptor.join();
        }
    }

    /// Returns where it listens.
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

    /// Drops all connections and starts again, as after a short power failure. Durable queues and exchanges, their bindings and
    /// their persistent messages remain.
    pub fn restart(&self) {
        self.operate(|state, now| {
            state.hang_up_all();
            state.engine.restart(now);
        });
    }

    /// Stops as a node does that an operator stops: closes all connections (320, `CONNECTION_FORCED`), and does not listen
    /// any more. What a [restart](Self::restart) leaves is there when it [starts again](Self::start_again).
    ///
    /// Returns when the clients have disconnected, or after a second.
    ///
    /// ```
    /// use amqp_client_blocking::connect;
    ///
    /// let broker = amqp_test_broker::Broker::start()?;
    /// broker.stop();
    /// assert!(connect(&broker.uri()).is_err(), "nobody listens");
    /// broker.start_again()?;
    /// assert!(connect(&broker.uri()).is_ok(), "at the same address");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.close_port();
        self.operate(|state, now| state.engine.close_all(now));
        let until = Instant::now() + Duration::from_secs(1);
        let mut state = self.shared.lock();
        while state.engine.session_count() > 0 && Instant::now() < until {
            state = self.shared.wait_until(state, until);
        }
        drop(state);
        self.restart();
    }

    /// Starts again, at the same address, after a [stop](Self::stop). Does nothing if the broker runs.
    ///
    /// # Errors
    /// If it cannot listen there: another program may use the port.
    pub fn start_again(&self) -> io::Result<()> {
        if self.acceptor().is_some() {
            return Ok(());
        }
        self.accept_from(TcpListener::bind(self.addr)?)
    }

    /// Raises an alarm, as RabbitMQ does when memory or disk run short: clients are asked to stop publishing, and nothing
    /// more is read from those that do. `None` ends it.
    pub fn set_alarm(&self, reason: Option<&str>) {
        self.operate(|state, now| state.engine.set_alarm(now, reason));
    }

    /// Refuses the next `count` publishes on channels in confirm mode (`basic.nack`), whichever come first. They reach no
    /// queue.
    ///
    /// ```
    /// use amqp_client_blocking::{PublisherOptions, QueueOptions, Wait as _, connect};
    ///
    /// let broker = amqp_test_broker::Broker::start()?;
    /// let connection = connect(&broker.uri())?;
    /// let channel = connection.open_channel().wait()?;
    /// channel.queue_declare("orders", QueueOptions::new()).wait()?;
    /// let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    /// broker.nack_next(1);
    /// assert!(publisher.send("orders", "refused").wait().is_err());
    /// assert!(publisher.send("orders", "taken").wait().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nack_next(&self, count: u32) {
        self.operate(|state, _| state.engine.nack_next(count));
    }

    /// Holds all confirms, until this is called with `false`. Messages are routed as usual.
    ///
    /// With [nondeterminism](Options::nondeterminism), a [restart](Self::restart) loses some of the messages whose confirms are
    /// held.
    pub fn hold_confirms(&self, hold: bool) {
        self.operate(|state, now| state.engine.hold_confirms(now, hold));
    }

    /// Refuses every login (403), as if user or password were wrong, until this is called with `false`. Clients that are
    /// connected stay.
    pub fn refuse_logins(&self, refuse: bool) {
        self.operate(|state, _| state.engine.refuse_logins(refuse));
    }

    /// Returns the connections, the oldest first.
    ///
    /// ```
    /// use amqp_client_blocking::connect;
    ///
    /// let broker = amqp_test_broker::Broker::start()?;
    /// let connection = connect(&format!("{}?name=orders", broker.uri()))?;
    /// let [view] = &broker.connections()[..] else { panic!("there is one") };
    /// assert_eq!(view.user, "guest");
    /// assert_eq!(view.client_properties.get("connection_name"), Some("orders".into()));
    /// // The client finds out that its connection is lost, and reconnects.
    /// broker.cut(view.id);
    /// # drop(connection);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionView> {
        self.shared.lock().engine.connections().collect()
    }

    /// Closes a connection (320, `CONNECTION_FORCED`), as an operator does.
    pub fn close_connection(&self, id: SessionId) {
        self.operate(|state, now| state.engine.close_session(now, id));
    }

    /// Ends the transport of a connection without a word, as when the network breaks.
    pub fn cut(&self, id: SessionId) {
        self.operate(|state, now| {
            state.hang_up(id);
            state.engine.handle_eof(id, now);
        });
    }

    /// Reads nothing from a connection and writes nothing to it, as if the network between lost every packet, until it is
    /// [thawed](Self::thaw).
    ///
    /// The client notices that only by heartbeats and deadlines. The broker does not notice that the client falls silent, or
    /// disconnects, before it is thawed.
    pub fn freeze(&self, id: SessionId) {
        self.operate(|state, now| state.engine.freeze(now, id, true));
    }

    /// Goes on with a connection that is [frozen](Self::freeze), where it stopped.
    pub fn thaw(&self, id: SessionId) {
        self.operate(|state, now| state.engine.freeze(now, id, false));
    }

    /// Returns a queue of the virtual host `/` with the messages that are ready for delivery, if there is one of that name.
    ///
    /// ```
    /// use amqp_client_blocking::{Message, QueueOptions, Wait as _, connect};
    ///
    /// let broker = amqp_test_broker::Broker::start()?;
    /// let connection = connect(&broker.uri())?;
    /// let channel = connection.open_channel().wait()?;
    /// let orders = channel.queue_declare("orders", QueueOptions::new()).wait()?;
    /// orders.publish(&Message::new("one")).wait()?;
    /// channel.basic_qos(1).wait()?; // The reply shows that earlier publishes are in the queue.
    /// let view = broker.queue("orders").ok_or("it is there")?;
    /// assert_eq!(view.messages[0].body, "one");
    /// assert_eq!((view.consumers, view.unacknowledged), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn queue(&self, name: impl AsRef<[u8]>) -> Option<QueueView> {
        self.shared.lock().engine.queue(name)
    }

    /// Returns all queues, by virtual hosts and names.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        self.shared.lock().engine.queues().collect()
    }

    /// Runs `act` on the broker, and wakes all threads that wait for a change.
    fn operate<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.shared.lock();
        let done = act(&mut state, Instant::now());
        self.shared.notify(state);
        done
    }
}

/// A part of a URI in which everything but letters and digits is percent-encoded.
fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02x}"),
    });
    bytes.collect()
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.operate(|state, _| {
            state.over = true;
            state.hang_up_all();
        });
        self.close_port();
    }
}

impl State {
    fn hang_up(&self, id: SessionId) {
        for (_, stream) in self.streams.iter().filter(|(own, _)| *own == id) {
            // It may have ended already.
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    fn hang_up_all(&mut self) {
        for (_, stream) in self.streams.drain(..) {
            // It may have ended already.
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A client, as a thread that serves it holds it. If the thread panics, the client is not left waiting for the broker.
struct Client {
    shared: Arc<Shared>,
    id: SessionId,
}

impl Drop for Client {
    fn drop(&mut self) {
        if thread::panicking() {
            // The session stays: after a panic, no code of it runs to end it.
            self.shared.lock().hang_up(self.id);
        }
    }
}

impl Shared {
    fn new(options: Options) -> Self {
        let engine = Engine::new(options, Instant::now());
        let (wakers, streams) = (Vec::new(), Vec::new());
        let state = State { engine, over: false, listening: false, wakers, streams };
        let state = Mutex::new(state);
        Self { state, changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed: wakes all waiting threads.
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

    /// Waits until something has changed, or until then.
    fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut fails = false;
        for stream in listener.incoming() {
            if !self.lock().listening {
                return;
            }
            let served = stream.and_then(|stream| self.clone().serve(stream));
            match served {
                Ok(()) => fails = false,
                Err(error) => {
                    // The client waits, or the system has no free socket. No event reports when it has one again.
                    if !fails {
                        eprintln!("amqp-test-broker: {error}");
                    }
                    fails = true;
                    // Nothing reports that the system has descriptors again.
                    thread::sleep(REST);
                }
            }
        }
    }

    /// Serves a client with two threads, one for each direction.
    fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let (mut reading, writing, kept) = (stream.try_clone()?, stream.try_clone()?, stream);
        let id = {
            let mut state = self.lock();
            let id = state.engine.connect(Instant::now());
            state.streams.push((id, kept));
            id
        };
        let [reader, writer] = [(); 2].map(|()| Client { shared: self.clone(), id });
        let threads = thread::Builder::new()
            .name("broker-write".into())
            .spawn(move || writer.shared.write_until_over(id, writing))
            .and_then(|_| {
                thread::Builder::new().name("broker-read".into()).spawn(move || {
                    let _gone = reader.shared.read(id, &mut reading);
                    reader.shared.forget(id);
                })
            });
        threads.map(drop).inspect_err(|_| self.forget(id))
    }

    /// The transport of a client has ended.
    fn forget(&self, id: SessionId) {
        let mut state = self.lock();
        state.engine.handle_eof(id, Instant::now());
        state.streams.retain(|(other, _)| *other != id);
        self.notify(state);
    }

    fn read(&self, id: SessionId, stream: &mut TcpStream) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        let mut input = BytesMut::new();
        loop {
            drop(self.wait_for_want(id));
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            // The connection may have been frozen while nothing came.
            let mut state = self.wait_for_want(id);
            input.extend_from_slice(&chunk[..count]);
            state.engine.handle_input(id, Instant::now(), &mut input);
            self.notify(state);
        }
    }

    /// Reads no more from a client than the broker wants.
    fn wait_for_want(&self, id: SessionId) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !state.over && !state.engine.wants_input(id) {
            state = self.wait(state);
        }
        state
    }

    fn write_until_over(&self, id: SessionId, mut stream: TcpStream) {
        match self.write(id, &mut stream) {
            Ok(()) => {
                let _gone = stream.shutdown(Shutdown::Write);
                // The client has to read why. Bytes of its that nobody reads would reset the connection, which may
                // overtake that.
                let until = Instant::now() + LINGER;
                let mut state = self.lock();
                while !state.over && state.engine.has_session(id) && Instant::now() < until {
                    state = self.wait_until(state, until);
                }
            }
            // It takes nothing more, and the reader may wait until it does.
            Err(_) => self.forget(id),
        }
        let _gone = stream.shutdown(Shutdown::Both);
    }

    /// Writes until the session has ended.
    fn write(&self, id: SessionId, stream: &mut TcpStream) -> io::Result<()> {
        while let Some(bytes) = self.next_to_write(id) {
            stream.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Waits for the next output; `None` once the session has ended.
    fn next_to_write(&self, id: SessionId) -> Option<Bytes> {
        let mut state = self.lock();
        while !state.over {
            let was_heard = state.engine.wants_input(id);
            if let Some(transmit) = state.engine.poll_transmit(id, Instant::now()) {
                let count = transmit.remaining().min(256 * 1024);
                let bytes = transmit.copy_to_bytes(count);
                // There is room for more replies.
                if !was_heard && state.engine.wants_input(id) {
                    self.notify(state);
                }
                return Some(bytes);
            }
            if state.engine.is_over(id) {
                return None;
            }
            state = self.wait(state);
        }
        None
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
            state = self.wait_until(state, now + wait);
        }
    }
}
