//! A client that recovers by itself, in an event loop of its own: one thread, one non-blocking socket, no adapter.
//!
//! It publishes messages that are kept until they are confirmed, and consumes and acknowledges them. In the middle it breaks its
//! own connection, and continues on another one: the channel, the consumer and the unconfirmed messages are restored.
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-proto --example recovering -- 1000
//! ```
#![expect(clippy::disallowed_methods, reason = "it has socket and clock")]

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{BasicConsume, BasicQos, ConfirmSelect, QueueDeclare, QueueDelete};
use amqp_proto::session::{Reconnect, Recovery, Session};
use amqp_proto::uri::Uri;
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, ConnectStep, Event, PublishError, RawProperties,
    ReplyCode, Route, SessionEvent, ShortStr,
};
use bytes::{Buf as _, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

fn main() -> Result<(), Box<dyn Error>> {
    let messages = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let uri: Uri = uri.parse()?;
    let config = Arc::new(ClientConfig::from_uri(&uri)?);
    // It begins without a transport, and asks for the first as for all that follow.
    let nodes = uri.endpoints.len();
    let mut session = Session::disconnected(config, Recovery::default(), nodes, Instant::now());
    let app = App::begin(&mut session, messages)?;
    let mut client = Client { session, app, uri, socket: None };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4);
    // Nobody waits while there is something to do.
    while client.turn(&poll)? {
        let timer = client.session.poll_timeout();
        let timeout = timer.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            // An event of an earlier socket does no harm: reading from the present one would block.
            let Some(socket) = &mut client.socket else { continue };
            socket.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            socket.writable |= event.is_writable() || event.is_error();
        }
    }
    let App { confirmed, consumed, connections, .. } = client.app;
    println!("{confirmed} confirmed, {} consumed, {connections} connections", consumed.len());
    Ok(())
}

struct Client {
    session: Session,
    app: App,
    uri: Uri,
    socket: Option<Socket>,
}

/// A transport, or an attempt at one.
struct Socket {
    stream: TcpStream,
    connecting: bool,
    /// Input that is not a complete frame yet. The next transport begins with an empty buffer.
    input: BytesMut,
    /// The poll reports a change once. So the readiness of the socket is remembered until an operation would block.
    readable: bool,
    writable: bool,
}

impl Client {
    /// Does everything that can be done without waiting. Returns whether the session goes on.
    fn turn(&mut self, poll: &Poll) -> Result<bool, Box<dyn Error>> {
        loop {
            let now = Instant::now();
            self.session.handle_timeout(now);
            // Before events are polled: the result of an attempt is an event.
            self.reconnect(poll, now);
            while let Some(event) = self.session.poll_event() {
                self.app.handle(&mut self.session, event)?;
            }
            self.app.publish(&mut self.session)?;
            // Read even if writing failed: the peer may have sent the reason before it disconnected.
            let written = self.write();
            let read = self.read();
            if let Err(error) = read.as_ref().map(|_| ()).and(written.as_ref()) {
                self.session.handle_transport_error(now, error);
            }
            if let Err(reason) = self.session.check() {
                // The remaining output was written above.
                return if reason.is_local_close() { Ok(false) } else { Err(reason.into()) };
            }
            if self.session.is_disconnected() {
                // It is used up; an attempt at the next one is not.
                self.socket.take_if(|socket| !socket.connecting);
            }
            if self.app.wants_a_loss() {
                let stream = self.socket.as_ref().map(|socket| &socket.stream);
                stream.map_or(Ok(()), |stream| stream.shutdown(Shutdown::Both))?;
            }
            let goes_on = matches!(read, Ok(true)) || written.is_err() || read.is_err();
            // Reading and failing produce events, and commands in response to them.
            if !goes_on {
                return Ok(true);
            }
        }
    }

    /// Begins an attempt when the session requests one, and reports its result.
    fn reconnect(&mut self, poll: &Poll, now: Instant) {
        let failed = match self.session.poll_reconnect(now) {
            // The attempt before it, if there was one, has taken too long, and is dropped.
            Reconnect::Connect { node } => self.connect(poll, node).err(),
            // `poll_timeout` returns when to call again.
            _ => self.finish_connecting(now).err(),
        };
        if let Some(error) = failed {
            self.socket = None;
            self.session.handle_unreachable(now, ConnectStep::Tcp, &error.to_string());
        }
    }

