//! A TCP proxy that injects the faults of networks.
//!
//! Put it between a client and a server, or between a client and a
//! [`ScriptedPeer`](crate::ScriptedPeer). Calls that break connections return when it has happened.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use amqp_testkit::{Proxy, ScriptedPeer};
//!
//! # fn main() -> std::io::Result<()> {
//! let peer = ScriptedPeer::bind()?;
//! let proxy = Proxy::start(peer.addr())?;
//! proxy.cut_after(3);
//! let mut client = TcpStream::connect(proxy.addr())?;
//! peer.accept()?.write(b"12345")?;
//! let mut got = Vec::new();
//! client.read_to_end(&mut got)?;
//! assert_eq!(got, b"123");
//! # Ok(())
//! # }
//! ```

mod control;
mod link;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

use self::control::{Control, End};
use crate::net;

/// A proxy in front of one server. Dropped, it cuts its connections and ends its threads.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<Control>,
    /// A byte in here wakes the acceptor for a command.
    wake: UnixStream,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`, which needn't be up yet.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = net::listen()?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let control = Arc::new(Control::default());
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let acceptor = Acceptor { addr, upstream, woken, control: Arc::clone(&control) };
        let acceptor = Some(thread::spawn(move || acceptor.run(listener)));
        Ok(Self { addr, control, wake, acceptor })
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URI for a client.
    #[must_use]
    pub fn amqp_uri(&self) -> String {
        net::amqp_uri(self.addr)
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.control.links()
    }

    /// Returns the number of bytes that went from the server to clients so far.
    #[must_use]
    pub fn bytes_from_server(&self) -> u64 {
        self.control.forwarded()
    }

    /// Closes all connections now: both sides see the end of the stream. A side that goes on
    /// sending gets an error later, as with any closed connection.
    pub fn cut(&self) {
        self.control.end_all(End::Cut);
    }

    /// Resets all connections now: both sides see an error.
    pub fn reset(&self) {
        self.control.end_all(End::Reset);
    }

    /// Refuses new connections, as a server does that is down, or accepts them again.
    ///
    /// # Errors
    ///
    /// When someone else has taken the port meanwhile, so that it can't be opened again.
    pub fn refuse(&self, refuse: bool) -> io::Result<()> {
        self.control.want_refusal(refuse);
        self.wake()?;
        self.control.wait_refusal()
    }

    /// Stops or resumes forwarding in both directions while all sockets stay open. Nothing is lost:
    /// held bytes are delivered at the end.
    pub fn stall(&self, stall: bool) {
        self.control.stall(stall);
    }

    /// Lets `bytes_from_server` more bytes pass to clients, counted over all connections, then
    /// cuts all connections, once. New connections work normally afterwards.
    pub fn cut_after(&self, bytes_from_server: u64) {
        self.control.cut_after(bytes_from_server);
    }

    /// Forwards in pieces of at most `max_chunk` bytes, both ways; 0 lifts the limit.
    pub fn slice(&self, max_chunk: usize) {
        self.control.slice(max_chunk);
    }

    fn wake(&self) -> io::Result<()> {
        (&self.wake).write_all(&[0])
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.close();
        let _ = self.wake();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Accepts connections, and runs each on its own thread.
struct Acceptor {
    addr: SocketAddr,
    upstream: SocketAddr,
    woken: UnixStream,
    control: Arc<Control>,
}

impl Acceptor {
    fn run(self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut links: Vec<JoinHandle<()>> = Vec::new();
        while !self.control.closed() {
            self.wait(listener.as_ref());
            if let Some(listener) = &listener {
                links.retain(|link| !link.is_finished());
                links.extend(self.accept_all(listener));
            }
            if let Some(refuse) = self.control.wanted_refusal() {
                let done = self.set_refusal(refuse, &mut listener);
                self.control.refusal_done(done);
            }
        }
        drop(listener);
        // A link that was just being made has missed the first end.
        self.control.end_all(End::Cut);
        for link in links {
            let _ = link.join();
        }
    }

    /// Waits for a connection or a wake-up.
    fn wait(&self, listener: Option<&TcpListener>) {
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        // An interrupted wait is a wake-up for nothing.
        let _ = poll(&mut fds, None);
        drop(fds);
        let _ = io::Read::read(&mut &self.woken, &mut [0; 64]);
    }

    fn accept_all(&self, listener: &TcpListener) -> Vec<JoinHandle<()>> {
        let mut links = Vec::new();
        loop {
            match listener.accept() {
                Ok((client, _)) => links.push(self.link(client)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody waits any more, or the client has left already.
                Err(_) => return links,
            }
        }
    }

    fn link(&self, client: TcpStream) -> JoinHandle<()> {
        let (upstream, control) = (self.upstream, Arc::clone(&self.control));
        thread::spawn(move || link::run(client, upstream, &control))
    }

    fn set_refusal(&self, refuse: bool, listener: &mut Option<TcpListener>) -> io::Result<()> {
        if refuse {
            *listener = None;
        } else if listener.is_none() {
            let again = TcpListener::bind(self.addr)?;
            again.set_nonblocking(true)?;
            *listener = Some(again);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
