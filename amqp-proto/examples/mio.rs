//! Two connections in one event loop, by mio: one publishes with confirms, the other consumes and acknowledges.
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-proto --example mio -- 10000
//! ```
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it has socket and clock")]

use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{BasicConsume, BasicQos, ConfirmSelect, QueueDeclare};
use amqp_proto::uri::Uri;
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, Event, Properties, ReplyCode, Route,
    ShortStr,
};
use bytes::{Buf as _, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

fn main() -> Result<(), Box<dyn Error>> {
    let messages = std::env::args().nth(1).map_or(Ok(10_000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into()).parse()?;
    let queue: ShortStr = format!("mio-{}", std::process::id()).try_into()?;
    let mut poll = Poll::new()?;
    let mut ends = [
        End::connect(&uri, Token(0), &poll, Role::Consumer { queue: queue.clone() }, messages)?,
        End::connect(&uri, Token(1), &poll, Role::Publisher { queue, published: 0 }, messages)?,
    ];
    let mut events = Events::with_capacity(ends.len());
    while !ends.iter().all(End::is_over) {
        // Nobody waits while one of the connections has something to say.
        let mut wake_at = None;
        for end in ends.iter_mut().filter(|end| !end.is_over()) {
            end.turn()?;
            wake_at = wake_at.into_iter().chain(end.wake_at()).min();
        }
        let timeout = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let end = &mut ends[event.token().0];
            end.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            end.writable |= event.is_writable() || event.is_error();
        }
    }
    for end in &ends {
        end.report()?;
    }
    Ok(())
}

/// A connection, its socket, and its role.
struct End {
    connection: Connection,
    stream: TcpStream,
    input: BytesMut,
    /// The poll reports a change once. So the readiness of the socket is remembered until an operation would block.
    readable: bool,
    writable: bool,
    role: Role,
    channel: Option<ChannelId>,
    messages: u64,
    /// Confirmed or consumed.
    done: u64,
}

enum Role {
    Consumer { queue: ShortStr },
    Publisher { queue: ShortStr, published: u64 },
}

impl End {
    fn connect(
        uri: &Uri,
        token: Token,
        poll: &Poll,
        role: Role,
        messages: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let at = (&*uri.endpoints[0].host, uri.endpoints[0].port);
        let stream = std::net::TcpStream::connect(at)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let config = Arc::new(ClientConfig::from_uri(uri)?);
        let connection = Connection::client(config, Instant::now());
        let input = BytesMut::new();
        let (readable, writable) = (false, false);
        let (channel, done) = (None, 0);
        Ok(Self { connection, stream, input, readable, writable, role, channel, messages, done })
    }

    /// Does everything that can be done without waiting.
    fn turn(&mut self) -> Result<(), Box<dyn Error>> {
        loop {
            self.connection.handle_timeout(Instant::now());
            while let Some(event) = self.connection.poll_event() {
                self.handle(event)?;
            }
            self.publish()?;
            // Read even if writing failed: the peer may have sent the reason before it disconnected.
            let written = self.write();
            match (self.read(), written) {
                (Ok(true), _) => {}
                (Ok(false), Ok(())) => return Ok(()),
                (Err(error), _) | (Ok(false), Err(error)) => {
                    self.connection.handle_transport_error(Instant::now(), &error);
                }
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while self.writable {
            let Some(transmit) = self.connection.poll_transmit(Instant::now()) else { break };
            match self.stream.write(transmit.chunk()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                // It may be less than there was. The rest is the next chunk.
                Ok(count) => transmit.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; returns whether anything was read. Events are processed before more is read, so that input does not pile up.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 64 * 1024];
        while self.readable {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.readable = false;
                    self.connection.handle_eof(Instant::now());
                    return Ok(true);
                }
                Ok(count) => {
                    self.input.extend_from_slice(&chunk[..count]);
                    // Its error is the connection's state, which the loop looks at.
                    let _over = self.connection.handle_input(Instant::now(), &mut self.input);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.connection.poll_timeout().map(|(at, _)| at)
    }

    /// Returns whether the connection is closed, and the reply to the peer's close is written, if it can be.
    fn is_over(&self) -> bool {
        self.connection.check().is_err() && (self.connection.queued() == 0 || !self.writable)
    }

    fn handle(&mut self, event: Event) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Opened(_) => self.channel = Some(self.begin()?),
            Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                self.connection.channel(id)?.ack(delivery.delivery_tag())?;
                self.done += 1;
            }
            Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) => {
                self.done += publishes.end().get() - publishes.start().get() + 1;
            }
            Event::Channel(_, ChannelEvent::Closed(error)) if self.connection.is_open() => {
                return Err(error.into());
            }
            _ => {}
        }
        if self.done == self.messages {
            self.connection.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "done");
        }
        Ok(())
    }

    /// Opens a channel and sets it up, in one round trip.
    fn begin(&mut self) -> Result<ChannelId, Box<dyn Error>> {
        let id = self.connection.open_channel()?;
        let mut channel = self.connection.channel(id)?;
        let (Role::Consumer { queue } | Role::Publisher { queue, .. }) = &self.role;
        // Both connections declare it, so the order does not matter.
        channel.request(QueueDeclare {
            queue: queue.clone(),
            durable: true,
            auto_delete: true,
            ..Default::default()
        })?;
        match &self.role {
            Role::Consumer { queue } => {
                channel.request(BasicQos { prefetch_count: 500, ..Default::default() })?;
                channel.request(BasicConsume { queue: queue.clone(), ..Default::default() })?;
            }
            Role::Publisher { .. } => drop(channel.request(ConfirmSelect::default())?),
        }
        Ok(id)
    }

    /// Publishes until the limit of unconfirmed messages is reached. Confirms and room in the socket make the loop call this
    /// again.
    fn publish(&mut self) -> Result<(), Box<dyn Error>> {
        let Role::Publisher { queue, published } = &mut self.role else { return Ok(()) };
        let Some(id) = self.channel.filter(|_| self.connection.is_open()) else { return Ok(()) };
        let mut channel = self.connection.channel(id)?;
        while *published < self.messages
            && channel.unconfirmed() < 1000
            && channel.check_gate().is_ok()
        {
            let route = Route::new("", queue.as_bytes());
            channel.publish(&route, &Properties::default(), format!("message {published}"))?;
            *published += 1;
        }
        Ok(())
    }

    fn report(&self) -> Result<(), Box<dyn Error>> {
        let did = match self.role {
            Role::Consumer { .. } => "consumed",
            Role::Publisher { .. } => "published and confirmed",
        };
        println!("{} {did}", self.done);
        match self.connection.check() {
            Err(error) if !error.is_local_close() => Err(error.into()),
            _ => Ok(()),
        }
    }
}
