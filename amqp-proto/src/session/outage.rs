use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::exclusive::Waiting;
use super::nodes::Nodes;
use super::report::Entity;
use super::{Phase, Recovery, Session};
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ChannelId, ClientConfig, Connection, ConnectionError, Event,
    PublishSeq, SessionEvent, ShortStr,
};

/// What a session wants of whoever makes its transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dial {
    /// Nothing, at present.
    Nothing,
    /// To be asked again at that time.
    Wait(Instant),
    /// A transport to that node, by its place in the list.
    ///
    /// An earlier attempt that was not reported on is given up: drop it.
    Connect {
        /// The node.
        node: usize,
    },
}

/// How a session comes back.
#[derive(Debug)]
pub(super) struct Recovering {
    pub(super) policy: Recovery,
    pub(super) nodes: Nodes,
    /// The node of the present transport, or of the last.
    pub(super) node: usize,
    /// Since when everything is back on it.
    pub(super) since: Instant,
    /// Queues that are another connection's own, and when to try them again.
    pub(super) locked: Vec<ShortStr>,
    /// Consumers whose queues another connection consumes exclusively.
    pub(super) exclusive: Vec<Waiting>,
    pub(super) locked_until: Option<Instant>,
}

/// The time from the loss of a connection until everything is back.
#[derive(Debug)]
pub(super) struct Outage {
    reason: ConnectionError,
    pub(super) since: Instant,
    pub(super) attempts: u32,
    step: Step,
    /// Why the last attempt failed.
    last: Option<Arc<str>>,
    /// What ended a connection when it was to be brought back. It is left out.
    pub(super) condemned: Vec<(Entity, ConnectionError)>,
    /// It is not known which of several requests ended a connection.
    pub(super) one_by_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// `told` when that was told.
    Waiting {
        told: bool,
    },
    /// An attempt is under way, since that time.
    Dialing {
        since: Instant,
    },
    Connected,
}

impl Session {
    /// From now on the session goes on when its connection is lost. It has that many nodes, and is connected to that one.
    pub fn recover_with(&mut self, policy: Recovery, nodes: usize, node: usize) {
        self.budget.max = policy.keep_max;
        let nodes = Nodes::new(nodes, &policy, self.now);
        let since = self.now;
        self.recovering = Some(Recovering {
            policy,
            nodes,
            node,
            since,
            locked: Vec::new(),
            exclusive: Vec::new(),
            locked_until: None,
        });
    }

    /// Begins a session that has no transport yet: it asks for one as after a loss, and goes on asking as the policy says.
    /// [`SessionEvent::Recovered`] says that it is open. It ends with what connecting again, unchanged, cannot change, as
    /// credentials that are refused; see [`ConnectionError::is_transient`].
    #[must_use]
    pub fn disconnected(
        config: Arc<ClientConfig>,
        policy: Recovery,
        nodes: usize,
        now: Instant,
    ) -> Self {
        let mut session = Self::new(config, now);
        session.connection.handle_driver_gone();
        while session.connection.poll_event().is_some() {}
        session.recover_with(policy, nodes, 0);
        session.phase = Phase::Down(alloc::boxed::Box::new(Outage {
            reason: ConnectionError::NotConnected,
            since: now,
            attempts: 0,
            step: Step::Waiting { told: false },
            last: None,
            condemned: Vec::new(),
            one_by_one: false,
        }));
        session
    }

    /// What to do for there to be a transport. Ask on each turn of the loop; [`poll_timeout`](Self::poll_timeout) includes
    /// the times of [`Dial::Wait`].
    pub fn poll_dial(&mut self, now: Instant) -> Dial {
        self.now = now;
        let (Phase::Down(outage), Some(recovering)) = (&mut self.phase, &mut self.recovering)
        else {
            return Dial::Nothing;
        };
        let Step::Waiting { told } = &mut outage.step else {
            return Dial::Nothing;
        };
        let Some((node, at)) = recovering.nodes.next() else {
            return Dial::Nothing;
        };
        if at > now {
            if !core::mem::replace(told, true) {
                let event = SessionEvent::Waiting { node, time: at.duration_since(now) };
                self.events.push_back(Event::Session(event));
            }
            return Dial::Wait(at);
        }
        outage.step = Step::Dialing { since: now };
        outage.attempts = outage.attempts.saturating_add(1);
        recovering.node = node;
        let event = SessionEvent::Connecting { node, attempt: outage.attempts };
        self.events.push_back(Event::Session(event));
        Dial::Connect { node }
    }

