//! The arguments and results of handlers.

mod common;

use std::fmt::Debug;

use amqp_client_core::{
    ConsumeOptions, Delivery, FieldTable, Message, MessageProperties, Value, proto,
};
use amqp_client_patterns::codec::{BoxError, ByContentType, Cbor, Json, MessagePack};
use amqp_client_patterns::handler::{
    Arguments, Attempt, Extract, FromRef, Handler, Headers, IntoVerdict, Redelivered, RoutingKey,
    State, Text, Verdict,
};
use bytes::Bytes;
use common::{Outcome, Rig, on_each_adapter};

#[derive(Clone)]
struct Services {
    name: Name,
    factor: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Name(String);

impl FromRef<Services> for Name {
    fn from_ref(services: &Services) -> Self {
        services.name.clone()
    }
}

fn services() -> Services {
    Services { name: Name("billing".to_owned()), factor: 3 }
}

/// Runs a handler as a worker does. Returns its output, or why an argument could not be taken.
async fn handle<H, A, M>(delivery: &mut Option<Delivery>, handler: H) -> Result<H::Output, BoxError>
where
    H: Handler<A>,
    A: Arguments<Services, M>,
{
    let arguments = A::take(delivery, &services())?;
    Ok(handler.call(arguments).await)
}

/// Publishes a message and takes its delivery.
async fn delivery_of(rig: &Rig, message: &Message) -> Result<Delivery, BoxError> {
    let queue = rig.queue("q").await?;
    queue.publish_confirmed(message).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    Ok(consumer.next().await.ok_or("it ended")??)
}

fn json(body: &str) -> Result<Message, amqp_client_core::TooLong> {
    let properties = MessageProperties::new().content_type("application/json").app_id("shop");
    Message::new(body.to_owned()).with(&properties)
}

#[test]
fn arguments_are_taken_from_the_delivery_and_the_state() {
    on_each_adapter(async |rig: Rig| {
        let mut delivery = Some(delivery_of(&rig, &json("[1, 2]")?).await?);
        async fn all(
            Json(numbers): Json<Vec<u32>>,
            ByContentType(same): ByContentType<Vec<u32>>,
            Text(text): Text,
            body: Bytes,
            Headers(headers): Headers,
            key: RoutingKey,
            properties: MessageProperties,
        ) -> Vec<u32> {
            assert_eq!((numbers.as_slice(), text.as_str()), (same.as_slice(), "[1, 2]"));
            assert_eq!((&body[..], headers.is_empty()), (&b"[1, 2]"[..], true));
            assert_eq!((&*key, key.to_string().len()), ("q", 1));
            assert_eq!(properties.app_id.as_deref(), Some("shop"));
            numbers
        }
        assert_eq!(handle(&mut delivery, all).await?, [1, 2]);

        #[expect(clippy::too_many_arguments, reason = "a handler may have 8")]
        async fn rest(
            State(Name(name)): State<Name>,
            State(services): State<Services>,
            Redelivered(again): Redelivered,
            Attempt(attempt): Attempt,
            content: proto::Delivery,
            cbor: Result<Cbor<Vec<u32>>, BoxError>,
            packed: Result<MessagePack<u32>, BoxError>,
            delivery: Delivery,
        ) -> Result<(), BoxError> {
            assert_eq!((name.as_str(), services.factor, again, attempt), ("billing", 3, false, 1));
            assert_eq!(content.body(), delivery.body());
            assert!(cbor.is_err() && packed.is_err());
            Ok(delivery.ack()?)
        }
        handle(&mut delivery, rest).await?.map_err(|error| error.to_string())?;
        assert!(delivery.is_none(), "the handler has settled it");
        Ok(())
    });
}

#[test]
fn a_delivery_stays_where_it_is_if_an_argument_cannot_be_taken() {
    on_each_adapter(async |rig: Rig| {
        let mut delivery = Some(delivery_of(&rig, &json("{")?).await?);
        let with_json = async |_: Json<u32>, _: Delivery| unreachable!();
        let error = handle(&mut delivery, with_json).await.err().ok_or("it was called")?;
        assert_eq!(error.to_string(), "the body does not decode as JSON");
        let with_cbor = async |_: Redelivered, _: Cbor<u32>| unreachable!();
        let error = handle(&mut delivery, with_cbor).await.err().ok_or("it was called")?;
        assert!(error.to_string().contains("which is not CBOR"), "{error}");
        delivery.take().ok_or("it was taken")?.ack()?;

        let text = Message::new(vec![0xFF, 0xFE]);
        let mut delivery = Some(delivery_of(&rig, &text).await?);
        let error = handle(&mut delivery, async |_: Text| {}).await.err().ok_or("it is text")?;
        assert_eq!(error.to_string(), "the body does not decode as text");
        // The routing key that cannot be taken is that of the original, not that of the copy.
        let original = FieldTable::new().with(
            "x-original-routing-key",
            Value::LongStr(proto::LongStr::from(vec![b'a', 0xFF])),
        )?;
        let copy = Message::new("").with(&MessageProperties::new().headers(original))?;
        let mut delivery = Some(delivery_of(&rig, &copy).await?);
        let error = handle(&mut delivery, async |_: RoutingKey| {}).await.err().ok_or("text")?;
        assert_eq!(error.to_string(), "the routing key is not text: a\u{fffd}");
        Ok(())
    });
}

#[test]
fn closures_and_extractors_of_ones_own_are_fine() {
    struct Shouted(String);
    impl<S> Extract<S> for Shouted {
        fn extract(delivery: &Delivery, _: &S) -> Result<Self, BoxError> {
            Ok(Self(delivery.text()?.to_uppercase()))
        }
    }
    on_each_adapter(async |rig: Rig| {
        let mut delivery = Some(delivery_of(&rig, &Message::text("hi")).await?);
        let greeting = "oh, ".to_owned();
        let handler = move |Shouted(text): Shouted| {
            let greeting = greeting.clone();
            async move { greeting + &text }
        };
        assert_eq!(handle(&mut delivery, handler).await?, "oh, HI");
        handle(&mut delivery, async || ()).await?;
        Ok(())
    });
}

#[test]
fn attempts_count_what_the_broker_counted() {
    on_each_adapter(async |rig: Rig| {
        let counts: [(Option<Value>, u32); 6] = [
            (None, 1),
            (Some(Value::I64(2)), 3),
            (Some(Value::U8(4)), 5),
            (Some(Value::I32(-7)), 1),
            (Some(Value::I64(i64::MAX)), u32::MAX),
            (Some(Value::Bool(true)), 1),
        ];
        for (count, attempt) in counts {
            let mut headers = FieldTable::new();
            if let Some(count) = count {
                headers.insert("x-delivery-count", count)?;
            }
            let message = Message::new("").with(&MessageProperties::new().headers(headers))?;
            let mut delivery = Some(delivery_of(&rig, &message).await?);
            let seen = handle(&mut delivery, async |Attempt(attempt): Attempt| attempt).await?;
            assert_eq!(seen, attempt);
            delivery.take().ok_or("it was taken")?.ack()?;
        }
        Ok(())
    });
}

#[test]
fn results_convert_to_verdicts() {
    fn verdict(outcome: impl IntoVerdict) -> String {
        outcome.into_verdict().to_string()
    }
    fn failed<E: Into<Verdict> + Debug>(error: E) -> String {
        verdict(Err::<(), E>(error))
    }
    assert_eq!(verdict(()), "done");
    assert_eq!(verdict(Ok::<(), String>(())), "done");
    assert_eq!(verdict(Ok::<Verdict, String>(Verdict::Requeue)), "requeue");
    assert_eq!(verdict(Verdict::refuse("never")), "refuse: never");
    assert_eq!(failed(Verdict::refuse("never")), "refuse: never");
    assert_eq!(failed("busy"), "retry: busy");
    assert_eq!(failed("busy".to_owned()), "retry: busy");
    assert_eq!(failed(std::io::Error::other("disk")), "retry: disk");
    assert_eq!(failed(BoxError::from("boxed")), "retry: boxed");
    let chained = Json::<()>::default();
    assert_eq!(chained, Json(()));
    let error = <Json as amqp_client_patterns::codec::Decode<u8>>::decode(
        amqp_client_patterns::codec::Content::new(b"x"),
    );
    let why = error.map_or_else(failed, |_| String::new());
    assert!(why.starts_with("retry: the body does not decode as JSON: expected value"), "{why}");
}

/// The effect of `?` in a handler.
#[test]
fn errors_of_any_type_ask_for_a_retry() -> Outcome {
    async fn handler() -> Result<(), Verdict> {
        let number: u32 = "x".parse()?;
        if number == 0 {
            return Err(Verdict::refuse("an order of nothing"));
        }
        Ok(())
    }
    let outcome = futures_util::future::FutureExt::now_or_never(handler()).ok_or("it waits")?;
    assert_eq!(outcome.into_verdict().to_string(), "retry: invalid digit found in string");
    Ok(())
}
