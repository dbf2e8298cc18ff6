use std::time::{Duration, Instant};

use crate::config::READ_PAUSE_EVERY;

/// The length of a read pause. A consumer that keeps up takes half a MiB in less, and a connection hardly notices it.
const READ_PAUSE: Duration = Duration::from_millis(1);

/// Pauses reading for 1 ms, so that consumers take their deliveries before more is read. With slow consumers, there is one pause for
/// each further [`READ_PAUSE_EVERY`] bytes, so other users of the connection hardly wait.
#[derive(Debug)]
pub(crate) struct ReadPacing {
    /// Number of untaken bytes that triggers the next pause.
    at: usize,
    /// End of the present pause.
    until: Option<Instant>,
}

impl Default for ReadPacing {
    fn default() -> Self {
        Self { at: READ_PAUSE_EVERY, until: None }
    }
}

impl ReadPacing {
    /// Returns until when not to read, with so many bytes delivered and not taken.
    pub(crate) fn pause(&mut self, delivered: usize, now: Instant) -> Option<Instant> {
        if delivered < READ_PAUSE_EVERY {
            self.at = READ_PAUSE_EVERY;
        }
        if delivered < self.at {
            self.until = None;
            return None;
        }
        let until = *self.until.get_or_insert_with(|| now + READ_PAUSE);
        if now < until {
            return Some(until);
        }
        self.until = None;
        self.at = delivered.saturating_add(READ_PAUSE_EVERY);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_pause_each_time_as_much_is_not_taken() {
        let mut now = Instant::now();
        let mut pacing = ReadPacing::default();
        assert_eq!(pacing.pause(READ_PAUSE_EVERY - 1, now), None);
        for delivered in [READ_PAUSE_EVERY, 2 * READ_PAUSE_EVERY, 3 * READ_PAUSE_EVERY + 5] {
            assert_eq!(pacing.pause(delivered, now), Some(now + READ_PAUSE));
            assert_eq!(pacing.pause(delivered, now + READ_PAUSE / 2), Some(now + READ_PAUSE));
            now += READ_PAUSE;
            assert_eq!(pacing.pause(delivered, now), None);
            assert_eq!(pacing.pause(delivered + READ_PAUSE_EVERY - 1, now), None);
        }
    }

    #[test]
    fn a_pause_ends_when_all_is_taken() {
        let now = Instant::now();
        let mut pacing = ReadPacing::default();
        assert_eq!(pacing.pause(READ_PAUSE_EVERY, now), Some(now + READ_PAUSE));
        assert_eq!(pacing.pause(0, now), None);
        let later = now + 5 * READ_PAUSE;
        assert_eq!(pacing.pause(READ_PAUSE_EVERY, later), Some(later + READ_PAUSE));
    }
}
