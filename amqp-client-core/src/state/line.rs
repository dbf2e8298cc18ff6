//! Lines of futures that wait for room to publish.

use std::collections::BTreeMap;
use std::task::Waker;

use super::waiters::Task;

/// Futures that wait for room, first come, first served.
///
/// Room that appears is granted to the tasks at the front, and only these are woken. Publishing uses the grant. The grant is
/// returned when the future is dropped or has to wait for something else. Whoever uses or returns a grant calls the next task. So
/// no wake-up is lost, and a confirm does not wake a thousand tasks for one place in the window.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: BTreeMap<u64, InLine>,
    /// The number of the latest ticket.
    last: u64,
    granted: Room,
    /// Bytes of the bodies that wait.
    bytes: usize,
}

/// The place of a future in a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    number: u64,
    /// Bytes of the body that waits.
    size: usize,
}

/// Amount of room that was granted and is not used yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct InLine {
    size: usize,
    waker: Option<Waker>,
}

impl Room {
    fn add(&mut self, size: usize) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(size);
    }

    fn subtract(&mut self, size: usize) {
        debug_assert!(self.messages > 0, "a grant is returned once");
        self.messages = self.messages.saturating_sub(1);
        self.bytes = if self.messages == 0 { 0 } else { self.bytes.saturating_sub(size) };
    }
}

