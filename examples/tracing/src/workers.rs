//! The workers: one ships orders, and the other mails about those that have been shipped.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use amqp_client_patterns::codec::Json;
use amqp_client_patterns::handler::{Attempt, State, Verdict};
use amqp_client_patterns::retry::Retry;
use amqp_client_patterns::work::Work;
use amqp_client_tokio::error::chain;
use opentelemetry::context::FutureExt as _;
use opentelemetry::trace::{Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use tokio::time::sleep;

use crate::shop::{ORDERS, Order, SHIPPED, Shop};
use crate::telemetry::tracer;
use crate::{Error, Stopping};

/// The pause before a worker that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs both workers until the program stops, and then until they have finished what they have begun.
pub(crate) async fn run(shop: &Arc<Shop>, stopping: Stopping) -> Result<(), Error> {
    tokio::join!(
        again("shipping", stopping.clone(), || shipping(shop, stopping.clone())),
        again("mailing", stopping.clone(), || mailing(shop, stopping.clone())),
    );
    Ok(())
}

/// Starts a worker again that has ended, for example because its connection was lost before it had begun.
async fn again<F: Future<Output = Result<(), Error>>>(
    name: &str,
    mut stopping: Stopping,
    work: impl Fn() -> F,
) {
    while let Err(error) = work().await {
        eprintln!("{name} ended, and starts again: {}", chain(&*error));
        tokio::select! {
            () = sleep(PAUSE) => {}
            _ = stopping.changed() => return,
        }
    }
}

async fn shipping(shop: &Arc<Shop>, mut stopping: Stopping) -> Result<(), Error> {
    let stop = async move { stopping.changed().await };
    let queue = shop.open_queue(ORDERS).await?;
    let retry = Retry::times(5).from(Duration::from_millis(200));
    let worker = Work::on(&queue).state(shop.clone()).at_once(16).retry(retry).each(ship);
    worker.until(stop).await?;
    Ok(())
}

async fn mailing(shop: &Arc<Shop>, mut stopping: Stopping) -> Result<(), Error> {
    let stop = async move { stopping.changed().await };
    let queue = shop.open_queue(SHIPPED).await?;
    Work::on(&queue).at_once(16).each(mail).until(stop).await?;
    Ok(())
}

/// Ships an order, and publishes that it has been shipped. This runs in the `process` span of its message.
async fn ship(
    Json(order): Json<Order>,
    Attempt(attempt): Attempt,
    State(shop): State<Arc<Shop>>,
) -> Result<(), Verdict> {
    spanned("reserve", take_from_stock(&order, attempt)).await?;
    shop.publish(SHIPPED, &order).await?;
    Ok(())
}

/// In place of a database. Wine is in the cellar, which is locked at first.
async fn take_from_stock(order: &Order, attempt: u32) -> Result<(), Error> {
    sleep(Duration::from_millis(5)).await;
    match (&*order.item, attempt) {
        ("wine", 1) => Err("the cellar is locked".into()),
        _ => Ok(()),
    }
}

async fn mail(Json(order): Json<Order>) -> Result<(), Verdict> {
    Ok(spanned("mail", send_mail(&order)).await?)
}

/// In place of a mail server.
async fn send_mail(_: &Order) -> Result<(), Error> {
    sleep(Duration::from_millis(3)).await;
    Ok(())
}

/// Runs a step in a span of its own, within the current one.
async fn spanned<T>(
    name: &'static str,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let context = Context::current_with_span(tracer().start(name));
    let result = step.with_context(context.clone()).await;
    let span = context.span();
    if let Err(error) = &result {
        span.set_attribute(KeyValue::new("error.type", "_OTHER"));
        span.set_status(Status::error(error.to_string()));
    }
    span.end();
    result
}
