//! The behaviour suite on tokio, with one thread and with several.

mod suite;

use amqp_client_tokio::Connection;
use suite::{Adapter, BoxFuture, Outcome};
use tokio::runtime::Builder;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let adapters = [
        Adapter { name: "tokio_multi_thread", open: |target| Box::pin(open(target)), run: multi },
        Adapter {
            name: "tokio_current_thread",
            open: |target| Box::pin(open(target)),
            run: current,
        },
    ];
    let trials = adapters.into_iter().flat_map(suite::trials).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

async fn open(
    target: amqp_client_core::Target,
) -> Result<amqp_client_core::Connection, amqp_client_core::ConnectError> {
    Ok((*Connection::open_target(target).await?).clone())
}

fn multi(behaviour: BoxFuture<Outcome>) -> Outcome {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(behaviour)
}

fn current(behaviour: BoxFuture<Outcome>) -> Outcome {
    Builder::new_current_thread().enable_all().build()?.block_on(behaviour)
}
