//! Servers that disconnect, over real sockets: in order or by a reset, at every step. Everything that waits ends, with the
//! reason.
//!
//! Servers that break the protocol are in `amqp-client-core/tests/hostile`, which needs no sockets.

mod once;
mod script;

use std::future::Future;
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsumeOk, BasicDeliver, ChannelOpenOk, ConnectionOpenOk, ConnectionTune, Method,
};
use amqp_client_core::proto::{
    ChannelError, ConnectionError, LoginError, RawProperties, Route, ShortStr,
};
use amqp_client_core::{
    CallError, Config, ConfirmError, ConnectError, ConsumeOptions, ConsumerEnd, PublisherOptions,
};
use amqp_client_tokio::connect_over;
use amqp_testkit::peer::frame_bytes;
use amqp_testkit::{PeerConnection, ScriptedPeer};
use once::open;
use script::{METHOD, encoded, greet, offer, receive_until, send, settle, welcome};
use tokio::io::AsyncWriteExt as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Far longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const HEADER: u8 = 2;
const BODY: u8 = 3;

/// The way in which the server disconnects.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// In order: the client reads the end of the stream.
    Close,
    /// The client gets an error.
    Reset,
}

const CUTS: [Cut; 2] = [Cut::Close, Cut::Reset];

impl Cut {
    fn cut(self, peer: PeerConnection) {
        match self {
            Self::Close => peer.close(),
            Self::Reset => peer.reset(),
        }
        .expect("the socket is there");
    }

