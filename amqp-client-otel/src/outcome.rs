//! Values of `error.type`.

use amqp_client_core::ConfirmError;
use amqp_client_core::PublishError;
use amqp_client_core::intercept::{PublishOutcome, Settled};

use crate::conventions::{ACK, NACK, Operation, REJECT};

/// The error of a publish whose observer was dropped: its future was dropped, or the handles of its channel.
pub(crate) const ABANDONED: &str = "abandoned";

/// Returns the type and the text of a failure.
pub(crate) fn of_publish(outcome: PublishOutcome<'_>) -> Option<(&'static str, String)> {
    match outcome {
        PublishOutcome::NotSent(error) => Some((not_sent(error), error.to_string())),
        PublishOutcome::Failed(error) => Some((failed(error), error.to_string())),
        _ => None,
    }
}

const fn failed(error: &ConfirmError) -> &'static str {
    match error {
        ConfirmError::Nacked => "nacked",
        ConfirmError::Returned(_) => "returned",
        ConfirmError::Unconfirmed(_) => "unconfirmed",
        ConfirmError::Refused(_) => "refused",
        ConfirmError::NotResent(_) => "not_resent",
        ConfirmError::TimedOut { .. } => "timeout",
        _ => "_OTHER",
    }
}

const fn not_sent(error: &PublishError) -> &'static str {
    match error {
        PublishError::Ended(_) => "channel_closed",
        PublishError::Name(_) => "name_too_long",
        PublishError::PropertiesTooLarge { .. } => "properties_too_large",
        PublishError::Gated(_) => "would_wait",
        PublishError::TimedOut { .. } => "timeout",
        _ => "_OTHER",
    }
}

/// Returns the operation by which a delivery was settled, if something was sent to the broker.
pub(crate) const fn settlement(how: Settled) -> Option<Operation> {
    match how {
        Settled::Acked => Some(ACK),
        Settled::Nacked { .. } => Some(NACK),
        Settled::Rejected { .. } | Settled::Panicked { .. } => Some(REJECT),
        _ => None,
    }
}

/// Returns the failure of a handler, by how its delivery was settled.
pub(crate) const fn of_processing(how: Settled) -> Option<&'static str> {
    match how {
        Settled::Nacked { .. } => Some("nacked"),
        Settled::Rejected { .. } => Some("rejected"),
        Settled::Dropped => Some("dropped"),
        Settled::Panicked { .. } => Some("panicked"),
        Settled::Stale => Some("stale"),
        Settled::ChannelClosed => Some("channel_closed"),
        _ => None,
    }
}
