//! A whole AMQP client over a socket of the standard library, without an adapter.
//!
//! It declares a queue, publishes messages to it with publisher confirms, consumes and acknowledges
//! them, and closes:
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-proto --example event_loop -- 1000
//! ```
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it has socket and clock")]

use std::env;
use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_proto::method::{BasicConsume, BasicQos, ConfirmSelect};
use amqp_proto::method::{FromReply as _, QueueDeclare, QueueDeclareOk};
use amqp_proto::sasl::Plain;
use amqp_proto::uri::Uri;
use amqp_proto::{ChannelError, ChannelEvent, ChannelId, ClientConfig, Connection, Event};
use amqp_proto::{Properties, PublishError, ReplyCode, RequestId, Route, ShortStr};
use bytes::{Buf as _, BytesMut};

type Failure = Box<dyn Error>;

/// How many publishes may wait for their confirms.
const WINDOW: usize = 1000;

/// How long a transport that takes nothing may keep the loop from reading, and the other way round.
const PATIENCE: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    match publish_and_consume() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn publish_and_consume() -> Result<(), Failure> {
    let messages = env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let url = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let uri: Uri = url.parse()?;
    let node =
        uri.endpoints.first().filter(|_| !uri.tls).ok_or("this example needs an amqp:// URI")?;
    let stream = TcpStream::connect((node.host.as_str(), node.port))?;
    stream.set_nodelay(true)?;

    let mut app = App { messages, ..App::default() };
    let connection = Connection::client(Arc::new(config(&uri)?), Instant::now());
    let outcome = run(stream, connection, &mut app);
    let App { published, confirmed, consumed, .. } = app;
    println!("{published} published, {confirmed} confirmed, {consumed} consumed");
    outcome
}

fn config(uri: &Uri) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::default().with_connection_name("event_loop")?;
    if let (Some(username), Some(password)) = (&uri.username, &uri.password) {
        config.mechanisms = vec![Arc::new(Plain::new(username, password.expose()))];
    }
    if let Some(virtual_host) = &uri.virtual_host {
        config.virtual_host = ShortStr::try_from(virtual_host)?;
    }
    config.heartbeat = uri.options.heartbeat.unwrap_or(config.heartbeat);
    Ok(config)
}

/// Drives the connection over the stream until it is over.
fn run(mut stream: TcpStream, mut connection: Connection, app: &mut App) -> Result<(), Failure> {
    let mut input = BytesMut::new();
    let mut outcome = Ok(());
    loop {
        connection.handle_timeout(Instant::now());
        while let Some(event) = connection.poll_event() {
            outcome = outcome.and_then(|()| app.handle(&mut connection, event));
        }
        outcome = outcome.and_then(|()| app.publish(&mut connection));
        match &outcome {
            Ok(()) if app.confirmed < app.messages || app.consumed < app.messages => {}
            Ok(()) => connection.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "done"),
            Err(failure) => {
                let reply_text = failure.to_string();
                connection.close(Instant::now(), ReplyCode::INTERNAL_ERROR, &reply_text);
            }
        }
        let written = write(&mut stream, &mut connection);
        if connection.check().is_err() {
            return outcome;
        }
        // Also when writing failed: the broker may have said why it hung up.
        let read = read(&mut stream, &mut connection, &mut input);
        if let Err(error) = read.and(written) {
            connection.handle_transport_error(Instant::now(), &error);
        }
    }
}

/// Writes what there is. If the transport takes no more, reading goes first: the broker may be
/// waiting for that.
fn write(stream: &mut TcpStream, connection: &mut Connection) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    while let Some(transmit) = connection.poll_transmit(Instant::now()) {
        match stream.write(transmit.chunk()) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => transmit.advance(count),
            Err(error) => return not_now(error),
        }
    }
    Ok(())
}

/// Waits for input, at most until the next timer.
fn read(
    stream: &mut TcpStream,
    connection: &mut Connection,
    input: &mut BytesMut,
) -> io::Result<()> {
    let timer =
        connection.poll_timeout().map(|(at, _)| at.saturating_duration_since(Instant::now()));
    let retry = (connection.queued() > 0).then_some(PATIENCE);
    let wait = timer.into_iter().chain(retry).min();
    // For the standard library, zero is no timeout.
    stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
    let mut chunk = [0; 64 * 1024];
    match stream.read(&mut chunk) {
        Ok(0) => connection.handle_eof(Instant::now()),
        Ok(count) => {
            input.extend_from_slice(&chunk[..count]);
            // An error is reported as an event, too.
            let _ = connection.handle_input(Instant::now(), input);
        }
        Err(error) => return not_now(error),
    }
    Ok(())
}

/// Passes on what is not just a timeout.
fn not_now(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// What the connection is for.
#[derive(Default)]
struct App {
    messages: u64,
    published: u64,
    confirmed: u64,
    consumed: u64,
    declare: Option<RequestId>,
    /// Where to publish, as soon as that is known.
    target: Option<(ChannelId, ShortStr)>,
}

impl App {
    fn handle(&mut self, connection: &mut Connection, event: Event) -> Result<(), Failure> {
        match event {
            Event::Opened(_) => {
                let id = connection.open_channel()?;
                let mut channel = connection.channel(id)?;
                // All of them and the opening of the channel take one round trip.
                channel.request(ConfirmSelect::default())?;
                channel.request(BasicQos { prefetch_count: 500, ..Default::default() })?;
                let queue = QueueDeclare { exclusive: true, ..Default::default() };
                self.declare = Some(channel.request(queue)?);
                // Without a name, it is the queue declared last.
                channel.request(BasicConsume::default())?;
            }
            Event::Closed(error) if !error.is_local_close() => return Err(error.into()),
            Event::Channel(id, event) => match event {
                ChannelEvent::Reply { request, reply } if Some(request) == self.declare => {
                    let declared = QueueDeclareOk::from_reply(reply).ok_or("not declare-ok")?;
                    println!("queue {} is declared", declared.queue);
                    self.target = Some((id, declared.queue));
                }
                ChannelEvent::Delivery { delivery, .. } => {
                    connection.channel(id)?.ack(delivery.delivery_tag())?;
                    self.consumed += 1;
                }
                ChannelEvent::Confirmed { ack: false, .. } => {
                    return Err("the broker refused a message".into());
                }
                ChannelEvent::Confirmed { publishes, .. } => {
                    self.confirmed += publishes.end().get() - publishes.start().get() + 1;
                }
                ChannelEvent::Cancelled { .. } => return Err("the queue is gone".into()),
                ChannelEvent::Closed(error @ ChannelError::Closed(_)) => return Err(error.into()),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Publishes what may be on its way at once. When it stops short, confirms are outstanding, so
    /// that waiting for input is right.
    fn publish(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let Some((id, queue)) = self.target.as_ref().filter(|_| connection.is_open()) else {
            return Ok(());
        };
        let mut channel = connection.channel(*id)?;
        while self.published < self.messages && channel.unconfirmed() < WINDOW {
            let body = format!("message {}", self.published);
            match channel.publish(&Route::queue(queue), &Properties::default(), body) {
                Ok(_) => self.published += 1,
                Err(PublishError::Gated(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
