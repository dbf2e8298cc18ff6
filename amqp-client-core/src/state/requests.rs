use std::collections::VecDeque;
use std::task::{Poll, Waker};
use std::time::Instant;

use amqp_proto::{ChannelError, ConsumerId, Reply, RequestId};

use super::waiters::Task;
use crate::error::CallError;

/// The requests of a channel that tasks wait for, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    waiting: VecDeque<Sent>,
    /// There are some that the driver has not written yet.
    unwritten: bool,
    /// Number of requests that failed.
    pub(crate) failed: u64,
}

#[derive(Debug)]
struct Sent {
    id: RequestId,
    /// When the driver wrote it.
    at: Option<Instant>,
    pending: PendingReply,
}

#[derive(Debug)]
pub(crate) enum PendingReply {
    Waiting(Option<Waker>),
    Done(Box<Result<Reply, CallError>>),
}

impl Requests {
    /// Records a request. Returns whether it is the first since the driver's last turn.
    pub(crate) fn started(&mut self, id: RequestId) -> bool {
        self.waiting.push_back(Sent { id, at: None, pending: PendingReply::Waiting(None) });
        !std::mem::replace(&mut self.unwritten, true)
    }

    /// Returns the number of requests without a reply.
    pub(crate) fn waiting(&self) -> usize {
        let waiting = |sent: &&Sent| matches!(sent.pending, PendingReply::Waiting(_));
        self.waiting.iter().filter(waiting).count()
    }

    /// The driver has its turn: it writes the requests since the last one.
    pub(super) fn turn(&mut self, now: Instant) {
        if std::mem::take(&mut self.unwritten) {
            let unwritten = self.waiting.iter_mut().rev().take_while(|sent| sent.at.is_none());
            unwritten.for_each(|sent| sent.at = Some(now));
        }
    }

    /// Stores the reply. Returns the waker of its task, and when the request was written.
    pub(crate) fn answered(
        &mut self,
        id: RequestId,
        reply: Reply,
    ) -> (Option<Waker>, Option<Instant>) {
        self.done(id, Ok(reply)).unwrap_or_default()
    }

    /// Ends a request that will get no reply. Returns the waker of its task.
    pub(crate) fn failed(&mut self, id: RequestId, error: CallError) -> Option<Waker> {
        let (waker, _) = self.done(id, Err(error))?;
        self.failed += 1;
        waker
    }

    fn done(
        &mut self,
        id: RequestId,
        result: Result<Reply, CallError>,
    ) -> Option<(Option<Waker>, Option<Instant>)> {
        let sent = self.find(id).and_then(|index| self.waiting.get_mut(index))?;
        match std::mem::replace(&mut sent.pending, PendingReply::Done(Box::new(result))) {
            PendingReply::Waiting(waker) => Some((waker, sent.at)),
            PendingReply::Done(_) => None,
        }
    }

    /// Ends all requests: no more replies will come.
    pub(crate) fn terminate(&mut self, reason: &ChannelError, mut wake: impl FnMut(Waker)) {
        for Sent { pending, .. } in &mut self.waiting {
            if let PendingReply::Waiting(waker) = pending {
                self.failed += 1;
                waker.take().into_iter().for_each(&mut wake);
                *pending = PendingReply::Done(Box::new(Err(reason.clone().into())));
            }
        }
    }

    /// Returns whether the reply to the start of this consumer is pending.
    pub(crate) fn starts(&self, consumer: ConsumerId) -> bool {
        self.waiting.iter().any(|sent| {
            ConsumerId::from(sent.id) == consumer
                && matches!(sent.pending, PendingReply::Waiting(_))
        })
    }

    /// Returns the reply, if it has arrived.
    pub(crate) fn poll(
        &mut self,
        id: RequestId,
        task: &mut Task<'_>,
    ) -> Poll<Result<Reply, CallError>> {
        let Some(index) = self.find(id) else {
            return Poll::Pending;
        };
        if let Some(Sent { pending: PendingReply::Waiting(current), .. }) =
            self.waiting.get_mut(index)
        {
            task.register(current);
            return Poll::Pending;
        }
        match self.waiting.remove(index) {
            Some(Sent { pending: PendingReply::Done(result), .. }) => Poll::Ready(*result),
            _ => Poll::Pending,
        }
    }

    /// Nobody waits any more. Returns how far the request was.
    pub(crate) fn forget(&mut self, id: RequestId) -> Option<PendingReply> {
        let index = self.find(id)?;
        self.waiting.remove(index).map(|sent| sent.pending)
    }

    /// Numbers only grow.
    fn find(&self, id: RequestId) -> Option<usize> {
        // Most often there is only one.
        match self.waiting.front() {
            Some(first) if first.id == id => Some(0),
            _ => self.waiting.binary_search_by_key(&id, |sent| sent.id).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use amqp_proto::ConnectionError;
    use amqp_proto::method::TxSelectOk;

    use super::super::ends::Ends;
    use super::super::waiters::poll as poll_task;
    use super::*;

    /// Requests of which each is awaited.
    fn awaited(count: usize) -> (Requests, Vec<RequestId>) {
        let (mut requests, ids) = (Requests::default(), Ends::new().request(count));
        for id in &ids {
            assert_eq!(requests.started(*id), *id == ids[0], "the first is written later");
            assert!(poll(&mut requests, *id).is_pending());
        }
        (requests, ids)
    }

    fn poll(requests: &mut Requests, id: RequestId) -> Poll<Result<(), CallError>> {
        poll_task(Waker::noop(), |task| requests.poll(id, task).map_ok(drop))
    }

    fn done() -> Reply {
        Reply::Method(TxSelectOk {}.into())
    }

    fn closed() -> ChannelError {
        ConnectionError::Eof.into()
    }

    #[test]
    fn each_request_gets_its_own_reply_in_any_order() {
        let (mut requests, ids) = awaited(4);
        assert!(requests.failed(ids[2], closed().into()).is_some(), "its task is woken");
        assert!(requests.answered(ids[0], done()).0.is_some(), "its task is woken");
        assert!(requests.answered(ids[0], done()).0.is_none(), "it was woken");
        assert!(matches!(requests.forget(ids[3]), Some(PendingReply::Waiting(Some(_)))));
        let failed = Poll::Ready(Err(closed().into()));
        let polled = [0, 1, 2, 3].map(|index: usize| poll(&mut requests, ids[index]));
        assert_eq!(polled, [Poll::Ready(Ok(())), Poll::Pending, failed, Poll::Pending]);
        assert!(requests.answered(ids[3], done()).0.is_none(), "nobody waits for it");
        assert_eq!(requests.waiting.len(), 1);
    }

    #[test]
    fn the_end_of_the_channel_fails_pending_requests() {
        let (mut requests, ids) = awaited(3);
        assert!(requests.answered(ids[1], done()).0.is_some(), "its task is woken");
        let mut woken = 0;
        requests.terminate(&closed(), |_| woken += 1);
        assert_eq!(woken, 2);
        let failed = || Poll::Ready(Err(closed().into()));
        let polled = [0, 1, 2].map(|index: usize| poll(&mut requests, ids[index]));
        assert_eq!(polled, [failed(), Poll::Ready(Ok(())), failed()]);
        assert!(requests.waiting.is_empty());
    }
}
