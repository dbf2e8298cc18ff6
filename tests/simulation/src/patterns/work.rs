//! Workers, whose handlers succeed, fail, panic and hang by the fate of their message.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amqp_client_core::{Connection, Delivery};
use amqp_client_patterns::codec::BoxError;
use amqp_client_patterns::handler::{Attempt, Extract, Redelivered, State, Verdict};
use amqp_client_patterns::work::{Work, WorkError};

use super::actor::{Actor, Again, Try};
use super::ledger::{Fate, Ledger, MALFORMED, PANICKED, REFUSED, WORK, read};

/// A message, by its number. Those that are malformed cannot be taken.
struct Numbered(u64);

/// The state of the handlers of one worker.
#[derive(Clone)]
struct Desk {
    ledger: Ledger,
    connection: Connection,
    /// The messages that are being handled.
    running: Arc<Mutex<BTreeSet<u64>>>,
    at_once: usize,
    in_order: bool,
    /// The longest time of a handler that waits, in milliseconds.
    work: u64,
}

/// Messages with the same key are handled one after another.
const KEYS: u64 = 3;

impl Extract<Desk> for Numbered {
    fn extract(delivery: &Delivery, desk: &Desk) -> Result<Self, BoxError> {
        let id = read(delivery.body()).ok_or("a message of nobody")?;
        if Fate::of(id) == Fate::Malformed {
            let repeated = delivery.redelivered();
            desk.ledger.lock().attempt(id, 1, repeated);
            return Err(MALFORMED.into());
        }
        Ok(Self(id))
    }
}

/// A message that is being handled.
struct Running<'a> {
    desk: &'a Desk,
    id: u64,
}

impl<'a> Running<'a> {
    fn begin(desk: &'a Desk, id: u64) -> Self {
        let mut running = desk.running.lock().unwrap_or_else(PoisonError::into_inner);
        let same = running.iter().any(|other| other % KEYS == id % KEYS);
        if desk.in_order && same {
            desk.ledger.wrong(format!("message {id} is handled beside one of its key"));
        }
        if running.len() >= desk.at_once {
            desk.ledger.wrong(format!("{} handlers run beside message {id}", running.len()));
        }
        // The same message may run twice after a loss.
        running.insert(id);
        drop(running);
        Self { desk, id }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.desk.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn handle(
    Numbered(id): Numbered,
    Attempt(attempt): Attempt,
    Redelivered(repeated): Redelivered,
    State(desk): State<Desk>,
) -> Result<(), Verdict> {
    let _running = Running::begin(&desk, id);
    desk.ledger.lock().attempt(id, attempt, repeated);
    let work = (id * 7 + u64::from(attempt) * 3) % (desk.work + 1);
    if work > 0 {
        // A connection that has ended drops the handler.
        let _passed = desk.connection.after(Duration::from_millis(work)).await;
    }
    match Fate::of(id) {
        Fate::Succeeds(last) if attempt < last => return Err(format!("no {attempt}").into()),
        Fate::Panics if attempt == 1 => panic!("{PANICKED}"),
        Fate::Hangs if !repeated => std::future::pending().await,
        Fate::Refused | Fate::Malformed => return Err(Verdict::refuse(REFUSED)),
        _ => {}
    }
    desk.ledger.lock().done(id);
    Ok(())
}

impl Actor {
    /// Handles messages by workers that are stopped and started again.
    pub(super) async fn work(
        &self,
        connection: &Connection,
        at_once: u16,
        prefetch: u16,
        in_order: bool,
    ) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        let queue = self.declare(&channel, WORK).await?;
        while !self.world.done.get() {
            let (time, grace) = (self.milliseconds(20_000), self.milliseconds(3_000));
            let desk = Desk {
                ledger: self.world.ledger.clone(),
                connection: connection.clone(),
                running: Arc::default(),
                at_once: usize::from(at_once),
                in_order,
                work: self.random(|rng| [0, 5, 300][rng.usize(..3)]),
            };
            let work = Work::on(&queue).state(desk);
            let work = work.at_once(at_once).prefetch(prefetch).grace(grace);
            let work = work.retry(self.world.script.retry);
            let work = match in_order {
                true => work.in_order_of(|delivery| read(delivery.body()).map(|id| id % KEYS)),
                false => work,
            };
            let work = work.each(handle).until(self.until(time));
            if self.one_in(6) {
                self.dropped(work).await;
                continue;
            }
            match self.bounded(time + grace + Duration::from_secs(60), "a worker", work).await? {
                Ok(summary) => drop(summary),
                Err(WorkError::Ended { end, .. }) if self.is_fault(&end.to_string()) => {
                    return Err(Again);
                }
                Err(WorkError::Start(error)) => return Err(self.judge(&error)),
                Err(error) => return Err(self.fail(format!("a worker: {error:?}"))),
            }
            self.pause(self.job.pause).await;
        }
        Ok(())
    }
}
