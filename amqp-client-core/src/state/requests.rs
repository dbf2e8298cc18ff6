use std::collections::VecDeque;
use std::task::{Poll, Waker};

use amqp_proto::{ChannelError, Reply, RequestId};

use super::waiters::Task;
use crate::error::CallError;

/// The requests of a channel that somebody waits for, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    waiting: VecDeque<(RequestId, Waiter)>,
}

#[derive(Debug)]
pub(crate) enum Waiter {
    Waiting(Option<Waker>),
    Done(Box<Result<Reply, CallError>>),
}

impl Requests {
    pub(crate) fn started(&mut self, id: RequestId) {
        self.waiting.push_back((id, Waiter::Waiting(None)));
    }

    /// The answer came. Returns whom to wake.
    pub(crate) fn answered(&mut self, id: RequestId, reply: Reply) -> Option<Waker> {
        self.done(id, Ok(reply))
    }

    /// No answer to that one will come. Returns whom to wake.
    pub(crate) fn failed(&mut self, id: RequestId, error: CallError) -> Option<Waker> {
        self.done(id, Err(error))
    }

    fn done(&mut self, id: RequestId, result: Result<Reply, CallError>) -> Option<Waker> {
        let (_, waiter) = self.find(id).and_then(|index| self.waiting.get_mut(index))?;
        match std::mem::replace(waiter, Waiter::Done(Box::new(result))) {
            Waiter::Waiting(waker) => waker,
            Waiter::Done(_) => None,
        }
    }

    /// No answer will come any more.
    pub(crate) fn terminate(&mut self, reason: &ChannelError, mut wake: impl FnMut(Waker)) {
        for (_, waiter) in &mut self.waiting {
            if let Waiter::Waiting(waker) = waiter {
                waker.take().into_iter().for_each(&mut wake);
                *waiter = Waiter::Done(Box::new(Err(reason.clone().into())));
            }
        }
    }

    /// The answer, if it is there.
    pub(crate) fn poll(
        &mut self,
        id: RequestId,
        task: &mut Task<'_>,
    ) -> Poll<Result<Reply, CallError>> {
        let Some(index) = self.find(id) else {
            return Poll::Pending;
        };
        if let Some((_, Waiter::Waiting(current))) = self.waiting.get_mut(index) {
            task.register(current);
            return Poll::Pending;
        }
        match self.waiting.remove(index) {
            Some((_, Waiter::Done(result))) => Poll::Ready(*result),
            _ => Poll::Pending,
        }
    }

    /// Nobody waits any more. Returns how far the request was.
    pub(crate) fn forget(&mut self, id: RequestId) -> Option<Waiter> {
        let index = self.find(id)?;
        self.waiting.remove(index).map(|(_, waiter)| waiter)
    }

    /// Numbers only grow.
    fn find(&self, id: RequestId) -> Option<usize> {
        // Most often there is only one.
        match self.waiting.front() {
            Some((first, _)) if *first == id => Some(0),
            _ => self.waiting.binary_search_by_key(&id, |(id, _)| *id).ok(),
        }
    }
}
