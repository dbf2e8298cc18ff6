//! Direct reply-to: remote procedure calls without a queue for the replies (a RabbitMQ extension).

use amqp_client_core::{
    BrokerVersion, Channel, ConfirmError, ConsumeOptions, Consumer, Message, MessageProperties,
    PublisherOptions, SendError,
};

use super::{assert_refused, behaviours, next};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

async fn replies(channel: &Channel) -> Result<Consumer, amqp_client_core::CallError> {
    channel.basic_consume(REPLY_TO, ConsumeOptions::new().no_ack(true)).await
}

fn request(text: &'static str) -> Result<Message, amqp_client_core::proto::TooLong> {
    let properties = MessageProperties::new().reply_to(REPLY_TO).correlation_id(text);
    Message::new(text).with(&properties)
}

behaviours! {
    async fn a_direct_reply_arrives_on_the_requesting_channel(world) {
        let (server, queue) = world.queue().await?;
        let client = world.channel().await?;
        let mut replies = replies(&client).await?;
        let to = queue.name().to_string();
        for text in ["one", "two"] {
            client.default_exchange().publish(&to, &request(text)?).await?;
        }
        let mut requests = queue.consume(ConsumeOptions::new()).await?;
        for text in ["one", "two"] {
            let request = next(&mut requests).await?;
            let properties = request.message_properties()?;
            let address = properties.reply_to.ok_or("a request without an address")?;

            assert!(address.starts_with(REPLY_TO) && address.len() > REPLY_TO.len());
            // The server can check whether a client still waits for the reply.
            server.queue_declare_passive(&address).await?;
            let id = properties.correlation_id.ok_or("a request without an id")?;
            assert_eq!(id, text);
            let reply = Message::new(format!("re: {text}"))
                .with(&MessageProperties::new().correlation_id(id))?;
            server.default_exchange().publish(&address, &reply).await?;
            request.ack()?;
        }
        for text in ["one", "two"] {
            let reply = next(&mut replies).await?;
            assert_eq!(reply.body(), format!("re: {text}").as_bytes());
            assert!(!reply.redelivered());
        }
    }

    async fn a_direct_reply_to_a_closed_channel_is_returned(world) {
        let (channel, queue) = world.queue().await?;
        let client = world.channel().await?;
        let replies = replies(&client).await?;
        let to = queue.name().to_string();
        client.default_exchange().publish_confirmed(&to, &request("?")?).await?;
        let got = queue.get_no_ack().await?.ok_or("no request")?;
        let address = got.delivery.message_properties()?.reply_to.ok_or("no address")?;
        replies.cancel().await?;
        let publisher =
            channel.default_exchange().publisher(PublisherOptions::new())?;
        let result = publisher.send(&address, "too late").await;
        if channel.connection().broker_version() >= Some(BrokerVersion::rabbitmq(4, 3, 0)) {
            // The broker takes it, and nobody gets it.
            assert_eq!(result, Ok(()));
        } else {
            let returned = matches!(result, Err(SendError::NotConfirmed(ConfirmError::Returned(_))));
            assert!(returned, "{result:?}");
        }
        let result = world.channel().await?.queue_declare_passive(&address).await;
        assert_refused(result, 404, "queue.declare");
    }

    async fn a_request_for_direct_replies_needs_a_consumer_for_them(world) {
        let (channel, queue) = world.queue().await?;
        let to = queue.name().to_string();
        let result = channel.default_exchange().publish_confirmed(&to, &request("?")?).await;
        assert!(result.is_err());
        let ended = channel.closed().await;
        let close = ended.as_close().ok_or("not closed")?;
        assert_eq!(close.reply_code.0, 406, "{ended}");
        assert_eq!(close.reply_text, "PRECONDITION_FAILED - fast reply consumer does not exist");
    }

    async fn replies_are_not_acknowledged(world) {
        let channel = world.channel().await?;
        assert_refused(channel.basic_consume(REPLY_TO, ConsumeOptions::new()).await, 406, "basic.consume");
        let channel = world.channel().await?;
        let _replies = replies(&channel).await?;
        assert_refused(replies(&channel).await, 406, "basic.consume");
    }
}
