//! An AMQP client on Linux io_uring: it declares a queue, publishes messages with confirms, consumes and acknowledges them, and
//! closes. If the kernel does not support io_uring, it prints that and ends.
//!
//! ```text
//! AMQP_URL=amqp://guest:guest@localhost cargo run -p amqp-example-io-uring -- 1000
//! ```

#[cfg(target_os = "linux")]
mod app;
#[cfg(target_os = "linux")]
mod socket;

use std::error::Error;

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), Box<dyn Error>> {
    println!("skipped: io_uring is Linux's");
    Ok(())
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::Instant;

    use amqp_proto::uri::Uri;
    use amqp_proto::{ClientConfig, Connection};

    let ring = match socket::ring() {
        Ok(ring) => ring,
        Err(error) => {
            println!("skipped: this kernel offers no io_uring here ({error})");
            return Ok(());
        }
    };
    let messages = std::env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let uri: Uri = uri.parse()?;
    let stream = TcpStream::connect((&*uri.endpoints[0].host, uri.endpoints[0].port))?;
    let mut socket = socket::Socket::new(ring, stream);
    let config = Arc::new(ClientConfig::from_uri(&uri)?);
    let mut connection = Connection::client(config, Instant::now());
    let mut app = app::App::new(messages);
    loop {
        connection.handle_timeout(Instant::now());
        while let Some(event) = connection.poll_event() {
            app.handle(&mut connection, event)?;
        }
        app.publish(&mut connection)?;
        socket.send(&mut connection)?;
        if connection.check().is_err() && !socket.is_sending() {
            break;
        }
        socket.receive()?;
        if let Err(error) = socket.wait(&mut connection) {
            connection.handle_transport_error(Instant::now(), &error);
        }
    }
    println!("{} published and confirmed, {} consumed", app.confirmed, app.consumed);
    match connection.check() {
        Err(error) if !error.is_local_close() => Err(error.into()),
        _ => Ok(()),
    }
}
