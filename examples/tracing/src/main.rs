//! A web service with workers, whose traces and metrics go to a collector: an example to copy.
//!
//! `POST /orders` publishes an order. A worker ships it and publishes it once more, and another worker mails about it. All of that
//! is one trace. `GET /metrics` has the counters of the connections for Prometheus.

mod http;
mod shop;
mod telemetry;
mod workers;

use std::env;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_tokio::Target;
use amqp_client_tokio::error::chain;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use shop::Shop;
use telemetry::Telemetry;

/// Any error, for logs.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Ready when the program should stop.
pub(crate) type Stopping = watch::Receiver<()>;

/// The time for which unfinished messages may delay the end.
const GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traced-orders: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Error> {
    let telemetry = Telemetry::start()?;
    let result = Runtime::new()?.block_on(run());
    // Sends the last spans. This blocks, so it is not done on the runtime.
    telemetry.shutdown();
    result
}

async fn run() -> Result<(), Error> {
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let target: Target = variable("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f").parse()?;
    let address = variable("HTTP_ADDRESS", "127.0.0.1:8080");
    let signal = stop_signal()?;

    let shop = Arc::new(Shop::open(&target)?);
    let listener = TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| format!("cannot listen at {address}: {error}"))?;
    println!("listening at {}", listener.local_addr()?);

    let (stop, stopping) = watch::channel(());
    let mut serving = Box::pin(async {
        tokio::try_join!(
            http::serve(listener, shop.clone(), stopping.clone()),
            workers::run(&shop, stopping.clone()),
        )
    });
    tokio::select! {
        ended = &mut serving => return ended.map(drop),
        error = shop.closed() => return Err(error),
        () = signal => drop(stop),
    }
    let ended = tokio::time::timeout(GRACE, serving).await;
    shop.shutdown(GRACE).await;
    ended.map_or(Ok(()), |ended| ended.map(drop))
}

/// Returns a future for SIGTERM or Ctrl-C. Signals are caught from now on.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Returns a future for Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
