//! A message that is larger than the broker accepts: its cost and its error, on RabbitMQ and in memory.

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::{
    Connection, OnLoss, PublisherOptions, QueueOptions, Recovery, SendError, Target,
};
use amqp_test_broker::{Broker, Options};
use amqp_testkit::RabbitMq;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The configured limit of the broker, in bytes.
const MAX: usize = 1000;

async fn open(
    uri: &str,
    reopens: bool,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let target: Target = uri.parse()?;
    let target = target.recovery(Recovery::default().reopen_channels(reopens));
    Ok(amqp_client_tokio::connect_target(target).await?)
}

async fn says_so(uri: &str) -> Outcome {
    for (on_loss, reopens) in [(OnLoss::Wait, false), (OnLoss::Keep, false), (OnLoss::Keep, true)] {
        let connection = open(uri, reopens).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
        let name = queue.name().to_string();
        let options = PublisherOptions::new().on_loss(on_loss);
        let publisher = channel.default_exchange().publisher(options)?;
        publisher.send(&name, vec![7; MAX]).await?;
        let error = publisher.send(&name, vec![7; MAX + 1]).await.expect_err("it is too large");
        assert_eq!(error.reply_code(), Some(ReplyCode::PRECONDITION_FAILED));
        let says = format!("message size {} is larger than configured max size {MAX}", MAX + 1);
        assert!(format!("{error:?}").contains(&says), "{error}");
        assert!(matches!(error, SendError::NotConfirmed(_)), "{error:?}");
        // It closes the channel, and nothing else.
        if reopens {
            publisher.send(&name, vec![7; MAX]).await?;
        }
        assert_eq!(channel.is_open(), reopens);
        connection.open_channel().await?;
    }
    Ok(())
}

#[tokio::test]
async fn to_rabbitmq() -> Outcome {
    let node = RabbitMq::builder().config_line(format!("max_message_size = {MAX}")).start()?;
    says_so(&node.amqp_uri()).await
}

#[tokio::test]
async fn to_the_broker_in_memory() -> Outcome {
    let broker = Broker::start_with(Options::new().max_message_size(MAX as u64))?;
    says_so(&broker.uri()).await
}
