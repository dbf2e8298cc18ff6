//! Lines about what happens to a connection, through `log`, `tracing` or both.
//!
//! A sink is code of the user's: it may block, panic or use handles of the same connection. So a line is only queued under the
//! connection's lock, and written once the lock is released, by [`Guard`](crate::state::Guard). Without the features, nothing is
//! left of this module: [`Log::line`] is empty.

use std::fmt;

mod limit;
#[cfg(not(any(feature = "log", feature = "tracing")))]
mod off;
#[cfg(any(feature = "log", feature = "tracing"))]
mod on;
mod texts;

pub(crate) use limit::Limit;
#[cfg(not(any(feature = "log", feature = "tracing")))]
pub(crate) use off::Log;
#[cfg(any(feature = "log", feature = "tracing"))]
pub(crate) use on::Log;
pub(crate) use texts::{ChannelLog, InFlight};

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(feature = "log", feature = "tracing")),
    allow(dead_code, reason = "nothing reads it without a facade")
)]
pub(crate) enum Level {
    /// Does not mend itself: somebody has to act.
    Error,
    /// Something is wrong, and the client goes on.
    Warn,
    /// A state has changed for the better, or as requested.
    Info,
    /// An action of the application.
    Debug,
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
