use std::time::{Duration, Instant};

/// After that long without such a line, the count begins again.
const QUIET: Duration = Duration::from_secs(60);

/// Limits lines that can come with each message: the 1st, 2nd, 4th, 8th and so on are written.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    count: u64,
    last: Option<Instant>,
}

impl Limit {
    /// Counts one. Returns the end of the line that reports it, or `None` if no line does. `now` is `None` if the time is not known.
    pub(crate) fn count(&mut self, now: Option<Instant>) -> Option<String> {
        let quiet = now
            .zip(self.last)
            .is_some_and(|(now, last)| now.saturating_duration_since(last) >= QUIET);
        self.last = now.or(self.last);
        self.count = if quiet { 1 } else { self.count.saturating_add(1) };
        match self.count {
            1 | 2 => Some(String::new()),
            count if count.is_power_of_two() => {
                let left_out = count / 2 - 1;
                Some(format!(" ({left_out} more such lines were left out before this one)"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_rarer_and_each_message_is_counted() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let lines: Vec<_> = (1..=100).filter_map(|n| Some((n, limit.count(Some(now))?))).collect();
        assert_eq!(lines.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(lines[3].1, " (3 more such lines were left out before this one)");
        // After a while of silence, the next one is news.
        assert_eq!(limit.count(Some(now + QUIET)).as_deref(), Some(""));
    }
}
