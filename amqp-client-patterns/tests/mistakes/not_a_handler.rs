//! A function that is not async.

use amqp_client_core::Queue;
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::work::Work;

fn charge(_text: Text) {}

pub async fn worker(queue: &Queue) {
    let _ = Work::on(queue).each(charge).run().await;
}

//~ `fn(Text) {charge}` is not a handler
//~ not an async function of up to 8 arguments
//~ a handler is an `async fn`, or a closure that returns a future which borrows nothing from the closure
