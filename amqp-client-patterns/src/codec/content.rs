use amqp_client_core::ShortStr;

use super::DecodeBodyError;

/// Content encodings that leave a body as it is. Libraries for other languages set some of them on every message.
const UNCHANGED: [&str; 7] = ["utf-8", "utf8", "us-ascii", "ascii", "binary", "identity", "8bit"];

/// The content of a message, as codecs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "tests of codecs make it")]
pub struct Content<'a> {
    /// The content type, unless it is missing or empty.
    pub content_type: Option<&'a str>,
    /// The content encoding, unless it is missing or empty.
    pub content_encoding: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Content<'a> {
    /// Creates a content without a content type.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { content_type: None, content_encoding: None, body }
    }

    /// Sets the content type.
    #[must_use]
    pub const fn content_type(self, content_type: &'a str) -> Self {
        Self { content_type: Some(content_type), ..self }
    }

    /// Returns whether the content type is one of these, such as `application/json`. An entry such as `+json` stands for all
    /// content types that end with it. Case and parameters (`; charset=utf-8`) do not matter.
    #[must_use]
    pub fn is_one_of(&self, content_types: &[&str]) -> bool {
        let Some(found) = self.content_type else { return false };
        let found = found.split(';').next().unwrap_or_default().trim();
        content_types.iter().any(|expected| match expected.starts_with('+') {
            true => ends_with_ignore_case(found, expected),
            false => found.eq_ignore_ascii_case(expected),
        })
    }

    /// Checks that the content type is missing or [one of these](Self::is_one_of), and that the body is not compressed.
    ///
    /// # Errors
    /// [`DecodeBodyError`], which names `format`, what the codec decodes.
    pub fn expect(
        &self,
        format: &'static str,
        content_types: &[&str],
    ) -> Result<(), DecodeBodyError> {
        if let Some(found) = self.content_type.filter(|_| !self.is_one_of(content_types)) {
            return Err(DecodeBodyError::ContentType { format, found: found.to_owned() });
        }
        let unchanged = |found: &str| UNCHANGED.iter().any(|name| found.eq_ignore_ascii_case(name));
        match self.content_encoding {
            Some(found) if !unchanged(found) => {
                Err(DecodeBodyError::ContentEncoding { format, found: found.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

fn ends_with_ignore_case(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len());
    start.and_then(|start| text.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// Returns a property as text. An empty property counts as missing.
pub(super) fn text(property: Option<&ShortStr>) -> Result<Option<&str>, DecodeBodyError> {
    let Some(property) = property.filter(|property| !property.is_empty()) else { return Ok(None) };
    property.to_str().map(Some).map_err(|_| DecodeBodyError::NotText(property.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_compared_as_media_types() {
        let json = ["application/json", "+json"];
        for accepted in [
            "application/json",
            "APPLICATION/JSON",
            "application/json; charset=utf-8",
            " application/json ;x",
            "application/problem+json",
            "application/vnd.api+JSON;v=1",
        ] {
            assert!(Content::new(b"").content_type(accepted).is_one_of(&json), "{accepted}");
        }
        for refused in
            ["", "json", "text/json", "application/jsonx", "+jso", "ä+jsoñ", ";application/json"]
        {
            assert!(!Content::new(b"").content_type(refused).is_one_of(&json), "{refused}");
        }
        assert!(!Content::new(b"").is_one_of(&json));
    }

    #[test]
    fn a_missing_content_type_is_accepted_and_a_compressed_body_is_not() {
        assert!(Content::new(b"").expect("JSON", &["application/json"]).is_ok());
        for (encoding, accepted) in
            [("UTF-8", true), ("binary", true), ("gzip", false), ("x", false)]
        {
            let content = Content { content_encoding: Some(encoding), ..Content::new(b"") };
            assert_eq!(content.expect("JSON", &[]).is_ok(), accepted, "{encoding}");
        }
    }
}
