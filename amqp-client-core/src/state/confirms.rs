use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::task::{Poll, Waker};
use std::time::Instant;

use amqp_proto::{ChannelError, PublishSeq, Returned};

use super::ages::Ages;
use super::callbacks::Call;
use super::waiters::Task;
use crate::error::ConfirmError;
use crate::intercept::{PublishOutcome, Published, report};

/// The publishes of a channel with publisher confirms: their outcomes, and the tasks that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Publishes from number `first` on.
    ring: VecDeque<Publish>,
    first: u64,
    /// Returned messages whose confirms are yet to come. Few are returned, so they take no room in the ring.
    returned: HashMap<u64, Box<Returned>>,
    /// Outcomes that no future has taken yet, moved here when they would keep the ring from shrinking.
    left_over: HashMap<u64, Outcome>,
    /// Messages and bytes that are not confirmed.
    outstanding: usize,
    bytes: usize,
    /// The first publish that failed since the last call of `wait_for_confirms` returned.
    failed: Option<ConfirmError>,
    /// Number of these calls.
    calls: u64,
    /// Those who observe publishes, if the connection has an interceptor.
    observers: Option<Box<Observers>>,
    /// The failure that such a call returned last, and how many calls had begun by then: these return it as well.
    reported: Option<Box<(ConfirmError, u64)>>,
    /// When the unconfirmed publishes were written.
    pub(super) ages: Ages,
    /// There are publishes since the driver's last turn.
    unwritten: bool,
    pub(super) outcomes: Outcomes,
}

/// Numbers of publishes, by outcome.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) confirmed: u64,
    pub(super) nacked: u64,
    pub(super) returned: u64,
    pub(super) unconfirmed: u64,
}

#[derive(Debug)]
struct Publish {
    size: usize,
    state: PublishState,
}

#[derive(Debug)]
enum PublishState {
    /// Unconfirmed, and its future exists.
    Waiting(Option<Waker>),
    /// Unconfirmed, and its future was dropped.
    Unwatched,
    /// The outcome, for a future that still exists.
    Done(Outcome),
    /// The outcome was returned or is not needed.
    Gone,
}

impl PublishState {
    const fn is_unconfirmed(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Unwatched)
    }
}

/// The observers of unconfirmed publishes, by number, and those whose publishes have ended.
#[derive(Default)]
struct Observers {
    waiting: HashMap<u64, Box<dyn Published>>,
    ended: Vec<(Box<dyn Published>, Outcome)>,
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.waiting.len()).finish()
    }
}

/// Errors are rare and large, and there is a place for each message.
type Outcome = Result<(), Box<ConfirmError>>;

impl Outcomes {
    #[cold]
    const fn fail(&mut self, error: &ConfirmError) {
        match error {
            ConfirmError::Nacked => self.nacked += 1,
            ConfirmError::Returned(_) => self.returned += 1,
            _ => self.unconfirmed += 1,
        }
    }
}

/// Above this length, outcomes that nobody has asked for are moved to a map, so that the ring can shrink. A publisher's window
/// holds far fewer.
const SPILL_ABOVE: usize = 16 * 1024;

impl Confirms {
    /// Records a publish of `size` bytes that was numbered `seq`; if it is `watched`, its future exists. Returns whether it is the
    /// first since the driver's last turn.
    #[inline]
    pub(crate) fn published(&mut self, seq: PublishSeq, size: usize, watched: bool) -> bool {
        if self.ring.is_empty() {
            self.first = seq.get();
        }
        self.outstanding += 1;
        self.bytes += size;
        let state = if watched { PublishState::Waiting(None) } else { PublishState::Unwatched };
        self.ring.push_back(Publish { size, state });
        !self.unwritten && self.begin_run(seq)
    }

    #[cold]
    fn begin_run(&mut self, seq: PublishSeq) -> bool {
        self.unwritten = true;
        if self.outstanding == 1 {
            self.ages.forget_all();
        }
        self.ages.begin(seq.get(), None);
        true
    }

    /// The driver has its turn: it writes what was published since the last one.
    pub(super) fn turn(&mut self, now: Instant) {
        if std::mem::take(&mut self.unwritten) {
            self.ages.turn(now);
        }
    }

    /// Keeps the observer of a publish until the publish ends.
    pub(crate) fn observe(&mut self, seq: PublishSeq, observer: Box<dyn Published>) {
        self.observers.get_or_insert_default().waiting.insert(seq.get(), observer);
    }

