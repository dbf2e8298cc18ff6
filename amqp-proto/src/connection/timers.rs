use core::time::Duration;

use crate::time::Instant;

use crate::event::TimerReason;

/// When something is due on a connection.
#[derive(Debug)]
pub(super) struct Timers {
    /// The end of the handshake or of the close, whichever is under way.
    deadline: Option<(Instant, TimerReason)>,
    /// The time that the close may take once it is written, and the smallest number of bytes, including the close, that still had
    /// to be written.
    closing: Option<(Duration, usize)>,
    /// When held deliveries are requeued.
    requeue: Option<Instant>,
    /// Zero is off.
    heartbeat: Duration,
    /// The maximum time without sending, and without receiving.
    send_after: Duration,
    receive_timeout: Duration,
    /// When a heartbeat is due, unless something is sent before. Computed when something was sent: there are several turns between.
    send_at: Option<Instant>,
    /// When the peer will have been silent for too long, unless something arrives before.
    silent_at: Option<Instant>,
    /// When the peer last seemed silent for too long: nothing was known to have arrived in that time.
    seemed_silent: Instant,
    /// Reading is suspended, or the loop judges silence by its reads.
    reading_suspended: bool,
}

/// A heartbeat is due after this part of the interval without anything sent (spec 4.2.7).
const SEND_AFTER: u32 = 2;

/// The peer counts as dead after this many intervals of silence (spec 4.2.7).
const GIVE_UP_AFTER: u32 = 2;

/// The time that a peer gets once it seems silent. In this time, a process that was suspended (by a debugger, or with its
/// machine) reads what arrived meanwhile. A loop that reports reads is asked to read again after the same time.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The time for which an unusable message is held before it is requeued: the broker may deliver it at once, to this consumer
/// again.
const REQUEUE_AFTER: Duration = Duration::from_secs(1);

impl Timers {
    pub(super) fn new(now: Instant, handshake: Duration) -> Self {
        Self {
            deadline: now.checked_add(handshake).map(|at| (at, TimerReason::Handshake)),
            closing: None,
            requeue: None,
            heartbeat: Duration::ZERO,
            send_after: Duration::ZERO,
            receive_timeout: Duration::ZERO,
            send_at: None,
            silent_at: None,
            seemed_silent: now,
            reading_suspended: false,
        }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        if !self.heartbeat.is_zero() {
            self.send_at = now.checked_add(self.send_after);
        }
    }

    pub(super) fn received(&mut self, now: Instant) {
        if !self.heartbeat.is_zero() {
            self.silent_at = now.checked_add(self.receive_timeout);
        }
    }

    /// Reading was suspended or goes on. The peer has the full time again from when it goes on.
    pub(super) fn suspend_reading(&mut self, now: Instant, suspended: bool) {
        if self.reading_suspended && !suspended {
            self.received(now);
        }
        self.reading_suspended = suspended;
    }

    /// The receive timeout has passed, as far as is known. Returns whether the connection is to fail at once.
    pub(super) fn note_silence(&mut self, now: Instant) -> bool {
        if self.peer_seems_silent() && !self.reading_suspended {
            return true;
        }
        self.seemed_silent = now;
        false
    }

    /// Returns whether the peer was found silent for too long, and nothing has come since.
    pub(super) fn peer_seems_silent(&self) -> bool {
        self.silent_at.is_some_and(|at| at <= self.seemed_silent)
    }

    /// Returns whether the peer has been silent for too long, given that there was nothing to read at `now`.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.silent_at.is_some_and(|at| at <= now)
    }

    /// Heartbeats start when the limits are agreed on (spec 4.2.7).
    pub(super) fn start_heartbeats(&mut self, now: Instant, interval: Duration) {
        self.heartbeat = interval;
        self.send_after = interval / SEND_AFTER;
        self.receive_timeout = interval.saturating_mul(GIVE_UP_AFTER);
        self.sent(now);
        self.received(now);
    }

    pub(super) fn clear_deadline(&mut self) {
        self.deadline = None;
    }

    pub(super) fn close_by(&mut self, now: Instant, timeout: Duration) {
        self.deadline = now.checked_add(timeout).map(|at| (at, TimerReason::Close));
        self.closing = Some((timeout, usize::MAX));
    }

    /// At `now`, `left` bytes were not written yet. While the close and the bytes ahead of it are written, however slowly, the
    /// peer's time does not run.
    #[inline]
    pub(super) fn written(&mut self, now: Instant, left: usize) {
        let Some((timeout, fewest)) = &mut self.closing else { return };
        // Heartbeats may follow the close. Writing them is no progress of the close.
        if left >= *fewest {
            return;
        }
        *fewest = left;
        if let (Some((due, _)), Some(at)) = (&mut self.deadline, now.checked_add(*timeout)) {
            *due = at.max(*due);
        }
    }

    /// Deliveries are held that are to be requeued. The pause began with the first of them.
    pub(super) fn requeue_later(&mut self, now: Instant) {
        if self.requeue.is_none() {
            self.requeue = now.checked_add(REQUEUE_AFTER);
        }
    }

    /// The held deliveries are requeued now.
    pub(super) fn clear_requeue(&mut self) {
        self.requeue = None;
    }

    /// Returns what is due next. It is called at each turn, so it is kept simple.
    pub(super) fn next(&self) -> Option<(Instant, TimerReason)> {
        let mut next = self.deadline;
        let mut consider = |due: Option<Instant>, reason| match (due, next) {
            (Some(at), Some((first, _))) if at >= first => {}
            (Some(at), _) => next = Some((at, reason)),
            (None, _) => {}
        };
        consider(self.requeue, TimerReason::Requeue);
        consider(self.send_at, TimerReason::Heartbeat);
        let look_at = match self.peer_seems_silent() {
            true => self.seemed_silent.checked_add(LOOK_AGAIN),
            false => self.silent_at,
        };
        consider(look_at, TimerReason::Silence);
        next
    }

    /// Returns what is due at `now`.
    pub(super) fn expired(&self, now: Instant) -> Option<TimerReason> {
        self.next().filter(|(at, _)| *at <= now).map(|(_, reason)| reason)
    }

    /// Returns how long the peer may be silent.
    pub(super) const fn receive_timeout(&self) -> Duration {
        self.receive_timeout
    }
}
