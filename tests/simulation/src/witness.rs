//! An interceptor that counts what it sees on one connection, to compare with the connection's counters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishOutcome, Published, Settled, Source,
};
use amqp_client_core::proto::Delivery;
use amqp_client_core::{ConfirmError, Connection, Counters};

/// Counts what an interceptor sees of one connection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Witness(Arc<Mutex<Seen>>);

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// Messages that were to be published, and their bytes.
    begun: [u64; 2],
    not_sent: [u64; 2],
    /// Those of which it is known that they were sent.
    sent: [u64; 2],
    queued: u64,
    confirmed: u64,
    nacked: u64,
    returned: u64,
    unconfirmed: u64,
    /// Messages that the application took, and their bytes.
    delivered: [u64; 2],
    got: u64,
    redelivered: u64,
    acked: u64,
    rejected: u64,
    requeued: u64,
}

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares with the counters. The connection may be in use.
    pub(crate) fn compare(&self, connection: &Connection) -> Result<(), String> {
        let before = *self.seen();
        let counters = connection.counters();
        let after = *self.seen();
        before.compare(&after, &counters)
    }
}

impl Seen {
    /// `self` was seen before the counters were read, and `after` later.
    fn compare(&self, after: &Self, counters: &Counters) -> Result<(), String> {
        // The observer of a publish is dropped without a call if its channel is dropped before the confirm, or the future while it
        // waits.
        let open = after.begun[0] - after.not_sent[0] - after.sent[0];
        let outcome = |before: u64, after: u64| (before, after + open);
        let no_limit = u64::MAX;
        let table = [
            ("published", (self.sent[0], after.begun[0] - after.not_sent[0]), counters.published),
            (
                "published_bytes",
                (self.sent[1], after.begun[1] - after.not_sent[1]),
                counters.published_bytes,
            ),
            ("confirmed", outcome(self.confirmed, after.confirmed), counters.confirmed),
            ("nacked", outcome(self.nacked, after.nacked), counters.nacked),
            // Without confirms, the return is in no outcome that an interceptor sees.
            ("returned", outcome(self.returned, after.returned + after.queued), counters.returned),
            ("unconfirmed", outcome(self.unconfirmed, after.unconfirmed), counters.unconfirmed),
            ("delivered", (self.delivered[0], no_limit), counters.delivered),
            ("delivered_bytes", (self.delivered[1], no_limit), counters.delivered_bytes),
            ("got", (self.got, no_limit), counters.got),
            ("redelivered", (self.redelivered, no_limit), counters.redelivered),
            ("acked", (self.acked, no_limit), counters.acked),
            ("rejected", (self.rejected, no_limit), counters.rejected),
            ("requeued", (self.requeued, no_limit), counters.requeued),
        ];
        for (name, (least, most), count) in table {
            if count < least || count > most {
                return Err(format!(
                    "{name} is {count}, not from {least} to {most}: {after:?} and {counters:?}"
                ));
            }
        }
        if outcomes(counters) > counters.published {
            return Err(format!("more outcomes than publishes: {counters:?}"));
        }
        let arrived = counters.delivered + counters.got;
        if counters.redelivered > arrived {
            return Err(format!("more redelivered than arrived: {counters:?}"));
        }
        if counters.channels_closed > counters.channels_opened {
            return Err(format!("more channels closed than opened: {counters:?}"));
        }
        if counters.recoveries > counters.losses {
            return Err(format!("more recoveries than losses: {counters:?}"));
        }
        Ok(())
    }
}

/// Publishes that have ended.
const fn outcomes(counters: &Counters) -> u64 {
    counters.confirmed + counters.nacked + counters.returned + counters.unconfirmed
}

impl Intercept for Witness {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let size = message.body().len() as u64;
        add(&mut self.seen().begun, size);
        Some(Box::new(Publish { witness: self.clone(), size }))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let mut seen = self.seen();
        match from {
            Source::Get { .. } => seen.got += 1,
            _ => add(&mut seen.delivered, delivery.body().len() as u64),
        }
        seen.redelivered += u64::from(delivery.redelivered());
        Some(Box::new(Processed(self.clone())))
    }
}

struct Publish {
    witness: Witness,
    size: u64,
}

impl Published for Publish {
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
        let mut seen = self.witness.seen();
        let counter = match outcome {
            PublishOutcome::NotSent(_) => return add(&mut seen.not_sent, self.size),
            PublishOutcome::Queued => &mut seen.queued,
            PublishOutcome::Confirmed => &mut seen.confirmed,
            PublishOutcome::Failed(ConfirmError::Nacked) => &mut seen.nacked,
            PublishOutcome::Failed(ConfirmError::Returned(_)) => &mut seen.returned,
            _ => &mut seen.unconfirmed,
        };
        *counter += 1;
        add(&mut seen.sent, self.size);
    }
}

struct Processed(Witness);

impl Processing for Processed {
    fn settled(self: Box<Self>, how: Settled) {
        let mut seen = self.0.seen();
        match how {
            Settled::Acked => seen.acked += 1,
            Settled::Nacked { requeue: true }
            | Settled::Rejected { requeue: true }
            | Settled::Panicked { requeue: true }
            | Settled::Dropped => seen.requeued += 1,
            Settled::Nacked { .. } | Settled::Rejected { .. } | Settled::Panicked { .. } => {
                seen.rejected += 1;
            }
            _ => {}
        }
    }
}

/// Counts one message of that size.
const fn add(counts: &mut [u64; 2], size: u64) {
    counts[0] += 1;
    counts[1] += size;
}
