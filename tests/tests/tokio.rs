//! The behaviour suite on tokio: with one thread and with several against RabbitMQ; against the in-memory broker; and against one
//! that is nondeterministic, without a socket.

mod suite;

use std::sync::OnceLock;

use amqp_client_tokio::{connect_in_background, connect_over, connect_target};
use amqp_test_broker::{Broker, Options};
use libtest_mimic::Failed;
use suite::{Adapter, BoxFuture, Outcome};
use tokio::runtime::Builder;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let adapter = |name, broker, run| Adapter {
        name,
        broker,
        open: |target| Box::pin(open(target)),
        open_in_background: connect_in_background,
        run,
    };
    let pipe = Adapter {
        open: |target| Box::pin(open_pipe(target)),
        ..adapter("tokio_pipe", || nondeterministic().map(Broker::uri), current)
    };
    let adapters = [
        adapter("tokio_multi_thread", suite::rabbitmq, multi),
        adapter("tokio_current_thread", suite::rabbitmq, current),
        adapter("tokio_in_memory", in_memory, multi),
        pipe,
    ];
    let trials = adapters.into_iter().flat_map(suite::trials).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

async fn open(
    target: amqp_client_core::Target,
) -> Result<amqp_client_core::Connection, amqp_client_core::ConnectError> {
    connect_target(target).await
}

/// Connects to the nondeterministic broker without a socket, if that is the target.
async fn open_pipe(
    target: amqp_client_core::Target,
) -> Result<amqp_client_core::Connection, amqp_client_core::ConnectError> {
    let broker = nondeterministic().map_err(|_| amqp_client_core::ConnectError::NoEndpoint)?;
    let [endpoint] = target.get_endpoints() else { return open(target).await };
    // The connecting code requests the token, and here nothing connects.
    let is_broker = endpoint.to_string() == broker.addr().to_string();
    if !is_broker || target.get_token_source().is_some() {
        return open(target).await;
    }
    let (connection, driver) = connect_over(broker.pipe(), target.get_config().clone());
    tokio::spawn(driver);
    let endpoint = endpoint.clone();
    match connection.ready().await {
        Ok(()) => Ok(connection),
        Err(error) => {
            let config = target.get_config().get_protocol();
            let step =
                connection.connect_step().ok_or(amqp_client_core::ConnectError::NoEndpoint)?;
            Err(amqp_client_core::ConnectError::refused(endpoint, step, error, config))
        }
    }
}

fn multi(behaviour: BoxFuture<Outcome>) -> Outcome {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(behaviour)
}

fn current(behaviour: BoxFuture<Outcome>) -> Outcome {
    Builder::new_current_thread().enable_all().build()?.block_on(behaviour)
}

/// Returns the URI of the in-memory broker, the same for all tests.
fn in_memory() -> Result<String, Failed> {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    let broker = BROKER.get_or_init(|| Broker::start().map_err(|error| error.to_string()));
    broker.as_ref().map(Broker::uri).map_err(Failed::from)
}

/// Returns the nondeterministic in-memory broker, the same for all tests.
fn nondeterministic() -> Result<&'static Broker, Failed> {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    let start =
        || Broker::start_with(Options::new().nondeterminism(1)).map_err(|error| error.to_string());
    BROKER.get_or_init(start).as_ref().map_err(Failed::from)
}
