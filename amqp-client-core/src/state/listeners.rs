use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::deadlines::register;

/// Everybody who wants to hear of events. Each hears all of them: no listener takes events from another, and one that
/// does not listen loses the oldest instead of stopping anybody.
#[derive(Debug)]
pub(crate) struct Listeners<E> {
    listeners: Vec<(u64, Listener<E>)>,
    last: u64,
    closed: bool,
}

#[derive(Debug)]
struct Listener<E> {
    queue: VecDeque<E>,
    missed: u64,
    waker: Option<Waker>,
}

/// How many events a listener may be behind.
const BACKLOG: usize = 1024;

/// What a listener hears.
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
        Self { listeners: Vec::new(), last: 0, closed: false }
    }
}

impl<E: Clone> Listeners<E> {
    pub(crate) fn subscribe(&mut self) -> u64 {
        self.last += 1;
        let listener = Listener { queue: VecDeque::new(), missed: 0, waker: None };
        self.listeners.push((self.last, listener));
        self.last
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        self.listeners.retain(|(listener, _)| *listener != id);
    }

    pub(crate) fn tell(&mut self, event: &E, mut wake: impl FnMut(Waker)) {
        for (_, listener) in &mut self.listeners {
            if listener.queue.len() >= BACKLOG {
                listener.queue.pop_front();
                listener.missed += 1;
            }
            listener.queue.push_back(event.clone());
            listener.waker.take().into_iter().for_each(&mut wake);
        }
    }

    /// No event comes after this.
    pub(crate) fn close(&mut self, mut wake: impl FnMut(Waker)) {
        self.closed = true;
        for (_, listener) in &mut self.listeners {
            listener.waker.take().into_iter().for_each(&mut wake);
        }
    }

    pub(crate) fn poll(&mut self, id: u64, waker: &Waker) -> Poll<Option<Heard<E>>> {
        let Some((_, listener)) = self.listeners.iter_mut().find(|(listener, _)| *listener == id)
        else {
            return Poll::Ready(None);
        };
        if listener.missed > 0 {
            return Poll::Ready(Some(Heard::Missed(std::mem::take(&mut listener.missed))));
        }
        match listener.queue.pop_front() {
            Some(event) => Poll::Ready(Some(Heard::Event(event))),
            None if self.closed => Poll::Ready(None),
            None => {
                register(&mut listener.waker, waker);
                Poll::Pending
            }
        }
    }
}