    /// There is a transport to the node that was asked for. With a configuration, that one is used from now on, as when
    /// there is a new token to log in with.
    ///
    /// Returns whether the session uses the transport. If it does not, close it: the attempt had
    /// [taken too long](Recovery::attempt_timeout), or the session has ended.
    #[must_use = "a transport that the session does not use has to be closed"]
    pub fn handle_transport(&mut self, now: Instant, config: Option<Arc<ClientConfig>>) -> bool {
        self.now = now;
        let Phase::Down(outage) = &mut self.phase else { return false };
        if !matches!(outage.step, Step::Dialing { .. }) {
            return false;
        }
        outage.step = Step::Connected;
        self.config = config.unwrap_or_else(|| self.config.clone());
        let mut connection = Connection::client(self.config.clone(), now);
        connection.follow(&self.connection);
        let before = core::mem::replace(&mut self.connection, connection);
        self.budget.discard.connection(before);
        true
    }

    /// The node that was asked for cannot be reached.
    pub fn handle_unreachable(&mut self, now: Instant, reason: &str) {
        self.now = now;
        let dialing = |outage: &Outage| matches!(outage.step, Step::Dialing { .. });
        if matches!(&self.phase, Phase::Down(outage) if dialing(outage)) {
            self.attempt_failed(reason);
        }
    }

    /// When the attempt that is under way has taken too long, and how long it may take.
    fn attempt_ends(&self) -> Option<(Instant, Duration)> {
        let (Phase::Down(outage), Some(recovering)) = (&self.phase, &self.recovering) else {
            return None;
        };
        let Step::Dialing { since } = outage.step else { return None };
        let limit = recovering.policy.attempt_timeout?;
        Some((since.checked_add(limit)?, limit))
    }

    pub(super) fn end_attempt_in_time(&mut self) {
        if let Some((_, limit)) = self.attempt_ends().filter(|(at, _)| *at <= self.now) {
            self.attempt_failed(&alloc::format!("no transport within {limit:?}"));
        }
    }

    /// When the next attempt begins.
    fn next_attempt(&self) -> Option<Instant> {
        let (Phase::Down(outage), Some(recovering)) = (&self.phase, &self.recovering) else {
            return None;
        };
        let waiting = matches!(outage.step, Step::Waiting { .. });
        recovering.nodes.next().filter(|_| waiting).map(|(_, at)| at)
    }

    /// Whether there is a transport that octets go to.
    pub(super) fn has_transport(&self) -> bool {
        match &self.phase {
            Phase::Up => self.connection.check().is_ok(),
            Phase::Down(outage) => outage.step == Step::Connected,
            Phase::Over(_) => false,
        }
    }

    /// Only what was open can be lost.
    pub(super) fn recovers_from(&self, error: &ConnectionError) -> bool {
        match &self.phase {
            Phase::Up if self.connection.negotiated().is_none() => return false,
            // The first connection is tried again after less than one that was open before: that its transport ends during the
            // login says that the credentials are wrong.
            Phase::Down(outage)
                if outage.reason == ConnectionError::NotConnected && !error.is_transient() =>
            {
                return false;
            }
            _ => {}
        }
        // Whatever the policy says, what was wanted or is driven by nobody does not come back.
        let is_final = error.is_local_close() || matches!(error, ConnectionError::DriverGone);
        let recovers = |own: &Recovering| !is_final && (own.policy.recovers)(error);
        self.recovering.as_ref().is_some_and(recovers)
    }

    /// The connection is over. With the session, that is told.
    pub(super) fn take_end(&mut self, error: ConnectionError) -> Option<Event> {
        self.forget_refused_secret(&error);
        if !self.recovers_from(&error) {
            self.end(error);
            return None;
        }
        self.condemn(&error);
        self.blame_over_connection(&error);
        self.replay = None;
        self.reopening.clear();
        if matches!(self.phase, Phase::Down(_)) {
            self.attempt_failed(&error.to_string());
            return None;
        }
        if let Some(recovering) = &mut self.recovering {
            let lasted = self.now.duration_since(recovering.since);
            recovering.nodes.lost(recovering.node, self.now, lasted);
        }
        self.phase = Phase::Down(alloc::boxed::Box::new(Outage {
            reason: error.clone(),
            since: self.now,
            attempts: 0,
            step: Step::Waiting { told: false },
            last: None,
            condemned: Vec::new(),
            one_by_one: false,
        }));
        Some(Event::Session(SessionEvent::Lost { reason: error }))
    }

