//! Peers that are no broker, or a broken one: a scripted peer sends what no real broker would.

mod once;
mod script;

use std::thread::JoinHandle;
use std::time::Duration;

use amqp_client_core::proto::method::{
    ChannelOpenOk, ConnectionClose, ConnectionCloseOk, ConnectionOpenOk, ConnectionSecure,
    ConnectionStart, ConnectionTune, Method,
};
use amqp_client_core::proto::{
    ChannelError, ConnectionError, LoginError, LongStr, ReplyCode, ShortStr, Violation,
    WrongProtocol,
};
use amqp_client_core::{CallError, ConnectError, Settings, Target};
use amqp_client_tokio::{connect, connect_target};
use amqp_testkit::peer::frame_bytes;
use amqp_testkit::{PeerConnection, ScriptedPeer};
use once::open;
use script::{METHOD, encoded, greet, offer, receive, send, welcome};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The script is done.
async fn joined(script: JoinHandle<()>) -> Result<()> {
    Ok(tokio::task::spawn_blocking(move || script.join())
        .await?
        .map_err(|_| "the script failed")?)
}

/// The server's part of a connection from the end of the login to the close.
fn open_and_close(peer: &mut PeerConnection) {
    send(peer, 0, ConnectionTune { frame_max: 4096, ..ConnectionTune::default() });
    assert!(matches!(receive(peer), Method::ConnectionTuneOk(_)));
    assert!(matches!(receive(peer), Method::ConnectionOpen(_)));
    send(peer, 0, ConnectionOpenOk::default());
    assert!(matches!(receive(peer), Method::ConnectionClose(_)));
    send(peer, 0, ConnectionCloseOk {});
}

