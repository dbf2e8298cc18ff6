//! Logs in with a certificate instead of a password. The broker needs the plugin `rabbitmq_auth_mechanism_ssl`.
//!
//! ```text
//! cargo run --example external_credentials -- localhost cacert.pem cert.pem key.pem
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::{Message, QueueOptions, connect};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [host, authority, certificate, key] = arguments.as_slice() else {
        return Err("usage: external_credentials HOST CACERT CERT KEY".into());
    };
    let connection = connect(&format!(
        "amqps://{host}?auth_mechanism=external&verify=verify_peer\
         &cacertfile={authority}&certfile={certificate}&keyfile={key}\
         &name=external%20credentials"
    ))
    .await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    queue.publish_confirmed(&Message::new("Hello")).await?;
    println!(" [x] Sent, without a password");
    Ok(connection.close().await?)
}
