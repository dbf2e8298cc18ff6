//! W3C Trace Context and Baggage in the headers of a message.

use amqp_client_core::intercept::OutgoingMessage;
use amqp_client_core::proto::{FieldError, FieldTable, RawProperties};
use opentelemetry::Context;
use opentelemetry::baggage::{BaggageExt as _, BaggageMetadata, KeyValueMetadata};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};

use crate::trace_parent::{TRACEPARENT, TRACESTATE, TraceParent, header};

const BAGGAGE: &str = "baggage";
/// The size that W3C Baggage requires to be propagated. More is ignored.
const BAGGAGE_MAX: usize = 8192;

/// Returns the trace context in the headers, if there is a valid one.
pub(crate) fn extract(properties: &RawProperties) -> Option<SpanContext> {
    let TraceParent { trace, span, sampled } = TraceParent::of(properties)?;
    let (trace, span) = (TraceId::from(trace), SpanId::from(span));
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = header(properties, TRACESTATE).and_then(|state| state.trim().parse().ok());
    Some(SpanContext::new(trace, span, flags, true, state.unwrap_or(TraceState::NONE)))
}

/// Adds a trace context to the headers. A message without room for it goes out without it.
pub(crate) fn inject(message: &mut OutgoingMessage<'_>, context: &Context, baggage: bool) {
    let span = context.span();
    let span = span.span_context();
    let baggage = baggage && header(message.properties(), BAGGAGE).is_none();
    let baggage = if baggage { write_baggage(context) } else { String::new() };
    let Ok(headers) = headers(span, &baggage, message.properties()) else { return };
    if !headers.is_empty() {
        let _no_room = message.insert_headers(&headers);
    }
}

fn headers(
    span: &SpanContext,
    baggage: &str,
    present: &RawProperties,
) -> Result<FieldTable, FieldError> {
    let mut headers = FieldTable::new();
    // The message may have a context already, which is kept.
    if span.is_valid() && extract(present).is_none() {
        let parent = TraceParent {
            trace: u128::from_be_bytes(span.trace_id().to_bytes()),
            span: u64::from_be_bytes(span.span_id().to_bytes()),
            sampled: span.is_sampled(),
        };
        headers = headers.with(TRACEPARENT, parent.to_string().as_str())?;
        let state = span.trace_state().header();
        // A state without a valid parent is not that of this trace.
        if !state.is_empty() || header(present, TRACESTATE).is_some() {
            headers = headers.with(TRACESTATE, state.as_str())?;
        }
    }
    if !baggage.is_empty() {
        headers = headers.with(BAGGAGE, baggage)?;
    }
    Ok(headers)
}

/// Adds the baggage in the headers to a context.
pub(crate) fn with_baggage(context: Context, properties: &RawProperties) -> Context {
    match header(properties, BAGGAGE) {
        Some(text) if text.len() <= BAGGAGE_MAX => context.with_baggage(read_baggage(&text)),
        _ => context,
    }
}

fn write_baggage(context: &Context) -> String {
    let mut text = String::new();
    for (key, (value, metadata)) in context.baggage() {
        let before = text.len();
        if before > 0 {
            text.push(',');
        }
        text.push_str(key.as_str());
        text.push('=');
        for byte in value.as_str().bytes() {
            match byte {
                // The characters that W3C Baggage allows, without the percent sign.
                b'!' | b'#'..=b'$' | b'&'..=b'+' | b'-'..=b':' | b'<'..=b'[' | b']'..=b'~' => {
                    text.push(char::from(byte));
                }
                byte => text.push_str(&format!("%{byte:02X}")),
            }
        }
        if !metadata.as_str().is_empty() {
            text.push(';');
            text.push_str(metadata.as_str());
        }
        if text.len() > BAGGAGE_MAX {
            text.truncate(before);
            break;
        }
    }
    text
}

fn read_baggage(text: &str) -> Vec<KeyValueMetadata> {
    let member = |member: &str| {
        let (pair, metadata) = member.split_once(';').unwrap_or((member, ""));
        let (key, value) = pair.split_once('=')?;
        let value = unescaped(value.trim())?;
        let metadata = BaggageMetadata::from(metadata.trim());
        Some(KeyValueMetadata::new(key.trim().to_owned(), value, metadata))
    };
    text.split(',').filter_map(member).collect()
}

/// Replaces percent escapes. `None` if they are malformed, or not UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push(high << 4 | low);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::{read_baggage, unescaped, write_baggage};
    use opentelemetry::baggage::BaggageExt as _;
    use opentelemetry::{Context, KeyValue};

    #[test]
    fn baggage_is_read_as_it_was_written() {
        let context = Context::new().with_baggage([KeyValue::new("user", "a,b; \"é\" 100%")]);
        let text = write_baggage(&context);
        assert_eq!(text, "user=a%2Cb%3B%20%22%C3%A9%22%20100%25");
        let again = Context::new().with_baggage(read_baggage(&text));
        assert_eq!(again.baggage().get("user"), context.baggage().get("user"));
        for (text, count) in [("", 0), ("a", 0), ("a=%", 0), ("a=%zz,b=1", 1), ("a=1;p=2,,b=", 2)] {
            assert_eq!(read_baggage(text).len(), count, "{text}");
        }
        assert_eq!(unescaped("%ff"), None);
    }
}
