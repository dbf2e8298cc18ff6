//! W3C Trace Context and Baggage in the headers of a message.

use amqp_client_core::intercept::OutgoingMessage;
use amqp_client_core::proto::{FieldError, FieldTable, RawProperties, Value};
use opentelemetry::Context;
use opentelemetry::baggage::{BaggageExt as _, BaggageMetadata, KeyValueMetadata};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";
/// The size that W3C Baggage requires to be propagated. More is ignored.
const BAGGAGE_MAX: usize = 8192;

/// Returns the trace context in the headers, if there is a valid one.
pub(crate) fn extract(properties: &RawProperties) -> Option<SpanContext> {
    let (trace, span, flags) = parse(&header(properties, TRACEPARENT)?)?;
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
        let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8() & 1);
        headers = headers.with(TRACEPARENT, format!("00-{trace}-{id}-{flags:02x}").as_str())?;
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

/// Returns a header. Some clients write text as byte arrays.
fn header(properties: &RawProperties, name: &str) -> Option<String> {
    let bytes = match properties.header(name).ok()?? {
        Value::LongStr(text) => text.as_bytes().to_vec(),
        Value::ByteArray(bytes) => bytes.to_vec(),
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

/// Parses a `traceparent`, of this or of a later version.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = text.trim();
    let mut parts = text.split('-');
    let [version, trace, span, flags] =
        [(); 4].map(|()| parts.next().filter(|part| is_lower_hex(part)));
    let (version, trace, span, flags) = (version?, trace?, span?, flags?);
    let sizes = [version.len(), trace.len(), span.len(), flags.len()];
    if sizes != [2, 32, 16, 2] || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1);
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
    use super::{parse, read_baggage, unescaped, write_baggage};
    use opentelemetry::baggage::BaggageExt as _;
    use opentelemetry::{Context, KeyValue};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn trace_parents() {
        let zero = "0".repeat(32);
        let upper = TRACE.to_uppercase();
        let cases = [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!(" 00-{TRACE}-{SPAN}-00 "), Some(false)),
            // Only the first flag is known.
            (format!("00-{TRACE}-{SPAN}-fe"), Some(false)),
            (format!("cc-{TRACE}-{SPAN}-01-what-later-versions-add"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{upper}-{SPAN}-01"), None),
            (format!("00-{zero}-{SPAN}-01"), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (format!("00-{TRACE}é-{SPAN}-01"), None),
            (String::new(), None),
        ];
        for (text, sampled) in cases {
            let parsed = parse(&text);
            assert_eq!(parsed.map(|(.., flags)| flags.is_sampled()), sampled, "{text}");
            if let Some((trace, span, _)) = parsed {
                assert_eq!((trace.to_string(), span.to_string()), (TRACE.into(), SPAN.into()));
            }
        }
    }

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
