//! Typed messages, from a publisher to a consumer and from other libraries.

mod common;

use amqp_client_core::{ConsumeOptions, Message, MessageProperties, PublisherOptions};
use amqp_client_patterns::codec::{
    self, ByContentType, Cbor, ConsumerExt as _, Content, Decode, DecodeBodyError, Encode,
    EncodeBodyError, Json, MessagePack, PublisherExt as _, TypedSendError,
};
use amqp_client_patterns::rpc::RpcClient;
use common::{Outcome, Rig, on_each_adapter};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    number: u32,
    lines: Vec<(String, f64)>,
    note: Option<String>,
}

fn order(number: u32) -> Order {
    Order { number, lines: vec![("fish".to_owned(), 0.5)], note: None }
}

#[test]
fn values_arrive_in_each_format() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("orders").await?;
        let publisher = rig.channel.default_exchange().publisher(PublisherOptions::new())?;
        publisher.of::<Order, Json>().send("orders", &order(1)).await?;
        publisher.of::<Order, MessagePack>().send("orders", &order(2)).await?;
        publisher.of::<Order, Cbor>().publish("orders", &order(3)).await?.await?;

        let mut orders = queue.consume(ConsumeOptions::new()).await?.of::<Order>();
        for number in 1..=3 {
            let received = orders.next().await.ok_or("it ended")??;
            assert_eq!(received.value?, order(number));
            received.delivery.ack()?;
        }
        orders.consumer().cancel().await?;
        assert!(orders.next().await.is_none());
        Ok(())
    });
}

#[test]
fn a_body_that_does_not_decode_is_an_item_and_the_stream_goes_on() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("orders").await?;
        let publisher = rig.channel.default_exchange().publisher(PublisherOptions::new())?;
        let text = Message::text("{}");
        let broken =
            Message::new("{").with(&MessageProperties::new().content_type("application/json"))?;
        let untyped = Message::new("{}");
        for message in [&text, &broken, &untyped] {
            publisher.send_message("orders", message).await?;
        }
        publisher.of::<Order, Json>().send("orders", &order(4)).await?;

        let mut orders = queue.consume(ConsumeOptions::new()).await?.of::<Order>();
        let mut errors = Vec::new();
        loop {
            let received = orders.next().await.ok_or("it ended")??;
            received.delivery.ack()?;
            match received.value {
                Ok(value) => break assert_eq!(value, order(4)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        assert_eq!(
            errors,
            [
                "the content type is \"text/plain\", which is not JSON, MessagePack or CBOR",
                "the body does not decode as JSON",
                "the message has no content type; choose a codec, or set the content type when publishing",
            ]
        );
        Ok(())
    });
}

#[test]
fn properties_are_kept_and_the_content_type_is_that_of_the_codec() {
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("orders").await?;
        let publisher = rig.channel.default_exchange().publisher(PublisherOptions::new())?;
        let properties = MessageProperties::new().app_id("shop").content_type("text/plain");
        let orders = publisher.of::<Order, Cbor>().properties(properties);
        orders.send("orders", &order(1)).await?;
        let got = queue.get().await?.ok_or("no message")?;
        let properties = got.delivery.message_properties()?;
        assert_eq!(properties.content_type.as_deref(), Some("application/cbor"));
        assert_eq!(properties.app_id.as_deref(), Some("shop"));
        assert_eq!(codec::decode::<Cbor, Order>(&got.delivery)?, order(1));
        let wrong = codec::decode::<Json, Order>(&got.delivery).err().ok_or("it decodes")?;
        assert!(matches!(wrong, DecodeBodyError::ContentType { format: "JSON", .. }));
        got.delivery.ack()?;

        let nobody = orders.send("nowhere", &order(2)).await;
        assert!(matches!(nobody, Err(TypedSendError::Send(_))), "{nobody:?}");
        Ok(())
    });
}

