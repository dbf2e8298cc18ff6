use std::time::{Duration, Instant};

/// Number of untaken bytes at which reading pauses. Consumers that keep up find their deliveries in the processor's cache, and a
/// flood takes no more memory than that.
pub(crate) const EACH: usize = 512 * 1024;

/// How long a moment is.
const MOMENT: Duration = Duration::from_millis(1);

/// Gives consumers moments to take what was delivered, before more of it is read. To those that are slow it happens once for
/// each [`EACH`] more, so that others on the connection hardly wait for them.
#[derive(Debug)]
pub(crate) struct Moments {
    /// How much is delivered when the next begins.
    at: usize,
    /// Until when the present one lasts.
    until: Option<Instant>,
}

impl Default for Moments {
    fn default() -> Self {
        Self { at: EACH, until: None }
    }
}

impl Moments {
    /// Until when not to read, with so many bytes delivered and not taken.
    pub(crate) fn pause(&mut self, delivered: usize, now: Instant) -> Option<Instant> {
        if delivered < EACH {
            self.at = EACH;
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
        self.at = delivered.saturating_add(EACH);
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
        assert_eq!(moments.pause(EACH - 1, now), None);
        for delivered in [EACH, 2 * EACH, 3 * EACH + 5] {
            assert_eq!(moments.pause(delivered, now), Some(now + MOMENT));
            assert_eq!(moments.pause(delivered, now + MOMENT / 2), Some(now + MOMENT));
            now += MOMENT;
            assert_eq!(moments.pause(delivered, now), None);
            assert_eq!(moments.pause(delivered + EACH - 1, now), None);
        }
    }

    #[test]
    fn a_moment_ends_when_all_is_taken() {
        let now = Instant::now();
        let mut moments = Moments::default();
        assert_eq!(moments.pause(EACH, now), Some(now + MOMENT));
        assert_eq!(moments.pause(0, now), None);
        let later = now + 5 * MOMENT;
        assert_eq!(moments.pause(EACH, later), Some(later + MOMENT));
    }
}
