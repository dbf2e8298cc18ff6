use std::fmt;
use std::sync::Arc;

use amqp_client_core::intercept::{HandlerScope, Processing, Scope, Settled, Source};
use amqp_client_core::proto::{Delivery, RawProperties};
use tracing::Span;

use super::Options;
use super::current::Current;
use super::span::{Beginning, CLIENT, CONSUMER, Links, fail};
use crate::attributes::Origin;
use crate::conventions::{DELIVERY_TAG, Operation, PROCESS, RECEIVE};
use crate::destination::Destination;
use crate::outcome::{of_processing, settlement};

/// One delivery, until it is settled. The `process` span ends when this and the scopes of its handler are dropped.
pub(super) struct Handling {
    options: Arc<Options>,
    span: Span,
    /// The span of the handler. `None` if deliveries have no spans.
    own: Option<Current>,
    /// Kept only for spans of settlements.
    origin: Option<Origin>,
}

impl Handling {
    pub(super) fn start(
        options: &Arc<Options>,
        delivery: &Delivery,
        from: Source<'_>,
    ) -> Option<Self> {
        let (queue, operation, kind) = match from {
            Source::Consumer { queue, .. } => (queue, PROCESS, CONSUMER),
            Source::Get { queue, .. } => (queue, RECEIVE, CLIENT),
            _ => return None,
        };
        let origin = Origin::of(delivery, queue);
        let (mut span, mut own) = (Span::none(), None);
        if operation == RECEIVE || options.process_spans {
            let properties = delivery.properties();
            let parent = Current::of(&properties).or_else(|| options.current());
            let child = Current::child(parent.as_ref());
            let beginning = Beginning {
                options,
                operation,
                kind,
                to: &origin.destination(),
                message: Some((&properties, delivery.body_len())),
                own: &child,
                parent: parent.as_ref(),
            };
            let begun = beginning.begin();
            begun.record(DELIVERY_TAG, origin.tag);
            // A fetched message was received at once. When its processing begins is not known.
            if operation == PROCESS {
                span = begun;
            }
            own = Some(child);
        }
        let origin = options.settle_spans.then_some(origin);
        Some(Self { options: options.clone(), span, own, origin })
    }

    fn settle_span(&self, origin: &Origin, operation: Operation) {
        let parent = self.own.clone().or_else(|| self.options.current());
        let own = Current::child(parent.as_ref());
        let beginning = Beginning {
            options: &self.options,
            operation,
            kind: CLIENT,
            to: &origin.destination(),
            message: None,
            own: &own,
            parent: parent.as_ref(),
        };
        self.span.in_scope(|| beginning.begin()).record(DELIVERY_TAG, origin.tag);
    }
}

impl Processing for Handling {
    fn settled(self: Box<Self>, how: Settled) {
        if let (Some(origin), Some(operation)) = (&self.origin, settlement(how)) {
            self.settle_span(origin, operation);
        }
        if let Some(error) = of_processing(how) {
            fail(&self.span, error);
        }
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        let own = self.own.clone()?;
        Some(Arc::new(Surroundings { span: self.span.clone(), own }))
    }
}

struct Surroundings {
    span: Span,
    own: Current,
}

impl Scope for Surroundings {
    fn enter(&self, run: &mut dyn FnMut()) {
        let _current = self.own.clone().enter();
        self.span.in_scope(run);
    }
}

/// The `process` span of several deliveries; see [`TracingIntercept::process_batch`](crate::TracingIntercept::process_batch). The span
/// ends when this and its scopes are dropped.
#[must_use = "dropping it ends the span"]
pub struct TracingBatch {
    span: Span,
    own: Current,
}

impl TracingBatch {
    pub(super) fn start(
        options: &Options,
        queue: &[u8],
        messages: impl Iterator<Item = RawProperties>,
    ) -> Self {
        let parent = options.current();
        let own = Current::child(parent.as_ref());
        let beginning = Beginning {
            options,
            operation: PROCESS,
            kind: CONSUMER,
            to: &Destination { exchange: b"", routing_key: b"", queue: Some(queue) },
            message: None,
            own: &own,
            parent: parent.as_ref(),
        };
        let (span, mut links) = (beginning.begin(), Links::default());
        messages.for_each(|message| links.add(Current::of(&message).as_ref()));
        links.record(&span);
        Self { span, own }
    }

    /// Returns the scope for the code that handles the batch. The messages that this code publishes belong to the trace of the batch.
    #[must_use]
    pub fn scope(&self) -> HandlerScope {
        let surroundings = Surroundings { span: self.span.clone(), own: self.own.clone() };
        HandlerScope::from(Arc::new(surroundings) as Arc<dyn Scope>)
    }

    /// Returns the span, to record more fields.
    #[must_use]
    pub const fn span(&self) -> &Span {
        &self.span
    }

    /// Marks the span as failed. `error` becomes `error.type`, so it must have few different values.
    pub fn fail(&self, error: &'static str) {
        fail(&self.span, error);
    }
}

impl fmt::Debug for TracingBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracingBatch").finish_non_exhaustive()
    }
}
