//! The header `traceparent` of W3C Trace Context.

use std::fmt;

use amqp_client_core::proto::{RawProperties, Value};

pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// A span of a trace, by its numbers. Neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) sampled: bool,
}

impl TraceParent {
    /// Returns the valid context in the headers of a message.
    pub(crate) fn of(properties: &RawProperties) -> Option<Self> {
        Self::parse(&header(properties, TRACEPARENT)?)
    }

    /// Parses a `traceparent`, of this or of a later version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = text.split('-');
        let [version, trace, span, flags] =
            [(); 4].map(|()| parts.next().filter(|part| is_lower_hex(part)));
        let (version, trace, span, flags) = (version?, trace?, span?, flags?);
        let sizes = [version.len(), trace.len(), span.len(), flags.len()];
        if sizes != [2, 32, 16, 2] || version == "ff" || (version == "00" && parts.next().is_some())
        {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        // Only the first flag is known.
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace, span, sampled })
    }
}

/// As in the header.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, sampled } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(*sampled))
    }
}

/// Returns a header. Some clients write text as byte arrays.
pub(crate) fn header(properties: &RawProperties, name: &str) -> Option<String> {
    let bytes = match properties.header(name).ok()?? {
        Value::LongStr(text) => text.as_bytes().to_vec(),
        Value::ByteArray(bytes) => bytes.to_vec(),
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

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
            let parsed = TraceParent::parse(&text);
            assert_eq!(parsed.map(|parent| parent.sampled), sampled, "{text}");
            if let Some(parent) = parsed {
                let flags = u8::from(parent.sampled);
                assert_eq!(parent.to_string(), format!("00-{TRACE}-{SPAN}-{flags:02x}"));
            }
        }
    }
}
