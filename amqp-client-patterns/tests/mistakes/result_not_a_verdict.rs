//! A handler whose result is no verdict.

use amqp_client_core::Queue;
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::work::Work;

async fn charge(_text: Text) -> bool {
    true
}

pub async fn worker(queue: &Queue) {
    let _ = Work::on(queue).each(charge).run().await;
}

//~ a handler cannot return `bool`
//~ `bool` does not convert to a verdict
//~ return `()`, a `Verdict`, or a `Result` of these whose error converts to a `Verdict`
