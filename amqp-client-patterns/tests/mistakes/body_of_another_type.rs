//! A body that is neither text nor bytes.

use amqp_client_core::Message;

struct Order;

pub fn message() -> Message {
    Message::new(Order)
}

//~ `Order` cannot be the body of a message
//~ neither text nor bytes
//~ a body is `&str`, `String`, `&String`, `Cow<str>`, `&[u8]`, `&[u8; N]`, `Vec<u8>`, `&Vec<u8>`, `Box<[u8]>`, `Cow<[u8]>`, `Bytes`, `&Bytes` or `BytesMut`; convert to one of these, or encode the value with a codec such as JSON
