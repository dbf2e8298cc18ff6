//! Runs the service. The environment configures it: `orders --help` lists the variables.

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;
use std::{env, io};

use amqp_example_service::{Config, Folder, Service, help};
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
    match Runtime::new().map_err(Into::into).and_then(|runtime| {
        let result = runtime.block_on(run());
        // A file system that hangs must not keep the program from ending.
        runtime.shutdown_background();
        result
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let config = Config::from_env()?;
    let stop = stop_signal()?;
    let warehouse = Folder::new(config.folder.clone());
    let service = Service::bind(config, warehouse).await?;
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
