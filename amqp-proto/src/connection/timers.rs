use core::time::Duration;

use crate::time::Instant;

use crate::event::TimerReason;

/// When something is due on a connection.
#[derive(Debug)]
pub(super) struct Timers {
    /// The end of the handshake or of the close, whichever is under way.
    deadline: Option<(Instant, TimerReason)>,
    /// Zero is off.
    heartbeat: Duration,
    last_sent: Instant,
    last_received: Instant,
    /// Reading is suspended, so that silence means nothing.
    deaf: bool,
}

/// A heartbeat is due after this part of the interval without anything sent (spec 4.2.7).
const SEND_AFTER: u32 = 2;

/// The peer is given up after this many intervals of silence (spec 4.2.7).
const GIVE_UP_AFTER: u32 = 2;

impl Timers {
    pub(super) fn new(now: Instant, handshake: Duration) -> Self {
        Self {
            deadline: now.checked_add(handshake).map(|at| (at, TimerReason::Handshake)),
            heartbeat: Duration::ZERO,
            last_sent: now,
            last_received: now,
            deaf: false,
        }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    pub(super) fn received(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Reading was suspended or goes on. The peer has the full time again from when it goes on.
    pub(super) fn set_deaf(&mut self, now: Instant, deaf: bool) {
        if self.deaf && !deaf {
            self.last_received = now;
        }
        self.deaf = deaf;
    }

    /// Heartbeats start when the limits are agreed on (spec 4.2.7).
    pub(super) fn start_heartbeats(&mut self, now: Instant, interval: Duration) {
        self.heartbeat = interval;
        self.last_sent = now;
        self.last_received = now;
    }

    pub(super) fn clear_deadline(&mut self) {
        self.deadline = None;
    }

    pub(super) fn close_by(&mut self, now: Instant, timeout: Duration) {
        self.deadline = now.checked_add(timeout).map(|at| (at, TimerReason::Close));
    }

    /// What is due next.
    pub(super) fn next(&self) -> Option<(Instant, TimerReason)> {
        let heartbeat = self.heartbeat_due().map(|at| (at, TimerReason::Heartbeat));
        let silence = self.silence_due().map(|at| (at, TimerReason::Silence));
        [self.deadline, heartbeat, silence].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What is due at `now`.
    pub(super) fn expired(&self, now: Instant) -> Option<TimerReason> {
        self.next().filter(|(at, _)| *at <= now).map(|(_, reason)| reason)
    }

    /// How long the peer may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.heartbeat.saturating_mul(GIVE_UP_AFTER)
    }

    fn heartbeat_due(&self) -> Option<Instant> {
        let on = !self.heartbeat.is_zero();
        on.then(|| self.last_sent.checked_add(self.heartbeat / SEND_AFTER)).flatten()
    }

    fn silence_due(&self) -> Option<Instant> {
        let on = !self.heartbeat.is_zero() && !self.deaf;
        on.then(|| self.last_received.checked_add(self.patience())).flatten()
    }
}
