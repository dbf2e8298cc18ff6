//! Lets `rpc_callee` multiply numbers: one call after another, then many at the same time.
//!
//! ```text
//! cargo run --example rpc_caller -- 1000
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::codec::Json;
use amqp_client_patterns::rpc::{RpcClient, RpcError};
use amqp_client_tokio::{Target, connect_target};
use futures_util::future::try_join_all;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target = uri.parse::<Target>()?.connection_name("caller")?;
    let connection = connect_target(target).await?;
    let client = RpcClient::open(&connection).await?;
    let multiply = |x: i64, y: i64| client.call_as::<_, i64, Json>("multiply", &(x, y));

    for y in 0..count {
        println!(" [x] 100 * {y} = {}", multiply(100, y).await?);
    }
    let products = try_join_all((0..count).map(|y| multiply(200, y))).await?;
    println!(" [x] The sum of {count} products is {}", products.iter().sum::<i64>());

    // An error of the callee comes at once.
    match multiply(i64::MAX, 2).await {
        Err(RpcError::Remote(error)) => println!(" [x] {error}"),
        other => return Err(format!("it should have failed: {other:?}").into()),
    }
    Ok(connection.close().await?)
}
