//! The behaviour suite on threads, against RabbitMQ.

mod suite;

use amqp_client_blocking::{Wait as _, connect_in_background, connect_target};
use suite::Adapter;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let adapter = Adapter {
        name: "blocking",
        broker: suite::rabbitmq,
        open: |target| Box::pin(async { connect_target(target) }),
        open_in_background: connect_in_background,
        run: |behaviour| behaviour.wait(),
    };
    libtest_mimic::run(&arguments, suite::trials(adapter)).exit();
}
