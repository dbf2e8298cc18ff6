//! The span of a trace that is current in this thread, while a handler runs.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use amqp_client_core::intercept::OutgoingMessage;
use amqp_client_core::proto::{FieldTable, RawProperties};

use crate::trace_parent::{TRACEPARENT, TRACESTATE, TraceParent, header};

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// A span, and what other systems have added to its trace.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) span: TraceParent,
    /// The header `tracestate`, which is passed on as it is.
    pub(crate) state: Option<Arc<str>>,
}

impl Current {
    pub(crate) fn get() -> Option<Self> {
        // While a thread ends, destructors of its other local values may still publish.
        CURRENT.try_with(|current| current.borrow().clone()).ok()?
    }

    /// Makes it current until the guard is dropped.
    pub(crate) fn enter(self) -> Entered {
        let before = CURRENT.try_with(|current| current.replace(Some(self)));
        Entered { before: before.ok().flatten() }
    }

    /// Returns a new span of this trace, or of a new one.
    pub(crate) fn child(of: Option<&Self>) -> Self {
        let (trace, sampled) = of.map_or_else(
            || (u128::from(random()) << 64 | u128::from(random()), true),
            |parent| (parent.span.trace, parent.span.sampled),
        );
        let state = of.and_then(|parent| parent.state.clone());
        Self { span: TraceParent { trace, span: random(), sampled }, state }
    }

    /// Returns the context in the headers.
    pub(crate) fn of(properties: &RawProperties) -> Option<Self> {
        let span = TraceParent::of(properties)?;
        Some(Self { span, state: header(properties, TRACESTATE).map(Arc::from) })
    }

    /// Adds the context to the headers. A message without room for it goes out without it.
    pub(crate) fn send(&self, message: &mut OutgoingMessage<'_>) {
        let headers = FieldTable::new().with(TRACEPARENT, self.span.to_string().as_str());
        let headers = headers.and_then(|headers| match &self.state {
            Some(state) => headers.with(TRACESTATE, &**state),
            // A state without a valid parent is not that of this trace.
            None if header(message.properties(), TRACESTATE).is_some() => {
                headers.with(TRACESTATE, "")
            }
            None => Ok(headers),
        });
        if let Ok(headers) = headers {
            let _no_room = message.insert_headers(&headers);
        }
    }
}

/// Restores the span of before, also after a panic.
pub(crate) struct Entered {
    before: Option<Current>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // While a thread ends, there is nothing left to restore.
        let _ending = CURRENT.try_with(|current| current.replace(before));
    }
}

/// Returns a random number that is not 0. The keys of the standard hasher are random, and no two of them are alike.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8).max(1)
}
