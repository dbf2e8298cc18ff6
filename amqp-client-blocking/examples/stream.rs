//! Reads a stream twice: from its begin, and from an offset. Reading does not remove messages from a stream.
//!
//! ```text
//! cargo run --example stream
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use amqp_client_blocking::{
    Channel, ConsumeOptions, Message, QueueOptions, QueueType, StreamOffset, Wait as _, connect,
};

const STREAM: &str = "stream-example";

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri)?;
    let channel = connection.open_channel().wait()?;
    let options = QueueOptions::new().queue_type(QueueType::Stream);
    let stream = channel.queue_declare(STREAM, options).wait()?;
    for number in 0..5 {
        stream.publish_confirmed(&Message::text(number.to_string())).wait()?;
    }

    read(&channel, StreamOffset::First, &["0", "1", "2", "3", "4"])?;
    read(&channel, StreamOffset::Offset(3), &["3", "4"])?;
    stream.delete().wait()?;
    Ok(connection.close().wait()?)
}

fn read(channel: &Channel, from: StreamOffset, expected: &[&str]) -> Result<(), Box<dyn Error>> {
    // A stream needs a prefetch limit and acknowledgements.
    let options = ConsumeOptions::new().prefetch(100).stream_offset(from);
    let mut consumer = channel.queue(STREAM)?.consume(options).wait()?;
    for expected in expected {
        let delivery = consumer.next_timeout(Duration::from_secs(10))?;
        println!(" [x] {:?}: {}", delivery.stream_offset(), delivery.text()?);
        if delivery.text()? != *expected {
            return Err(format!("it should be {expected}").into());
        }
        delivery.ack()?;
    }
    Ok(consumer.cancel().wait()?)
}