    /// Returns a call that reports the publishes that have ended to their observers, if there are any.
    #[inline]
    pub(crate) fn reports(&mut self) -> Option<Call> {
        self.observers.as_mut()?.reports()
    }

    /// Messages that are not confirmed.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Bytes of the messages that are not confirmed.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins a call of `wait_for_confirms`. Returns its number.
    pub(crate) const fn begin_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// Ends such a call. Returns the first failure since a call last ended, or the one that another call has returned meanwhile.
    pub(crate) fn end_call(&mut self, call: u64) -> Option<ConfirmError> {
        if let Some(failed) = self.failed.take() {
            self.reported = Some(Box::new((failed, self.calls)));
        }
        let reported = self.reported.as_ref().filter(|reported| call <= reported.1);
        reported.map(|reported| reported.0.clone())
    }

    /// Stores a returned mandatory message; its confirm follows.
    pub(crate) fn returned(&mut self, seq: PublishSeq, returned: Box<Returned>) {
        if self.get(seq.get()).is_some_and(|publish| publish.state.is_unconfirmed()) {
            self.returned.insert(seq.get(), returned);
        }
    }

    /// The broker confirmed these, or refused them.
    pub(crate) fn confirmed(
        &mut self,
        publishes: &RangeInclusive<PublishSeq>,
        ack: bool,
        mut wake: impl FnMut(Waker),
    ) {
        for seq in publishes.start().get()..=publishes.end().get() {
            let settled = self.settle(seq, &mut wake, |returned| match (returned, ack) {
                (Some(returned), _) => Err(ConfirmError::Returned(returned)),
                (None, true) => Ok(()),
                (None, false) => Err(ConfirmError::Nacked),
            });
            if settled {
                self.ages.end(seq);
            }
        }
        self.shrink();
    }

    /// No more confirms follow: ends all unconfirmed publishes.
    pub(crate) fn terminate(&mut self, reason: &ChannelError, wake: impl FnMut(Waker)) {
        self.lose(self.first..self.first + self.ring.len() as u64, reason, wake);
    }

    /// The outcome of these publishes is lost: the broker may have accepted them or not.
    pub(crate) fn unconfirmed(
        &mut self,
        publishes: &RangeInclusive<PublishSeq>,
        reason: &ChannelError,
        wake: impl FnMut(Waker),
    ) {
        self.lose(publishes.start().get()..=publishes.end().get(), reason, wake);
    }

    /// A kept message is not sent again. If its caller withdrew it, that is no failure: a task that waits for all messages waits
    /// for the others.
    pub(crate) fn given_up(
        &mut self,
        publish: PublishSeq,
        error: &amqp_proto::PublishError,
        mut wake: impl FnMut(Waker),
    ) {
        let before = self.failed.take();
        let mut was_returned = false;
        self.settle(publish.get(), &mut wake, |returned| {
            was_returned = returned.is_some();
            Err(match (returned, error) {
                (Some(returned), _) => ConfirmError::Returned(returned),
                (None, amqp_proto::PublishError::Ended(ChannelError::Closed(close))) => {
                    ConfirmError::Refused(close.clone())
                }
                (None, error) => ConfirmError::NotResent(error.clone()),
            })
        });
        let withdrawn = *error == amqp_proto::PublishError::Withdrawn && !was_returned;
        if withdrawn || before.is_some() {
            self.failed = before;
        }
        self.shrink();
    }

    fn lose(
        &mut self,
        publishes: impl Iterator<Item = u64>,
        reason: &ChannelError,
        mut wake: impl FnMut(Waker),
    ) {
        for seq in publishes {
            self.settle(seq, &mut wake, |returned| {
                Err(match returned {
                    Some(returned) => ConfirmError::Returned(returned),
                    None => ConfirmError::Unconfirmed(reason.clone()),
                })
            });
        }
        self.shrink();
    }

    /// Polls for the outcome of a publish.
    pub(crate) fn poll(&mut self, seq: u64, task: &mut Task<'_>) -> Poll<Result<(), ConfirmError>> {
        if let Some(outcome) = self.take(seq) {
            return Poll::Ready(outcome);
        }
        if let Some(Publish { state: PublishState::Waiting(current), .. }) = self.get(seq) {
            task.register(current);
        }
        Poll::Pending
    }

