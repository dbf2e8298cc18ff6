//! Multiplies numbers for the programs `rpc_caller`, until Ctrl-C.
//!
//! ```text
//! cargo run --example rpc_callee
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::codec::Json;
use amqp_client_patterns::rpc::{ReplyError, RpcServer};
use amqp_client_tokio::{QueueOptions, Target, connect_target};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target = uri.parse::<Target>()?.connection_name("callee")?;
    let connection = connect_target(target).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("multiply", QueueOptions::new().auto_delete(true)).await?;

    println!(" [*] Waiting for calls. To exit press CTRL+C");
    RpcServer::on(&queue).at_once(64).serve(multiply).until(ctrl_c()).await?;
    Ok(connection.close().await?)
}

async fn multiply(Json((x, y)): Json<(i64, i64)>) -> Result<Json<i64>, ReplyError> {
    // The caller gets the error.
    x.checked_mul(y)
        .map(Json)
        .ok_or_else(|| ReplyError::new("overflow", "the product is too large"))
}
