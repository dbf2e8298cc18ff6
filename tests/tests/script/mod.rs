//! The common part of scripts for a scripted peer: a server's part of the protocol, by hand.

#![allow(dead_code, reason = "each user needs a part of it")]

pub(crate) mod client;

use amqp_client_core::proto::LongStr;
use amqp_client_core::proto::method::{ConnectionOpenOk, ConnectionStart, ConnectionTune, Method};
use amqp_testkit::PeerConnection;

pub(crate) const METHOD: u8 = 1;

pub(crate) fn encoded(method: impl Into<Method>) -> Vec<u8> {
    let mut payload = Vec::new();
    method.into().encode(&mut payload);
    payload
}

pub(crate) fn send(peer: &mut PeerConnection, channel: u16, method: impl Into<Method>) {
    peer.write_frame(METHOD, channel, &encoded(method)).expect("the client reads");
}

pub(crate) fn receive(peer: &mut PeerConnection) -> Method {
    let frame = peer.read_frame().expect("the client says something");
    Method::decode(&frame.payload.into()).expect("it is a method")
}

/// Reads up to the first method like that, which the client has to say.
pub(crate) fn receive_until(peer: &mut PeerConnection, wanted: impl Fn(&Method) -> bool) {
    loop {
        let frame = peer.read_frame().expect("the client says more");
        if frame.kind == METHOD {
            let method = Method::decode(&frame.payload.into()).expect("it is a method");
            if wanted(&method) {
                return;
            }
        }
    }
}

/// Returns the first method of a server.
pub(crate) fn offer() -> ConnectionStart {
    ConnectionStart {
        version_minor: 9,
        mechanisms: LongStr::from("PLAIN"),
        locales: LongStr::from("en_US"),
        ..ConnectionStart::default()
    }
}

/// The server's part of the handshake up to the credentials.
pub(crate) fn greet(peer: &mut PeerConnection) {
    peer.read_protocol_header().expect("a header");
    send(peer, 0, offer());
    assert!(matches!(receive(peer), Method::ConnectionStartOk(_)));
}

/// The server's part of the handshake, up to the client's `connection.open`.
pub(crate) fn settle(peer: &mut PeerConnection) {
    greet(peer);
    send(peer, 0, ConnectionTune { channel_max: 10, frame_max: 131_072, heartbeat: 0 });
    assert!(matches!(receive(peer), Method::ConnectionTuneOk(_)));
    assert!(matches!(receive(peer), Method::ConnectionOpen(_)));
}

/// The whole handshake.
pub(crate) fn welcome(peer: &mut PeerConnection) {
    settle(peer);
    send(peer, 0, ConnectionOpenOk::default());
}