/// Returns why a peer that follows this script is no broker.
async fn refusal(script: impl FnOnce(PeerConnection) + Send + 'static) -> Result<ConnectionError> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri();
    let script = peer.spawn(move |peer| script(peer.accept().expect("the client connects")));
    let connected = open(&uri).await;
    joined(script).await?;
    match connected {
        Err(ConnectError::Refused { error, .. }) => Ok(error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn other_protocols_are_recognized() -> Result<()> {
    for (answer, expected) in [
        (
            &b"AMQP\x00\x01\x00\x00"[..],
            WrongProtocol::Version { id: 0, major: 1, minor: 0, revision: 0 },
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", WrongProtocol::Http),
        (b"\x15\x03\x01\x00\x02\x02\x46", WrongProtocol::Tls),
    ] {
        let error = refusal(move |mut peer| {
            peer.read_protocol_header().expect("a header");
            peer.write(answer).expect("the client reads");
            peer.close().expect("it closes");
        })
        .await?;
        assert_eq!(error, ConnectionError::WrongProtocol(expected));
    }
    Ok(())
}

#[tokio::test]
async fn hanging_up_on_the_credentials_is_a_refusal() -> Result<()> {
    let error = refusal(|mut peer| {
        greet(&mut peer);
        peer.close().expect("it closes");
    })
    .await?;
    assert_eq!(error, ConnectionError::Login(LoginError::HungUp));
    Ok(())
}

#[tokio::test]
async fn hanging_up_at_once_is_the_end_of_the_transport() -> Result<()> {
    let error = refusal(|mut peer| {
        peer.read_protocol_header().expect("a header");
        peer.close().expect("it closes");
    })
    .await?;
    assert_eq!(error, ConnectionError::Eof);
    Ok(())
}

/// No installed broker offers it.
#[tokio::test]
async fn cram_md5_proves_that_it_knows_the_password() -> Result<()> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri().replace("guest:guest", "tim:tanstaaftanstaaf");
    let script = peer.spawn(|peer| {
        let mut peer = peer.accept().expect("the client connects");
        peer.read_protocol_header().expect("a header");
        let mechanisms = LongStr::from("AMQPLAIN CRAM-MD5");
        send(&mut peer, 0, ConnectionStart { mechanisms, ..offer() });
        let Method::ConnectionStartOk(start) = receive(&mut peer) else { panic!("no start-ok") };
        assert_eq!(
            (start.mechanism.as_bytes(), start.response.expose()),
            (&b"CRAM-MD5"[..], &b""[..])
        );
        let challenge = LongStr::from("<1896.697170952@postoffice.reston.mci.net>");
        send(&mut peer, 0, ConnectionSecure { challenge });
        let Method::ConnectionSecureOk(secure) = receive(&mut peer) else { panic!("no secure-ok") };
        assert_eq!(secure.response.expose(), b"tim b913a602c7eda7a495b4e6e7334d3890");
        open_and_close(&mut peer);
    });
    let connection = connect(&format!("{uri}?auth_mechanism=cram-md5")).await?;
    connection.close().await?;
    joined(script).await?;
    Ok(())
}

#[tokio::test]
async fn a_peer_that_sends_nothing_is_given_up_in_time() -> Result<()> {
    let peer = ScriptedPeer::bind()?;
    let after = Duration::from_millis(50);
    let target: Target = peer.uri().parse()?;
    let target = target.settings(Settings::default().connect_timeout(after));
    let error = connect_target(target.clone()).await.expect_err("nobody answers");
    assert!(matches!(&error, ConnectError::TimedOut { after: said, .. } if *said == after));
    // If the limit for everything is longer than that for the handshake, the error names the step.
    let settings = Settings::default().connect_timeout(Duration::from_secs(60));
    let protocol = target.get_config().get_protocol().clone().handshake_timeout(after);
    let error = connect_target(target.settings(settings).protocol(protocol))
        .await
        .expect_err("nobody answers");
    let expected =
        ConnectionError::HandshakeTimeout { waiting_for: "connection.start", limit: after };
    assert_eq!(error.as_connection_error(), Some(&expected));
    Ok(())
}

#[tokio::test]
async fn a_broker_that_sends_byte_by_byte_is_understood() -> Result<()> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri();
    let script = peer.spawn(|peer| {
        let mut peer = peer.accept().expect("the client connects");
        peer.read_protocol_header().expect("a header");
        for byte in frame_bytes(METHOD, 0, &encoded(offer())) {
            peer.write(&[byte]).expect("the client reads");
        }
        assert!(matches!(receive(&mut peer), Method::ConnectionStartOk(_)));
        open_and_close(&mut peer);
    });
    let connection = open(&uri).await?;
    assert_eq!(connection.negotiated().ok_or("not open")?.frame_max, 4096);
    connection.close().await?;
    joined(script).await?;
    Ok(())
}

#[tokio::test]
async fn a_violation_is_reported_to_the_peer_and_to_every_handle() -> Result<()> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri();
    let script = peer.spawn(|peer| {
        let mut peer = peer.accept().expect("the client connects");
        welcome(&mut peer);
        assert!(matches!(receive(&mut peer), Method::ChannelOpen(_)));
        peer.write_frame(3, 0, b"a body on channel 0").expect("the client reads");
        let Method::ConnectionClose(close) = receive(&mut peer) else { panic!("no close") };
        assert_eq!(close.reply_code, ReplyCode::UNEXPECTED_FRAME.0);
    });
    let connection = open(&uri).await?;
    let violation =
        Violation::UnexpectedFrame { kind: "body", expected: "a method frame on channel 0" };
    let expected = ConnectionError::Violation(violation);
    let opening = connection.open_channel().await.expect_err("the connection fails");
    assert_eq!(opening, CallError::Ended(ChannelError::Connection(expected.clone())));
    assert_eq!(connection.closed().await, expected);
    joined(script).await?;
    Ok(())
}

/// The reason arrives with the end of the connection, while the client is still writing.
#[tokio::test]
async fn the_reason_of_a_close_is_read_even_when_nothing_can_be_written() -> Result<()> {
    let peer = ScriptedPeer::bind()?;
    let uri = peer.uri();
    let script = peer.spawn(|peer| {
        let mut peer = peer.accept().expect("the client connects");
        welcome(&mut peer);
        assert!(matches!(receive(&mut peer), Method::ChannelOpen(_)));
        send(&mut peer, 1, ChannelOpenOk::default());
        assert!(matches!(receive(&mut peer), Method::BasicPublish(_)));
        let close = ConnectionClose {
            reply_code: 320,
            reply_text: ShortStr::truncated("CONNECTION_FORCED - maintenance"),
            ..ConnectionClose::default()
        };
        send(&mut peer, 0, close);
        // Without waiting for close-ok, and with bytes of the client unread.
        peer.close().expect("it closes");
    });
    let connection = open(&uri).await?;
    let channel = connection.open_channel().await?;
    let route = amqp_client_core::proto::Route::queue("q");
    let none = amqp_client_core::proto::RawProperties::EMPTY;
    while channel.basic_publish(&route, &none, vec![0; 100_000]).await.is_ok() {}
    let error = connection.closed().await;
    let close = error.as_close().ok_or_else(|| format!("{error:?}"))?;
    assert_eq!(close.reply_code, ReplyCode::CONNECTION_FORCED);
    joined(script).await?;
    Ok(())
}
