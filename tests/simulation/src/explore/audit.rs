//! An interceptor that writes down what it sees, to compare with what the application sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amqp_client_core::ConfirmError;
use amqp_client_core::intercept::{
    Intercept, OutgoingMessage, Processing, PublishOutcome, Published, Scope, Settled, Source,
};
use amqp_client_core::proto::Delivery;

use super::ledger::Id;

/// What the interceptor of a client has seen.
#[derive(Default)]
pub(crate) struct Audit(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// How the publish of each message has ended, if it has.
    publishes: BTreeMap<u64, Option<Ended>>,
    /// Deliveries that the application holds.
    held: usize,
    /// Handlers that run in their scope.
    running: usize,
    mistakes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Confirmed,
    Queued,
    NotSent,
    Returned,
    Unconfirmed,
    NotResent,
    Failed,
}

impl From<&ConfirmError> for Ended {
    fn from(error: &ConfirmError) -> Self {
        match error {
            ConfirmError::Returned(_) => Self::Returned,
            ConfirmError::Unconfirmed(_) => Self::Unconfirmed,
            ConfirmError::NotResent(_) => Self::NotResent,
            _ => Self::Failed,
        }
    }
}

impl Audit {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application has the outcome of a publish: the interceptor has the same.
    pub(crate) fn compare(&self, id: Id, outcome: &Result<(), ConfirmError>) -> Result<(), String> {
        // The time that the application waits is not the interceptor's.
        if let Err(ConfirmError::TimedOut { .. }) = outcome {
            return Ok(());
        }
        let expected = outcome.as_ref().map_or_else(Ended::from, |()| Ended::Confirmed);
        match self.seen().publishes.get(&id.number()) {
            Some(Some(ended)) if *ended == expected => Ok(()),
            seen => {
                Err(format!("{id:?} ended as {expected:?}, and an interceptor has seen {seen:?}"))
            }
        }
    }

    /// The connection is closed, and all its handles are dropped.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let mut seen = self.seen();
        match (seen.mistakes.pop(), seen.held, seen.running) {
            (Some(mistake), ..) => Err(mistake),
            (None, 0, 0) => Ok(()),
            (None, held, running) => Err(format!(
                "an interceptor still holds {held} deliveries and {running} handlers at the end"
            )),
        }
    }
}

/// The number of the message with that body.
fn number(body: &[u8]) -> Option<u64> {
    body.first_chunk().map(|number| u64::from_be_bytes(*number))
}

/// The interceptor.
pub(crate) struct Auditor(pub(crate) Arc<Audit>);

impl Intercept for Auditor {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        // A message that fills a frame goes out without the header.
        let _no_room = message.insert_header("x-audited", true);
        let number = number(message.body())?;
        let mut seen = self.0.seen();
        if seen.publishes.insert(number, None).is_some() {
            seen.mistakes.push(format!("an interceptor has seen message {number} twice"));
        }
        Some(Box::new(AuditedPublish { audit: self.0.clone(), number }))
    }

    fn deliver(&self, _: &Delivery, _: Source<'_>) -> Option<Box<dyn Processing>> {
        self.0.seen().held += 1;
        Some(Box::new(AuditedDelivery { audit: self.0.clone(), settled: false }))
    }
}

struct AuditedPublish {
    audit: Arc<Audit>,
    number: u64,
}

impl Published for AuditedPublish {
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
        let ended = match outcome {
            PublishOutcome::Confirmed => Ended::Confirmed,
            PublishOutcome::NotSent(_) => Ended::NotSent,
            PublishOutcome::Failed(error) => Ended::from(error),
            _ => Ended::Queued,
        };
        let mut seen = self.audit.seen();
        match seen.publishes.insert(self.number, Some(ended)) {
            Some(None) => {}
            before => {
                let number = self.number;
                let text = format!("the publish of message {number} ended twice, after {before:?}");
                seen.mistakes.push(text);
            }
        }
    }
}

struct AuditedDelivery {
    audit: Arc<Audit>,
    settled: bool,
}

impl Processing for AuditedDelivery {
    fn settled(mut self: Box<Self>, _: Settled) {
        self.settled = true;
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(AuditedScope(self.audit.clone())))
    }
}

impl Drop for AuditedDelivery {
    fn drop(&mut self) {
        let mut seen = self.audit.seen();
        seen.held -= 1;
        if !self.settled {
            seen.mistakes.push("the observer of a delivery was dropped without a call".to_owned());
        }
    }
}

struct AuditedScope(Arc<Audit>);

impl Scope for AuditedScope {
    fn enter(&self, run: &mut dyn FnMut()) {
        self.0.seen().running += 1;
        run();
        self.0.seen().running -= 1;
    }
}
