use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use amqp_proto::Delivery;

use super::{
    Intercept, OutgoingMessage, Processing, PublishBatch, PublishOutcome, Published, Scope,
    Settled, Source, observed, report,
};
use crate::panics::contained;

/// The interceptor of a connection, which may consist of several.
#[derive(Clone)]
pub(crate) struct Interceptor(Arc<dyn Intercept>);

impl Interceptor {
    pub(crate) fn new(intercept: impl Intercept) -> Self {
        Self(Arc::new(intercept))
    }

    /// Returns an interceptor that calls this one first, and then the other.
    pub(crate) fn and(self, other: impl Intercept) -> Self {
        let other: Arc<dyn Intercept> = Arc::new(other);
        Self(Arc::new(Both(self.0, other)))
    }
}

impl Deref for Interceptor {
    type Target = dyn Intercept;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interceptor")
    }
}

/// Calls two interceptors, in this order. If both return an observer, both get the outcome, in the opposite order: they are nested.
struct Both<T>(T, T);

/// Joins the observers of two interceptors.
fn both<T: ?Sized>(
    first: Option<Box<T>>,
    second: Option<Box<T>>,
    join: impl FnOnce(Both<Box<T>>) -> Box<T>,
) -> Option<Box<T>> {
    match (first, second) {
        (Some(first), Some(second)) => Some(join(Both(first, second))),
        (first, second) => first.or(second),
    }
}

impl Intercept for Both<Arc<dyn Intercept>> {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let first = observed(|| self.0.publish(message));
        let second = observed(|| self.1.publish(message));
        both(first, second, |both| Box::new(both))
    }

    fn publish_all(&self, to: &OutgoingMessage<'_>) -> Option<Box<dyn PublishBatch>> {
        let first = observed(|| self.0.publish_all(to));
        let second = observed(|| self.1.publish_all(to));
        if first.is_none() && second.is_none() {
            return None;
        }
        // If only one looks at batches, the other gets each message through `Intercept::publish`.
        let first = first.unwrap_or_else(|| Box::new(OneByOne(self.0.clone())));
        let second = second.unwrap_or_else(|| Box::new(OneByOne(self.1.clone())));
        Some(Box::new(Both(first, second)))
    }

    fn deliver(&self, delivery: &Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let first = observed(|| self.0.deliver(delivery, from));
        let second = observed(|| self.1.deliver(delivery, from));
        both(first, second, |both| Box::new(both))
    }
}

/// The messages of a batch, for an interceptor that does not look at batches.
struct OneByOne(Arc<dyn Intercept>);

impl PublishBatch for OneByOne {
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        self.0.publish(message)
    }
}

impl PublishBatch for Both<Box<dyn PublishBatch>> {
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let first = observed(|| self.0.publish(message));
        let second = observed(|| self.1.publish(message));
        both(first, second, |both| Box::new(both))
    }
}

impl Published for Both<Box<dyn Published>> {
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
        let Self(first, second) = *self;
        report(second, outcome);
        report(first, outcome);
    }
}

impl Processing for Both<Box<dyn Processing>> {
    fn settled(self: Box<Self>, how: Settled) {
        let Self(first, second) = *self;
        contained(|| second.settled(how));
        contained(|| first.settled(how));
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        match (observed(|| self.0.scope()), observed(|| self.1.scope())) {
            (Some(outer), Some(inner)) => Some(Arc::new(Both(outer, inner))),
            (outer, inner) => outer.or(inner),
        }
    }
}

impl Scope for Both<Arc<dyn Scope>> {
    fn enter(&self, run: &mut dyn FnMut()) {
        enter(&*self.0, &mut || enter(&*self.1, run));
    }
}

/// Calls `run` in a scope. If the scope panics before, or does not call it, calls `run` outside that scope: the other scope stays.
fn enter(scope: &dyn Scope, run: &mut dyn FnMut()) {
    let mut ran = false;
    contained(|| {
        scope.enter(&mut || {
            ran = true;
            run();
        });
    });
    if !ran {
        run();
    }
}
