//! Lines about the events of a connection, through `log`, `tracing` or both.
//!
//! A sink is user code that receives the lines. It may block, panic or use handles of the same connection. So under the connection's
//! lock, a line is only queued. [`Guard`](crate::state::Guard) writes the line once the lock is released. Without the features,
//! [`Log::line`] is empty.

use std::fmt;

#[cfg(any(feature = "log", feature = "tracing"))]
mod channel;
mod limit;
#[cfg(not(any(feature = "log", feature = "tracing")))]
mod off;
#[cfg(any(feature = "log", feature = "tracing"))]
mod on;
#[cfg(any(feature = "log", feature = "tracing"))]
mod repeats;
mod text;

#[cfg(any(feature = "log", feature = "tracing"))]
pub(crate) use channel::ChannelLog;
pub(crate) use limit::Limit;
#[cfg(not(any(feature = "log", feature = "tracing")))]
pub(crate) use off::{ChannelLog, Log};
#[cfg(any(feature = "log", feature = "tracing"))]
pub(crate) use on::Log;
pub(crate) use text::{Prefetch, explained};

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(feature = "log", feature = "tracing")),
    allow(dead_code, reason = "nothing reads it without a facade")
)]
pub(crate) enum Level {
    /// The problem does not go away by itself: somebody has to act.
    Error,
    /// Something is wrong, and the client goes on.
    Warn,
    /// A state has changed, or something is slow.
    Info,
    /// An action of the application.
    Debug,
}

/// The number of requests and messages that the end of channels has interrupted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) channels: usize,
    pub(crate) requests: usize,
    pub(crate) unconfirmed: u64,
    pub(crate) unsettled: usize,
    pub(crate) consumers: usize,
}

/// The pause of a consumer that takes none of its deliveries.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(any(feature = "log", feature = "tracing")),
    allow(dead_code, reason = "nothing reads it without a facade")
)]
pub(crate) struct Pause {
    /// The number of deliveries that the consumer keeps, and their bytes.
    pub(crate) kept: (u64, usize),
    pub(crate) requeued: u64,
    /// The number of bytes that was exceeded.
    pub(crate) budget: usize,
}

impl InFlight {
    pub(crate) fn add(&mut self, other: &Self) {
        self.channels += other.channels;
        self.requests += other.requests;
        self.unconfirmed = self.unconfirmed.saturating_add(other.unconfirmed);
        self.unsettled += other.unsettled;
        self.consumers += other.consumers;
    }

    /// Returns the end of the line about a close by the application.
    pub(crate) fn pending(&self) -> String {
        let counts = [
            (self.consumers as u64, "consumer"),
            (self.requests as u64, "request"),
            (self.unconfirmed, "unconfirmed message"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, what)| Counted(count, what).to_string()).collect();
        if counts.is_empty() { String::new() } else { format!("; pending: {}", counts.join(", ")) }
    }
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channels, requests, unconfirmed, unsettled, consumers: _ } = *self;
        let counts = [
            (channels as u64, "channel"),
            (requests as u64, "pending request"),
            (unconfirmed, "unconfirmed message"),
        ];
        let mut first = true;
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            f.write_str(if std::mem::take(&mut first) { "; interrupted: " } else { ", " })?;
            write!(f, "{}", Counted(count, what))?;
        }
        if unconfirmed > 0 {
            let it = if unconfirmed == 1 { "it" } else { "them" };
            write!(
                f,
                " (the broker may have {it} or not, and the client does not publish {it} again: the confirm fails)"
            )?;
        }
        match unsettled as u64 {
            0 => Ok(()),
            1 => f.write_str("; the broker delivers 1 unsettled message again"),
            count => write!(f, "; the broker delivers {count} unsettled messages again"),
        }
    }
}

/// A number of things, with the word for one of them.
pub(crate) struct Counted(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, what) = self;
        write!(f, "{count} {what}{}", if *count == 1 { "" } else { "s" })
    }
}

/// Returns a text from elsewhere on one line.
pub(crate) fn one_line(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { line.extend(letter.escape_debug()) } else { line.push(letter) }
    }
    line
}
