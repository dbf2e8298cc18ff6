//! Does the tasks of `task_master`, until Ctrl-C. Any number of workers can run.
//!
//! ```text
//! cargo run --example task_worker
//! ```

use std::env;
use std::error::Error;

use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::Verdict;
use amqp_client_patterns::work::Work;
use amqp_client_tokio::{QueueOptions, connect};
use serde::Deserialize;
use tokio::signal::ctrl_c;

#[derive(Deserialize)]
struct Task {
    task_id: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("tasks", QueueOptions::new()).await?;

    println!(" [*] Waiting for tasks. To exit press CTRL+C");
    let worker = Work::on(&queue).on_event(|event| println!(" [!] {event}")).each(work);
    let summary = worker.until(ctrl_c()).await?;
    println!(" [x] {} tasks done", summary.done);
    Ok(connection.close().await?)
}

/// The result settles the message: it is acknowledged, dead-lettered or dropped, or requeued.
async fn work(Json(task): Json<Task>) -> Result<(), Verdict> {
    if task.task_id % 2 == 0 {
        // No worker can do it, so it is not requeued.
        return Err(Verdict::refuse(format!("task {} is even", task.task_id)));
    }
    println!(" [x] Task {}", task.task_id);
    Ok(())
}
