//! Connects through a SOCKS5 proxy, with TLS for `amqps://` URIs.
//!
//! ```sh
//! cargo run --example socks5 -- localhost:1080 amqp://guest:guest@rabbit-1:5672/%2f
//! ```

use std::error::Error;

use amqp_client_tokio::{Target, connect_over, connect_tls_over};
use tokio_socks::tcp::Socks5Stream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(proxy), Some(uri)) = (arguments.next(), arguments.next()) else {
        return Err("usage: socks5 PROXY:PORT URI".into());
    };
    let target: Target = uri.parse()?;
    let node = target.get_endpoints().first().ok_or("the URI names no host")?;
    // The proxy resolves the name.
    let stream = Socks5Stream::connect(proxy.as_str(), (node.host.as_str(), node.port)).await?;
    let connection = match target.get_tls() {
        None => {
            let (connection, driver) = connect_over(stream, target.get_config().clone());
            tokio::spawn(driver);
            connection
        }
        Some(tls) => {
            let (connection, driver) =
                connect_tls_over(stream, tls, &node.host, target.get_config().clone())?;
            tokio::spawn(driver);
            connection
        }
    };
    connection.ready().await?;
    println!("connected: {connection:?}");
    connection.close().await?;
    Ok(())
}
