//! Runs the service. The environment configures it: `orders --help` lists the variables.

use std::future::Future;
use std::process::ExitCode;
use std::{env, io};

use amqp_client_tokio::error::chain;
use amqp_example_service::{Config, Error, Folder, Service, help};
use tokio::runtime::Runtime;
use tokio::signal::ctrl_c;

fn main() -> ExitCode {
    if env::args().len() > 1 {
        println!(
            "Takes orders by HTTP, publishes and ships them. The environment configures it:\n{}",
            help()
        );
        return ExitCode::SUCCESS;
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Error> {
    let runtime = Runtime::new()?;
    let result = runtime.block_on(run());
    // A file system that hangs must not keep the program from ending.
    runtime.shutdown_background();
    result
}

async fn run() -> Result<(), Error> {
    let config = Config::from_env()?;
    let stop = stop_signal()?;
    let (address, warehouse) = (config.http, Folder::new(config.folder.clone()));
    let service = Service::bind(config, warehouse).await;
    let service = service.map_err(|error| format!("cannot listen at {address}: {error}"))?;
    println!("listening at {}", service.address()?);
    service.run(stop).await
}

/// Returns a future for SIGTERM or Ctrl-C. Signals are caught from now on.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = ctrl_c() => {}
        }
    })
}

/// Returns a future for Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(ctrl_c().await) })
}
