use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::waiters::Task;
use crate::event::ListenerEvent;

/// The listeners of an event stream. Each listener gets all events. A slow listener loses its oldest events, and delays nobody.
#[derive(Debug)]
pub(crate) struct Listeners<E> {
    /// Made for the first listener: few channels have one.
    registered: Option<Box<Registered<E>>>,
    closed: bool,
}

#[derive(Debug)]
struct Registered<E> {
    listeners: Vec<(u64, Listener<E>)>,
    last: u64,
}

#[derive(Debug)]
struct Listener<E> {
    queue: VecDeque<E>,
    /// Bytes of the messages in `queue`.
    bytes: usize,
    missed: u64,
    waker: Option<Waker>,
}

/// Events that a listener may be behind: more than one outage emits, and a listener that runs at all takes them in time.
const BACKLOG_EVENTS: usize = 1024;

/// Bytes of returned messages in these events: as many as the default delivery budget. The newest event is kept in any case.
const BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// An event for a listener, or a note that some were dropped.
pub(crate) enum Heard<E> {
    Event(E),
    Missed(u64),
}

impl<E> Heard<E> {
    /// The event, or the one that stands for those that were missed.
    pub(crate) fn or_missed(self, missed: impl FnOnce(u64) -> E) -> E {
        match self {
            Self::Event(event) => event,
            Self::Missed(count) => missed(count),
        }
    }
}

impl<E> Default for Listeners<E> {
    fn default() -> Self {
        Self { registered: None, closed: false }
    }
}

impl<E: ListenerEvent> Listeners<E> {
    pub(crate) fn subscribe(&mut self) -> u64 {
        let none = || Box::new(Registered { listeners: Vec::new(), last: 0 });
        let registered = self.registered.get_or_insert_with(none);
        registered.last += 1;
        let listener = Listener { queue: VecDeque::new(), bytes: 0, missed: 0, waker: None };
        registered.listeners.push((registered.last, listener));
        registered.last
    }

    /// Removes a listener. Returns its waker, to be dropped behind the lock.
    #[must_use = "a waker is not dropped under the lock"]
    pub(crate) fn unsubscribe(&mut self, id: u64) -> Option<Waker> {
        let listeners = &mut self.registered.as_mut()?.listeners;
        let index = listeners.iter().position(|(listener, _)| *listener == id)?;
        listeners.remove(index).1.waker
    }

    pub(crate) fn emit(&mut self, event: &E, mut wake: impl FnMut(Waker)) {
        for listener in self.iter_mut() {
            listener.make_room(event.message_bytes());
            listener.queue.push_back(event.clone());
            listener.waker.take().into_iter().for_each(&mut wake);
        }
    }

    /// Ends the stream of events.
    pub(crate) fn close(&mut self, mut wake: impl FnMut(Waker)) {
        self.closed = true;
        for listener in self.iter_mut() {
            listener.waker.take().into_iter().for_each(&mut wake);
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener<E>> {
        let listeners = self.registered.iter_mut().flat_map(|registered| &mut registered.listeners);
        listeners.map(|(_, listener)| listener)
    }

    pub(crate) fn poll(&mut self, id: u64, task: &mut Task<'_>) -> Poll<Option<Heard<E>>> {
        let closed = self.closed;
        let mut listeners =
            self.registered.iter_mut().flat_map(|registered| &mut registered.listeners);
        let Some((_, listener)) = listeners.find(|(listener, _)| *listener == id) else {
            return Poll::Ready(None);
        };
        if listener.missed > 0 {
            return Poll::Ready(Some(Heard::Missed(std::mem::take(&mut listener.missed))));
        }
        match listener.pop() {
            Some(event) => Poll::Ready(Some(Heard::Event(event))),
            None if closed => Poll::Ready(None),
            None => {
                task.register(&mut listener.waker);
                Poll::Pending
            }
        }
    }
}

impl<E: ListenerEvent> Listener<E> {
    /// Drops the oldest events, to make room for an event of that many bytes.
    fn make_room(&mut self, bytes: usize) {
        while self.queue.len() >= BACKLOG_EVENTS || self.bytes + bytes > BACKLOG_BYTES {
            if self.pop().is_none() {
                break;
            }
            self.missed += 1;
        }
        self.bytes += bytes;
    }

    fn pop(&mut self) -> Option<E> {
        let event = self.queue.pop_front()?;
        self.bytes -= event.message_bytes();
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::super::waiters;
    use super::*;

    fn poll<E: ListenerEvent>(listeners: &mut Listeners<E>, id: u64) -> Poll<Option<Heard<E>>> {
        waiters::poll(Waker::noop(), |task| listeners.poll(id, task))
    }

    impl ListenerEvent for u64 {
        fn message_bytes(&self) -> usize {
            0
        }
    }

    /// A message of that many bytes.
    #[derive(Clone)]
    struct Message(usize);

    impl ListenerEvent for Message {
        fn message_bytes(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn untaken_messages_are_kept_up_to_a_limit_and_the_newest_always() {
        let mut listeners = Listeners::default();
        let id = listeners.subscribe();
        for size in [BACKLOG_BYTES / 2, BACKLOG_BYTES / 2, 1, 2 * BACKLOG_BYTES] {
            listeners.emit(&Message(size), Waker::wake);
            let listener = listeners.iter_mut().next().expect("it is registered");
            assert!(listener.bytes <= BACKLOG_BYTES || listener.queue.len() == 1);
        }
        let missed = poll(&mut listeners, id);
        assert!(matches!(missed, Poll::Ready(Some(Heard::Missed(3)))));
        assert!(matches!(poll(&mut listeners, id), Poll::Ready(Some(Heard::Event(_)))));
        assert_eq!(listeners.iter_mut().next().map(|listener| listener.bytes), Some(0));
    }

    fn heard(listeners: &mut Listeners<u64>, id: u64) -> Vec<Option<u64>> {
        let mut all = Vec::new();
        while let Poll::Ready(Some(heard)) = poll(listeners, id) {
            all.push(match heard {
                Heard::Event(event) => Some(event),
                Heard::Missed(count) => {
                    assert_eq!(count, 3);
                    None
                }
            });
        }
        all
    }

    #[test]
    fn each_listener_gets_every_event_from_its_creation_on() {
        let mut listeners = Listeners::default();
        let first = listeners.subscribe();
        listeners.emit(&1, Waker::wake);
        let second = listeners.subscribe();
        listeners.emit(&2, Waker::wake);
        assert_eq!(heard(&mut listeners, first), [Some(1), Some(2)]);
        assert_eq!(heard(&mut listeners, second), [Some(2)]);
        listeners.close(Waker::wake);
        assert!(matches!(poll(&mut listeners, first), Poll::Ready(None)));
        drop(listeners.unsubscribe(first));
        assert_eq!(listeners.iter_mut().count(), 1);
    }

    #[test]
    fn a_listener_that_does_not_listen_loses_the_oldest_and_hears_how_many() {
        let mut listeners = Listeners::default();
        let id = listeners.subscribe();
        for event in 0..BACKLOG_EVENTS as u64 + 3 {
            listeners.emit(&event, Waker::wake);
        }
        let heard = heard(&mut listeners, id);
        assert_eq!(heard.len(), BACKLOG_EVENTS + 1);
        assert_eq!(heard[..2], [None, Some(3)]);
    }
}
