//! The behaviour suite on tokio: with one thread and with several against RabbitMQ, and against the broker in memory.

mod suite;

use amqp_client_tokio::Connection;
use suite::{Adapter, BoxFuture, Outcome};
use tokio::runtime::Builder;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let adapter =
        |name, broker, run| Adapter { name, broker, open: |target| Box::pin(open(target)), run };
    let adapters = [
        adapter("tokio_multi_thread", suite::rabbitmq, multi),
        adapter("tokio_current_thread", suite::rabbitmq, current),
        adapter("tokio_in_memory", suite::in_memory, multi),
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
