//! Connects through a Unix socket, such as that of a sidecar proxy. The URI has the credentials; its host is not used.
//!
//! ```sh
//! socat UNIX-LISTEN:/tmp/amqp.sock,fork TCP:localhost:5672 &
//! cargo run --example unix_socket -- /tmp/amqp.sock amqp://guest:guest@localhost/%2f
//! ```

use std::error::Error;

#[cfg(unix)]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    use amqp_client_tokio::{Target, connect_over};

    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(uri)) = (arguments.next(), arguments.next()) else {
        return Err("usage: unix_socket PATH URI".into());
    };
    let target: Target = uri.parse()?;
    let stream = tokio::net::UnixStream::connect(path).await?;
    let (connection, driver) = connect_over(stream, target.get_config().clone());
    tokio::spawn(driver);
    connection.ready().await?;
    println!("connected: {connection:?}");
    connection.close().await?;
    Ok(())
}

#[cfg(not(unix))]
fn main() -> Result<(), Box<dyn Error>> {
    Err("there are no Unix sockets here".into())
}