/// A map whose keys are no strings, which JSON does not have.
#[test]
fn a_value_that_the_format_cannot_express_is_not_sent() {
    let map = std::collections::HashMap::from([((1, 2), 3)]);
    let error = <Json as Encode<_>>::encode(&map).expect_err("it is no JSON");
    assert_eq!(error.to_string(), "the value cannot be encoded as JSON");
    assert!(format!("{error:?}").contains("key must be a string"), "{error:?}");
    assert!(<Cbor as Encode<_>>::encode(&map).is_ok());
}

#[test]
fn every_byte_of_a_body_counts() -> Outcome {
    fn refuses_more<C: Encode<Order> + Decode<Order>>() -> Outcome {
        let body = C::encode(&order(9))?;
        assert_eq!(C::decode(Content::new(&body))?, order(9));
        for length in 0..body.len() {
            assert!(C::decode(Content::new(&body[..length])).is_err(), "{length}");
        }
        let more = [&body[..], &[0]].concat();
        assert!(C::decode(Content::new(&more)).is_err());
        Ok(())
    }
    refuses_more::<Json>()?;
    refuses_more::<MessagePack>()?;
    refuses_more::<Cbor>()
}

/// Deeply nested and huge claims must not exhaust the stack or the memory.
#[test]
fn hostile_bodies_are_errors() {
    let nested = |byte: u8| vec![byte; 1_000_000];
    let is_error = |error: bool, what| assert!(error, "{what}");
    type Nested = serde_json_value::Value;
    is_error(<Json as Decode<Nested>>::decode(Content::new(&nested(b'['))).is_err(), "JSON");
    is_error(
        <MessagePack as Decode<Nested>>::decode(Content::new(&nested(0x91))).is_err(),
        "MessagePack",
    );
    is_error(<Cbor as Decode<Nested>>::decode(Content::new(&nested(0x81))).is_err(), "CBOR");
    let claims: [&[u8]; 2] = [&[0xDD, 0xFF, 0xFF, 0xFF, 0xFF], &[0xC6, 0xFF, 0xFF, 0xFF, 0xFF]];
    for claim in claims {
        is_error(
            <MessagePack as Decode<Vec<u8>>>::decode(Content::new(claim)).is_err(),
            "a length",
        );
    }
    let claim = [0x9B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    is_error(<Cbor as Decode<Vec<u8>>>::decode(Content::new(&claim)).is_err(), "a length");
    let content = Content::new(b"{}").content_type("image/png");
    is_error(<ByContentType as Decode<Nested>>::decode(content).is_err(), "a picture");
}

/// A type that nests as deeply as its input.
mod serde_json_value {
    #[derive(serde::Deserialize)]
    pub(crate) struct Value(#[expect(dead_code, reason = "only decoded")] Vec<Self>);
}

/// A codec that builds on another one, as for compression.
#[test]
fn the_content_encoding_is_that_of_the_codec() {
    struct Reversed;
    impl Encode<str> for Reversed {
        const CONTENT_TYPE: &'static str = "text/plain";
        const CONTENT_ENCODING: Option<&'static str> = Some("reversed");

        fn encode(text: &str) -> Result<Vec<u8>, EncodeBodyError> {
            Ok(text.bytes().rev().collect())
        }
    }
    impl Decode<String> for Reversed {
        fn decode(content: Content<'_>) -> Result<String, DecodeBodyError> {
            assert_eq!(content.content_encoding, Some("reversed"));
            Ok(content.body.iter().rev().copied().map(char::from).collect())
        }
    }
    on_each_adapter(async |rig: Rig| {
        let queue = rig.queue("texts").await?;
        let publisher = rig.channel.default_exchange().publisher(PublisherOptions::new())?;
        publisher.of::<str, Reversed>().send("texts", "abc").await?;
        let client = RpcClient::open(&rig.connection).await?;
        let call = client.call_as::<str, String, Reversed>("texts", "abc");
        let mut call = std::pin::pin!(call);
        assert!(call.as_mut().now_or_never().is_none());
        for _ in 0..2 {
            let delivery = loop {
                if let Some(got) = queue.get_no_ack().await? {
                    break got.delivery;
                }
            };
            assert_eq!(delivery.body(), b"cba");
            assert_eq!(codec::decode::<Reversed, String>(&delivery)?, "abc");
        }
        Ok(())
    });
}
