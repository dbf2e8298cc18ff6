//! A handler of requests whose result is no reply.

use amqp_client_core::Queue;
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::rpc::RpcServer;

async fn length(Text(text): Text) -> usize {
    text.len()
}

pub async fn server(queue: &Queue) {
    let _ = RpcServer::on(queue).serve(length).run().await;
}

//~ a handler of requests cannot return `usize`
//~ `usize` does not convert to a reply
//~ return `Json<T>`, `MessagePack<T>`, `Cbor<T>`, a text, bytes, a `Message`, `()`, or a `Result` of these
