//! Sending kept messages in groups, to find those that the broker refuses: see [`resend`](crate::session::resend).

/// Kept messages are sent in groups, each when the one before is confirmed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Careful {
    /// The last message that may have closed the channel.
    pub(crate) until: u64,
    /// The size of the next group.
    group: usize,
    /// The message may have closed the whole connection, so the channel takes turns with others.
    pub(crate) in_turns: bool,
}

impl Careful {
    /// The messages up to `until` are under suspicion. The first group is one message.
    pub(crate) const fn new(until: u64, in_turns: bool) -> Self {
        Self { until, group: 1, in_turns }
    }

    /// Begins with a small group again, on another channel.
    pub(crate) const fn begin_again(&mut self) {
        self.group = 1;
    }

    /// Returns the size of the next group. The one after it is twice as large.
    pub(crate) const fn next_group(&mut self) -> usize {
        let group = self.group;
        self.group = group.saturating_mul(2);
        group
    }
}
