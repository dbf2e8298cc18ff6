use std::fmt;

/// An option with which an exchange or queue exists, and that the declaration has differently.
///
/// RabbitMQ names one option, even if several differ.
///
/// ```
/// use amqp_client_core::topology::Mismatch;
///
/// let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'jobs' in vhost '/': \
///     received none but current is the value '5' of type 'signedint'";
/// let mismatch = Mismatch::parse(text).expect("that is one");
/// assert_eq!(mismatch.option, "x-max-length");
/// assert_eq!(mismatch.declared, None);
/// assert_eq!(mismatch.current.as_deref(), Some("5"));
/// assert_eq!(mismatch.to_string(), "x-max-length is 5 at the broker, and is not set here");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The option: the name of an argument, `durable`, `auto_delete`, `internal` or `type`.
    pub option: String,
    /// The value in the declaration. `None` if it has none.
    pub declared: Option<String>,
    /// The value at the broker. `None` if it has none.
    pub current: Option<String>,
}

impl Mismatch {
    /// Reads the text of a close by RabbitMQ. `None` if it is about something else, or if it was truncated: reply texts have at most
    /// 255 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (option, rest) = rest.split_once("' for ")?;
        // The name of the entity is in between. Names that contain this text are not worth more.
        let (_, values) = rest.rsplit_once("': received ")?;
        let (declared, current) = values.split_once(" but current is ")?;
        Some(Self {
            option: option.to_owned(),
            declared: value(declared)?,
            current: value(current)?,
        })
    }
}

/// Reads `none`, `'true'`, or `the value '5' of type 'signedint'`. `None` if it is none of these.
#[expect(clippy::option_option, reason = "no value, or not readable")]
fn value(text: &str) -> Option<Option<String>> {
    if text == "none" {
        return Some(None);
    }
    let quoted = match text.strip_prefix("the value ") {
        Some(typed) => typed.rsplit_once(" of type '")?.0,
        None => text,
    };
    Some(Some(quoted.strip_prefix('\'')?.strip_suffix('\'')?.to_owned()))
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is ", self.option.escape_debug())?;
        match &self.current {
            Some(current) => write!(f, "{} at the broker, and is ", current.escape_debug())?,
            None => write!(f, "not set at the broker, and is ")?,
        }
        match &self.declared {
            Some(declared) => write!(f, "{} here", declared.escape_debug()),
            None => write!(f, "not set here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_rabbitmq_are_read() {
        let of =
            |rest: &str| Mismatch::parse(&format!("PRECONDITION_FAILED - inequivalent arg {rest}"));
        for (rest, option, declared, current) in [
            (
                "'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'",
                "durable",
                Some("false"),
                Some("true"),
            ),
            (
                "'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'",
                "type",
                Some("topic"),
                Some("direct"),
            ),
            (
                "'x-max-length' for queue 'q' in vhost '/': received the value '3' of type 'long' but current is none",
                "x-max-length",
                Some("3"),
                None,
            ),
            (
                "'x-dead-letter-exchange' for queue 'it's' in vhost 'a: received b': received the value 'it's' of type 'longstr' but current is the value '' of type 'longstr'",
                "x-dead-letter-exchange",
                Some("it's"),
                Some(""),
            ),
        ] {
            let mismatch = of(rest).expect(rest);
            assert_eq!(mismatch.option, option);
            assert_eq!(mismatch.declared.as_deref(), declared);
            assert_eq!(mismatch.current.as_deref(), current);
        }
    }

    #[test]
    fn other_texts_are_not() {
        let text = "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
        for end in 0..text.len() {
            assert_eq!(Mismatch::parse(&text[..end]), None, "{}", &text[..end]);
        }
        for text in [
            "",
            "NOT_FOUND - no queue 'q' in vhost '/'",
            "inequivalent arg '' for ': received  but current is ",
        ] {
            assert_eq!(Mismatch::parse(text), None);
        }
    }
}
