//! Returned messages of which several equal ones are outstanding.
//!
//! The broker returns a message before it confirms that message. So of equal messages, the one that is confirmed next was
//! returned, and until then it is unknown which one it is. To assume the oldest would be wrong: it may have reached its queue and
//! wait for the disk, while the queue is deleted and a younger one is returned. The broker confirms the younger one at once, and
//! the client would report it as safe.
//!
//! A broker may collect confirms and send several together, so that another one goes first. As all of them have their confirms
//! by then, and the messages are equal, it makes no difference.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};

use super::fingerprint::Fingerprint;
use super::returns::Outstanding;
use crate::{PublishSeq, Returned};

/// Equal messages of which some were returned, by their fingerprints.
#[derive(Debug, Default)]
pub(super) struct Equals {
    groups: BTreeMap<Fingerprint, Group>,
}

#[derive(Debug)]
struct Group {
    /// Number of these messages that are unconfirmed, and not known to be returned. A group without any is removed.
    outstanding: usize,
    /// Came back, and each belongs to one of them.
    returned: VecDeque<Box<Returned>>,
}

impl Equals {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// One of `count` equal messages was returned, and it is not known yet which.
    pub(super) fn insert(
        &mut self,
        fingerprint: Fingerprint,
        outstanding: usize,
        returned: Box<Returned>,
    ) {
        let group = Group { outstanding, returned: [returned].into() };
        self.groups.insert(fingerprint, group);
    }

    /// Handles a returned message. Returns it if it belongs to no group, or is the only one left of its group.
    pub(super) fn returned(
        &mut self,
        fingerprint: Fingerprint,
        returned: Box<Returned>,
    ) -> Result<(), Box<Returned>> {
        match self.groups.get_mut(&fingerprint) {
            Some(group) if (group.outstanding, group.returned.len()) == (1, 0) => {
                self.groups.remove(&fingerprint);
                Err(returned)
            }
            Some(group) if group.returned.len() < group.outstanding => {
                group.returned.push_back(returned);
                Ok(())
            }
            _ => Err(returned),
        }
    }

    /// Returns whether all outstanding messages with this fingerprint were already returned.
    pub(super) fn are_all_returned(&self, fingerprint: Fingerprint) -> bool {
        let group = self.groups.get(&fingerprint);
        group.is_some_and(|group| group.returned.len() >= group.outstanding)
    }

    /// Another one is published.
    #[cold]
    pub(super) fn published(&mut self, fingerprint: Option<Fingerprint>) {
        if let Some(group) = fingerprint.and_then(|own| self.groups.get_mut(&own)) {
            group.outstanding += 1;
        }
    }

    /// These publishes are about to be confirmed, or will never be. Reports those that were returned.
    #[cold]
    pub(super) fn settle<'a>(
        &mut self,
        publishes: impl Iterator<Item = (u64, &'a Outstanding)>,
        mut report: impl FnMut(PublishSeq, Box<Returned>),
    ) {
        for (seq, publish) in publishes {
            let Some(fingerprint) = publish.fingerprint.filter(|_| !publish.confirmed) else {
                continue;
            };
            let Some(group) = self.groups.get_mut(&fingerprint) else { continue };
            if let Some(returned) = group.returned.pop_front() {
                report(PublishSeq(seq), returned);
            }
            group.outstanding = group.outstanding.saturating_sub(1);
            if group.outstanding == 0 {
                debug_assert!(group.returned.is_empty(), "each belongs to one of them");
                self.groups.remove(&fingerprint);
            }
        }
    }
}

/// The known facts about a returned message.
#[derive(Debug, PartialEq)]
pub(crate) enum Attribution {
    /// It is this publish; or none of the outstanding ones, such as a message that a plugin has published.
    Known(Option<PublishSeq>, Box<Returned>),
    /// It is one of several equal ones, and [`Confirms::confirming`](super::confirms::Confirms::confirming) will reveal which.
    Open,
}
