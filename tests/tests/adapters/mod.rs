//! The adapters, as functions: for tests that run the same steps on each.

use std::error::Error;

use amqp_client_blocking::Wait as _;
use amqp_client_core::{ConnectError, Connection, Target};
use futures_util::future::BoxFuture;

pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
pub(crate) type Open = fn(Target) -> BoxFuture<'static, Result<Connection, ConnectError>>;
pub(crate) type Run = fn(BoxFuture<'static, Outcome>) -> Outcome;

/// The functions by which each adapter opens a connection and runs a future.
pub(crate) const ADAPTERS: [(&str, Open, Run); 4] = [
    (
        "tokio",
        |target| Box::pin(async { amqp_client_tokio::connect_target(target).await }),
        |work| tokio::runtime::Runtime::new()?.block_on(work),
    ),
    (
        "smol",
        |target| Box::pin(async { amqp_client_smol::connect_target(target).await }),
        |work| smol::block_on(work),
    ),
    (
        "async-std",
        |target| {
            Box::pin(async {
                let connection = amqp_client_smol::async_std::connect_target(target);
                connection.await
            })
        },
        |work| async_std::task::block_on(work),
    ),
    (
        "threads",
        |target| Box::pin(async { amqp_client_blocking::connect_target(target) }),
        |work| work.wait(),
    ),
];

/// Returns the error of opening a URI, on each adapter.
pub(crate) fn failures(uri: &str) -> Vec<(&'static str, ConnectError)> {
    let failure = |(name, open, run): (&'static str, Open, Run)| {
        let uri = uri.to_owned();
        let (send, failed) = std::sync::mpsc::channel();
        let done = run(Box::pin(async move {
            let opened = match uri.parse::<Target>() {
                Ok(target) => open(target).await.map(|_| ()),
                Err(error) => Err(error),
            };
            Ok(send.send(opened)?)
        }));
        done.expect("it runs");
        (name, failed.recv().expect("it has ended").expect_err("it has to fail"))
    };
    // At the same time: some of them wait for a timeout.
    std::thread::scope(|scope| {
        let running = ADAPTERS.map(|adapter| scope.spawn(move || failure(adapter)));
        running.into_iter().map(|thread| thread.join().expect("it fails in good order")).collect()
    })
}