    /// Takes the outcome of a publish, if it is known.
    #[inline]
    pub(crate) fn take(&mut self, seq: u64) -> Option<Result<(), ConfirmError>> {
        let Some(publish) = self.get(seq) else {
            return self.left_over.remove(&seq).map(unboxed);
        };
        let PublishState::Done(outcome) = &mut publish.state else { return None };
        let outcome = std::mem::replace(outcome, Ok(()));
        publish.state = PublishState::Gone;
        self.shrink();
        Some(unboxed(outcome))
    }

    /// Nobody wants to know any more. Returns the waker, to be dropped behind the lock.
    pub(crate) fn forget(&mut self, seq: u64) -> Option<Waker> {
        let Some(publish) = self.get(seq) else {
            self.left_over.remove(&seq);
            return None;
        };
        let (state, waker) = match &mut publish.state {
            PublishState::Waiting(waker) => (PublishState::Unwatched, waker.take()),
            PublishState::Unwatched => (PublishState::Unwatched, None),
            PublishState::Done(_) | PublishState::Gone => (PublishState::Gone, None),
        };
        publish.state = state;
        self.shrink();
        waker
    }

    /// Stores the outcome of a publish. Returns whether it was unconfirmed.
    #[inline]
    fn settle(
        &mut self,
        seq: u64,
        wake: &mut impl FnMut(Waker),
        outcome: impl FnOnce(Option<Box<Returned>>) -> Result<(), ConfirmError>,
    ) -> bool {
        let Self { ring, first, returned, outcomes, observers, failed, .. } = self;
        let index = seq.checked_sub(*first).and_then(|index| usize::try_from(index).ok());
        let Some(publish) = index.and_then(|index| ring.get_mut(index)) else { return false };
        if !publish.state.is_unconfirmed() {
            return false;
        }
        let returned = if returned.is_empty() { None } else { returned.remove(&seq) };
        let outcome = outcome(returned).map_err(Box::new);
        match &outcome {
            Ok(()) => outcomes.confirmed += 1,
            Err(error) => {
                outcomes.fail(error);
                failed.get_or_insert_with(|| (**error).clone());
            }
        }
        if let Some(observers) = observers {
            observers.end(seq, outcome.clone());
        }
        let state = match publish.state {
            PublishState::Waiting(_) => PublishState::Done(outcome),
            _ => PublishState::Gone,
        };
        if let PublishState::Waiting(Some(waker)) = std::mem::replace(&mut publish.state, state) {
            wake(waker);
        }
        self.outstanding -= 1;
        self.bytes -= publish.size;
        true
    }

    fn get(&mut self, seq: u64) -> Option<&mut Publish> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.ring.get_mut(index)
    }

    /// Removes settled entries from the front.
    #[inline]
    fn shrink(&mut self) {
        loop {
            while let Some(Publish { state: PublishState::Gone, .. }) = self.ring.front() {
                self.ring.pop_front();
                self.first += 1;
            }
            if self.ring.len() <= SPILL_ABOVE || !self.spill() {
                return;
            }
        }
    }

    /// Moves an outcome that nobody has asked for from the front to the map. Returns whether there was one at the front.
    #[cold]
    fn spill(&mut self) -> bool {
        let Some(publish) = self.ring.front_mut() else { return false };
        let PublishState::Done(outcome) = &mut publish.state else { return false };
        self.left_over.insert(self.first, std::mem::replace(outcome, Ok(())));
        publish.state = PublishState::Gone;
        true
    }
}

impl Observers {
    #[cold]
    fn end(&mut self, seq: u64, outcome: Outcome) {
        if let Some(observer) = self.waiting.remove(&seq) {
            self.ended.push((observer, outcome));
        }
    }

    #[cold]
    fn reports(&mut self) -> Option<Call> {
        if self.ended.is_empty() {
            return None;
        }
        let ended = std::mem::take(&mut self.ended);
        Some(Box::new(move || {
            for (observer, outcome) in ended {
                let outcome = match &outcome {
                    Ok(()) => PublishOutcome::Confirmed,
                    Err(error) => PublishOutcome::Failed(error),
                };
                report(observer, outcome);
            }
        }))
    }
}

fn unboxed(outcome: Outcome) -> Result<(), ConfirmError> {
    outcome.map_err(|error| *error)
}

#[cfg(test)]
mod tests {
    use amqp_proto::method::{BasicReturn, ChannelClose};
    use amqp_proto::{self as proto, ConnectionError, RawProperties};

    use super::super::ends::Ends;
    use super::super::waiters::poll as poll_task;
    use super::*;

