use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use amqp_proto::Delivery;

use super::{HandlerScope, Interceptor, Processing, Settled, Source, observed};
use crate::panics::contained;

/// The interceptor of a connection, and the observers of the deliveries that the application holds.
///
/// A delivery holds only the number of its observer. An `Option<Box<dyn Processing>>` would cost each delivery 60 instructions, most of
/// them for dropping it, even without an interceptor.
pub(crate) struct Observers {
    pub(crate) interceptor: Interceptor,
    processing: Mutex<Slots>,
}

/// The place of a delivery's observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessingId(NonZeroU32);

#[derive(Default)]
struct Slots {
    /// The observer with the number n is at the index n - 1.
    slots: Vec<Option<Observer>>,
    free: Vec<NonZeroU32>,
}

struct Observer {
    processing: Box<dyn Processing>,
    scope: HandlerScope,
}

impl Observers {
    pub(crate) fn new(interceptor: Interceptor) -> Self {
        Self { interceptor, processing: Mutex::default() }
    }

    /// Calls the interceptor for a delivery that the application takes.
    #[cold]
    #[inline(never)]
    pub(crate) fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<ProcessingId> {
        let processing = observed(|| self.interceptor.deliver(delivery, from))?;
        let scope = HandlerScope::new(observed(|| processing.scope()));
        self.with(|slots| slots.insert(Observer { processing, scope }))
    }

    /// Returns the surroundings of the code that handles the delivery.
    pub(crate) fn scope(&self, id: ProcessingId) -> HandlerScope {
        self.with(|slots| slots.slot(id)?.as_ref().map(|observer| observer.scope.clone()))
            .unwrap_or_default()
    }

    /// Ends the observation of a delivery.
    pub(crate) fn settled(&self, id: ProcessingId, how: Settled) {
        // The observer runs without the lock.
        if let Some(observer) = self.with(|slots| slots.remove(id)) {
            contained(|| observer.processing.settled(how));
        }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Slots) -> T) -> T {
        run(&mut self.processing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Slots {
    /// Returns `None` if there are no numbers left. The memory for so many deliveries runs out earlier.
    fn insert(&mut self, observer: Observer) -> Option<ProcessingId> {
        let id = match self.free.pop() {
            Some(id) => ProcessingId(id),
            None => {
                let id = u32::try_from(self.slots.len() + 1).ok().and_then(NonZeroU32::new)?;
                self.slots.push(None);
                ProcessingId(id)
            }
        };
        *self.slot(id)? = Some(observer);
        Some(id)
    }

    fn remove(&mut self, id: ProcessingId) -> Option<Observer> {
        let observer = self.slot(id)?.take()?;
        self.free.push(id.0);
        Some(observer)
    }

    fn slot(&mut self, id: ProcessingId) -> Option<&mut Option<Observer>> {
        let index = usize::try_from(id.0.get()).ok()?.checked_sub(1)?;
        self.slots.get_mut(index)
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}
