//! Spans with the fields of the conventions.

use std::fmt::Write as _;

use amqp_client_core::proto::RawProperties;
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use super::Options;
use super::current::Current;
use crate::attributes::{Attribute, describe};
use crate::conventions::{BATCH_COUNT, ERROR_TYPE, Operation};
use crate::destination::Destination;

/// The kinds of spans.
pub(super) const PRODUCER: &str = "producer";
pub(super) const CONSUMER: &str = "consumer";
pub(super) const CLIENT: &str = "client";

/// The largest number of contexts in the field `links`.
const LINKS_MAX: usize = 128;

/// A span to begin.
pub(super) struct Beginning<'a> {
    pub(super) options: &'a Options,
    pub(super) operation: Operation,
    pub(super) kind: &'static str,
    pub(super) to: &'a Destination<'a>,
    /// The properties and the size of the body, if the span is that of one message.
    pub(super) message: Option<(&'a RawProperties, usize)>,
    /// The span, and its parent in the trace.
    pub(super) own: &'a Current,
    pub(super) parent: Option<&'a Current>,
}

/// Creates a span with fields that are yet to be recorded. The names of spans have to be constants.
macro_rules! message_span {
    ($name:literal) => {
        info_span!(
            target: "amqp_client",
            $name,
            otel.name = Empty,
            otel.kind = Empty,
            otel.status_code = Empty,
            messaging.system = Empty,
            messaging.operation.name = Empty,
            "messaging.operation.type" = Empty,
            messaging.destination.name = Empty,
            messaging.destination.anonymous = Empty,
            messaging.rabbitmq.destination.routing_key = Empty,
            messaging.rabbitmq.message.delivery_tag = Empty,
            messaging.message.id = Empty,
            messaging.message.conversation_id = Empty,
            messaging.message.body.size = Empty,
            messaging.batch.message_count = Empty,
            messaging.client.id = Empty,
            server.address = Empty,
            server.port = Empty,
            "error.type" = Empty,
            trace_id = Empty,
            span_id = Empty,
            parent_span_id = Empty,
            links = Empty,
        )
    };
}

impl Beginning<'_> {
    /// Begins the span, within the current span of the subscriber.
    pub(super) fn begin(self) -> Span {
        let span = match self.operation.name {
            "create" => message_span!("create"),
            "publish" => message_span!("publish"),
            "process" => message_span!("process"),
            "receive" => message_span!("receive"),
            "ack" => message_span!("ack"),
            "nack" => message_span!("nack"),
            _ => message_span!("reject"),
        };
        // If nobody wants it, the fields are not worth computing.
        if !span.is_disabled() {
            self.record(&span);
        }
        span
    }

    fn record(self, span: &Span) {
        let Self { options, operation, kind, to, message, own, parent } = self;
        let destination = options.low_cardinality(to);
        span.record("otel.name", display(format_args!("{} {destination}", operation.name)));
        span.record("otel.kind", kind);
        describe(&options.common, operation, to, message, |name, value| {
            match value {
                Attribute::Text(text) => span.record(name, &*text),
                Attribute::Number(number) => span.record(name, number),
                Attribute::Flag(flag) => span.record(name, flag),
            };
        });
        span.record("trace_id", display(format_args!("{:032x}", own.span.trace)));
        span.record("span_id", display(format_args!("{:016x}", own.span.span)));
        if let Some(parent) = parent {
            span.record("parent_span_id", display(format_args!("{:016x}", parent.span.span)));
        }
    }
}

pub(super) fn fail(span: &Span, error: &str) {
    span.record(ERROR_TYPE, error);
    span.record("otel.status_code", "ERROR");
}

/// The messages of a span for several of them: their number, and the contexts of the first.
#[derive(Debug, Default)]
pub(super) struct Links {
    messages: i64,
    contexts: usize,
    text: String,
}

impl Links {
    /// Counts a message, and links its context if it has one.
    pub(super) fn add(&mut self, context: Option<&Current>) {
        self.messages = self.messages.saturating_add(1);
        let Some(context) = context.filter(|_| self.contexts < LINKS_MAX) else { return };
        self.contexts += 1;
        let separator = if self.text.is_empty() { "" } else { " " };
        let span = &context.span;
        // Writing to a string does not fail.
        let _written = write!(self.text, "{separator}{:032x}-{:016x}", span.trace, span.span);
    }

    /// Records the number and the contexts in the span.
    pub(super) fn record(&self, span: &Span) {
        span.record(BATCH_COUNT, self.messages);
        if !self.text.is_empty() {
            span.record("links", &*self.text);
        }
    }
}