    fn connect(&mut self, poll: &Poll, node: usize) -> io::Result<()> {
        self.socket = None;
        let endpoint = self.uri.endpoints.get(node).ok_or(ErrorKind::NotFound)?;
        // Resolving a name may block: a loop with more to do has a thread for it.
        let mut addrs = (&*endpoint.host, endpoint.port).to_socket_addrs()?;
        // This does not wait for the connection. That it is there, the poll reports as room to write.
        let mut stream = TcpStream::connect(addrs.next().ok_or(ErrorKind::NotFound)?)?;
        let interests = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(0), interests)?;
        let input = BytesMut::new();
        let (connecting, readable, writable) = (true, false, false);
        self.socket = Some(Socket { stream, connecting, input, readable, writable });
        Ok(())
    }

    fn finish_connecting(&mut self, now: Instant) -> io::Result<()> {
        let attempt = self.socket.as_mut().filter(|socket| socket.connecting && socket.writable);
        let Some(socket) = attempt else { return Ok(()) };
        if let Some(error) = socket.stream.take_error()? {
            return Err(error);
        }
        match socket.stream.peer_addr() {
            Ok(_) => {
                socket.connecting = false;
                if !self.session.handle_transport(now, None) {
                    self.socket = None;
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(socket) = self.socket.as_mut().filter(|socket| !socket.connecting) else {
            return Ok(());
        };
        while socket.writable {
            let Some(transmit) = self.session.poll_transmit(Instant::now()) else { break };
            match socket.stream.write(transmit.chunk()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => transmit.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once. Returns whether anything came.
    fn read(&mut self) -> io::Result<bool> {
        let Some(socket) = self.socket.as_mut().filter(|socket| !socket.connecting) else {
            return Ok(false);
        };
        let mut chunk = [0; 64 * 1024];
        while socket.readable {
            match socket.stream.read(&mut chunk) {
                Ok(0) => {
                    socket.readable = false;
                    self.session.handle_eof(Instant::now());
                    return Ok(true);
                }
                Ok(count) => {
                    socket.input.extend_from_slice(&chunk[..count]);
                    // If the connection was lost, an event reports the reason.
                    let _ended = self.session.handle_input(Instant::now(), &mut socket.input);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// The application that uses the session. It does not handle transports.
struct App {
    queue: ShortStr,
    channel: ChannelId,
    messages: u64,
    published: u64,
    confirmed: u64,
    /// A message may come twice. That is the price of losing none.
    consumed: BTreeSet<u64>,
    connections: u64,
    declared: bool,
    broken: bool,
    done: bool,
}

impl App {
    /// Asks for everything, though there is no connection yet.
    fn begin(session: &mut Session, messages: u64) -> Result<Self, Box<dyn Error>> {
        let queue: ShortStr = format!("recovering-{}", std::process::id()).try_into()?;
        let id = session.open_channel()?;
        let mut channel = session.channel(id)?;
        let declare = QueueDeclare { queue: queue.clone(), durable: true, ..Default::default() };
        channel.request(declare)?;
        channel.request(BasicQos { prefetch_count: 100, ..Default::default() })?;
        channel.request(BasicConsume { queue: queue.clone(), ..Default::default() })?;
        channel.request(ConfirmSelect::default())?;
        Ok(Self {
            queue,
            channel: id,
            messages,
            published: 0,
            confirmed: 0,
            consumed: BTreeSet::new(),
            connections: 0,
            declared: false,
            broken: false,
            done: false,
        })
    }

    fn handle(&mut self, session: &mut Session, event: Event) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Session(SessionEvent::Recovered(report)) => {
                self.connections += 1;
                println!("connected, {} messages published again", report.republished);
            }
            Event::Session(SessionEvent::Lost { reason }) => println!("lost: {reason}"),
            Event::Session(SessionEvent::AttemptFailed { reason, .. }) => println!("{reason}"),
            Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                self.consumed.insert(std::str::from_utf8(delivery.body())?.parse()?);
                // It fails if the connection was lost meanwhile: then the message comes again.
                let _stale = session.channel(id)?.ack(delivery.delivery_tag());
            }
            Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) => {
                self.confirmed += publishes.end().get() - publishes.start().get() + 1;
            }
            Event::Channel(_, ChannelEvent::Reply { .. }) if self.done => {
                session.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "done");
            }
            Event::Channel(_, ChannelEvent::Reply { .. }) => self.declared = true,
            Event::Channel(_, ChannelEvent::Closed(error)) if !self.done => {
                return Err(error.into());
            }
            _ => {}
        }
        if !self.done
            && self.confirmed == self.messages
            && self.consumed.len() as u64 == self.messages
        {
            self.done = true;
            let delete = QueueDelete { queue: self.queue.clone(), ..Default::default() };
            session.channel(self.channel)?.request(delete)?;
        }
        Ok(())
    }

    /// Publishes until the limit of unconfirmed messages is reached, connected or not.
    fn publish(&mut self, session: &mut Session) -> Result<(), Box<dyn Error>> {
        // Kept messages go out before requests that wait for a connection. They would reach no queue.
        while self.declared
            && self.published < self.messages
            && self.published - self.confirmed < 500
        {
            let route = Route::queue(&self.queue);
            let body = self.published.to_string();
            let mut channel = session.channel(self.channel)?;
            match channel.publish_kept(&route, &RawProperties::EMPTY, body) {
                Ok(_) => self.published += 1,
                // Its end brings the loop here again.
                Err(PublishError::Gated(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wants_a_loss(&mut self) -> bool {
        let half = self.consumed.len() as u64 >= self.messages / 2;
        half && !self.done && !std::mem::replace(&mut self.broken, true)
    }
}
