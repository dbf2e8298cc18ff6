#![expect(clippy::unused_self, reason = "the other forms of these types need it")]

use std::time::{Duration, Instant};

use amqp_proto::{ChannelError, ChannelId, ClientConfig, PublishError, PublishSeq, ShortStr};

use super::{InFlight, Level, Pause};
use crate::counters::Counters;
use crate::event::ChannelEvent;

/// Writes nothing: no logging facade is built in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log;

impl Log {
    pub(crate) const fn new(_: &ClientConfig) -> Self {
        Self
    }

    pub(crate) const fn begin(&self, _: Instant) {}

    pub(crate) const fn began(&self) -> Option<Instant> {
        None
    }

    pub(crate) const fn is_built(&self) -> bool {
        false
    }

    pub(crate) const fn is_due(&self) -> bool {
        false
    }

    #[inline]
    pub(crate) fn line(&self, _: Level, _: Option<ChannelId>, _: impl FnOnce() -> String) {}

    pub(crate) const fn write(&self) {}
}

/// Writes nothing, and takes no memory.
#[derive(Debug, Default)]
pub(crate) struct ChannelLog(());

impl ChannelLog {
    pub(crate) const fn new(_: &Log, _: ChannelId) -> Self {
        Self(())
    }

    pub(crate) const fn event(&mut self, _: &ChannelEvent, _: Option<Instant>) {}

    pub(crate) const fn ends_with(&mut self, _: usize, _: usize) {}

    pub(crate) const fn interrupted(&mut self, _: usize) {}

    pub(crate) const fn request_failed(&mut self) {}

    pub(crate) const fn unconfirmed(&mut self, _: PublishSeq, _: PublishSeq) {}

    pub(crate) const fn take_lost(&mut self) -> Option<InFlight> {
        None
    }

    pub(crate) const fn confirmed(
        &mut self,
        _: PublishSeq,
        _: PublishSeq,
        _: bool,
        _: Option<Instant>,
    ) {
    }

    pub(crate) const fn not_resent(&mut self, _: &PublishError, _: Option<Instant>) {}

    pub(crate) const fn stale(&mut self, _: u64, _: Option<Instant>) {}

    pub(crate) const fn consumer_starts(&mut self, _: &ShortStr, _: &ShortStr, _: u16) {}

    pub(crate) const fn prefetch(&self, _: &ShortStr) -> Option<u16> {
        None
    }

    pub(crate) const fn paused(&mut self, _: &ShortStr, _: &Pause, _: Option<Instant>) {}

    pub(crate) const fn consumer_failed(&mut self, _: &ShortStr, _: &ChannelError) {}

    pub(crate) const fn consumer_cancelled(&mut self, _: &ShortStr, _: &str) {}

    pub(crate) const fn progress(&mut self, _: usize, _: u64, _: Instant) {}

    pub(crate) const fn repeats(&mut self, _: &Counters, _: Instant, _: Duration) {}

    pub(crate) const fn renamed(&mut self, _: &ShortStr, _: &ShortStr) {}
}
