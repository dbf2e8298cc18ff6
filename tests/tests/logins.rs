//! Logging in by a challenge, on a real broker that asks one: RabbitMQ's demonstration mechanism.

use std::sync::Arc;

use amqp_client_core::proto::{
    ConnectionError, LoginError, Mechanism, SaslError, SaslExchange, Secret,
};
use amqp_client_core::{ConnectError, Target};
use amqp_client_tokio::connect_target;
use amqp_testkit::RabbitMq;

/// Names the user first and the password when it is asked for.
#[derive(Debug)]
struct Demo {
    answer: &'static str,
}

impl Mechanism for Demo {
    fn name(&self) -> &str {
        "RABBIT-CR-DEMO"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        let answer = self.answer;
        Box::new(move |challenge: Option<&[u8]>| match challenge {
            None => Ok(Secret::from("guest")),
            Some(b"Please tell me your password") => Ok(Secret::from(answer)),
            Some(_) => Err(SaslError::BadChallenge("unknown question")),
        })
    }
}

#[tokio::test]
async fn a_challenge_of_a_real_broker_gets_a_response()
-> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let node = RabbitMq::builder().config_line("auth_mechanisms.1 = RABBIT-CR-DEMO").start()?;
    let target = |answer| -> Result<Target, ConnectError> {
        let target: Target = node.amqp_uri().parse()?;
        let protocol = target.get_config().get_protocol().clone();
        Ok(target.protocol(protocol.mechanisms(vec![Arc::new(Demo { answer })])))
    };
    connect_target(target("My password is guest")?).await?.close().await?;

    let error =
        connect_target(target("My password is wrong")?).await.expect_err("a wrong password");
    let ConnectError::Refused { error: ConnectionError::Login(LoginError::Refused(_)), .. } = error
    else {
        panic!("{error:?}")
    };
    Ok(())
}
