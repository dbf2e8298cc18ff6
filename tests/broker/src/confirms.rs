//! Publisher confirms: what is decided together is confirmed together, in as few methods as
//! possible.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use amqp_proto::method::{BasicAck, BasicNack, Method};

use crate::channel::Mode;
use crate::choices::Choices;
use crate::engine::{At, Engine};
use crate::message::Publish;

/// The messages that were published on a channel in confirm mode, by their numbers.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// No other channel has this number, not even one that is opened later in the place of this.
    id: u64,
    published: u64,
    /// Publishes that were decided but not confirmed yet, and whether the broker has taken them.
    decided: BTreeMap<u64, bool>,
    /// All publishes up to this one are confirmed.
    answered: u64,
    /// Beyond that, these are.
    early: BTreeSet<u64>,
    /// Nothing is confirmed before this time.
    not_before: Option<Instant>,
}

impl Confirms {
    pub(crate) const fn new(id: u64) -> Self {
        Self {
            id,
            published: 0,
            decided: BTreeMap::new(),
            answered: 0,
            early: BTreeSet::new(),
            not_before: None,
        }
    }

    /// The next message, of the channel that these are of.
    pub(crate) const fn publish(&mut self, at: At) -> Publish {
        self.published += 1;
        Publish { at, confirms: self.id, number: self.published }
    }

    pub(crate) fn decide(&mut self, number: u64, taken: bool) {
        self.decided.insert(number, taken);
    }

    /// Returns whether the outcome of the message was not sent to its publisher yet.
    pub(crate) fn is_unreported(&self, publish: Publish) -> bool {
        let Publish { confirms, number, .. } = publish;
        confirms == self.id && number > self.answered && !self.early.contains(&number)
    }

    /// Returns the next method to send.
    fn next(&mut self, choices: &mut Choices) -> Option<Method> {
        if choices.one_in(2) {
            let index = choices.index(self.decided.len());
            let number = *self.decided.keys().nth(index)?;
            let taken = self.decided.remove(&number)?;
            self.answer(number);
            return Some(answer(number, false, taken));
        }
        let (first, taken) = self.decided.pop_first()?;
        let mut last = first;
        let next_in_line = first == self.answered + 1;
        self.answer(first);
        // Further publishes with the same outcome can be included, if nothing before them is open.
        while next_in_line && self.decided.get(&(self.answered + 1)) == Some(&taken) {
            last = self.answered + 1;
            self.decided.remove(&last);
            self.answer(last);
        }
        Some(answer(last, last > first, taken))
    }

    fn answer(&mut self, number: u64) {
        self.early.insert(number);
        while self.early.remove(&(self.answered + 1)) {
            self.answered += 1;
        }
    }
}

fn answer(delivery_tag: u64, multiple: bool, taken: bool) -> Method {
    match taken {
        true => BasicAck { delivery_tag, multiple }.into(),
        false => BasicNack { delivery_tag, multiple, requeue: false }.into(),
    }
}

impl Engine {
    /// Sends the confirms that were decided and are due.
    pub(crate) fn confirm(&mut self) {
        if self.holds_confirms {
            return;
        }
        let now = self.now;
        for at in std::mem::take(&mut self.confirming) {
            while let Some((confirms, choices)) = self.confirms(at) {
                if confirms.not_before.is_some_and(|at| at > now) {
                    self.confirming.insert(at);
                    break;
                }
                let Some(answer) = confirms.next(choices) else { break };
                confirms.not_before = choices.delay().map(|delay| now + delay);
                self.send(at, answer);
            }
        }
    }

    /// Returns the publishes of a channel in confirm mode.
    fn confirms(&mut self, at: At) -> Option<(&mut Confirms, &mut Choices)> {
        let session = self.sessions.get_mut(&at.session)?;
        match &mut session.channels.get_mut(&at.channel)?.mode {
            Mode::Confirm(confirms) => Some((confirms, &mut self.choices)),
            Mode::Plain | Mode::Tx(_) => None,
        }
    }

    /// Returns when the next confirm that was put off is due.
    pub(crate) fn next_confirm(&self) -> Option<Instant> {
        let channels = self
            .confirming
            .iter()
            .filter(|_| !self.holds_confirms)
            .filter_map(|at| self.sessions.get(&at.session)?.channels.get(&at.channel));
        let due = channels.filter_map(|channel| match &channel.mode {
            Mode::Confirm(confirms) => Some(confirms.not_before.unwrap_or(self.now)),
            Mode::Plain | Mode::Tx(_) => None,
        });
        due.min()
    }
}
