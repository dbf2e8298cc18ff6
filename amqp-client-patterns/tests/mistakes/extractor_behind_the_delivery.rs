//! The delivery is taken before another argument.

use amqp_client_core::{Delivery, Queue};
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::work::Work;

async fn charge(delivery: Delivery, _text: Text) {
    let _ = delivery.ack();
}

pub async fn worker(queue: &Queue) {
    let _ = Work::on(queue).each(charge).run().await;
}

//~ Delivery` cannot be taken from a delivery, so it cannot be an argument of a handler here
//~ `Delivery` has to be the last argument; `State<T>` needs a worker with the state `T`, or `T: FromRef`
