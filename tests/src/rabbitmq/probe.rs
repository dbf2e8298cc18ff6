//! Checks whether a server replies as an AMQP broker does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// If a reply takes longer, it is requested again.
const PATIENCE: Duration = Duration::from_secs(2);

/// No greeting is longer.
const LONGEST: u32 = 64 * 1024;

/// The payload of the first frame (`connection.start`) a broker sends after the protocol header.
///
/// An open port is not enough: a starting broker listens before it replies.
pub(super) fn greeting(addr: SocketAddr) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").ok()?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).ok()?;
    let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if head[..3] != [1, 0, 0] || len > LONGEST {
        return None;
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// Returns whether the greeting is from the node of this name: its cluster is named after it.
pub(super) fn is_from(greeting: &[u8], name: &str) -> bool {
    greeting.windows(name.len()).any(|part| part == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::ScriptedPeer;

    fn answer(bytes: &'static [u8]) -> Option<Vec<u8>> {
        let peer = ScriptedPeer::bind().unwrap();
        let addr = peer.addr();
        let script = peer.spawn(|peer| {
            let mut connection = peer.accept().unwrap();
            assert_eq!(&connection.read_protocol_header().unwrap(), b"AMQP\x00\x00\x09\x01");
            connection.write(bytes).unwrap();
            // The client may have seen enough, and have gone.
            let _gone = connection.close();
        });
        let greeting = greeting(addr);
        script.join().unwrap();
        greeting
    }

    #[test]
    fn a_method_frame_is_a_greeting_and_nothing_else_is() {
        assert_eq!(answer(b"\x01\0\0\0\0\0\x03abc\xCE").unwrap(), b"abc");
        assert!(answer(b"AMQP\x00\x00\x09\x01").is_none());
        assert!(answer(b"\x01\0\0\0\0\0\x03ab").is_none());
        assert!(answer(b"").is_none());
    }

    #[test]
    fn a_closed_port_is_no_greeting() {
        let [port] = crate::net::free_ports().unwrap();
        assert!(greeting(([127, 0, 0, 1], port).into()).is_none());
    }

    #[test]
    fn a_greeting_names_its_node() {
        assert!(is_from(b"..cluster_nameS\0\0\0\x09kit-1@host..", "kit-1"));
        assert!(!is_from(b"..cluster_nameS\0\0\0\x09kit-2@host..", "kit-1"));
        assert!(!is_from(b"", "kit-1"));
    }
}
