//! Publishes and consumes for a number of seconds, by default 3, and writes the client's log to standard error. To see more lines, run
//! it for a minute; meanwhile, stop the broker, or delete the queue:
//!
//! ```text
//! cargo run -p amqp-client-tokio --features log --example logs -- 60
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_tokio::{
    Connection, ConsumeOptions, Message, QueueOptions, Target, connect_target,
};

/// A sink without filters. A program would use `env_logger` or the like.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "amqp_client"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{} {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    log::set_logger(&Stderr)?;
    log::set_max_level(log::LevelFilter::Debug);
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let seconds = env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let separator = if uri.contains('?') { '&' } else { '?' };
    let target: Target = format!("{uri}{separator}connection_name=orders").parse()?;
    let connection = connect_target(target).await?;
    let run = run(&connection);
    // When the time is over, the example ends, even if the broker is down.
    let _late = tokio::time::timeout(Duration::from_secs(seconds), run).await;
    connection.close().await?;
    Ok(())
}

async fn run(connection: &Connection) -> Result<(), Box<dyn Error>> {
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("orders", QueueOptions::new()).await?;
    let mut consumer = queue.consume(ConsumeOptions::new().prefetch(10)).await?;
    let publish = async {
        loop {
            // A message that is not confirmed is not the subject here.
            let _confirmed = queue.publish_confirmed(&Message::new("one")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let consume = async {
        while let Some(delivery) = consumer.next().await {
            delivery?.ack()?;
        }
        Ok(())
    };
    tokio::select! {
        result = consume => result,
        () = publish => Ok(()),
    }
}
