//! Values of a type that serde does not know.

use amqp_client_core::{Consumer, Publisher};
use amqp_client_patterns::codec::{ConsumerExt as _, Json, PublisherExt as _};

struct Order;

pub fn typed(consumer: Consumer, publisher: &Publisher) {
    publisher.of::<Order, Json>();
    consumer.of_as::<Order, Json>();
}

//~ for local types consider adding `#[derive(serde::Serialize)]` to your `Order` type
//~ for local types consider adding `#[derive(serde::Deserialize)]` to your `Order` type
