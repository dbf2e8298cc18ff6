//! The behaviour suite on smol and on async-std, against RabbitMQ.

mod suite;

use amqp_client_smol::{async_std, connect_in_background, connect_target};
use suite::{Adapter, BoxFuture, Outcome};

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let adapters = [
        Adapter {
            name: "smol",
            broker: suite::rabbitmq,
            open: |target| Box::pin(async { connect_target(target).await }),
            open_in_background: connect_in_background,
            run: |behaviour: BoxFuture<Outcome>| smol::block_on(behaviour),
        },
        Adapter {
            name: "async_std",
            broker: suite::rabbitmq,
            open: |target| Box::pin(async { async_std::connect_target(target).await }),
            open_in_background: async_std::connect_in_background,
            run: |behaviour: BoxFuture<Outcome>| ::async_std::task::block_on(behaviour),
        },
    ];
    let trials = adapters.into_iter().flat_map(suite::trials).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
