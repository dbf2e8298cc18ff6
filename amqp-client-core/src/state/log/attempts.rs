//! Attempts to connect again. Attempts that fail for the same reason again and again must not hide other lines.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use amqp_proto::ConnectStep;

use super::text::Rounded;
use crate::logs::Limit;

/// Nodes may fail for different reasons in turn. With more reasons than that, the limits begin again.
const REASONS_MAX: usize = 16;

/// The attempts since the last connection.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// The number of the present attempt, and when it began.
    number: u32,
    began: Option<Instant>,
    took: Option<Duration>,
    /// The line about the last failure was left out.
    quiet: bool,
    reasons: BTreeMap<String, Limit>,
}

impl Attempts {
    pub(super) fn begin(&mut self, number: u32, now: Option<Instant>) {
        (self.number, self.began) = (number, now);
    }

    /// The connection is open.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns whether lines about waiting and connecting are left out, too.
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// An attempt has failed. Returns the end of its line, unless the line is left out.
    pub(super) fn failed(&mut self, reason: &str, now: Option<Instant>) -> Option<String> {
        let times = self.began.zip(now);
        self.took = times.map(|(from, to)| to.saturating_duration_since(from));
        if self.reasons.len() >= REASONS_MAX && !self.reasons.contains_key(reason) {
            self.reasons.clear();
        }
        let end = self.reasons.entry(reason.to_owned()).or_default().count(now);
        self.quiet = end.is_none();
        end
    }

    /// Returns the line about the last failure. `opened` is true if the connection has been open before.
    pub(super) fn text(
        &self,
        node: &dyn fmt::Display,
        step: Option<ConnectStep>,
        reason: &str,
        user: Option<&str>,
        opened: bool,
    ) -> String {
        let mut text = format!("attempt {} to connect to {node} failed", self.number);
        // Writing to a string does not fail.
        if let Some(time) = self.took {
            let _ = write!(text, " after {}", Rounded(time));
        }
        // The reason names the steps before.
        if let Some(step) = step.filter(|step| *step >= ConnectStep::Tls) {
            let _ = write!(text, " (step: {step})");
        }
        let user = user.filter(|user| !user.is_empty());
        let reason = match user {
            Some("guest") | None => reason,
            Some(_) => reason.split_once(GUEST).map_or(reason, |(reason, _)| reason),
        };
        let _ = write!(text, ": {reason}");
        match step {
            Some(ConnectStep::ProtocolHeader) => text.push_str("; the broker had sent nothing"),
            Some(ConnectStep::Sasl) if opened => {
                if let Some(user) = user {
                    let _ = write!(text, "; user '{}' was tried", user.escape_debug());
                }
                text.push_str(
                    "; this login has worked before: the user or the password was changed, or the broker has lost its users",
                );
            }
            _ => {}
        }
        text
    }

    /// Returns a part of the line about a close by the application, if there is no connection.
    pub(super) fn closed(&self) -> String {
        match self.number {
            0 => String::new(),
            count => format!(" while disconnected (attempts to connect: {count})"),
        }
    }
}

/// The hint for a user that is not this one.
const GUEST: &str = "; the user guest may connect";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_alike_get_rare_and_other_reasons_stay_visible() {
        let (mut attempts, now) = (Attempts::default(), Some(Instant::now()));
        let mut written = Vec::new();
        for number in 1..=9 {
            attempts.begin(number, now);
            let end = attempts.failed("refused", now);
            assert_eq!(attempts.is_quiet(), end.is_none());
            written.extend(end.map(|end| (number, end)));
        }
        assert_eq!(written.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_eq!(written[3].1, " (3 more such lines were left out before this one)");
        attempts.begin(10, now);
        assert_eq!(attempts.failed("403", now).as_deref(), Some(""));
        assert_eq!(attempts.closed(), " while disconnected (attempts to connect: 10)");
    }

    #[test]
    fn a_refused_login_names_its_user_and_guest_only_if_it_is_the_user() {
        let attempts = Attempts { number: 2, ..Attempts::default() };
        let reason = "403; check the user and the password; the user guest may connect only from the broker's own host";
        let step = Some(ConnectStep::Sasl);
        let text = attempts.text(&"node", step, reason, Some("orders"), true);
        let expected = "attempt 2 to connect to node failed (step: login): 403; check the user and the password; user 'orders' was \
                        tried; this login has worked before: the user or the password was changed, or the broker has lost its users";
        assert_eq!(text, expected);
        let text = attempts.text(&"node", step, reason, Some("guest"), false);
        assert_eq!(text, format!("attempt 2 to connect to node failed (step: login): {reason}"));
    }

    #[test]
    fn a_peer_that_says_nothing_is_named_so() {
        let mut attempts = Attempts::default();
        let begin = Instant::now();
        attempts.begin(1, Some(begin));
        let _end = attempts.failed("eof", begin.checked_add(Duration::from_secs(10)));
        let text = attempts.text(&"node", Some(ConnectStep::ProtocolHeader), "eof", None, true);
        let expected = "attempt 1 to connect to node failed after 10.0 s (step: protocol header): eof; the broker had sent nothing";
        assert_eq!(text, expected);
    }
}
