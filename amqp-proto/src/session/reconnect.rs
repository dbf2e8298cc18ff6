//! Losing and replacing connections: when to connect, to which node, and when to give up.

use alloc::boxed::Box;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use core::time::Duration;

use super::context::{Locks, Recovering};
use super::nodes::Nodes;
use super::outage::{Attempt, Outage};
use super::phase::Phase;
use super::policy::Recovery;
use super::recovery::Repair;
use super::report::RecoveryReport;
use super::state::Session;
use crate::error::chain;
use crate::time::Instant;
use crate::{
    ChannelError, ChannelEvent, ClientConfig, ConnectStep, Connection, ConnectionError, Event,
    SessionEvent,
};

/// The session's instruction to the code that opens transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reconnect {
    /// No transport is needed at present.
    Nothing,
    /// Call [`poll_reconnect`](Session::poll_reconnect) again at that time.
    Wait(Instant),
    /// Open a transport to that node, an index into the list of nodes.
    ///
    /// If the result of an earlier attempt was not reported yet, the session has abandoned that attempt: drop it.
    Connect {
        /// The node.
        node: usize,
    },
}

impl Session {
    /// Turns recovery on: from now on, the session reconnects when its connection is lost. `nodes` is the number of nodes, and
    /// `node` the index of the present one.
    pub fn recover_with(&mut self, policy: Recovery, nodes: usize, node: usize) {
        let cx = &mut self.context;
        cx.budget.max = policy.keep_max;
        let nodes = Nodes::new(nodes, &policy, cx.now);
        let since = cx.now;
        cx.recovering = Some(Recovering { policy, nodes, node, since, locks: Locks::default() });
    }

    /// Turns recovery off: from now on, the session ends when its connection is lost. If it is lost already, the session ends now.
    pub fn stop_recovery(&mut self) {
        self.give_up();
        self.context.recovering = None;
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
        session.discard_connection();
        session.recover_with(policy, nodes, 0);
        session.phase = Phase::Lost(Box::new(Outage::new(ConnectionError::NotConnected, now)));
        session
    }

    /// Returns the next step towards a transport. Call this on each turn of the loop; [`poll_timeout`](Self::poll_timeout) includes
    /// the times of [`Reconnect::Wait`].
    pub fn poll_reconnect(&mut self, now: Instant) -> Reconnect {
        let cx = &mut self.context;
        cx.now = now;
        let (Phase::Lost(outage), Some(recovering)) = (&mut self.phase, &mut cx.recovering) else {
            return Reconnect::Nothing;
        };
        let Attempt::Waiting { announced } = &mut outage.attempt else {
            return Reconnect::Nothing;
        };
        let Some((node, at)) = recovering.nodes.next() else {
            return Reconnect::Nothing;
        };
        if at > now {
            if !core::mem::replace(announced, true) {
                let event = SessionEvent::Waiting { node, time: at.duration_since(now) };
                cx.events.push_back(Event::Session(event));
            }
            return Reconnect::Wait(at);
        }
        outage.attempt = Attempt::Connecting { since: now };
        outage.attempts = outage.attempts.saturating_add(1);
        recovering.node = node;
        let event = SessionEvent::Connecting { node, attempt: outage.attempts };
        cx.events.push_back(Event::Session(event));
        Reconnect::Connect { node }
    }

    /// Reports that the transport to the requested node is connected. If a configuration is passed, for example with a new token,
    /// it is used from now on.
    ///
    /// Returns whether the session uses the transport. If it does not, close the transport: the attempt has
    /// [timed out](Recovery::attempt_timeout), or the session has ended.
    #[must_use = "a transport that the session does not use has to be closed"]
    pub fn handle_transport(&mut self, now: Instant, config: Option<Arc<ClientConfig>>) -> bool {
        let cx = &mut self.context;
        cx.now = now;
        let Phase::Lost(outage) = &mut self.phase else { return false };
        if !matches!(outage.attempt, Attempt::Connecting { .. }) {
            return false;
        }
        outage.attempt = Attempt::Connected;
        self.failed_at = None;
        self.config = config.unwrap_or_else(|| self.config.clone());
        let mut connection = Connection::client(self.config.clone(), now);
        connection.follow(&cx.connection);
        let before = core::mem::replace(&mut cx.connection, connection);
        cx.budget.discard.connection(before);
        true
    }

    /// Reports that the requested node cannot be reached, and at which step that failed.
    pub fn handle_unreachable(&mut self, now: Instant, step: ConnectStep, reason: &str) {
        self.context.now = now;
        let connecting = |outage: &Outage| matches!(outage.attempt, Attempt::Connecting { .. });
        if matches!(&self.phase, Phase::Lost(outage) if connecting(outage)) {
            self.attempt_failed(Some(step), reason);
        }
    }

    /// Returns the deadline of the present attempt, and its time limit.
    pub(super) fn attempt_ends(&self) -> Option<(Instant, Duration)> {
        let Phase::Lost(outage) = &self.phase else { return None };
        let Attempt::Connecting { since } = outage.attempt else { return None };
        let limit = self.context.recovering.as_ref()?.policy.attempt_timeout?;
        Some((since.checked_add(limit)?, limit))
    }

    pub(super) fn end_attempt_in_time(&mut self) {
        if let Some((_, limit)) = self.attempt_ends().filter(|(at, _)| *at <= self.context.now) {
            let reason = alloc::format!("not connected within {limit:?}");
            self.attempt_failed(Some(ConnectStep::Tcp), &reason);
        }
    }