    /// Returns whether an open connection reports this end of the transport by that error.
    fn is_told_by(self, error: &ConnectionError) -> bool {
        match error {
            ConnectionError::Eof => self == Self::Close,
            ConnectionError::Transport(failure) => {
                self == Self::Reset && failure.kind() == ErrorKind::ConnectionReset
            }
            _ => false,
        }
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(LIMIT, future).await;
    ended.unwrap_or_else(|_| panic!("{what} hangs"))
}

#[tokio::test]
async fn hanging_up_at_any_step_of_the_handshake() -> Result<()> {
    type Talk = fn(&mut PeerConnection);
    let header: Talk = |peer| {
        peer.read_protocol_header().expect("a header");
    };
    let half_a_start: Talk = |peer| {
        peer.read_protocol_header().expect("a header");
        peer.write(b"\x01\0\0\0\0\x01\0\0\x0a\0\x0a\0\x09").expect("the client reads");
    };
    let hung_up = ConnectionError::Login(LoginError::HungUp);
    let steps: [(&str, Talk, ConnectionError); 5] = [
        ("accept", |_| {}, ConnectionError::Eof),
        ("the protocol header", header, ConnectionError::Eof),
        ("half a start", half_a_start, ConnectionError::Eof),
        ("start", greet, hung_up),
        ("tune", settle, ConnectionError::Eof),
    ];
    for (name, talk, says) in steps {
        for cut in CUTS {
            let peer = ScriptedPeer::bind()?;
            let uri = peer.uri();
            let script = peer.spawn(move |peer| {
                let mut peer = peer.accept().expect("the client connects");
                talk(&mut peer);
                cut.cut(peer);
            });
            let opened = within(name, open(&uri)).await;
            joined(script).await?;
            match opened {
                Err(ConnectError::Refused { error, .. }) => {
                    assert_eq!(error, says, "{name}, {cut:?}");
                }
                // The reset may be there before the client has looked whether it is connected.
                Err(ConnectError::Unreachable { error, .. }) if name == "accept" => {
                    assert_eq!((cut, error.kind()), (Cut::Reset, ErrorKind::ConnectionReset));
                }
                other => panic!("{name}, {cut:?}: {other:?}"),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn hanging_up_on_an_idle_connection() -> Result<()> {
    for cut in CUTS {
        let peer = ScriptedPeer::bind()?;
        let uri = peer.uri();
        let (go, gone) = channel::<()>();
        let script = peer.spawn(move |peer| {
            let mut peer = peer.accept().expect("the client connects");
            welcome(&mut peer);
            await_client(&gone);
            cut.cut(peer);
        });
        let connection = within("open", open(&uri)).await?;
        go.send(())?;
        let error = within("closed", connection.closed()).await;
        assert!(cut.is_told_by(&error), "{cut:?}: {error:?}");
        let close = within("close", connection.close()).await.expect_err("it ended otherwise");
        assert_eq!(close, error);
        joined(script).await?;
    }
    Ok(())
}

/// A reset may overtake bytes that the client has not read, so the script waits until it has.
fn await_client(go: &Receiver<()>) {
    go.recv_timeout(LIMIT).expect("the client goes on");
}

/// With a request, a confirm, an opening and a consumer pending; and with the server's earlier output.
#[tokio::test]
async fn hanging_up_with_everything_pending() -> Result<()> {
    let deliver = || {
        let consumer_tag = ShortStr::try_from("t").expect("short");
        encoded(BasicDeliver { consumer_tag, delivery_tag: 1, ..BasicDeliver::default() })
    };
    let header = [&[0, 60, 0, 0][..], &10u64.to_be_bytes(), &[0, 0]].concat();
    let moments = [
        ("requests and confirms pending", vec![]),
        ("behind a delivery's method", vec![(METHOD, deliver())]),
        ("behind its header", vec![(METHOD, deliver()), (HEADER, header.clone())]),
        ("amid its body", vec![(METHOD, deliver()), (HEADER, header), (BODY, b"half".to_vec())]),
    ];
    for (name, sends) in moments {
        for cut in CUTS {
            let peer = ScriptedPeer::bind()?;
            let uri = peer.uri();
            let sends = sends.clone();
            let script = peer.spawn(move |peer| {
                let mut peer = peer.accept().expect("the client connects");
                serve(&mut peer);
                for (kind, payload) in sends {
                    peer.write_frame(kind, 1, &payload).expect("the client reads");
                }
                cut.cut(peer);
            });
            let error = within(name, everything_ends(&uri)).await?;
            assert!(cut.is_told_by(&error), "{name}, {cut:?}: {error:?}");
            joined(script).await?;
        }
    }
    Ok(())
}

/// A channel and a consumer; then reads up to the second opening, which is the last that the client asks for.
fn serve(peer: &mut PeerConnection) {
    welcome(peer);
    receive_until(peer, |method| matches!(method, Method::ChannelOpen(_)));
    send(peer, 1, ChannelOpenOk::default());
    receive_until(peer, |method| matches!(method, Method::BasicConsume(_)));
    let consumer_tag = ShortStr::try_from("t").expect("short");
    send(peer, 1, BasicConsumeOk { consumer_tag });
    receive_until(peer, |method| matches!(method, Method::ChannelOpen(_)));
}

/// Waits for everything there is to wait for; all of it must end, and for the same reason.
async fn everything_ends(uri: &str) -> Result<ConnectionError> {
    let connection = open(uri).await?;
    let channel = connection.open_channel().await?;
    let options = ConsumeOptions::new().consumer_tag("t");
    let mut consumer = channel.basic_consume("q", options).await?;
    let options = PublisherOptions::new().window(1, usize::MAX);
    let publisher = channel.default_exchange().publisher(options)?;
    let confirmation = publisher.publish("q", "m").await?;
    let request = channel.queue_purge("q");
    let opening = connection.open_channel();
    let (error, request, confirmation, published, opened, delivered) = tokio::join!(
        within("closed", connection.closed()),
        within("queue.purge", request),
        within("confirm", confirmation),
        within("publish", publisher.publish("q", "m")),
        within("channel.open", opening),
        within("consumer", consumer.next()),
    );
    let over = ChannelError::Connection(error.clone());
    assert_eq!(request, Err(CallError::Ended(over.clone())));
    assert_eq!(confirmation, Err(ConfirmError::Unconfirmed(over.clone())));
    assert_eq!(published.map(drop), Err(over.clone().into()));
    assert_eq!(opened.map(drop), Err(CallError::Ended(over.clone())));
    assert_eq!(delivered.map(|end| end.map(drop)), Some(Err(ConsumerEnd::Ended(over))));
    Ok(error)
}

/// The task and the transport of a connection that is over do not wait for a server that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_violation_that_cannot_be_reported_does_not_keep_the_driver() -> Result<()> {
    let (near, mut far) = tokio::io::duplex(4096);
    let (connection, driver) = connect_over(near, Config::default());
    let driver = tokio::spawn(driver);
    let tune = ConnectionTune { channel_max: 10, frame_max: 131_072, heartbeat: 0 };
    for (number, payload) in
        [(0, encoded(offer())), (0, encoded(tune)), (0, encoded(ConnectionOpenOk::default()))]
    {
        far.write_all(&frame_bytes(METHOD, number, &payload)).await?;
    }
    connection.ready().await?;
    let opening = connection.open_channel();
    far.write_all(&frame_bytes(METHOD, 1, &encoded(ChannelOpenOk::default()))).await?;
    let channel = opening.await?;
    channel.basic_publish(&Route::queue("q"), &RawProperties::EMPTY, vec![7; 10_000]).await?;
    far.write_all(&frame_bytes(7, 0, b"no frame")).await?;
    assert!(matches!(connection.closed().await, ConnectionError::Decode(_)));
    within("the driver", driver).await?;
    Ok(())
}

async fn joined(script: std::thread::JoinHandle<()>) -> Result<()> {
    let joined = tokio::task::spawn_blocking(move || script.join());
    Ok(within("the script", joined).await?.map_err(|_| "the script failed")?)
}
