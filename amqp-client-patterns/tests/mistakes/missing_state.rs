//! A handler that takes a state which the worker does not have.

use amqp_client_core::Queue;
use amqp_client_patterns::handler::State;
use amqp_client_patterns::work::Work;

#[derive(Clone)]
struct Database;

async fn charge(State(_database): State<Database>) {}

pub async fn worker(queue: &Queue) {
    let _ = Work::on(queue).each(charge).run().await;
}

//~ the state `()` of the worker has no part `Database` for `State<Database>`
//~ a handler takes `State<Database>`
//~ set the state by `Work::state` before the handlers, or implement `FromRef<()>` for `Database`
