use std::time::{Duration, Instant};

use crate::config::READ_PAUSE_EVERY;

/// The length of a read pause.
const MOMENT: Duration = Duration::from_millis(1);

/// Pacing: pauses reading for 1 ms, so that consumers take their deliveries before more is read. With slow consumers, there is
/// one pause for each further [`READ_PAUSE_EVERY`] bytes, so other users of the connection hardly wait.
#[derive(Debug)]
pub(crate) struct Moments {
    /// How much is delivered when the next begins.
    at: usize,
    /// Until when the present one lasts.
    until: Option<Instant>,
}

impl Default for Moments {
    fn default() -> Self {
        Self { at: READ_PAUSE_EVERY, until: None }
    }
}

impl Moments {
    /// Until when not to read, with so many bytes delivered and not taken.
    pub(crate) fn pause(&mut self, delivered: usize, now: Instant) -> Option<Instant> {
        if delivered < READ_PAUSE_EVERY {
            self.at = READ_PAUSE_EVERY;
        }
        if delivered < self.at {
            self.until = None;
            return None;
        }
        let until = *self.until.get_or_insert_with(|| now + MOMENT);
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
    fn there_is_one_moment_each_time_as_much_is_not_taken() {
        let mut now = Instant::now();
        let mut moments = Moments::default();
        assert_eq!(moments.pause(READ_PAUSE_EVERY - 1, now), None);
        for delivered in [READ_PAUSE_EVERY, 2 * READ_PAUSE_EVERY, 3 * READ_PAUSE_EVERY + 5] {
            assert_eq!(moments.pause(delivered, now), Some(now + MOMENT));
            assert_eq!(moments.pause(delivered, now + MOMENT / 2), Some(now + MOMENT));
            now += MOMENT;
            assert_eq!(moments.pause(delivered, now), None);
            assert_eq!(moments.pause(delivered + READ_PAUSE_EVERY - 1, now), None);
        }
    }

    #[test]
    fn a_moment_ends_when_all_is_taken() {
        let now = Instant::now();
        let mut moments = Moments::default();
        assert_eq!(moments.pause(READ_PAUSE_EVERY, now), Some(now + MOMENT));
        assert_eq!(moments.pause(0, now), None);
        let later = now + 5 * MOMENT;
        assert_eq!(moments.pause(READ_PAUSE_EVERY, later), Some(later + MOMENT));
    }
}
