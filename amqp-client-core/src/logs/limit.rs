use std::time::{Duration, Instant};

/// After this time without such a line, the count begins again. While such lines keep coming, one is written at least this often.
const QUIET: Duration = Duration::from_secs(60);

/// Limits a kind of line that could come with each message: only the 1st, 2nd, 4th, 8th and so on are written, and one per minute.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    /// Number of lines since the last quiet minute.
    count: u64,
    /// Number of lines that were left out since one was written.
    left_out: u64,
    last: Option<Instant>,
    written: Option<Instant>,
}

impl Limit {
    /// Counts a line. Returns the text to append to the line, or `None` if the line is left out. `now` is `None` if the time is not
    /// known.
    pub(crate) fn count(&mut self, now: Option<Instant>) -> Option<String> {
        let is_long_after = |before: Option<Instant>| {
            let times = now.zip(before);
            times.is_some_and(|(now, before)| now.saturating_duration_since(before) >= QUIET)
        };
        let count = if is_long_after(self.last) { 0 } else { self.count };
        self.count = count.saturating_add(1);
        let is_written = self.count.is_power_of_two() || is_long_after(self.written);
        self.last = now.or(self.last);
        if !is_written {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.written = now.or(self.written);
        Some(match self.take_left_out() {
            0 => String::new(),
            1 => " (1 more such line was left out before this one)".to_owned(),
            count => format!(" ({count} more such lines were left out before this one)"),
        })
    }

    /// Returns how many lines were left out since the last one that was written.
    pub(crate) const fn take_left_out(&mut self) -> u64 {
        std::mem::replace(&mut self.left_out, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_rarer_and_each_is_written_or_counted() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let lines: Vec<_> = (1..=100).filter_map(|n| Some((n, limit.count(Some(now))?))).collect();
        assert_eq!(lines.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(lines[3].1, " (3 more such lines were left out before this one)");
        // After a while of silence, the next one is news. Those since the 64th are not forgotten.
        let end = limit.count(Some(now + QUIET));
        assert_eq!(end.as_deref(), Some(" (36 more such lines were left out before this one)"));
        assert_eq!(limit.count(Some(now + QUIET)).as_deref(), Some(""), "the count began again");
    }

    #[test]
    fn while_they_keep_coming_there_is_a_line_each_minute() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let day = 0..24 * 60 * 60_u64;
        let at = |second| Some(start + Duration::from_secs(second));
        let mut written = Vec::new();
        written.extend(day.filter(|second| limit.count(at(*second)).is_some()));
        let longest = written.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(longest, Some(60));
        assert!(written.len() < 24 * 60 + 20, "{}", written.len());
        // The last minute is not written yet.
        assert_eq!(limit.take_left_out(), 24 * 60 * 60 - 1 - written[written.len() - 1]);
        assert_eq!(limit.take_left_out(), 0);
    }
}
