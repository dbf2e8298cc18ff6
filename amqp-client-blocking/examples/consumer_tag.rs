//! A channel with a chosen number, and on it a consumer with a chosen tag, which is cancelled by that tag.
//!
//! ```text
//! cargo run --example consumer_tag
//! ```

use std::env;
use std::error::Error;

use amqp_client_blocking::{ConsumeOptions, Message, QueueOptions, Wait as _, connect};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.channel_numbered(7).wait()?;
    // The second time, it is the same channel.
    assert_eq!(connection.channel_numbered(7).wait()?.id(), channel.id());
    let queue = channel.queue_declare("", QueueOptions::temporary()).wait()?;

    let options = ConsumeOptions::new().consumer_tag("my-tag").no_ack(true);
    let mut consumer = queue.consume(options).wait()?;
    queue.publish_confirmed(&Message::text("hello")).wait()?;
    for delivery in &mut consumer {
        let delivery = delivery?;
        println!(
            " [x] Received {:?} as {} on channel {}",
            delivery.text()?,
            delivery.consumer_tag(),
            delivery.channel().id(),
        );
        // The loop ends once the consumer has yielded what was delivered before.
        channel.basic_cancel("my-tag").wait()?;
    }
    println!(" [x] Cancelled");
    Ok(connection.close().wait()?)
}
