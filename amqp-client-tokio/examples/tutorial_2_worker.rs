//! Tutorial 2, "Work queues": takes one task at a time and works a second for each dot in it, until Ctrl-C.
//!
//! ```text
//! cargo run --example tutorial_2_worker
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_tokio::{ConsumeOptions, Consumer, Delivery, QueueOptions, connect};
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("task_queue", QueueOptions::new()).await?;

    // No new task before the last one is acknowledged: busy workers leave tasks to idle ones.
    channel.basic_qos(1).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    println!(" [*] Waiting for tasks. To exit press CTRL+C");
    tokio::select! {
        result = work_all(&mut consumer) => result?,
        // The delivery in progress is dropped, and so requeued.
        _ = ctrl_c() => {}
    }
    connection.close().await?;
    Ok(())
}

async fn work_all(consumer: &mut Consumer) -> Result<(), Box<dyn Error>> {
    while let Some(delivery) = consumer.next().await {
        work(delivery?).await?;
    }
    Err("the queue was deleted".into())
}

async fn work(delivery: Delivery) -> Result<(), Box<dyn Error>> {
    println!(" [x] Received '{}'", String::from_utf8_lossy(delivery.body()));
    for _ in delivery.body().iter().filter(|byte| **byte == b'.') {
        // The sleep is the task: each dot stands for a second of work.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(" [x] Done");
    Ok(delivery.ack()?)
}
