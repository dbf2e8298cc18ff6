//! A client's part of the protocol, by hand.

use std::net::{SocketAddr, ToSocketAddrs as _};

use amqp_client_core::proto::method::{
    ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use amqp_client_core::proto::{Secret, ShortStr};
use amqp_testkit::PeerConnection;

use super::{receive, send};

pub(crate) const HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::try_from(text).expect("a short string")
}

/// Returns the address that a URI names.
pub(crate) fn addr_of(uri: &str) -> SocketAddr {
    let host = uri.rsplit('@').next().and_then(|rest| rest.split(['/', '?']).next());
    let mut found = host.expect("a host").to_socket_addrs().expect("a host and a port");
    found.next().expect("an address")
}

/// Connects, and reads the server's first output.
pub(crate) fn greeted(addr: SocketAddr) -> PeerConnection {
    let mut peer = PeerConnection::connect(addr).expect("somebody listens");
    peer.write(HEADER).expect("the server reads");
    assert!(matches!(receive(&mut peer), Method::ConnectionStart(_)));
    peer
}

/// Connects and logs in, up to the limits that the server proposes.
pub(crate) fn logged_in(addr: SocketAddr) -> PeerConnection {
    let mut peer = greeted(addr);
    let start_ok = ConnectionStartOk {
        mechanism: short("PLAIN"),
        response: Secret::from(&b"\0guest\0guest"[..]),
        locale: short("en_US"),
        ..ConnectionStartOk::default()
    };
    send(&mut peer, 0, start_ok);
    assert!(matches!(receive(&mut peer), Method::ConnectionTune(_)));
    peer
}

/// The whole handshake, with at most so many channels.
pub(crate) fn opened(addr: SocketAddr, channel_max: u16) -> PeerConnection {
    let mut peer = logged_in(addr);
    send(&mut peer, 0, ConnectionTuneOk { channel_max, frame_max: 131_072, heartbeat: 0 });
    send(&mut peer, 0, ConnectionOpen { virtual_host: short("/"), ..ConnectionOpen::default() });
    assert!(matches!(receive(&mut peer), Method::ConnectionOpenOk(_)));
    peer
}

pub(crate) fn open_channel(peer: &mut PeerConnection, number: u16) {
    send(peer, number, ChannelOpen::default());
    assert!(matches!(receive(peer), Method::ChannelOpenOk(_)));
}
