use std::sync::{Arc, Mutex, PoisonError};

use amqp_client_core::intercept::{OutgoingMessage, PublishBatch, PublishOutcome, Published};
use tracing::Span;

use super::Options;
use super::current::Current;
use super::span::{Beginning, CLIENT, Links, PRODUCER, fail};
use crate::conventions::{CREATE, PUBLISH};
use crate::destination::Destination;
use crate::outcome::{ABANDONED, of_publish};

/// The `publish` span of one message. It ends when this is dropped.
pub(super) struct Publishing {
    span: Span,
    ended: bool,
}

impl Publishing {
    pub(super) fn start(options: &Options, message: &mut OutgoingMessage<'_>) -> Self {
        let kept = Current::of(message.properties());
        let parent = kept.clone().or_else(|| options.current());
        let own = Current::child(parent.as_ref());
        let beginning = Beginning {
            options,
            operation: PUBLISH,
            kind: PRODUCER,
            to: &Destination::of(message),
            message: Some((message.properties(), message.body().len())),
            own: &own,
            parent: parent.as_ref(),
        };
        let span = beginning.begin();
        if kept.is_none() {
            own.send(message);
        }
        Self { span, ended: false }
    }
}

impl Published for Publishing {
    fn ended(mut self: Box<Self>, outcome: PublishOutcome<'_>) {
        self.ended = true;
        if let Some((error, _)) = of_publish(outcome) {
            fail(&self.span, error);
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if !self.ended {
            fail(&self.span, ABANDONED);
        }
    }
}

/// The messages of one call, each with a `create` span, and the `publish` span of the call.
pub(super) struct Batch {
    call: Arc<Call>,
    options: Arc<Options>,
    /// The code that publishes, and the span of the call.
    parent: Option<Current>,
    own: Current,
    links: Links,
}

/// Ends its span when the last message has ended.
struct Call {
    span: Span,
    failed: Mutex<bool>,
}

impl Batch {
    pub(super) fn start(options: &Arc<Options>, first: &OutgoingMessage<'_>) -> Self {
        let parent = options.current();
        let own = Current::child(parent.as_ref());
        let beginning = Beginning {
            options,
            operation: PUBLISH,
            // The contexts in the messages are those of the `create` spans, so this is not the producer.
            kind: CLIENT,
            to: &Destination::of(first),
            message: None,
            own: &own,
            parent: parent.as_ref(),
        };
        let call = Arc::new(Call { span: beginning.begin(), failed: Mutex::default() });
        Self { call, options: options.clone(), parent, own, links: Links::default() }
    }

    /// Creates the context of a message, with its `create` span. Outside of a trace, it belongs to the trace of the call.
    fn create(&self, message: &OutgoingMessage<'_>) -> Current {
        let parent = Some(self.parent.as_ref().unwrap_or(&self.own));
        let own = Current::child(parent);
        let beginning = Beginning {
            options: &self.options,
            operation: CREATE,
            kind: PRODUCER,
            to: &Destination::of(message),
            message: Some((message.properties(), message.body().len())),
            own: &own,
            parent,
        };
        // It must not end before it is linked.
        let create = beginning.begin();
        self.call.span.follows_from(&create);
        own
    }
}

impl PublishBatch for Batch {
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        // A message that has a context was created before, so it needs no `create` span.
        let kept = Current::of(message.properties());
        let context = kept.unwrap_or_else(|| {
            let own = self.create(message);
            own.send(message);
            own
        });
        self.links.add(Some(&context));
        Some(Box::new(InBatch { call: self.call.clone(), ended: false }))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.links.record(&self.call.span);
    }
}

impl Call {
    /// The span has the first error.
    fn fail(&self, error: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *failed, true) {
            fail(&self.span, error);
        }
    }
}

struct InBatch {
    call: Arc<Call>,
    ended: bool,
}

impl Published for InBatch {
    fn ended(mut self: Box<Self>, outcome: PublishOutcome<'_>) {
        self.ended = true;
        if let Some((error, _)) = of_publish(outcome) {
            self.call.fail(error);
        }
    }
}

impl Drop for InBatch {
    fn drop(&mut self) {
        if !self.ended {
            self.call.fail(ABANDONED);
        }
    }
}