    /// A returned message.
    fn came_back() -> Box<Returned> {
        let event = Ends::heard(|channel| {
            let method = BasicReturn { reply_code: 312, ..BasicReturn::default() };
            channel.send_content(method, &RawProperties::EMPTY, "").expect("it is sent");
        });
        match event {
            proto::ChannelEvent::Returned { returned, .. } => returned,
            event => panic!("{event:?}"),
        }
    }

    fn published(count: usize) -> (Confirms, Vec<PublishSeq>) {
        let seqs = Ends::new().publish(count);
        let mut confirms = Confirms::default();
        for (index, seq) in seqs.iter().enumerate() {
            assert_eq!(confirms.published(*seq, 10, true), index == 0, "the first begins a run");
        }
        (confirms, seqs)
    }

    fn poll(confirms: &mut Confirms, seq: PublishSeq) -> Poll<Result<(), ConfirmError>> {
        poll_task(Waker::noop(), |task| confirms.poll(seq.get(), task))
    }

    fn failure(confirms: &mut Confirms) -> Option<ConfirmError> {
        let call = confirms.begin_call();
        confirms.end_call(call)
    }

    #[test]
    fn outcomes_reach_their_publish_in_any_order() {
        let (mut confirms, seqs) = published(4);
        assert_eq!((confirms.outstanding(), confirms.bytes()), (4, 40));
        confirms.confirmed(&(seqs[2]..=seqs[3]), false, Waker::wake);
        confirms.confirmed(&(seqs[0]..=seqs[0]), true, Waker::wake);
        assert_eq!((confirms.outstanding(), confirms.bytes()), (1, 10));
        assert_eq!(poll(&mut confirms, seqs[3]), Poll::Ready(Err(ConfirmError::Nacked)));
        assert_eq!(poll(&mut confirms, seqs[1]), Poll::Pending);
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Ready(Ok(())));
        assert_eq!(failure(&mut confirms), Some(ConfirmError::Nacked));
        assert_eq!(failure(&mut confirms), None);
    }

    #[test]
    fn waiting_for_all_ignores_withdrawn_messages() {
        use amqp_proto::PublishError::{Expired, Withdrawn};
        let (mut confirms, seqs) = published(4);
        confirms.given_up(seqs[0], &Withdrawn, Waker::wake);
        assert_eq!((confirms.outstanding(), failure(&mut confirms)), (3, None));
        assert!(matches!(
            poll(&mut confirms, seqs[0]),
            Poll::Ready(Err(ConfirmError::NotResent(_)))
        ));
        // It hides no failure of other messages, earlier or later.
        confirms.confirmed(&(seqs[1]..=seqs[1]), false, Waker::wake);
        confirms.given_up(seqs[2], &Withdrawn, Waker::wake);
        assert_eq!(failure(&mut confirms), Some(ConfirmError::Nacked));
        confirms.given_up(seqs[3], &Expired, Waker::wake);
        assert_eq!(confirms.outstanding(), 0);
        assert!(failure(&mut confirms).is_some(), "nobody decided that");
    }

    #[test]
    fn the_end_of_the_channel_settles_all_remaining_publishes() {
        let (mut confirms, seqs) = published(3);
        confirms.confirmed(&(seqs[0]..=seqs[0]), true, Waker::wake);
        drop(confirms.forget(seqs[1].get()));
        let reason = ChannelError::Connection(ConnectionError::Eof);
        confirms.terminate(&reason, Waker::wake);
        assert_eq!(confirms.outstanding(), 0);
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Ready(Ok(())));
        let unknown = Err(ConfirmError::Unconfirmed(reason));
        assert_eq!(poll(&mut confirms, seqs[2]), Poll::Ready(unknown));
        assert!(confirms.ring.is_empty());
    }

    #[test]
    fn one_future_that_is_kept_does_not_keep_all_that_came_after_it() {
        let (mut confirms, seqs) = published(2 * SPILL_ABOVE);
        confirms.confirmed(&(seqs[0]..=seqs[seqs.len() - 1]), true, Waker::wake);
        // All but the first were awaited, or their futures dropped.
        seqs.iter().skip(1).for_each(|seq| drop(confirms.forget(seq.get())));
        assert!(confirms.ring.len() <= SPILL_ABOVE, "{}", confirms.ring.len());
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Ready(Ok(())));
        assert!(confirms.ring.is_empty() && confirms.left_over.is_empty());
    }

    #[test]
    fn a_return_stays_a_return_however_it_is_settled() {
        let (mut confirms, seqs) = published(6);
        let returned = came_back();
        seqs[..5].iter().for_each(|seq| confirms.returned(*seq, returned.clone()));
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Pending, "its confirm follows");
        let reason = ChannelError::Connection(ConnectionError::Eof);
        confirms.confirmed(&(seqs[0]..=seqs[0]), true, Waker::wake);
        confirms.confirmed(&(seqs[1]..=seqs[1]), false, Waker::wake);
        confirms.unconfirmed(&(seqs[2]..=seqs[2]), &reason, Waker::wake);
        confirms.given_up(seqs[3], &proto::PublishError::Expired, Waker::wake);
        confirms.terminate(&reason, Waker::wake);
        for seq in &seqs[..5] {
            let came_back = Poll::Ready(Err(ConfirmError::Returned(returned.clone())));
            assert_eq!(poll(&mut confirms, *seq), came_back, "{seq:?}");
        }
        let unknown = Err(ConfirmError::Unconfirmed(reason));
        assert_eq!(poll(&mut confirms, seqs[5]), Poll::Ready(unknown));
        assert_eq!(failure(&mut confirms), Some(ConfirmError::Returned(returned)));
    }

    #[test]
    fn a_message_with_unknown_outcome_ends_and_the_others_continue() {
        let (mut confirms, seqs) = published(4);
        let reason = ChannelError::Connection(ConnectionError::Eof);
        confirms.unconfirmed(&(seqs[1]..=seqs[2]), &reason, Waker::wake);
        assert_eq!((confirms.outstanding(), confirms.bytes()), (2, 20));
        let unknown = || Poll::Ready(Err(ConfirmError::Unconfirmed(reason.clone())));
        let polled = [0, 1, 2, 3].map(|index: usize| poll(&mut confirms, seqs[index]));
        assert_eq!(polled, [Poll::Pending, unknown(), unknown(), Poll::Pending]);
        confirms.confirmed(&(seqs[0]..=seqs[3]), true, Waker::wake);
        assert_eq!((confirms.outstanding(), confirms.bytes()), (0, 0));
        assert_eq!(poll(&mut confirms, seqs[3]), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_message_that_is_not_sent_again_has_the_reason() {
        let (mut confirms, seqs) = published(2);
        let event = Ends::heard(|channel| {
            let close = ChannelClose { reply_code: 404, ..ChannelClose::default() };
            channel.send(close).expect("it is sent");
        });
        let proto::ChannelEvent::Closed(closed) = event else { panic!("{event:?}") };
        let close = closed.as_close().expect("the server has closed it").clone();
        confirms.given_up(seqs[0], &closed.into(), Waker::wake);
        confirms.given_up(seqs[1], &proto::PublishError::Expired, Waker::wake);
        assert_eq!(confirms.outstanding(), 0);
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Ready(Err(ConfirmError::Refused(close))));
        let expired = ConfirmError::NotResent(proto::PublishError::Expired);
        assert_eq!(poll(&mut confirms, seqs[1]), Poll::Ready(Err(expired)));
        assert!(confirms.ring.is_empty());
    }

    #[test]
    fn only_the_waiting_task_is_woken_and_once() {
        let (mut confirms, seqs) = published(4);
        confirms.published(Ends::new().publish(5)[4], 10, false);
        for seq in &seqs {
            assert_eq!(poll(&mut confirms, *seq), Poll::Pending);
        }
        assert!(confirms.forget(seqs[3].get()).is_some(), "its waker is dropped elsewhere");
        let mut woken = 0;
        let reason = ChannelError::Connection(ConnectionError::Eof);
        confirms.confirmed(&(seqs[0]..=seqs[0]), true, |_| woken += 1);
        confirms.confirmed(&(seqs[0]..=seqs[0]), false, |_| woken += 1);
        confirms.unconfirmed(&(seqs[1]..=seqs[1]), &reason, |_| woken += 1);
        confirms.given_up(seqs[2], &proto::PublishError::Expired, |_| woken += 1);
        assert_eq!(woken, 3);
        // The futures of the remaining two were dropped.
        confirms.terminate(&reason, |_| woken += 1);
        assert_eq!((woken, confirms.outstanding(), confirms.bytes()), (3, 0, 0));
        assert_eq!(poll(&mut confirms, seqs[0]), Poll::Ready(Ok(())));
        seqs[1..].iter().for_each(|seq| assert!(confirms.forget(seq.get()).is_none()));
        assert!(confirms.ring.is_empty());
    }
}
