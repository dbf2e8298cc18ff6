//! Texts that several lines have in common.

use std::fmt;

use amqp_proto::error::chain;
use amqp_proto::{ChannelError, Initiator, ShortStr};

use super::one_line;

/// Returns the reason why a channel was closed, or why something was not restored. The line names the channel.
pub(crate) fn explained(error: &ChannelError) -> String {
    match error {
        ChannelError::Closed(close) if close.by == Initiator::Peer => {
            one_line(&format_args!("closed by the broker: {}", close.reason()))
        }
        ChannelError::NotRestored { why, .. } => one_line(why),
        error => one_line(&chain(error)),
    }
}

/// A prefetch limit.
pub(crate) struct Prefetch(pub(crate) u16);

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no prefetch limit"),
            limit => write!(f, "prefetch limit {limit}"),
        }
    }
}

/// A consumer and its queue.
#[cfg_attr(
    not(any(feature = "log", feature = "tracing")),
    allow(dead_code, reason = "nothing reads it without a facade")
)]
pub(crate) struct Consumer<'a>(pub(crate) &'a ShortStr, pub(crate) Option<&'a ShortStr>);

impl fmt::Display for Consumer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer '{}'", self.0.escaped())?;
        match self.1 {
            Some(queue) => write!(f, " of queue '{}'", queue.escaped()),
            None => Ok(()),
        }
    }
}
