use alloc::collections::BTreeMap;

use crate::{ConsumerId, ShortStr};

/// The consumers of a channel, by their tags.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    by_tag: BTreeMap<ShortStr, Consumer>,
    /// The consumer of the last delivery: most often that of the next one, too.
    last: Option<(ShortStr, Consumer)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) id: ConsumerId,
    pub(crate) no_ack: bool,
    /// Its deliveries are no longer wanted; they are requeued.
    pub(crate) unwanted: bool,
}

impl Consumers {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_tag.is_empty()
    }

    pub(crate) fn contains(&self, tag: &ShortStr) -> bool {
        self.by_tag.contains_key(tag)
    }

    pub(crate) fn insert(&mut self, tag: ShortStr, consumer: Consumer) {
        self.last = None;
        self.by_tag.insert(tag, consumer);
    }

    pub(crate) fn remove(&mut self, tag: &[u8]) -> Option<Consumer> {
        self.last = None;
        self.by_tag.remove(tag)
    }

    /// From now on, deliveries of that consumer are requeued.
    pub(crate) fn abandon(&mut self, tag: &[u8]) {
        self.last = None;
        if let Some(consumer) = self.by_tag.get_mut(tag) {
            consumer.unwanted = true;
        }
    }

    // Each delivery needs this. As a call, it takes 15 instructions more.
    #[inline(always)]
    pub(crate) fn find(&mut self, tag: &[u8]) -> Option<Consumer> {
        match &self.last {
            Some((last, consumer)) if last.as_bytes() == tag => Some(*consumer),
            _ => self.look_up(tag),
        }
    }

    #[cold]
    fn look_up(&mut self, tag: &[u8]) -> Option<Consumer> {
        let (tag, consumer) = self.by_tag.get_key_value(tag)?;
        self.last = Some((tag.clone(), *consumer));
        Some(*consumer)
    }
}
