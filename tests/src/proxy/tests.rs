use std::io::Read;
use std::time::Duration;

use super::*;
use crate::peer::{DEADLINE, PeerConnection, ScriptedPeer};
use crate::wait::wait_until;

/// A read that is expected to find nothing waits this long.
const SILENCE: Duration = Duration::from_millis(50);

fn connect(proxy: &Proxy) -> TcpStream {
    let client = TcpStream::connect(proxy.addr()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

/// A server, a proxy in front of it, and a connection through it.
fn chain() -> (ScriptedPeer, Proxy, TcpStream, PeerConnection) {
    let peer = ScriptedPeer::bind().unwrap();
    let proxy = Proxy::start(peer.addr()).unwrap();
    let client = connect(&proxy);
    let server = peer.accept().unwrap();
    wait_until(DEADLINE, "the connection to be listed", || proxy.connections() == 1);
    (peer, proxy, client, server)
}

fn read(client: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

fn assert_silent(client: &mut TcpStream) {
    client.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(DEADLINE)).unwrap();
}

#[test]
fn bytes_pass_both_ways_and_those_of_the_server_are_counted() {
    let (_peer, proxy, mut client, mut server) = chain();
    client.write_all(b"ping").unwrap();
    assert_eq!(server.read_exact(4).unwrap(), b"ping");
    server.write(b"pong!").unwrap();
    assert_eq!(read(&mut client, 5), b"pong!");
    wait_until(DEADLINE, "the count", || proxy.bytes_from_server() == 5);
}

#[test]
fn a_side_that_ends_leaves_the_other_open() {
    let (_peer, proxy, mut client, mut server) = chain();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(server.read_to_close().unwrap(), b"");
    server.write(b"still").unwrap();
    server.close().unwrap();
    assert_eq!(read_to_end(&mut client), b"still");
    wait_until(DEADLINE, "the connection to be forgotten", || proxy.connections() == 0);
}

#[test]
fn cut_is_the_end_of_the_stream_for_both_sides() {
    let (peer, proxy, mut client, mut server) = chain();
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(server.read_to_close().unwrap(), b"");
    // New connections work.
    let mut client = connect(&proxy);
    peer.accept().unwrap().write(b"again").unwrap();
    assert_eq!(read(&mut client, 5), b"again");
}

#[test]
fn reset_is_an_error_for_both_sides() {
    let (_peer, proxy, mut client, mut server) = chain();
    proxy.reset();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.read_exact(1).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_reset_of_one_side_reaches_the_other() {
    let (_peer, _proxy, mut client, server) = chain();
    server.reset().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_server_that_is_down_resets_the_client() {
    let [port] = net::free_ports().unwrap();
    let proxy = Proxy::start(([127, 0, 0, 1], port).into()).unwrap();
    let error = connect(&proxy).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn refuse_turns_new_connections_away_and_keeps_the_old_ones() {
    let (peer, proxy, mut client, mut server) = chain();
    proxy.refuse(true).unwrap();
    let error = TcpStream::connect(proxy.addr()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    server.write(b"old").unwrap();
    assert_eq!(read(&mut client, 3), b"old");
    proxy.refuse(false).unwrap();
    let mut client = connect(&proxy);
    peer.accept().unwrap().write(b"new").unwrap();
    assert_eq!(read(&mut client, 3), b"new");
}

#[test]
fn a_stall_holds_everything_back_and_loses_nothing() {
    let (_peer, proxy, mut client, mut server) = chain();
    proxy.stall(true);
    server.write(b"held").unwrap();
    server.close().unwrap();
    assert_silent(&mut client);
    proxy.stall(false);
    assert_eq!(read_to_end(&mut client), b"held");
}

#[test]
fn a_stalled_connection_can_be_cut() {
    let (_peer, proxy, mut client, mut server) = chain();
    proxy.stall(true);
    server.write(b"lost").unwrap();
    assert_silent(&mut client);
    proxy.cut();
    assert_eq!(read_to_end(&mut client), b"");
}

#[test]
fn cut_after_delivers_exactly_that_many_bytes() {
    for slice in [0, 7] {
        let (peer, proxy, mut client, mut server) = chain();
        proxy.slice(slice);
        server.write(b"before").unwrap();
        assert_eq!(read(&mut client, 6), b"before");
        wait_until(DEADLINE, "the count", || proxy.bytes_from_server() == 6);
        proxy.cut_after(100);
        let bytes: Vec<u8> = (0..=255).collect();
        server.write(&bytes).unwrap();
        assert_eq!(read_to_end(&mut client), bytes[..100]);
        // It happens once.
        let mut client = connect(&proxy);
        peer.accept().unwrap().write(&bytes).unwrap();
        assert_eq!(read(&mut client, 256), bytes);
    }
}

#[test]
fn cut_after_nothing_cuts_at_once() {
    let (_peer, proxy, mut client, _server) = chain();
    proxy.cut_after(0);
    assert_eq!(read_to_end(&mut client), b"");
}

#[test]
fn slices_arrive_complete() {
    let (_peer, proxy, mut client, mut server) = chain();
    proxy.slice(1);
    let bytes: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    server.write(&bytes).unwrap();
    assert_eq!(read(&mut client, bytes.len()), bytes);
    client.write_all(&bytes).unwrap();
    assert_eq!(server.read_exact(bytes.len()).unwrap(), bytes);
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_the_proxy() {
    let (_peer, proxy, mut client, server) = chain();
    // Nobody reads: all buffers up to the client's own fill up.
    client.set_nonblocking(true).unwrap();
    let chunk = [0; 65_536];
    let mut refusals = 0;
    wait_until(DEADLINE, "the buffers to fill", || {
        while client.write(&chunk).is_ok() {
            refusals = 0;
        }
        refusals += 1;
        refusals > 12
    });
    proxy.reset();
    assert_eq!(proxy.connections(), 0);
    drop(server);
}

#[test]
fn a_dropped_proxy_closes_its_sockets() {
    let (_peer, proxy, mut client, mut server) = chain();
    let addr = proxy.addr();
    drop(proxy);
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(server.read_to_close().unwrap(), b"");
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
