//! Opening a connection to one of several nodes, some of which refuse for a while; and giving it up.

mod script;

use std::net::TcpListener;
use std::time::Duration;

use amqp_client_core::proto::method::{
    Arguments as _, ConnectionClose, ConnectionOpen, ConnectionTune,
};
use amqp_client_core::proto::{ReplyCode, ShortStr};
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{ConnectError, Settings, Target};
use amqp_client_tokio::{Connection, connect, connect_target};
use amqp_test_broker::Broker;
use amqp_testkit::{PeerConnection, ScriptedPeer};
use script::{greet, receive, send, settle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Refusals of RabbitMQ nodes that concern one node, or are temporary.
const FOR_NOW: [(u16, &str); 6] = [
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"),
    (506, "RESOURCE_ERROR - cannot allocate memory"),
    (541, "INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down"),
    (530, "NOT_ALLOWED - node connection limit (1) is reached"),
    (
        530,
        "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached",
    ),
    (
        530,
        "NOT_ALLOWED - connection refused for user 'guest': user connection limit (1) is reached",
    ),
];

/// Refusals that are the same on every node.
const FOR_GOOD: [(u16, &str); 2] = [
    (530, "NOT_ALLOWED - vhost nowhere not found"),
    (403, "ACCESS_REFUSED - access to vhost '/' refused for user 'guest'"),
];

/// A node that refuses the virtual host like that, and its `host:port`.
fn refusing(code: u16, text: &'static str) -> Result<String> {
    let peer = ScriptedPeer::bind()?;
    let addr = peer.addr().to_string();
    peer.spawn(move |peer| {
        let mut peer = peer.accept().expect("the client connects");
        settle(&mut peer);
        let (class_id, method_id) = ConnectionOpen::FACTS.id;
        let reply_text = ShortStr::truncated(text);
        send(&mut peer, 0, ConnectionClose { reply_code: code, reply_text, class_id, method_id });
        receive(&mut peer);
    });
    Ok(addr)
}

/// Nobody listens there.
fn unreachable() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

async fn open(nodes: &[String]) -> std::result::Result<Connection, ConnectError> {
    connect(&format!("amqp://{}/%2f", nodes.join(","))).await
}

#[tokio::test]
async fn a_node_that_refuses_for_now_is_not_the_last() -> Result<()> {
    let broker = Broker::start()?;
    for (code, text) in FOR_NOW {
        let opened = open(&[refusing(code, text)?, broker.addr().to_string()]).await;
        opened.map_err(|error| format!("{text}: {error}"))?.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_first_refusal_is_the_error_if_no_node_accepts() -> Result<()> {
    for (code, text) in FOR_NOW {
        let nodes =
            [unreachable()?, refusing(code, text)?, refusing(541, "later")?, unreachable()?];
        let error = open(&nodes).await.expect_err("no node accepts");
        assert_eq!(error.reply_code(), Some(ReplyCode(code)), "{error}");
        // Errors leave out the name of the code.
        let (_, text) = text.split_once(" - ").ok_or("a text of RabbitMQ")?;
        assert!(format!("{error:?}").contains(text), "{error}");
        assert!(error.is_about_the_node(), "{error}");
    }
    let nodes = [refusing(320, "first")?, unreachable()?];
    let error = open(&nodes).await.expect_err("no node accepts");
    assert_eq!(error.reply_code(), Some(ReplyCode::CONNECTION_FORCED), "{error}");
    let error = open(&[unreachable()?, unreachable()?]).await.expect_err("there is no node");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn refusals_of_every_node_are_not_retried() -> Result<()> {
    let broker = Broker::start()?;
    for (code, text) in FOR_GOOD {
        let first = refusing(320, "shutdown")?;
        let nodes = [first, refusing(code, text)?, broker.addr().to_string()];
        let error = open(&nodes).await.expect_err("the second refuses for good");
        assert_eq!(error.reply_code(), Some(ReplyCode(code)), "{error}");
        assert!(!error.is_about_the_node(), "{error}");
    }
    Ok(())
}

/// A program that starts while the earlier ones still have their connections waits for its turn, if it is to retry.
#[tokio::test]
async fn a_limit_of_connections_is_waited_for() -> Result<()> {
    let broker = Broker::start()?;
    for (code, text) in FOR_NOW {
        let uri = format!("amqp://{},{}/%2f", refusing(code, text)?, broker.addr());
        let target = uri.parse::<Target>()?.retry_open(true);
        connect_target(target).await?.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_names_the_node_that_refused_also_after_retries() -> Result<()> {
    let (code, text) = FOR_GOOD[0];
    for vhost in ["%2f", ""] {
        let refuses = refusing(code, text)?;
        let uri = format!("amqp://{},{refuses}/{vhost}", unreachable()?);
        let target = uri.parse::<Target>()?.retry_open(true);
        let error = connect_target(target).await.expect_err("it is refused for good");
        assert_eq!(matches!(error, ConnectError::EmptyVirtualHost { .. }), vhost.is_empty());
        let (ConnectError::Refused { endpoint, .. }
        | ConnectError::EmptyVirtualHost { endpoint, .. }) = &error
        else {
            panic!("{error}")
        };
        assert_eq!(endpoint.to_string(), refuses);
    }
    Ok(())
}

type Talk = fn(&mut PeerConnection);

/// The step of the handshake at which a server stops, until the client gives up; the TLS handshake is first.
const STEPS: [(&str, Talk); 5] = [
    (TLS, |_| {}),
    ("accept", |_| {}),
    ("the credentials", greet),
    ("the limits", |peer| {
        greet(peer);
        send(peer, 0, ConnectionTune { channel_max: 10, frame_max: 131_072, heartbeat: 0 });
    }),
    ("the virtual host", settle),
];

const TLS: &str = "TLS";

/// An orderly close may take long, but nothing waits for it here.
fn patient(peer: &ScriptedPeer, step: &str) -> Result<Target> {
    let target: Target = peer.uri().parse()?;
    let protocol = target.get_config().get_protocol().clone();
    let target = target.protocol(protocol.close_timeout(Duration::from_secs(3600)));
    Ok(if step == TLS { target.tls(TlsOptions::new().verify(false)) } else { target })
}

#[tokio::test]
async fn an_abandoned_open_leaves_no_socket() -> Result<()> {
    for (name, talk) in STEPS {
        for retry in [false, true] {
            let peer = ScriptedPeer::bind()?;
            let target = patient(&peer, name)?.retry_open(retry);
            let (reached, waits) = tokio::sync::oneshot::channel();
            let script = peer.spawn(move |peer| {
                let mut peer = peer.accept().expect("the client connects");
                talk(&mut peer);
                let _gone = reached.send(());
                peer.read_to_close().map(drop)
            });
            tokio::select! {
                opened = connect_target(target) => panic!("{name}: {opened:?}"),
                reached = waits => reached?,
            }
            let closed = tokio::task::spawn_blocking(move || script.join());
            let closed = closed.await?.map_err(|_| "the script failed")?;
            closed.map_err(|error| format!("{name}, {retry}: {error}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_open_of_a_thread_that_takes_too_long_leaves_no_socket() -> Result<()> {
    for (name, talk) in STEPS {
        let peer = ScriptedPeer::bind()?;
        let settings = Settings::default().connect_timeout(Duration::from_millis(200));
        let target = patient(&peer, name)?.settings(settings);
        let script = peer.spawn(move |peer| {
            let mut peer = peer.accept().expect("the client connects");
            talk(&mut peer);
            peer.read_to_close().map(drop)
        });
        let error = amqp_client_blocking::connect_target(target);
        let error = error.expect_err("the server does not go on");
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{name}: {error}");
        let closed = script.join().map_err(|_| "the script failed")?;
        closed.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}
