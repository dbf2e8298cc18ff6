//! A service that takes orders by HTTP, publishes them, and ships them: an example to copy.
//!
//! It survives what happens to services:
//!
//! - **It starts before its broker.** `/health/live` replies at once; orders get 503 until the broker is there.
//! - **An order that got 202 is not lost.** The reply follows the broker's confirm.
//! - **The broker restarts.** Both connections recover. Orders get 503 meanwhile, and `/health/ready` says why.
//! - **An order fails.** It is tried again with growing delays, and parked in the queue `orders.failed`, with the reason in the
//!   header `x-failure`, if it never succeeds. So is an order that cannot be decoded, and one whose handler panics each time.
//! - **SIGTERM.** The service takes no more requests and orders, finishes those that it has, and ends with code 0. What it cannot
//!   finish within the grace period is requeued.

mod broker;
mod config;
mod http;
mod orders;
mod worker;

pub use broker::QUEUE;
pub use config::{Config, ConfigError, VARIABLES, Variable, help};
pub use orders::{Folder, ITEMS, Order, OrderId, Warehouse};

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use broker::{Broker, watch};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Any error, for logs.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The service.
#[derive(Debug)]
pub struct Service<W> {
    listener: TcpListener,
    warehouse: Arc<W>,
    config: Config,
}

impl<W: Warehouse> Service<W> {
    /// Begins to listen. Requests wait until [`run`](Self::run) is called.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub async fn bind(config: Config, warehouse: W) -> io::Result<Self> {
        let listener = TcpListener::bind(config.http).await?;
        Ok(Self { listener, warehouse: Arc::new(warehouse), config })
    }

    /// Returns the address of the HTTP endpoint.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready, and shuts down within the grace period.
    ///
    /// # Errors
    /// If the broker refuses the service for good, such as its credentials.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { listener, warehouse, config } = self;
        let (broker, stopping) = (Arc::new(Broker::new(&config)), CancellationToken::new());

        let http = async { Ok(http::serve(listener, broker.clone(), stopping.clone()).await?) };
        let publish = async {
            let connection = broker.publishing().await?;
            let opened = async {
                broker.open_publisher(connection).await;
                pending().await
            };
            tokio::select! {
                error = watch("publishing", connection) => Err(error),
                never = opened => never,
            }
        };
        let consume = async {
            let connected = stopping.run_until_cancelled(broker.consuming()).await;
            let Some(connection) = connected.transpose()? else { return Ok(()) };
            tokio::select! {
                error = watch("consuming", connection) => Err(error),
                () = worker::run(connection, &warehouse, &config, &stopping) => Ok(()),
            }
        };
        // Requests that have begun need their connection until they end, but nothing more is connected.
        let publish = async { stopping.run_until_cancelled(publish).await.unwrap_or(Ok(())) };
        let mut serving = pin!(async { tokio::try_join!(http, publish, consume).map(drop) });

        tokio::select! {
            ended = &mut serving => return ended,
            () = stop => stopping.cancel(),
        }
        let deadline = Instant::now() + config.grace;
        let ended = timeout_at(deadline, serving).await;
        broker.shutdown(deadline.saturating_duration_since(Instant::now())).await;
        ended.unwrap_or_else(|_| {
            eprintln!("the grace period has passed: unfinished orders are requeued");
            Ok(())
        })
    }
}
