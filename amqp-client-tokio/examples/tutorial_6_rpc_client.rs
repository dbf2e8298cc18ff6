//! Tutorial 6, "Remote procedure call": asks the server for a Fibonacci number.
//!
//! ```text
//! cargo run --example tutorial_6_rpc_client -- 30
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_tokio::{
    Channel, ConsumeOptions, Consumer, Message, MessageProperties, Queue, QueueOptions, connect,
};
use tokio::time::timeout;

/// Calls the server, and matches replies to calls.
struct Client {
    channel: Channel,
    replies: Consumer,
    reply_to: Queue,
    calls: u64,
}

impl Client {
    async fn new(channel: Channel) -> Result<Self, Box<dyn Error>> {
        let reply_to = channel.queue_declare("", QueueOptions::temporary()).await?;
        let replies = reply_to.consume(ConsumeOptions::new().no_ack(true)).await?;
        Ok(Self { channel, replies, reply_to, calls: 0 })
    }

    async fn call(&mut self, argument: &str) -> Result<String, Box<dyn Error>> {
        self.calls += 1;
        let correlation_id = self.calls.to_string();
        // After the connection was lost, the broker assigns another name to the queue.
        let properties = MessageProperties::new()
            .correlation_id(&correlation_id)
            .reply_to(self.reply_to.current_name());
        let request = Message::new(argument).with(&properties)?;
        // If nobody serves the queue, this fails instead of waiting for a reply.
        self.channel.default_exchange().publish_confirmed("rpc_queue", &request).await?;
        loop {
            let reply = self.replies.next().await.ok_or("the consumer was cancelled")??;
            if reply.properties().correlation_id()?.is_some_and(|id| id == *correlation_id) {
                return Ok(String::from_utf8_lossy(reply.body()).into_owned());
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let number = env::args().nth(1).unwrap_or_else(|| "30".to_owned());
    if number.parse::<u32>().is_err() {
        return Err("usage: tutorial_6_rpc_client [NUMBER]".into());
    }
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let mut client = Client::new(connection.open_channel().await?).await?;

    println!(" [x] Requesting fib({number})");
    let reply = timeout(Duration::from_secs(10), client.call(&number)).await??;
    println!(" [.] Got {reply}");

    connection.close().await?;
    Ok(())
}
