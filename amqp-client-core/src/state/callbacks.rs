use std::fmt;

use amqp_proto::session::RecoveryReport;

use crate::panics::contained;

/// A function to run once the lock is released.
pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// Runs a call where it may take its time.
pub(crate) type RunCall = fn(Call);

/// A callback that was handed to a runtime. If the runtime drops it instead of running it, as one does that ends, it runs
/// right then.
pub(super) struct Due(pub(super) Option<Call>);

impl Due {
    pub(super) fn run(mut self) {
        self.0.take().into_iter().for_each(|call| call());
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            contained(call);
        }
    }
}

/// A callback to run after each recovery.
pub(crate) struct OnRecover(pub(crate) Box<dyn Fn(&RecoveryReport) + Send + Sync>);

impl fmt::Debug for OnRecover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRecover")
    }
}

/// A callback to run when a channel or connection is closed.
pub(crate) struct OnClose<E> {
    callbacks: Vec<Box<dyn FnOnce(E) + Send>>,
}

impl<E: Clone + Send + 'static> OnClose<E> {
    pub(crate) fn push(&mut self, callback: impl FnOnce(E) + Send + 'static) {
        self.callbacks.push(Box::new(callback));
    }

    /// Their calls, with the reason.
    pub(crate) fn calls(&mut self, reason: &E) -> impl Iterator<Item = Call> + use<E> {
        let reason = reason.clone();
        std::mem::take(&mut self.callbacks).into_iter().map(move |callback| -> Call {
            let reason = reason.clone();
            Box::new(move || callback(reason))
        })
    }
}

impl<E> Default for OnClose<E> {
    fn default() -> Self {
        Self { callbacks: Vec::new() }
    }
}

impl<E> fmt::Debug for OnClose<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnClose({})", self.callbacks.len())
    }
}
