use std::fmt;

use amqp_client_core::error::chain;

use crate::codec::BoxError;

/// The fate of a message once its handler has returned.
///
/// Any error converts to [`Retry`](Self::Retry): in a handler that returns `Result<(), Verdict>`, `?` asks for a retry, and
/// `return Err(Verdict::refuse(..))` says that a retry is pointless.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The message is handled: it is acknowledged.
    Done,
    /// This worker cannot handle the message now, through no fault of the message: it is requeued (`basic.nack`). Quorum queues of
    /// RabbitMQ 4.3 do not count this as a failure.
    Requeue,
    /// Handling the message failed, and may succeed later: it is tried again, as the worker's policy says.
    Retry(BoxError),
    /// Handling the message would fail each time: it is dead-lettered or parked, as the worker's policy says.
    Refuse(BoxError),
}

impl Verdict {
    /// Creates the verdict that the message is tried again, with the reason.
    pub fn retry(why: impl Into<BoxError>) -> Self {
        Self::Retry(why.into())
    }

    /// Creates the verdict that the message is dead-lettered or parked, with the reason.
    pub fn refuse(why: impl Into<BoxError>) -> Self {
        Self::Refuse(why.into())
    }

    /// Returns the reason of a retry or a refusal.
    #[must_use]
    pub fn why(&self) -> Option<&BoxError> {
        match self {
            Self::Done | Self::Requeue => None,
            Self::Retry(why) | Self::Refuse(why) => Some(why),
        }
    }
}

/// An error of any type is a reason to try again.
impl<E: Into<BoxError>> From<E> for Verdict {
    fn from(why: E) -> Self {
        Self::Retry(why.into())
    }
}

/// With the reason and its causes, in one line.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Requeue => f.write_str("requeue"),
            Self::Retry(why) => write!(f, "retry: {}", chain(&**why)),
            Self::Refuse(why) => write!(f, "refuse: {}", chain(&**why)),
        }
    }
}

/// A value that a handler may return.
///
/// | Returned | Verdict |
/// |---|---|
/// | `()`, `Ok(())` | [`Verdict::Done`] |
/// | a [`Verdict`], `Ok(verdict)`, `Err(verdict)` | that verdict |
/// | `Err(error)`, for all other errors | [`Verdict::Retry`] |
///
/// Implement it for a type of your own, to decide for each of your errors.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "`{Self}` does not convert to a verdict",
    note = "return `()`, a `Verdict`, or a `Result` of these whose error converts to a `Verdict`"
)]
pub trait IntoVerdict {
    /// Converts to a verdict.
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::Done
    }
}

impl IntoVerdict for Verdict {
    fn into_verdict(self) -> Verdict {
        self
    }
}

impl<T: IntoVerdict, E: Into<Verdict>> IntoVerdict for Result<T, E> {
    fn into_verdict(self) -> Verdict {
        match self {
            Ok(outcome) => outcome.into_verdict(),
            Err(verdict) => verdict.into(),
        }
    }
}
