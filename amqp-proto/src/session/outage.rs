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

/// The session's instruction to the code that opens transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dial {
    /// No transport is needed at present.
    Nothing,
    /// Call [`poll_dial`](Session::poll_dial) again at that time.
    Wait(Instant),
    /// Open a transport to that node, an index into the list of nodes.
    ///
    /// If the result of an earlier attempt was not reported yet, the session has abandoned that attempt: drop it.
    Connect {
        /// The node.
        node: usize,
    },
}

/// The recovery state of a session.
#[derive(Debug)]
pub(super) struct Recovering {
    pub(super) policy: Recovery,
    pub(super) nodes: Nodes,
    /// The node of the present transport, or of the last one.
    pub(super) node: usize,
    /// When everything was restored on that node.
    pub(super) since: Instant,
    /// Queues that another connection holds exclusively, and when to retry them.
    pub(super) locked: Vec<ShortStr>,
    /// Consumers whose queues another connection consumes exclusively.
    pub(super) exclusive: Vec<Waiting>,
    pub(super) locked_until: Option<Instant>,
}

/// The time from the loss of a connection until everything is restored.
#[derive(Debug)]
pub(super) struct Outage {
    reason: ConnectionError,
    pub(super) since: Instant,
    pub(super) attempts: u32,
    step: Step,
    /// The reason why the last attempt failed.
    last: Option<Arc<str>>,
    /// Entities whose restoring made the broker close the connection. They are left out from then on.
    pub(super) condemned: Vec<(Entity, ConnectionError)>,
    /// Restore entities one by one, because it is not known which of several requests made the broker close the connection.
    pub(super) one_by_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// `told`: `SessionEvent::Waiting` was emitted.
    Waiting {
        told: bool,
    },
    /// An attempt is in progress since that time.
    Dialing {
        since: Instant,
    },
    Connected,
}

impl Session {
    /// Turns recovery on: from now on, the session reconnects when its connection is lost. `nodes` is the number of nodes, and
    /// `node` the index of the present one.
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

    /// Creates a session without a transport: it connects as after a loss, with the retries that the policy configures.
    /// [`SessionEvent::Recovered`] reports that the session is open. The session ends with an error that another attempt cannot
    /// change, such as refused credentials; see [`ConnectionError::is_transient`].
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

    /// Returns the next step towards a transport. Call this on each turn of the loop; [`poll_timeout`](Self::poll_timeout) includes
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

    /// Reports that the transport to the requested node is connected. If a configuration is given, for example with a new token, it
    /// is used from now on.
    ///
    /// Returns whether the session uses the transport. If it does not, close the transport: the attempt has
    /// [timed out](Recovery::attempt_timeout), or the session has ended.
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

    /// Reports that the requested node cannot be reached.
    pub fn handle_unreachable(&mut self, now: Instant, reason: &str) {
        self.now = now;
        let dialing = |outage: &Outage| matches!(outage.step, Step::Dialing { .. });
        if matches!(&self.phase, Phase::Down(outage) if dialing(outage)) {
            self.attempt_failed(reason);
        }
    }

    /// Returns the deadline of the present attempt, and its time limit.
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

    /// Returns the time of the next attempt.
    fn next_attempt(&self) -> Option<Instant> {
        let (Phase::Down(outage), Some(recovering)) = (&self.phase, &self.recovering) else {
            return None;
        };
        let waiting = matches!(outage.step, Step::Waiting { .. });
        recovering.nodes.next().filter(|_| waiting).map(|(_, at)| at)
    }

    /// Returns whether there is a transport to write to.
    pub(super) fn has_transport(&self) -> bool {
        match &self.phase {
            Phase::Up => self.connection.check().is_ok(),
            Phase::Down(outage) => outage.step == Step::Connected,
            Phase::Over(_) => false,
        }
    }

    /// Returns whether the session recovers from this error.
    pub(super) fn recovers_from(&self, error: &ConnectionError) -> bool {
        match &self.phase {
            // Only a connection that was open can be lost.
            Phase::Up if self.connection.negotiated().is_none() => return false,
            // The first connection is retried after fewer errors than one that was open before: if its transport ends during the
            // login, the credentials are wrong.
            Phase::Down(outage)
                if outage.reason == ConnectionError::NotConnected && !error.is_transient() =>
            {
                return false;
            }
            _ => {}
        }
        // Whatever the policy says: a close by the application is final, and without a driver nothing can reconnect.
        let is_final = error.is_local_close() || matches!(error, ConnectionError::DriverGone);
        let recovers = |own: &Recovering| !is_final && (own.policy.recovers)(error);
        self.recovering.as_ref().is_some_and(recovers)
    }

    /// Handles the close of the connection: ends the session, or begins to recover. Returns the event to emit.
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

    /// Ends the session and its remaining channels.
    pub(super) fn end(&mut self, error: ConnectionError) {
        if matches!(self.phase, Phase::Over(_)) {
            return;
        }
        self.replay = None;
        self.reopening.clear();
        self.turn = None;
        self.recovering = None;
        self.budget.expires_at = None;
        // From now on, each channel refuses commands, until its `Closed` event is polled.
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

    /// Returns the next time at which [`handle_timeout`](Self::handle_timeout) has something to do for the recovery.
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

    /// Interrupts a channel: fails its pending requests and publishes, and makes its deliveries stale. Returns the channel's
    /// `Closed` event instead if the application was closing it.
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
        // Their cancels had no reply yet, but the broker has ended these consumers with the channel.
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
        // The deliveries of paused consumers are requeued, so the application would never take them, which is what resumes a
        // consumer.
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