    /// The session is over, and with it what channels there still are.
    pub(super) fn end(&mut self, error: ConnectionError) {
        if matches!(self.phase, Phase::Over(_)) {
            return;
        }
        self.replay = None;
        self.reopening.clear();
        self.turn = None;
        self.recovering = None;
        self.budget.expires_at = None;
        // From now on each of them refuses what it is asked for, until its end is polled.
        self.channels.iter_mut().flatten().for_each(|channel| channel.attached = false);
        let numbers = (1u16..).zip(&self.channels).filter(|(_, channel)| channel.is_some());
        for (number, _) in numbers {
            let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
            self.events.push_back(Event::Channel(ChannelId(number), closed));
        }
        self.events.push_back(Event::Closed(error.clone()));
        self.phase = Phase::Over(error);
    }

    fn attempt_failed(&mut self, reason: &str) {
        let (Phase::Down(outage), Some(recovering)) = (&mut self.phase, &mut self.recovering)
        else {
            return;
        };
        outage.step = Step::Waiting { told: false };
        outage.last = Some(reason.into());
        recovering.nodes.failed(recovering.node, self.now);
        let event = SessionEvent::AttemptFailed { node: recovering.node, reason: reason.into() };
        self.events.push_back(Event::Session(event));
        if recovering.policy.attempts_max.is_some_and(|max| outage.attempts >= max) {
            self.give_up();
        }
    }

    fn gives_up_at(&self) -> Option<Instant> {
        let (Phase::Down(outage), Some(recovering)) = (&self.phase, &self.recovering) else {
            return None;
        };
        outage.since.checked_add(recovering.policy.give_up_after?)
    }

    pub(super) fn give_up_in_time(&mut self) {
        if self.gives_up_at().is_some_and(|at| at <= self.now) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let Phase::Down(outage) = &self.phase else { return };
        let error = ConnectionError::NotRecovered {
            lost: Arc::new(outage.reason.clone()),
            attempts: outage.attempts,
            last: outage.last.clone().unwrap_or_else(|| "not tried".into()),
        };
        self.connection.handle_driver_gone();
        while self.connection.poll_event().is_some() {}
        self.end(error);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do for the recovery.
    pub(super) fn recovery_timer(&self) -> Option<Instant> {
        let idle = matches!(self.phase, Phase::Up) && self.replay.is_none();
        let locked = self.recovering.as_ref().filter(|_| idle);
        let locked = locked.and_then(|recovering| recovering.locked_until);
        let attempt = self.attempt_ends().map(|(at, _)| at).or_else(|| self.next_attempt());
        let reopening = self.next_reopening();
        self.gives_up_at()
            .into_iter()
            .chain(locked)
            .chain(attempt)
            .chain(reopening)
            .chain(self.budget.expires_at)
            .min()
    }

    /// What was on a channel is over. Returns the channel's end, if it is that.
    pub(super) fn interrupt(
        &mut self,
        id: ChannelId,
        error: &ChannelError,
        unconfirmed: &[RangeInclusive<PublishSeq>],
    ) -> Option<Event> {
        let record = super::slot(&mut self.channels, id)?;
        record.undo_guilty(error);
        if record.closing {
            self.forget_channel(id);
            return Some(Event::Channel(id, ChannelEvent::Closed(error.clone())));
        }
        record.attached = false;
        record.orphans.clear();
        record.mode.interrupt();
        record.streams.interrupt();
        let mut events = Vec::new();
        for sent in record.in_flight.take_all() {
            record.consumers.remove(sent.id.into());
            if !sent.abandoned {
                let error = error.clone().into();
                events.push(ChannelEvent::Failed { request: sent.id, error });
            }
        }
        // The broker has ended them with the channel.
        let cancelled = core::mem::take(&mut record.cancelling);
        events
            .extend(cancelled.into_iter().map(|consumer| ChannelEvent::ConsumerEnded { consumer }));
        let mut gone = Vec::new();
        for sent in unconfirmed {
            record
                .seqs
                .of(sent, |publishes| record.kept.others(&publishes, |seqs| gone.push(seqs)));
        }
        events.extend(gone.into_iter().map(|publishes| {
            let error = error.clone();
            ChannelEvent::Unconfirmed { publishes, error }
        }));
        // What they had is requeued, so nobody would take it to resume them.
        record.prefetch_now = record.qos.as_ref().map_or(0, |qos| qos.prefetch_count);
        record.consumers.interrupt();
        let delivered = record.tags.restart();
        events.push(ChannelEvent::Interrupted { delivered, error: error.clone() });
        let mut ended = Vec::new();
        record.consumers.retain(|consumer| {
            if !consumer.recovers {
                ended.push((consumer.id, consumer.consume.queue.clone()));
            }
            consumer.recovers
        });
        for (consumer, queue) in ended {
            self.topology.unconsumed(&queue);
            events.push(ChannelEvent::ConsumerFailed { consumer, error: error.clone() });
        }
        self.events.extend(events.into_iter().map(|event| Event::Channel(id, event)));
        None
    }
}
