//! A broker that hangs up, over real sockets: by closing and by resetting the transport, at each step. Everything that waits
//! ends.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsume, BasicConsumeOk, BasicDeliver, ChannelOpenOk, ConnectionOpenOk, ConnectionStart,
    ConnectionTune, Method,
};
use amqp_client_core::proto::{ConnectionError, LoginError, LongStr, ShortStr};
use amqp_client_core::{ConnectError, ConsumeOptions, PublisherOptions, QueueOptions};
use amqp_client_tokio::Connection;
use amqp_testkit::{PeerConnection, ScriptedPeer};
use bytes::Bytes;

const METHOD: u8 = 1;

/// Longer than anything here takes: what takes longer, hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// How far the broker goes before it hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Accepted,
    HeaderRead,
    Started,
    Tuned,
    Opened,
    ChannelOpened,
    /// Behind a consumer, a publish and a request, none of which has got what it waits for.
    Asked,
    AmidDelivery,
}

const STEPS: [Step; 8] = [
    Step::Accepted,
    Step::HeaderRead,
    Step::Started,
    Step::Tuned,
    Step::Opened,
    Step::ChannelOpened,
    Step::Asked,
    Step::AmidDelivery,
];

fn send(peer: &mut PeerConnection, channel: u16, method: impl Into<Method>) {
    let mut payload = Vec::new();
    method.into().encode(&mut payload);
    peer.write_frame(METHOD, channel, &payload).expect("the client reads");
}

/// Reads frames up to a method that is looked for.
fn until<T>(peer: &mut PeerConnection, wanted: impl Fn(Method) -> Option<T>) -> T {
    loop {
        let frame = peer.read_frame().expect("the client goes on");
        let method =
            Method::decode(&Bytes::from(frame.payload)).ok().filter(|_| frame.kind == METHOD);
        if let Some(found) = method.and_then(&wanted) {
            return found;
        }
    }
}

/// Plays the broker as far as that step.
fn play(peer: &mut PeerConnection, last: Step) {
    let mut tag = ShortStr::EMPTY;
    for step in STEPS.into_iter().take_while(|step| *step <= last) {
        match step {
            Step::Accepted => {}
            Step::HeaderRead => {
                peer.read_protocol_header().expect("a header");
            }
            Step::Started => {
                let start = ConnectionStart {
                    version_minor: 9,
                    mechanisms: LongStr::from("PLAIN"),
                    ..ConnectionStart::default()
                };
                send(peer, 0, start);
                until(peer, |method| matches!(method, Method::ConnectionStartOk(_)).then_some(()));
            }
            Step::Tuned => {
                send(peer, 0, ConnectionTune { frame_max: 131_072, ..ConnectionTune::default() });
                until(peer, |method| matches!(method, Method::ConnectionOpen(_)).then_some(()));
            }
            Step::Opened => {
                send(peer, 0, ConnectionOpenOk::default());
                until(peer, |method| matches!(method, Method::ChannelOpen(_)).then_some(()));
            }
            Step::ChannelOpened => {
                send(peer, 1, ChannelOpenOk::default());
                tag = until(peer, |method| match method {
                    Method::BasicConsume(BasicConsume { consumer_tag, .. }) => Some(consumer_tag),
                    _ => None,
                });
                send(peer, 1, BasicConsumeOk { consumer_tag: tag.clone() });
            }
            Step::Asked => {
                until(peer, |method| matches!(method, Method::QueueDeclare(_)).then_some(()));
            }
            Step::AmidDelivery => {
                // Its content header is cut short.
                let deliver = BasicDeliver {
                    consumer_tag: tag.clone(),
                    delivery_tag: 1,
                    ..BasicDeliver::default()
                };
                send(peer, 1, deliver);
                peer.write(&[2, 0, 1, 0, 0]).expect("the client reads");
            }
        }
    }
}

/// What the client was told in the end.
async fn told(uri: &str) -> Result<ConnectionError, Box<dyn std::error::Error>> {
    let connection = match Connection::open(uri).await {
        Ok(connection) => connection,
        Err(ConnectError::Refused { error, .. }) => return Ok(error),
        // The reset came before the socket was ready.
        Err(ConnectError::Unreachable { error, .. }) => {
            return Ok(ConnectionError::transport(&error));
        }
        Err(error) => return Err(error.into()),
    };
    let failed = use_it(&connection).await.expect_err("the broker hangs up");
    assert!(!failed.to_string().is_empty());
    Ok(connection.closed().await)
}

/// Waits for something of every kind, until the first of it fails; then all of it has to.
async fn use_it(connection: &Connection) -> Result<(), Box<dyn std::error::Error>> {
    let channel = connection.open_channel().await?;
    let mut consumer = channel.basic_consume("q", ConsumeOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let confirmation = publisher.publish("q", "message").await?;
    let declared = channel.queue_declare("another", QueueOptions::new());
    assert!(confirmation.await.is_err());
    assert!(consumer.next().await.is_none_or(|next| next.is_err()));
    channel.closed().await;
    declared.await?;
    Ok(())
}

async fn hang_up(
    step: Step,
    how: fn(PeerConnection) -> std::io::Result<()>,
) -> Result<ConnectionError, Box<dyn std::error::Error>> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri();
    let script = peer.spawn(move |peer| {
        let mut peer = peer.accept().expect("the client connects");
        play(&mut peer, step);
        how(peer).expect("it hangs up");
    });
    let error =
        tokio::time::timeout(LIMIT, told(&uri)).await.map_err(|_| format!("{step:?} hangs"))??;
    tokio::task::spawn_blocking(move || script.join()).await?.map_err(|_| "the script failed")?;
    Ok(error)
}

async fn at_each_step(
    how: fn(PeerConnection) -> std::io::Result<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    for step in STEPS {
        match hang_up(step, how).await? {
            ConnectionError::Login(LoginError::HungUp) => assert_eq!(step, Step::Started),
            // Closing with octets unread is a reset, too.
            ConnectionError::Eof | ConnectionError::Transport { .. } => {}
            other => panic!("{step:?}: {other}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_transport_that_is_closed_ends_everything() -> Result<(), Box<dyn std::error::Error>> {
    at_each_step(PeerConnection::close).await
}

#[tokio::test]
async fn a_transport_that_is_reset_ends_everything() -> Result<(), Box<dyn std::error::Error>> {
    at_each_step(PeerConnection::reset).await
}
