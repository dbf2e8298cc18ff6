use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::task::{Poll, Waker};

use amqp_proto::{ChannelError, PublishSeq, Returned};

use super::deadlines::register;
use crate::error::ConfirmError;

/// The publishes of a channel with publisher confirms: what became of them, and who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Publishes from number `first` on.
    ring: VecDeque<Publish>,
    first: u64,
    /// Outcomes that nobody has asked for yet, moved here when they would keep the ring from shrinking.
    left_over: HashMap<u64, Result<(), ConfirmError>>,
    /// Messages and octets that are not confirmed.
    outstanding: usize,
    octets: usize,
    /// Publishes that failed since somebody last asked for all of them.
    failed: Option<ConfirmError>,
}

#[derive(Debug)]
struct Publish {
    size: usize,
    state: State,
    returned: Option<Box<Returned>>,
}

#[derive(Debug)]
enum State {
    /// Not confirmed, and somebody holds the future.
    Waiting(Option<Waker>),
    /// Not confirmed, and nobody wants to know.
    Unwatched,
    /// Confirmed, and somebody holds the future.
    Done(Result<(), ConfirmError>),
    /// Nothing is left to say.
    Gone,
}

/// Rings up to this length may wait for their oldest future to be asked.
const PATIENT_RING: usize = 16 * 1024;

impl Confirms {
    /// Takes in a publish of `size` octets that was numbered `seq`.
    pub(crate) fn published(&mut self, seq: PublishSeq, size: usize) {
        if self.ring.is_empty() {
            self.first = seq.get();
        }
        self.outstanding += 1;
        self.octets += size;
        self.ring.push_back(Publish { size, state: State::Waiting(None), returned: None });
    }

    /// Messages that are not confirmed.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Octets of the messages that are not confirmed.
    pub(crate) const fn octets(&self) -> usize {
        self.octets
    }

    /// The first failure since this was last asked.
    pub(crate) fn take_failure(&mut self) -> Option<ConfirmError> {
        self.failed.take()
    }

    /// A mandatory message came back; its confirm follows.
    pub(crate) fn returned(&mut self, seq: PublishSeq, returned: Box<Returned>) {
        if let Some(publish) = self.get(seq.get()) {
            publish.returned = Some(returned);
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
            self.settle(seq, &mut wake, |returned| match (returned, ack) {
                (Some(returned), _) => Err(ConfirmError::Returned(returned)),
                (None, true) => Ok(()),
                (None, false) => Err(ConfirmError::Nacked),
            });
        }
        self.shrink();
    }

    /// Nothing will be confirmed any more.
    pub(crate) fn terminate(&mut self, reason: &ChannelError, mut wake: impl FnMut(Waker)) {
        for seq in self.first..self.first + self.ring.len() as u64 {
            self.settle(seq, &mut wake, |returned| {
                Err(match returned {
                    Some(returned) => ConfirmError::Returned(returned),
                    None => ConfirmError::Unconfirmed(reason.clone()),
                })
            });
        }
        self.shrink();
    }

    /// What became of a publish.
    pub(crate) fn poll(&mut self, seq: u64, waker: &Waker) -> Poll<Result<(), ConfirmError>> {
        if let Some(outcome) = self.left_over.remove(&seq) {
            return Poll::Ready(outcome);
        }
        let Some(publish) = self.get(seq) else {
            return Poll::Pending;
        };
        match &mut publish.state {
            State::Waiting(current) => {
                register(current, waker);
                Poll::Pending
            }
            State::Done(_) => {
                let State::Done(outcome) = std::mem::replace(&mut publish.state, State::Gone)
                else {
                    return Poll::Pending;
                };
                self.shrink();
                Poll::Ready(outcome)
            }
            State::Unwatched | State::Gone => Poll::Pending,
        }
    }

    /// Nobody wants to know any more.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.left_over.remove(&seq);
        if let Some(publish) = self.get(seq) {
            publish.state = match publish.state {
                State::Waiting(_) | State::Unwatched => State::Unwatched,
                State::Done(_) | State::Gone => State::Gone,
            };
        }
        self.shrink();
    }

    fn settle(
        &mut self,
        seq: u64,
        wake: &mut impl FnMut(Waker),
        outcome: impl FnOnce(Option<Box<Returned>>) -> Result<(), ConfirmError>,
    ) {
        let Some(publish) = self.get(seq) else { return };
        if !matches!(publish.state, State::Waiting(_) | State::Unwatched) {
            return;
        }
        let size = publish.size;
        let outcome = outcome(publish.returned.take());
        let failure = outcome.as_ref().err().cloned();
        match std::mem::replace(&mut publish.state, State::Gone) {
            State::Waiting(waker) => {
                publish.state = State::Done(outcome);
                waker.into_iter().for_each(wake);
            }
            _ => publish.state = State::Gone,
        }
        self.outstanding -= 1;
        self.octets -= size;
        if self.failed.is_none() {
            self.failed = failure;
        }
    }

    fn get(&mut self, seq: u64) -> Option<&mut Publish> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.ring.get_mut(index)
    }

    /// Lets go of what is settled at the front.
    fn shrink(&mut self) {
        loop {
            let impatient = self.ring.len() > PATIENT_RING;
            match self.ring.front() {
                Some(Publish { state: State::Gone, .. }) => {}
                Some(Publish { state: State::Done(_), .. }) if impatient => {}
                _ => return,
            }
            if let Some(Publish { state: State::Done(outcome), .. }) = self.ring.pop_front() {
                self.left_over.insert(self.first, outcome);
            }
            self.first += 1;
        }
    }
}
