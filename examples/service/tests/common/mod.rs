//! A small HTTP client, and what both kinds of tests read from the broker.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use amqp_client_blocking::{Wait as _, connect};
use amqp_example_service::QUEUE;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome = Result<(), Error>;

/// Far longer than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The reply to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

/// Sends a request, on a connection of its own.
pub fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(stream)
}

/// Reads the reply to a request.
pub fn receive(mut stream: TcpStream) -> io::Result<Reply> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Reply { status: status.ok_or(io::ErrorKind::InvalidData)?, body: body.to_owned() })
}

pub fn get(address: SocketAddr, path: &str) -> io::Result<Reply> {
    receive(send(address, "GET", path, "")?)
}

pub fn post(address: SocketAddr, id: &str, item: &str) -> io::Result<Reply> {
    receive(send(address, "POST", "/orders", &order(id, item))?)
}

pub fn order(id: &str, item: &str) -> String {
    format!(r#"{{"id":"{id}","item":"{item}","pieces":1}}"#)
}

/// A message that was parked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parked {
    pub body: String,
    pub reason: String,
    /// Number of attempts before it was parked.
    pub attempts: i64,
}

/// Takes all messages that are parked.
pub fn take_parked(uri: &str) -> Result<Vec<Parked>, Error> {
    let connection = connect(uri)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue(format!("{QUEUE}.failed"))?;
    let mut parked = Vec::new();
    while let Some(got) = queue.get().wait()? {
        let headers = got.delivery.properties().headers()?.unwrap_or_default();
        let reason = headers.get("x-failure").and_then(|value| value.as_str().map(str::to_owned));
        let attempts = headers.get("x-attempts").and_then(|value| value.as_i64());
        parked.push(Parked {
            body: got.delivery.text()?.to_owned(),
            reason: reason.ok_or("no reason")?,
            attempts: attempts.ok_or("no attempts")?,
        });
        got.delivery.ack()?;
    }
    connection.close().wait()?;
    Ok(parked)
}
