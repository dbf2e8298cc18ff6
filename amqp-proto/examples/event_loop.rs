//! A whole AMQP client over a socket of the standard library, without an adapter.
//!
//! It declares a queue, publishes messages to it with publisher confirms, consumes and acknowledges
//! them, and closes:
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-proto --example event_loop -- 1000
//! ```
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "does I/O and has a clock")]

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_proto::method::{
    BasicConsume, BasicConsumeOk, BasicQos, ConfirmSelect, FromReply, QueueDeclare, QueueDeclareOk,
};
use amqp_proto::sasl::Plain;
use amqp_proto::uri::Uri;
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, ConnectionError, Event, Properties,
    PublishError, ReplyCode, RequestId, Route, ShortStr,
};
use bytes::{Buf, BytesMut};

/// How many publishes may wait for their confirms, and deliveries for their acknowledgements.
const WINDOW: u16 = 500;

/// How long a full transport may hold up reading, and an idle one writing.
const PATIENCE: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let messages = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let uri: Uri = url.parse()?;
    if uri.tls {
        return Err("this example speaks plain TCP: use amqp://".into());
    }
    let mut config = ClientConfig::default().with_connection_name("event_loop")?;
    if let (Some(username), Some(password)) = (&uri.username, &uri.password) {
        config.mechanisms = vec![Arc::new(Plain::new(username, password.expose()))];
    }
    if let Some(virtual_host) = &uri.virtual_host {
        config.virtual_host = ShortStr::try_from(virtual_host)?;
    }
    config.heartbeat = uri.options.heartbeat.unwrap_or(config.heartbeat);

    let node = uri.endpoints.first().ok_or("the URI names no host")?;
    let stream = TcpStream::connect((node.host.as_str(), node.port))?;
    stream.set_nodelay(true)?;
    let mut app = App { messages, ..App::default() };
    let started = Instant::now();
    let reason = run(stream, Connection::client(Arc::new(config), started), &mut app);
    let App { published, confirmed, consumed, .. } = app;
    println!(
        "{published} published, {confirmed} confirmed, {consumed} consumed in {:.1?}; {reason}",
        started.elapsed()
    );
    match app.failure {
        Some(failure) => Err(failure),
        None if reason.is_local_close() => Ok(()),
        None => Err(reason.into()),
    }
}

/// Drives the connection over the socket until it is over, and says why it is.
fn run(mut stream: TcpStream, mut connection: Connection, app: &mut App) -> ConnectionError {
    let mut input = BytesMut::new();
    loop {
        connection.handle_timeout(Instant::now());
        while let Some(event) = connection.poll_event() {
            app.step(&mut connection, |app, connection| app.handle(connection, event));
        }
        app.step(&mut connection, App::publish);
        let written = write(&mut stream, &mut connection);
        if let Err(reason) = connection.check() {
            return reason;
        }
        if let Err(error) = written.and_then(|()| read(&mut stream, &mut connection, &mut input)) {
            connection.handle_transport_error(Instant::now(), &error);
        }
    }
}

/// Writes what there is, as far as the transport takes it.
fn write(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    while let Some(transmit) = connection.poll_transmit(Instant::now()) {
        match stream.write(transmit.chunk()) {
            Ok(written) => transmit.advance(written),
            // Not waiting on: the broker may read again only when it can write.
            Err(error) if is_timeout(&error) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for input, but no longer than until the next timer, and takes it in.
fn read(
    stream: &mut TcpStream,
    connection: &mut Connection,
    input: &mut BytesMut,
) -> io::Result<()> {
    let timer = connection.poll_timeout();
    let timer = timer.map(|(at, _)| at.saturating_duration_since(Instant::now()));
    let unwritten = (connection.queued() > 0).then_some(PATIENCE);
    let wait = [timer, unwritten].into_iter().flatten().min();
    // Zero is no valid timeout.
    stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
    let mut chunk = [0; 64 * 1024];
    match stream.read(&mut chunk) {
        Ok(0) => connection.handle_eof(Instant::now()),
        Ok(count) => {
            input.extend_from_slice(&chunk[..count]);
            // What is wrong, if something is, comes as an event as well.
            let _ = connection.handle_input(Instant::now(), input);
        }
        Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Systems differ in what they call a timeout.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What the client is for.
#[derive(Default)]
struct App {
    messages: u64,
    published: u64,
    confirmed: u64,
    consumed: u64,
    channel: Option<ChannelId>,
    declare: Option<RequestId>,
    consume: Option<RequestId>,
    /// The queue, once there is a consumer.
    queue: ShortStr,
    failure: Option<Box<dyn Error>>,
}

impl App {
    /// Takes one step; if it fails, or was the last one, closes the connection.
    fn step(
        &mut self,
        connection: &mut Connection,
        step: impl FnOnce(&mut Self, &mut Connection) -> Result<(), Box<dyn Error>>,
    ) {
        match step(self, connection) {
            Err(_) if self.failure.is_some() => {}
            Err(failure) => {
                connection.close(Instant::now(), ReplyCode::INTERNAL_ERROR, &failure.to_string());
                self.failure = Some(failure);
            }
            Ok(()) if self.confirmed == self.messages && self.consumed == self.messages => {
                connection.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "goodbye");
            }
            Ok(()) => {}
        }
    }

    fn handle(&mut self, connection: &mut Connection, event: Event) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Opened(negotiated) => {
                println!("connected, frame_max {}", negotiated.frame_max);
                let id = connection.open_channel()?;
                self.channel = Some(id);
                // Four requests, the opening of the channel among them, in one round trip.
                let mut channel = connection.channel(id)?;
                channel.request(ConfirmSelect::default())?;
                channel.request(BasicQos { prefetch_count: WINDOW, ..BasicQos::default() })?;
                let queue = QueueDeclare { exclusive: true, ..QueueDeclare::default() };
                self.declare = Some(channel.request(queue)?);
            }
            Event::Channel(id, ChannelEvent::Reply { request, reply }) => {
                if Some(request) == self.declare {
                    let declared = QueueDeclareOk::from_reply(reply).ok_or("not declare-ok")?;
                    self.queue = declared.queue.clone();
                    let consume = BasicConsume { queue: declared.queue, ..Default::default() };
                    self.consume = Some(connection.channel(id)?.request(consume)?);
                } else if Some(request) == self.consume {
                    let consumer = BasicConsumeOk::from_reply(reply).ok_or("not consume-ok")?;
                    println!("consuming from {} as {}", self.queue, consumer.consumer_tag);
                }
            }
            Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                self.consumed += 1;
                connection.channel(id)?.ack(delivery.delivery_tag())?;
            }
            Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) => {
                self.confirmed += publishes.end().get() - publishes.start().get() + 1;
            }
            Event::Channel(_, ChannelEvent::Confirmed { ack: false, .. }) => {
                return Err("the broker refused a message".into());
            }
            Event::Channel(_, ChannelEvent::Closed(error)) if error.as_close().is_none() => {}
            Event::Channel(_, ChannelEvent::Closed(error)) if !connection.is_open() => {}
            Event::Channel(_, ChannelEvent::Closed(error)) => return Err(error.into()),
            _ => {}
        }
        Ok(())
    }

    /// Publishes as many messages as may be on their way.
    fn publish(&mut self, connection: &mut Connection) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}
