//! The value and the codec are the wrong way round.

use amqp_client_core::{Consumer, Publisher};
use amqp_client_patterns::codec::{ConsumerExt as _, Json, PublisherExt as _};

struct Order;

pub fn typed(consumer: Consumer, publisher: &Publisher) {
    publisher.of::<Json, Order>();
    consumer.of_as::<Json, Order>();
}

//~ the codec `Order` cannot encode `Json`
//~ `Json`, `MessagePack` and `Cbor` encode types that implement `serde::Serialize`
//~ the codec `Order` cannot decode `Json`
//~ `Json`, `MessagePack`, `Cbor` and `ByContentType` decode types that implement `serde::de::DeserializeOwned`
