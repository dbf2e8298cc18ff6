//! The queues that were declared on a channel, as far as later requests refer to them by an empty name.

use alloc::collections::VecDeque;

use super::request::Noted;
use crate::{RequestId, ShortStr};

/// The queues that were declared on a channel.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    /// The queue for which an empty queue name stands, as far as is known: of the declarations that have a reply, or get none, this
    /// one was sent last.
    pub(crate) last_queue: ShortStr,
    /// Its declaration.
    pub(crate) last_declaration: Option<RequestId>,
    /// The queue of the last reply to a declaration.
    pub(crate) last_named: ShortStr,
    /// The declaration of a queue that was sent last, and its name, while its reply is pending.
    pub(crate) declaring: Option<(RequestId, ShortStr)>,
    /// Requests without a reply behind the declaration of a queue that is yet to get its name from the broker.
    pub(crate) unnamed: VecDeque<(RequestId, Noted, bool)>,
    /// True if the broker does not know `last_queue` as the last one, because it was declared before the channel was reopened.
    pub(crate) last_queue_unknown: bool,
}

impl Declared {
    /// Returns the names of queues, to change them.
    pub(crate) fn names(&mut self) -> impl Iterator<Item = &mut ShortStr> {
        let Self { last_queue, last_named, declaring, .. } = self;
        let declaring = declaring.iter_mut().map(|(_, name)| name);
        [last_queue, last_named].into_iter().chain(declaring)
    }

    /// Returns the next request without a reply that waited for the name of the queue of that declaration.
    pub(crate) fn next_unnamed(&mut self, declaration: RequestId) -> Option<(Noted, bool)> {
        self.unnamed.front().filter(|(unnamed, ..)| *unnamed == declaration)?;
        self.unnamed.pop_front().map(|(_, noted, recovers)| (noted, recovers))
    }

    /// The channel has ended. Its pending requests get no reply.
    pub(crate) fn interrupt(&mut self) {
        self.unnamed.clear();
        self.declaring = None;
        // A declaration that fails now may be sent again, after one with a larger number.
        self.last_declaration = None;
    }
}
