//! The client on async-std's sockets and tasks (feature `async-std`).
//!
//! ```no_run
//! use amqp_client_smol::{Message, QueueOptions, async_std::connect};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = connect("amqp://guest:guest@localhost:5672/%2f").await?;
//! let channel = connection.open_channel().await?;
//! let queue = channel.queue_declare("hello", QueueOptions::new()).await?;
//! queue.publish(&Message::new("Hello, world!")).await?;
//! # Ok(())
//! # }
//! ```

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use amqp_client_core::Settings;
use amqp_client_core::adapter::Runtime;
use async_std::net::{TcpStream, ToSocketAddrs as _};

use crate::stream::{self, Clock, Stream};

crate::connect::functions!(AsyncStd, "async-std");

/// Async-std's sockets and tasks.
pub(crate) struct AsyncStd;

impl Runtime for AsyncStd {
    type Transport = Stream<TcpStream>;
    type Registration = ();
    type Timer = Clock;

    fn timer() -> Clock {
        Clock::new()
    }

    async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs().await?.collect())
    }

    async fn connect(addr: SocketAddr, settings: Settings) -> io::Result<(Stream<TcpStream>, ())> {
        // The options of async-std's own sockets cannot be set.
        let stream = stream::connect(addr, settings).await?.into_inner()?;
        Ok((Stream::new(TcpStream::from(stream)), ()))
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        async_std::task::spawn(task);
    }
}
