//! Declares a named queue, starts a consumer with a callback, publishes a message with a confirm, and cleans up.
//!
//! ```text
//! cargo run --example send_and_receive
//! ```

use std::env;
use std::time::Duration;

use amqp_client_blocking::{
    CallbackError, Callbacks, ConsumeOptions, Message, QueueOptions, Target, Wait as _,
    connect_target,
};

fn main() -> Result<(), CallbackError> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target = uri.parse::<Target>()?.heartbeat(Duration::from_secs(30));
    let connection = connect_target(target.connection_name("send and receive")?)?;
    let channel = connection.open_channel().wait()?;
    let queue = channel.queue_declare("my-named-queue", QueueOptions::new()).wait()?;

    let mut received = false;
    let mut callbacks = Callbacks::new();
    callbacks.add(queue.consume(ConsumeOptions::new()).wait()?, |delivery| {
        println!(" [x] {}", delivery.text()?);
        received = true;
        Ok(delivery.ack()?)
    });
    queue.publish_confirmed(&Message::new("my bag of bytes")).wait()?;
    callbacks.run_once(Duration::from_secs(10))?;

    // Dropping a consumer cancels it.
    drop(callbacks);
    queue.delete().wait()?;
    connection.close().wait()?;
    if received { Ok(()) } else { Err("nothing arrived".into()) }
}