impl Line {
    /// Returns whether no ticket is in use.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // One comparison, because each message needs it.
        self.waiting.len() | self.granted.messages == 0
    }

    /// Returns the room granted to others, if it is this future's turn: it was called, or nobody waits in front of it.
    #[inline]
    pub(crate) fn turn(&self, ticket: Option<Ticket>) -> Option<Room> {
        if self.is_empty() {
            return Some(Room::default());
        }
        let mut others = self.granted;
        let first = self.waiting.keys().next();
        match ticket {
            Some(ticket) if !self.waiting.contains_key(&ticket.number) => {
                others.subtract(ticket.size);
                Some(others)
            }
            Some(ticket) => (first == Some(&ticket.number)).then_some(others),
            None => first.is_none().then_some(others),
        }
    }

    /// Returns whether a message of that size would overtake others, of `room` that there is: some wait in front of it, or it has no
    /// ticket and would take room that was granted to others. Without the latter, publishing in a loop could use up all room that
    /// others were woken for, each time.
    pub(crate) fn overtakes(&self, ticket: Option<Ticket>, size: usize, room: usize) -> bool {
        self.turn(ticket).is_none_or(|others| {
            let takes = others.messages > 0 && others.bytes.saturating_add(size) > room;
            ticket.is_none() && takes
        })
    }

    /// Waits for room of that size: at the end, or where the future stood before. A grant that it had is returned.
    pub(crate) fn wait(&mut self, ticket: &mut Option<Ticket>, size: usize, task: &mut Task<'_>) {
        let number = match ticket {
            Some(ticket) => {
                if !self.waiting.contains_key(&ticket.number) {
                    self.granted.subtract(ticket.size);
                }
                ticket.number
            }
            None => {
                self.last += 1;
                self.last
            }
        };
        *ticket = Some(Ticket { number, size });
        let waiter = self.waiting.entry(number).or_insert(InLine { size: 0, waker: None });
        self.bytes = self.bytes.saturating_sub(waiter.size).saturating_add(size);
        waiter.size = size;
        task.register(&mut waiter.waker);
    }

    /// Bytes of the bodies ahead of this one, or more if others came behind it.
    pub(crate) const fn bytes_ahead(&self, ticket: Ticket) -> usize {
        self.bytes.saturating_add(self.granted.bytes).saturating_sub(ticket.size)
    }

    /// Leaves the line and returns an unused grant; then there may be room for the next task. Returns the waker, to be dropped
    /// after the lock is released.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        match self.waiting.remove(&ticket.number) {
            Some(waiter) => {
                self.bytes = self.bytes.saturating_sub(waiter.size);
                waiter.waker
            }
            None => {
                self.granted.subtract(ticket.size);
                None
            }
        }
    }

    /// Grants room to the tasks at the front, as long as there is more room than was granted.
    pub(crate) fn call(
        &mut self,
        has_room: impl Fn(Room, usize) -> bool,
        mut wake: impl FnMut(Waker),
    ) {
        while let Some(first) = self.waiting.first_entry() {
            let size = first.get().size;
            if !has_room(self.granted, size) {
                return;
            }
            first.remove().waker.into_iter().for_each(&mut wake);
            self.bytes = self.bytes.saturating_sub(size);
            self.granted.add(size);
        }
    }

    /// Calls everybody: there is something that all of them should know.
    pub(crate) fn call_all(&mut self, wake: impl FnMut(Waker)) {
        self.call(|_, _| true, wake);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::super::waiters::poll;
    use super::*;

    fn wait(line: &mut Line, ticket: &mut Option<Ticket>, size: usize) {
        let polled: Poll<()> = poll(Waker::noop(), |task| {
            line.wait(ticket, size, task);
            Poll::Pending
        });
        assert!(polled.is_pending());
    }

    /// A line of messages of these sizes.
    fn line<const N: usize>(sizes: [usize; N]) -> (Line, [Option<Ticket>; N]) {
        let (mut line, mut tickets) = (Line::default(), [None; N]);
        for (ticket, size) in tickets.iter_mut().zip(sizes) {
            wait(&mut line, ticket, size);
        }
        (line, tickets)
    }

    /// Returns how many waiting futures may be called when `messages` more messages fit.
    fn call(line: &mut Line, messages: usize) -> usize {
        let mut woken = 0;
        line.call(|granted, _| granted.messages < messages, |_| woken += 1);
        woken
    }

    #[test]
    fn as_many_are_called_as_there_is_room_for_in_their_order() {
        let (mut line, tickets) = line([1; 5]);
        assert_eq!(call(&mut line, 2), 2);
        assert_eq!(call(&mut line, 2), 0, "the room is granted");
        let turns = tickets.map(|ticket| line.turn(ticket).is_some());
        assert_eq!(turns, [true, true, true, false, false], "the third is at the front");
        assert_eq!(line.turn(None), None, "a newcomer does not overtake");
        // The first publishes, the second is dropped.
        drop(tickets.map(Option::unwrap)[..2].iter().map(|ticket| line.leave(*ticket)).last());
        assert_eq!(call(&mut line, 1), 1);
        assert!(line.turn(tickets[2]).is_some());
    }

    #[test]
    fn a_task_woken_without_room_keeps_its_place() {
        let (mut line, mut tickets) = line([1; 3]);
        assert_eq!(call(&mut line, 2), 2);
        wait(&mut line, &mut tickets[1], 1);
        wait(&mut line, &mut tickets[0], 1);
        assert_eq!(line.granted, Room::default());
        assert_eq!(call(&mut line, 1), 1);
        assert!(
            !line.waiting.contains_key(&tickets[0].unwrap().number),
            "the first is called first"
        );
        assert_eq!(line.turn(tickets[1]), Some(Room { messages: 1, bytes: 1 }));
        assert_eq!(line.turn(tickets[2]), None);
    }

    #[test]
    fn a_large_message_is_not_overtaken_by_small_ones() {
        let (mut line, tickets) = line([100, 1, 1]);
        let mut woken = 0;
        let fits = |room: usize| move |granted: Room, size| granted.bytes + size <= room;
        line.call(fits(50), |_| woken += 1);
        assert_eq!(woken, 0);
        line.call(fits(101), |_| woken += 1);
        assert_eq!((woken, line.granted), (2, Room { messages: 2, bytes: 101 }));
        assert!(line.turn(tickets[2]).is_some(), "it is at the front now");
    }

    #[test]
    fn nothing_is_left_of_a_line_that_all_have_left() {
        let (mut line, tickets) = line([7; 100]);
        line.call(|granted, _| granted.bytes < 70, drop);
        tickets.iter().flatten().for_each(|ticket| drop(line.leave(*ticket)));
        assert!(line.is_empty() && line.granted == Room::default() && line.bytes == 0);
    }

    #[test]
    fn a_grant_is_returned_exactly_once() {
        let (mut line, tickets) = line([10, 20, 40]);
        assert_eq!(call(&mut line, 2), 2);
        assert!(line.leave(tickets[0].unwrap()).is_none(), "it was woken");
        assert_eq!(line.granted, Room { messages: 1, bytes: 20 });
        assert_eq!(line.turn(None), None, "one still waits");
        assert!(line.leave(tickets[2].unwrap()).is_some(), "it was not woken");
        assert_eq!(line.granted, Room { messages: 1, bytes: 20 });
    }

    #[test]
    fn bytes_ahead_are_those_of_others_called_or_not() {
        let (mut line, mut tickets) = line([10, 20, 40]);
        let ahead = |line: &Line, ticket: Option<Ticket>| line.bytes_ahead(ticket.unwrap());
        assert_eq!(ahead(&line, tickets[2]), 30);
        assert_eq!(call(&mut line, 2), 2);
        assert_eq!(ahead(&line, tickets[2]), 30, "they are called and have not published");
        assert!(line.leave(tickets[0].unwrap()).is_none());
        assert_eq!(ahead(&line, tickets[2]), 20);
        // One task waits again, with another size.
        wait(&mut line, &mut tickets[1], 25);
        assert_eq!(ahead(&line, tickets[2]), 25);
        drop(line.leave(tickets[1].unwrap()));
        assert_eq!(ahead(&line, tickets[2]), 0);
    }

    #[test]
    fn everybody_is_called_when_all_should_know() {
        let (mut line, tickets) = line([7; 5]);
        let mut woken = 0;
        line.call_all(|_| woken += 1);
        assert_eq!(woken, 5);
        assert!(tickets.iter().all(|ticket| line.turn(*ticket).is_some()));
    }
}
