use std::time::Instant;

use amqp_proto::{ChannelId, ClientConfig};

use super::Level;

/// Writes nothing: no logging facade is built in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log;

impl Log {
    pub(crate) const fn new(_: &ClientConfig) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) const fn begin(&self, _: Instant) {}

    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) const fn began(&self) -> Option<Instant> {
        None
    }

    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) const fn is_built(&self) -> bool {
        false
    }

    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) const fn is_due(&self) -> bool {
        false
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) fn line(&self, _: Level, _: Option<ChannelId>, _: impl FnOnce() -> String) {}

    #[expect(clippy::unused_self, reason = "the other form of this type needs it")]
    pub(crate) const fn write(&self) {}
}
