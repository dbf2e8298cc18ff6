//! The requests of a session's channel that are sent and unanswered, to be matched with their replies.

use alloc::collections::VecDeque;

use super::request::InFlight;
use crate::RequestId;

/// Sent and unanswered requests, in the order in which they were sent.
///
/// Most replies come in that order. Replies to consumes and cancels come from queues, and so in any order, and requests can
/// be abandoned in any order. These leave a gap, which costs less than closing up each time.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    sent: VecDeque<(RequestId, Option<InFlight>)>,
    /// Number of gaps in `sent`. Neither the first nor the last entry is one.
    gaps: usize,
    /// Numbers do not grow: some requests that had waited for the channel were sent after later ones. They are searched one by
    /// one until all have their replies.
    unsorted: bool,
}

impl Requests {
    pub(crate) fn push(&mut self, request: InFlight) {
        self.unsorted |= self.sent.back().is_some_and(|(last, _)| *last >= request.id);
        self.sent.push_back((request.id, Some(request)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        // The first entry is never a gap.
        self.sent.is_empty()
    }

    /// The request that was sent last.
    pub(crate) fn last(&mut self) -> Option<&mut InFlight> {
        self.sent.back_mut()?.1.as_mut()
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        let request = self.place(id).and_then(|place| self.sent.get(place));
        request.is_some_and(|(_, request)| request.is_some())
    }

    pub(crate) fn find(&mut self, id: RequestId) -> Option<&mut InFlight> {
        let place = self.place(id)?;
        self.sent.get_mut(place)?.1.as_mut()
    }

    /// Removes a request: its reply has arrived or is not needed.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<InFlight> {
        let place = self.place(id)?;
        let taken = self.sent.get_mut(place)?.1.take()?;
        self.gaps += 1;
        while self.sent.front().is_some_and(|(_, request)| request.is_none()) {
            self.sent.pop_front();
            self.gaps -= 1;
        }
        while self.sent.back().is_some_and(|(_, request)| request.is_none()) {
            self.sent.pop_back();
            self.gaps -= 1;
        }
        // At least half of them are gaps: so closing the gaps costs each request that is removed only a step or two.
        if self.gaps > self.sent.len() / 2 {
            self.sent.retain(|(_, request)| request.is_some());
            self.gaps = 0;
        }
        self.unsorted &= !self.sent.is_empty();
        Some(taken)
    }

    /// Returns all requests, the oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.sent.iter_mut().filter_map(|(_, request)| request.as_mut())
    }

    /// Takes all requests, the oldest first.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = InFlight> + use<> {
        core::mem::take(self).sent.into_iter().filter_map(|(_, request)| request)
    }

    fn place(&self, id: RequestId) -> Option<usize> {
        match self.sent.front() {
            Some((first, _)) if *first == id => Some(0),
            Some(_) if self.unsorted => {
                self.sent.iter().position(|(own, request)| *own == id && request.is_some())
            }
            Some(_) => self.sent.binary_search_by_key(&id, |(own, _)| *own).ok(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// With this number, the test takes minutes if each costs a scan of all.
    const COUNT: u64 = 100_000;

    fn request(number: u64) -> InFlight {
        let (note, before) = (None, None);
        let id = RequestId(number);
        InFlight { id, note, before, recovers: true, abandoned: false, leaving: None, ahead_of: 0 }
    }

    fn numbers(requests: &mut Requests) -> Vec<u64> {
        requests.iter_mut().map(|request| request.id.get()).collect()
    }

    #[test]
    fn replies_in_any_order_cost_the_same() {
        let orders: [fn(u64) -> u64; 4] =
            [|at| at, |at| COUNT - 1 - at, |at| at * 7919 % COUNT, |at| (at + 1) % COUNT];
        for order in orders {
            let mut requests = Requests::default();
            (0..COUNT).for_each(|number| requests.push(request(number)));
            for id in (0..COUNT).map(order).map(RequestId) {
                assert!(requests.find(id).is_some());
                assert_eq!(requests.take(id).expect("it was sent").id, id);
                assert!(requests.take(id).is_none());
            }
            assert!(requests.sent.is_empty() && requests.gaps == 0);
        }
    }

    #[test]
    fn a_request_without_reply_does_not_keep_the_memory_of_others() {
        let mut requests = Requests::default();
        requests.push(request(0));
        for number in 1..COUNT {
            requests.push(request(number));
            requests.push(request(number + COUNT));
            requests.take(RequestId(number + COUNT)).expect("it was sent");
            requests.take(RequestId(number)).expect("it was sent");
            assert!(requests.sent.len() < 8);
        }
        assert_eq!(numbers(&mut requests), [0]);
    }

    #[test]
    fn requests_are_found_among_numbers_that_do_not_grow_and_keep_their_order() {
        let mut requests = Requests::default();
        [7, 9, 3, 4, 12, 1].into_iter().for_each(|number| requests.push(request(number)));
        assert_eq!(requests.last().map(|last| last.id.get()), Some(1));
        for (number, left) in [(4, &[7, 9, 3, 12, 1][..]), (1, &[7, 9, 3, 12]), (7, &[9, 3, 12])] {
            requests.take(RequestId(number)).expect("it was sent");
            assert_eq!(numbers(&mut requests), left);
        }
        // One may be sent again.
        requests.push(request(7));
        assert_eq!(requests.find(RequestId(7)).map(|found| found.id.get()), Some(7));
        assert_eq!(requests.take_all().count(), 4);
        assert!(!requests.unsorted && requests.last().is_none());
    }
}