    /// Returns the time of the next attempt.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        let Phase::Lost(outage) = &self.phase else { return None };
        let waiting = matches!(outage.attempt, Attempt::Waiting { .. });
        let recovering = self.context.recovering.as_ref().filter(|_| waiting)?;
        recovering.nodes.next().map(|(_, at)| at)
    }

    /// Handles the close of the connection: ends the session, or begins to recover. Returns the event to emit.
    pub(super) fn take_end(&mut self, error: ConnectionError) -> Option<Event> {
        if let Some(before) = self.unanswered.refused(&error) {
            self.config = before;
        }
        if !self.recovers_from(&error) {
            self.end(error);
            return None;
        }
        let cx = &mut self.context;
        if let Phase::Restoring(outage, repair) = &mut self.phase {
            repair.condemn(cx, outage, &error);
        }
        cx.blame_over_connection(&error);
        cx.reopening.clear();
        let attempt_failed = match core::mem::replace(&mut self.phase, Phase::Connected) {
            Phase::Lost(outage) | Phase::Restoring(outage, _) => {
                self.phase = Phase::Lost(outage);
                true
            }
            Phase::Connected | Phase::Repairing(_) | Phase::Ended(_) => {
                if let Some(recovering) = &mut cx.recovering {
                    let lasted = cx.now.duration_since(recovering.since);
                    recovering.nodes.lost(recovering.node, cx.now, lasted);
                }
                self.phase = Phase::Lost(Box::new(Outage::new(error.clone(), cx.now)));
                false
            }
        };
        if attempt_failed {
            let step = self.context.connection.connect_step();
            self.attempt_failed(step, &chain(&error).to_string());
            return None;
        }
        Some(Event::Session(SessionEvent::Lost { reason: error }))
    }

    /// The connection is open again: restores everything.
    pub(super) fn restore(&mut self) {
        self.phase = match core::mem::replace(&mut self.phase, Phase::Connected) {
            Phase::Lost(outage) => {
                let repair = Repair::full(&outage, &mut self.context);
                Phase::Restoring(outage, Box::new(repair))
            }
            other => other,
        };
        self.advance();
    }

    /// Continues the repair, if there is one.
    pub(super) fn advance(&mut self) {
        let cx = &mut self.context;
        if self.phase.repair().is_none_or(|repair| !repair.advance(cx)) {
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::Connected) {
            Phase::Repairing(repair) => drop(repair.finish(cx)),
            Phase::Restoring(outage, repair) => {
                let report = repair.finish(cx);
                self.recovered(&outage, report);
            }
            other => self.phase = other,
        }
    }

    fn recovered(&mut self, outage: &Outage, mut report: RecoveryReport) {
        let cx = &mut self.context;
        let Some(recovering) = &mut cx.recovering else { return };
        recovering.nodes.worked(recovering.node);
        recovering.since = cx.now;
        report.node = recovering.node;
        // An invalid request stays invalid: it is not repeated, or each later outage would cost one more connection.
        let mistakes = outage.condemned.iter().filter(|(_, error)| is_mistake(error));
        mistakes.for_each(|(entity, _)| cx.topology.forget(entity));
        cx.events.push_back(Event::Session(SessionEvent::Recovered(Box::new(report))));
    }

    /// Ends the session and its remaining channels.
    pub(super) fn end(&mut self, error: ConnectionError) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        let cx = &mut self.context;
        cx.reopening.clear();
        cx.turn = None;
        cx.recovering = None;
        cx.budget.expires_at = None;
        for (id, record) in cx.channels.iter_mut() {
            // From now on, the channel refuses commands, until its `Closed` event is polled.
            record.attached = false;
            let closed = ChannelEvent::Closed(ChannelError::Connection(error.clone()));
            cx.events.push_back(Event::Channel(id, closed));
        }
        cx.events.push_back(Event::Closed(error.clone()));
        self.phase = Phase::Ended(error);
    }

    fn attempt_failed(&mut self, step: Option<ConnectStep>, reason: &str) {
        let cx = &mut self.context;
        let (Phase::Lost(outage), Some(recovering)) = (&mut self.phase, &mut cx.recovering) else {
            return;
        };
        outage.attempt = Attempt::Waiting { announced: false };
        self.failed_at = step;
        outage.last = Some(reason.into());
        recovering.nodes.failed(recovering.node, cx.now);
        let event =
            SessionEvent::AttemptFailed { node: recovering.node, step, reason: reason.into() };
        cx.events.push_back(Event::Session(event));
        if recovering.policy.attempts_max.is_some_and(|max| outage.attempts >= max) {
            self.give_up();
        }
    }

    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        let give_up_after = self.context.recovering.as_ref()?.policy.give_up_after?;
        self.phase.outage()?.since.checked_add(give_up_after)
    }

    pub(super) fn give_up_in_time(&mut self) {
        if self.gives_up_at().is_some_and(|at| at <= self.context.now) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let Some(outage) = self.phase.outage() else { return };
        if matches!(outage.attempt, Attempt::Connecting { .. }) {
            // There is no transport yet, and the name may be resolved already.
            self.failed_at = Some(ConnectStep::Tcp);
        }
        let error = ConnectionError::NotRecovered {
            lost: Arc::new(outage.reason.clone()),
            attempts: outage.attempts,
            last: outage.last.clone().unwrap_or_else(|| "none".into()),
        };
        self.discard_connection();
        self.end(error);
    }

    /// Ends the present connection without events.
    fn discard_connection(&mut self) {
        self.context.connection.handle_driver_gone();
        while self.context.connection.poll_event().is_some() {}
    }
}

/// Returns whether the broker would refuse the same request again.
fn is_mistake(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::Closed(close)
        if close.reply_code.is_hard() && !close.reply_code.is_transient())
}
