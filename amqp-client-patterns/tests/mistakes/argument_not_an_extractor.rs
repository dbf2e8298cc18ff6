//! An argument that cannot be taken from a delivery.

use amqp_client_core::Queue;
use amqp_client_patterns::work::Work;

struct Order;

async fn charge(_order: Order) {}

pub async fn worker(queue: &Queue) {
    let _ = Work::on(queue).each(charge).run().await;
}

//~ `Order` cannot be taken from a delivery, so it cannot be an argument of a handler here
//~ `Order` is not an extractor for a worker with the state `()`
//~ extractors are `Json<T>`, `MessagePack<T>`, `Cbor<T>`, `Text`, `Bytes`, `Headers`, `RoutingKey`, `PartitionKey`, `Redelivered`, `Attempt`, `State<T>` and types that implement `Extract`
