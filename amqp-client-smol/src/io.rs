use std::future::Future;
use std::io;
use std::net::SocketAddr;

use amqp_client_core::Settings;
use amqp_client_core::adapter::Runtime;
use smol::net::TcpStream;

use crate::stream::{self, Clock, Stream};

/// Smol's sockets and tasks.
pub(crate) struct Smol;

impl Runtime for Smol {
    type Transport = Stream<TcpStream>;
    type Registration = ();
    type Timer = Clock;

    fn timer() -> Clock {
        Clock::new()
    }

    async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        smol::net::resolve((host, port)).await
    }

    async fn connect(addr: SocketAddr, settings: Settings) -> io::Result<(Stream<TcpStream>, ())> {
        let stream = stream::connect(addr, settings).await?;
        Ok((Stream::new(stream.into()), ()))
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }
}
