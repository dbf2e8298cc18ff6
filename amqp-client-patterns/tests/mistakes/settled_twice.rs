//! A delivery that is settled twice.

use amqp_client_core::Delivery;

pub fn settle(delivery: Delivery) {
    let _ = delivery.ack();
    let _ = delivery.ack();
}

//~ use of moved value: `delivery`
//~ takes ownership of the receiver `self`, which moves `delivery`
