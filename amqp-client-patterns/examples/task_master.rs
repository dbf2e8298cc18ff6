//! Creates tasks for the programs `task_worker`: typed messages, which the workers share among them.
//!
//! ```text
//! cargo run --example task_master -- 1000
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::codec::{Json, PublisherExt as _};
use amqp_client_tokio::{PublisherOptions, QueueOptions, connect};
use serde::Serialize;

#[derive(Serialize)]
struct Task {
    task_id: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("tasks", QueueOptions::new()).await?;

    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let tasks = publisher.of::<Task, Json>();
    for task_id in 0..count {
        drop(tasks.publish(queue.name(), &Task { task_id }).await?);
    }
    publisher.wait_for_confirms().await?;
    println!(" [x] Created {count} tasks");
    Ok(connection.close().await?)
}
