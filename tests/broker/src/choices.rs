use std::time::Duration;

/// The random choices of the engine. See [`Options::nondeterminism`](crate::Options::nondeterminism).
#[derive(Debug)]
pub(crate) struct Choices {
    /// The state of the random source (xorshift); `None` if the engine is deterministic.
    state: Option<u64>,
}

impl Choices {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // The state must not be zero.
        Self { state: seed.map(|seed| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) }
    }

    fn next(&mut self) -> Option<u64> {
        let state = self.state.as_mut()?;
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        // The low bits are less random.
        Some(*state >> 11)
    }

    /// Returns `true` once in `times` calls, on average.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.next().is_some_and(|random| random % times == 0)
    }

    /// Returns a random index below `len`, or 0 if the engine is deterministic.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        let random = self.next().and_then(|random| usize::try_from(random).ok()).unwrap_or(0);
        random.checked_rem(len).unwrap_or(0)
    }

    /// Returns how long to delay something; mostly `None`.
    pub(crate) fn delay(&mut self) -> Option<Duration> {
        self.one_in(3).then(|| Duration::from_millis(self.index(50) as u64 + 1))
    }
}
