//! A handler takes a delivery that a group needs to try again.

use amqp_client_core::Delivery;
use amqp_client_patterns::partitions::Group;
use amqp_client_patterns::work::Work;

async fn charge(delivery: Delivery) {
    let _ = delivery.ack();
}

pub async fn worker(group: Group) {
    let _ = Work::on_group(group).each(charge).run().await;
}

//~ a handler for the messages of a group cannot take the `Delivery`
//~ the worker settles it, and tries again with the same delivery; take `amqp_client_core::proto::Delivery`, or parts of it
