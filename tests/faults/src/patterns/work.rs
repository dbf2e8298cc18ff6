use std::sync::Arc;
use std::time::Duration;

use amqp_client_core::{Delivery, PublisherOptions, Queue, SendError};
use amqp_client_patterns::codec::BoxError;
use amqp_client_patterns::handler::{Attempt, Extract, State, Verdict};
use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_patterns::work::{Work, WorkError};
use futures_util::stream::{StreamExt as _, unfold};

use super::Shared;
use super::ledger::{Fate, MALFORMED, PANICKED, REFUSED, RETRIES};

/// Number of messages of a producer that are published at the same time.
const UNDER_WAY: usize = 50;

/// Messages with the same key are handled one after another.
const KEYS: usize = 5;

/// The state of a handler.
#[derive(Clone)]
struct Desk {
    shared: Arc<Shared>,
    /// The queue, by which probes are told apart.
    queue: &'static str,
}

/// The body of a message.
enum Body {
    Probe(u64),
    Message { id: usize, repeated: bool },
}

/// Returns the body of a message.
fn body(id: usize) -> String {
    format!("m.{id}")
}

/// Returns the number of the message that has this body.
pub(super) fn read(body: &[u8]) -> Option<usize> {
    std::str::from_utf8(body).ok()?.strip_prefix("m.")?.parse().ok()
}

impl Extract<Desk> for Body {
    fn extract(delivery: &Delivery, desk: &Desk) -> Result<Self, BoxError> {
        if let Some(probe) = delivery.body().strip_prefix(b"p.") {
            return Ok(Self::Probe(std::str::from_utf8(probe)?.parse()?));
        }
        let id = read(delivery.body()).ok_or("a message of nobody")?;
        let repeated = delivery.redelivered();
        if Fate::of(id) == Fate::Malformed {
            desk.shared.books.lock().attempted(id, 1, repeated);
            return Err(MALFORMED.into());
        }
        Ok(Self::Message { id, repeated })
    }
}

async fn handle(
    body: Body,
    Attempt(attempt): Attempt,
    State(desk): State<Desk>,
) -> Result<(), Verdict> {
    let books = &desk.shared.books;
    let (id, repeated) = match body {
        Body::Message { id, repeated } => (id, repeated),
        Body::Probe(probe) => {
            desk.shared.ledger.probed(desk.queue, probe);
            return Ok(());
        }
    };
    books.lock().attempted(id, attempt, repeated);
    // The work itself: faults fall into it.
    tokio::time::sleep(Duration::from_millis(id as u64 % 20)).await;
    match Fate::of(id) {
        Fate::Succeeds(last) if attempt < last => return Err(format!("no {attempt}").into()),
        // Without a text on standard error.
        Fate::Panics if attempt == 1 => std::panic::resume_unwind(Box::new(PANICKED)),
        Fate::Refused | Fate::Malformed => return Err(Verdict::refuse(REFUSED)),
        _ => {}
    }
    books.lock().done(id);
    Ok(())
}

/// The retries of all workers: by queues, on every version.
pub(super) const fn retry() -> Retry {
    let (from, to) = (Duration::from_millis(20), Duration::from_millis(50));
    Retry::times(RETRIES).from(from).to(to).strategy(RetryStrategy::Queues)
}

/// Handles messages by workers that are stopped and started again, until the end.
pub(super) async fn work(shared: Arc<Shared>, queue: Queue, name: &'static str, in_order: bool) {
    while !shared.is_ended() {
        let desk = Desk { shared: shared.clone(), queue: name };
        let work = Work::on(&queue).state(desk).retry(retry()).at_once(8).prefetch(32);
        let work = match in_order {
            true => work.in_order_of(|delivery| read(delivery.body()).map(|id| id % KEYS)),
            false => work,
        };
        let work = work.grace(Duration::from_millis(fastrand::u64(..50)));
        let time = Duration::from_millis(fastrand::u64(500..10_000));
        match work.each(handle).until(shared.ended_or(time)).await {
            Ok(_) => {}
            // A fault fell into its start.
            Err(WorkError::Start(error)) if error.is_transient() => {
                super::back_off().await;
            }
            Err(error) => return shared.ledger.trouble(format!("worker of {name}: {error:?}")),
        }
    }
}

/// Publishes messages, each as often as it takes, until that is stopped.
pub(super) async fn produce(shared: Arc<Shared>, queue: Queue, producer: usize) {
    let publisher = match queue.channel().default_exchange().publisher(PublisherOptions::new()) {
        Ok(publisher) => publisher,
        Err(error) => return shared.ledger.trouble(format!("no publisher: {error}")),
    };
    let ids = unfold((), async |()| {
        loop {
            // The pace of the publisher.
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..10_000))).await;
            if shared.is_stopped() {
                return None;
            }
            if let Some(id) = shared.books.lock().begin(producer) {
                return Some((id, ()));
            }
        }
    });
    let publish = async |id| loop {
        shared.books.lock().published(id);
        match publisher.send(queue.name(), body(id)).await {
            Ok(()) => return shared.books.lock().confirmed(id),
            Err(SendError::NotSent(error)) if !error.is_transient() => {
                return shared.ledger.trouble(format!("message {id} was not sent: {error}"));
            }
            Err(_) => super::back_off().await,
        }
    };
    std::pin::pin!(ids).for_each_concurrent(UNDER_WAY, publish).await;
}
