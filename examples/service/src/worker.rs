//! The worker, which ships orders.

use std::sync::Arc;
use std::time::Duration;

use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::{State, Verdict};
use amqp_client_patterns::work::{Summary, Work};
use amqp_client_tokio::Connection;
use amqp_client_tokio::error::chain;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::declare;
use crate::{Config, Error, Order, Warehouse};

/// The pause before a worker that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Ships one order. The result settles its message: an error is a retry, and a refused order is parked with the reason.
async fn ship<W: Warehouse>(
    Json(order): Json<Order>,
    State(warehouse): State<Arc<W>>,
) -> Result<(), Verdict> {
    warehouse.ship(&order).await
}

/// Works until `stopping` is cancelled, and then until the orders that have begun are finished, within the grace period.
pub(crate) async fn run<W: Warehouse>(
    connection: &Connection,
    warehouse: &Arc<W>,
    config: &Config,
    stopping: &CancellationToken,
) {
    loop {
        match work(connection, warehouse.clone(), config, stopping).await {
            Ok(summary) => {
                let Summary { done, refused, unfinished, .. } = summary;
                let requeued = unfinished.len();
                eprintln!("{done} orders shipped, {refused} parked, {requeued} requeued");
                return;
            }
            // Such as a loss before the worker has begun. A loss later does not end it.
            Err(error) => eprintln!("the worker ended, and starts again: {}", chain(&*error)),
        }
        // A broker that refuses the worker at once should not be asked without end.
        if stopping.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn work<W: Warehouse>(
    connection: &Connection,
    warehouse: Arc<W>,
    config: &Config,
    stopping: &CancellationToken,
) -> Result<Summary, Error> {
    let channel = connection.open_channel().await?;
    let queue = declare(&channel).await?;
    let worker = Work::on(&queue)
        .state(warehouse)
        .at_once(config.handlers)
        .retry(config.retry)
        .grace(config.grace)
        .on_event(|event| eprintln!("{event}"))
        .each(ship::<W>);
    Ok(worker.until(stopping.cancelled()).await?)
}
