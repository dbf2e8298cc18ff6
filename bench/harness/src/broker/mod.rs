//! A broker that does as little as possible, so that measurements show the client.
//!
//! - `basic.publish` is read up to its routing key, and discarded; the kernel drops large bodies. In confirm mode, each read gets
//!   one ack for all its publishes.
//! - `basic.consume` from `flood.COUNT.SIZE` delivers that many messages, within the prefetch limit.
//! - `basic.get` from `flood.COUNT.SIZE` always finds a message.
//! - A publish with a routing key that begins with `echo.` is delivered to the connection's consumer.
//! - A publish with the routing key `ring.COUNT.SIZE` makes that many deliveries to the connection's consumers of the queue `ring`,
//!   in turn.
//! - A publish with the routing key `cut` ends the connection.
//! - A second port may be with TLS, or read slowly.
//!
//! One thread a connection, which sleeps in `recv`.

mod connection;
mod flood;
mod pipe;
mod ring;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use connection::Connection;
use nix::sys::socket::{setsockopt, sockopt};
use pipe::{Pipe, Plain, Slow, Tls};
use rcgen::generate_simple_self_signed;
use rustls::pki_types::PrivateKeyDer;

/// A connection needs little, and there may be thousands.
const STACK: usize = 256 * 1024;

/// Serves forever.
pub fn serve(port: u16) -> io::Result<()> {
    accept(&TcpListener::bind(("127.0.0.1", port))?, |stream| Ok(Plain(stream)))
}

/// Serves over TLS in the background; writes the certificate to trust to a file.
pub fn serve_tls(port: u16, ca_file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let certified = generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(ca_file, certified.cert.pem())?;
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    let (listener, config) = (TcpListener::bind(("127.0.0.1", port))?, Arc::new(config));
    thread::spawn(move || accept(&listener, |stream| Tls::new(stream, config.clone())));
    Ok(())
}

/// The receive buffer of a slow connection. Whatever it holds was sent before the client could send something more urgent.
const SLOW_BUFFER: usize = 64 * 1024;

/// Serves in the background, on connections that carry that many bytes per second to the broker.
pub fn serve_slowly(port: u16, bytes_per_second: u32) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    // Accepted connections inherit this.
    setsockopt(&listener, sockopt::RcvBuf, &SLOW_BUFFER)?;
    thread::spawn(move || accept(&listener, |stream| Ok(Slow::new(stream, bytes_per_second))));
    Ok(())
}

fn accept<P: Pipe>(
    listener: &TcpListener,
    pipe: impl Fn(std::net::TcpStream) -> io::Result<P>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut pipe = pipe(stream)?;
        // The driver decides how a connection ends.
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || Connection::default().run(&mut pipe))?;
    }
}
