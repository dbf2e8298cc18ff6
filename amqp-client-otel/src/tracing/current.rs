//! The span of a trace that is current in this thread, while a handler runs.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use crate::trace_parent::TraceParent;

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
        CURRENT.with(|current| current.borrow().clone())
    }

    /// Makes it current until the guard is dropped.
    pub(crate) fn enter(self) -> Entered {
        Entered { before: CURRENT.with(|current| current.replace(Some(self))) }
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
}

/// Restores the span of before, also after a panic.
pub(crate) struct Entered {
    before: Option<Current>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(self.before.take()));
    }
}

/// Returns a random number that is not 0. The keys of the standard hasher are random, and no two of them are alike.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8).max(1)
}
