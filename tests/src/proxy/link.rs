//! One connection through the proxy: two sockets, two threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::control::{Control, End, Side};
use crate::net;

/// The time that the server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// A blocked write looks this often whether the link has ended.
const WRITE: Duration = Duration::from_millis(20);

const CHUNK: usize = 16 * 1024;

/// Maximum number of chunks that are discarded when a link ends.
const DRAIN: usize = 64;

/// The two sockets. They close when the last holder lets go.
#[derive(Debug)]
pub(super) struct Link {
    client: TcpStream,
    server: TcpStream,
    ended: AtomicBool,
}

impl Link {
    fn new(client: TcpStream, server: TcpStream) -> io::Result<Self> {
        for stream in [&client, &server] {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(WRITE))?;
        }
        Ok(Self { client, server, ended: AtomicBool::new(false) })
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the link. Its threads wake up and let go of it.
    pub(super) fn end(&self, how: End) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        for stream in [&self.client, &self.server] {
            // Errors mean that the socket has ended by itself.
            let _ = match how {
                End::Cut => stream.shutdown(Shutdown::Both),
                // Ending the reading side wakes the reader and sends nothing; the reset comes with
                // the close.
                End::Reset => {
                    net::reset_on_close(stream).and_then(|()| stream.shutdown(Shutdown::Read))
                }
            };
        }
    }

    fn ends(&self, from: Side) -> (&TcpStream, &TcpStream) {
        match from {
            Side::Client => (&self.client, &self.server),
            Side::Server => (&self.server, &self.client),
        }
    }
}

/// Runs a connection until it ends.
pub(super) fn run(client: TcpStream, upstream: SocketAddr, control: &Control) {
    let Ok(server) = TcpStream::connect_timeout(&upstream, CONNECT) else {
        let _ = net::reset_on_close(&client);
        return;
    };
    let Ok(link) = Link::new(client, server).map(Arc::new) else {
        return;
    };
    if !control.add(&link) {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(&link, Side::Client, control));
        pump(&link, Side::Server, control);
    });
    control.remove(&link);
    drop(link);
    control.gone();
}

/// Forwards one direction to its end.
fn pump(link: &Link, from: Side, control: &Control) {
    if forward_all(link, from, control).is_err() {
        // A side that breaks breaks for the other, too.
        control.end(link, End::Reset);
    }
    if link.ended() {
        // Bytes left unread would turn a close into a reset.
        let (mut source, _) = link.ends(from);
        for _ in 0..DRAIN {
            if !matches!(source.read(&mut [0; CHUNK]), Ok(1..)) {
                break;
            }
        }
    }
}

/// Forwards until the source or the link ends.
fn forward_all(link: &Link, from: Side, control: &Control) -> io::Result<()> {
    let (mut source, sink) = link.ends(from);
    let mut chunk = [0; CHUNK];
    while !link.ended() {
        match source.read(&mut chunk) {
            // One direction of the connection has ended; the other may continue. The end is held
            // back like bytes.
            Ok(0) => {
                if control.permit(link, from, 0).is_some() {
                    sink.shutdown(Shutdown::Write)?;
                }
                return Ok(());
            }
            Ok(n) => forward(link, from, &chunk[..n], control)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn forward(link: &Link, from: Side, mut rest: &[u8], control: &Control) -> io::Result<()> {
    let (_, mut sink) = link.ends(from);
    while !rest.is_empty() {
        let Some(permitted) = control.permit(link, from, rest.len()) else {
            return Ok(());
        };
        let result = sink.write(&rest[..permitted]);
        let sent = *result.as_ref().unwrap_or(&0);
        control.sent(from, permitted, sent);
        rest = &rest[sent..];
        if let Err(error) = result {
            // A full socket is tried again, for as long as the link lives.
            if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                return Err(error);
            }
        }
    }
    Ok(())
}
