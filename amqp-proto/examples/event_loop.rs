//! A whole AMQP client over a socket of the standard library, without an adapter: it declares a queue, publishes messages
//! with confirms, consumes and acknowledges them, and closes.
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-proto --example event_loop -- 1000
//! ```
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it has socket and clock")]

use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_proto::method::{BasicConsume, ConfirmSelect, QueueDeclare};
use amqp_proto::uri::Uri;
use amqp_proto::{ChannelEvent, ClientConfig, Connection, Event, Properties, ReplyCode, Route};
use bytes::{Buf as _, BytesMut};

fn main() -> Result<(), Box<dyn Error>> {
    let messages = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let uri: Uri = uri.parse()?;
    let mut stream = TcpStream::connect((&*uri.endpoints[0].host, uri.endpoints[0].port))?;
    let config = Arc::new(ClientConfig::from_uri(&uri)?);
    let mut connection = Connection::client(config, Instant::now());
    let mut app = App { messages, ..App::default() };
    let mut input = BytesMut::new();
    // Until the connection has ended: handle time and events, write, then wait for input or for the next timer.
    while connection.check().is_ok() {
        connection.handle_timeout(Instant::now());
        while let Some(event) = connection.poll_event() {
            app.handle(&mut connection, event)?;
        }
        app.publish(&mut connection)?;
        while let Some(transmit) = connection.poll_transmit(Instant::now()) {
            let written = stream.write(transmit.chunk())?;
            transmit.advance(written);
        }
        if let Err(error) = read(&mut stream, &mut connection, &mut input) {
            connection.handle_transport_error(Instant::now(), &error);
        }
    }
    println!("{} published and confirmed, {} consumed", app.confirmed, app.consumed);
    match connection.check() {
        Err(error) if !error.is_local_close() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Waits for input, at most until the next timer.
fn read(
    stream: &mut TcpStream,
    connection: &mut Connection,
    input: &mut BytesMut,
) -> io::Result<()> {
    let wait =
        connection.poll_timeout().map(|(at, _)| at.saturating_duration_since(Instant::now()));
    // For the standard library, zero is no timeout.
    stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
    let mut chunk = [0; 64 * 1024];
    match stream.read(&mut chunk) {
        Ok(0) => connection.handle_eof(Instant::now()),
        Ok(count) => {
            input.extend_from_slice(&chunk[..count]);
            // Its error is the connection's state, which the loop looks at.
            let _over = connection.handle_input(Instant::now(), input);
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The application that uses the connection.
#[derive(Default)]
struct App {
    messages: u64,
    published: u64,
    confirmed: u64,
    consumed: u64,
    channel: Option<amqp_proto::ChannelId>,
}

const QUEUE: &str = "event_loop";

impl App {
    fn handle(&mut self, connection: &mut Connection, event: Event) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Opened(_) => {
                let id = connection.open_channel()?;
                let mut channel = connection.channel(id)?;
                // All of this, and the opening of the channel, takes one round trip.
                let queue = QUEUE.try_into()?;
                channel.request(QueueDeclare { queue, exclusive: true, ..Default::default() })?;
                channel.request(BasicConsume { queue: QUEUE.try_into()?, ..Default::default() })?;
                channel.request(ConfirmSelect::default())?;
                self.channel = Some(id);
            }
            Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                connection.channel(id)?.ack(delivery.delivery_tag())?;
                self.consumed += 1;
            }
            Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) => {
                self.confirmed += publishes.end().get() - publishes.start().get() + 1;
            }
            Event::Channel(_, ChannelEvent::Closed(error)) if connection.is_open() => {
                return Err(error.into());
            }
            _ => {}
        }
        if self.confirmed == self.messages && self.consumed == self.messages {
            connection.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "done");
        }
        Ok(())
    }

    /// Publishes until the limit of unconfirmed messages is reached. Confirms make the loop call this again.
    fn publish(&mut self, connection: &mut Connection) -> Result<(), Box<dyn Error>> {
        let Some(id) = self.channel.filter(|_| connection.is_open()) else { return Ok(()) };
        let mut channel = connection.channel(id)?;
        while self.published < self.messages
            && channel.unconfirmed() < 1000
            && channel.check_gate().is_ok()
        {
            let body = format!("message {}", self.published);
            channel.publish(&Route::queue(QUEUE), &Properties::default(), body)?;
            self.published += 1;
        }
        Ok(())
    }
}
