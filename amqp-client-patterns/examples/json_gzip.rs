//! A codec of one's own that builds on another one: values in JSON, compressed by gzip. It is used for messages, for the arguments
//! and the results of handlers, and for remote calls.
//!
//! ```text
//! cargo run --example json_gzip
//! ```

use std::env;
use std::error::Error;
use std::io::{Read as _, Write as _};

use amqp_client_patterns::codec::{
    self, BoxError, Content, Decode, DecodeBodyError, Encode, EncodeBodyError, Json,
    PublisherExt as _,
};
use amqp_client_patterns::handler::Extract;
use amqp_client_patterns::rpc::{IntoReply, RemoteError, ReplyError, RpcClient, RpcServer};
use amqp_client_tokio::{
    Delivery, Message, MessageProperties, PublisherOptions, QueueOptions, connect,
};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A codec, and an argument or a result of a handler.
struct JsonGzip<T = ()>(T);

/// A small body can decompress to a huge one.
const LENGTH_MAX: u64 = 16 * 1024 * 1024;

impl<T: Serialize + ?Sized> Encode<T> for JsonGzip {
    const CONTENT_TYPE: &'static str = <Json as Encode<T>>::CONTENT_TYPE;
    const CONTENT_ENCODING: Option<&'static str> = Some("gzip");

    fn encode(value: &T) -> Result<Vec<u8>, EncodeBodyError> {
        let json = Json::encode(value)?;
        let mut body = GzEncoder::new(Vec::new(), flate2::Compression::default());
        body.write_all(&json)
            .and_then(|()| body.finish())
            .map_err(|error| EncodeBodyError::value("gzip", error))
    }
}

impl<T: DeserializeOwned> Decode<T> for JsonGzip {
    fn decode(content: Content<'_>) -> Result<T, DecodeBodyError> {
        // Publishers that do not compress are understood as well.
        if content.content_encoding != Some("gzip") {
            return Json::decode(content);
        }
        let body =
            decompressed(content.body).map_err(|error| DecodeBodyError::body("gzip", error))?;
        Json::decode(Content { content_encoding: None, body: &body, ..content })
    }
}

fn decompressed(body: &[u8]) -> Result<Vec<u8>, BoxError> {
    let mut decompressed = Vec::new();
    let read = GzDecoder::new(body).take(LENGTH_MAX + 1).read_to_end(&mut decompressed)?;
    if read as u64 > LENGTH_MAX { Err("the body is too long".into()) } else { Ok(decompressed) }
}

impl<S, T: DeserializeOwned> Extract<S> for JsonGzip<T> {
    fn extract(delivery: &Delivery, _: &S) -> Result<Self, BoxError> {
        Ok(Self(codec::decode::<JsonGzip, T>(delivery)?))
    }
}

impl<T: Serialize> IntoReply for JsonGzip<T> {
    fn into_reply(self) -> Result<Message, ReplyError> {
        codec::encode::<JsonGzip, T>(&self.0, &MessageProperties::new())
            .map_err(|error| ReplyError::new(RemoteError::BAD_REPLY, error))
    }
}

async fn words(JsonGzip(text): JsonGzip<String>) -> JsonGzip<Vec<String>> {
    JsonGzip(text.split(' ').map(str::to_owned).collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let connection = connect(&uri).await?;
    let channel = connection.open_channel().await?;
    let text = "the same words again and again, ".repeat(100);

    // A typed message.
    let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    publisher.of::<str, JsonGzip>().send(queue.name(), &text).await?;
    let got = queue.get_no_ack().await?.ok_or("no message")?;
    println!(" [x] {} bytes of text in a body of {}", text.len(), got.delivery.body().len());
    if codec::decode::<JsonGzip, String>(&got.delivery)? != text {
        return Err("it has changed".into());
    }

    // A remote call.
    let server = tokio::spawn(RpcServer::on(&queue).serve(words).run());
    let client = RpcClient::open(&connection).await?;
    let words: Vec<String> = client.call_as::<_, _, JsonGzip>(queue.name(), &text).await?;
    println!(" [x] {} words", words.len());
    server.abort();
    connection.close().await?;
    if words.len() == 601 { Ok(()) } else { Err("it should be 601".into()) }
}
