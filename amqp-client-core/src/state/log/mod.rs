//! The lines about a connection in the log.

mod attempts;
mod text;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use amqp_proto::error::chain;
use amqp_proto::session::{Entity, RecoveryReport};
use amqp_proto::{ConnectionError, ConsumerId, Initiator};

use self::attempts::Attempts;
use self::text::{Loss, Losses, MISSING_MAX, Node, Rounded, missing, restored};
use super::State;
use crate::BrokerVersion;
use crate::connect::ConnectError;
use crate::event::ConnectionEvent;
use crate::logs::{Counted, InFlight, Level, Limit, Log, Pause, Prefetch, one_line};

/// The earlier events that later lines depend on.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Counted until the line about the loss.
    lost: InFlight,
    blocked_at: Option<Instant>,
    /// The silence of the peer was reported.
    silent: bool,
    /// The connection has been open.
    opened: bool,
    lags: Limit,
    /// The heartbeat interval of the present connection or the last one.
    heartbeat: Duration,
    losses: Losses,
    attempts: Attempts,
    /// Since when the driver does not read, if there was a line about it.
    reading_paused: Option<Instant>,
    /// The number of deliveries that were requeued since then.
    requeued: u64,
    /// The limit of bytes that are not taken.
    budget: usize,
    kept_full: Limit,
    not_renewed: Limit,
    /// Lines of patterns, by their kind.
    patterns: BTreeMap<&'static str, Limit>,
}

impl Story {
    /// A channel has reported what the loss of the connection has interrupted.
    #[inline]
    pub(super) fn add(&mut self, lost: Option<InFlight>) {
        if let Some(lost) = lost {
            self.lost.add(&lost);
        }
    }
}

impl State {
    /// Has the queued lines written once the lock is released.
    #[inline]
    pub(crate) fn log_due(&mut self) {
        if self.log.is_due() {
            self.wakes.log(self.log.clone());
        }
    }

    /// Returns the log, and the end of the line of a pattern, unless the line is left out.
    pub(crate) fn limit_pattern(&mut self, kind: &'static str) -> Option<(Log, String)> {
        let end = self.story.patterns.entry(kind).or_default().count(self.now)?;
        Some((self.log.clone(), end))
    }

    /// The application has settled a delivery that the broker has requeued.
    #[inline]
    pub(crate) fn log_stale(&mut self, place: u32, tag: u64) {
        // Otherwise even a call that is never reached costs each acknowledgement a few instructions.
        if self.log.is_built() {
            self.log_stale_now(place, tag);
        }
    }

    #[cold]
    fn log_stale_now(&mut self, place: u32, tag: u64) {
        let now = self.now;
        if let Some(channel) = self.channel(place) {
            channel.log.stale(tag, now);
        }
        self.log_due();
    }

    /// The driver has a turn in which it reads. While it waits for a reply, it reads a little in spite of deliveries that are not
    /// taken: that is not the end of the pause.
    #[inline]
    pub(crate) fn log_reading(&mut self, budget: usize, now: Instant) {
        if !self.log.is_built() || self.delivered_bytes >= budget {
            return;
        }
        let Some(since) = self.story.reading_paused.take() else { return };
        let time = now.saturating_duration_since(since);
        let requeued = std::mem::take(&mut self.story.requeued);
        self.log.line(Level::Info, None, || {
            let time = Rounded(time);
            match requeued {
                0 => format!("the client reads again, after {time}: deliveries were taken"),
                1 => format!("the client reads again, after {time}: 1 delivery was requeued"),
                count => {
                    format!(
                        "the client reads again, after {time}: {count} deliveries were requeued"
                    )
                }
            }
        });
        self.log_due();
    }

    /// Consumers hold more than these bytes of deliveries.
    pub(super) fn log_budget(&mut self, budget: usize) {
        self.story.budget = budget;
    }

    /// Deliveries of consumers that take nothing were requeued.
    pub(super) fn log_requeued(&mut self, count: u64) {
        self.story.requeued = self.story.requeued.saturating_add(count);
    }

    /// A consumer was paused, and some of its deliveries were requeued.
    pub(super) fn log_pause(
        &mut self,
        place: u32,
        consumer: ConsumerId,
        requeued: u64,
        budget: usize,
    ) {
        if !self.log.is_built() {
            return;
        }
        let now = self.now;
        let Some(channel) = self.channel(place) else { return };
        let Some(queue) = channel.queues.get(consumer) else { return };
        let bytes = queue.deliveries.iter().map(|delivery| delivery.size()).sum();
        let kept = (queue.deliveries.len() as u64, bytes);
        let tag = queue.tag.clone();
        channel.log.paused(&tag, &Pause { kept, requeued, budget }, now);
        self.log_due();
    }

    /// A publish waits because the kept messages have reached their limit.
    #[cold]
    pub(crate) fn log_kept_full(&mut self) {
        if !self.log.is_built() {
            return;
        }
        let (kept, now) = (self.proto.kept(), self.now);
        let Some(end) = self.story.kept_full.count(now) else { return };
        self.log.line(Level::Warn, None, || {
            format!(
                "{} of messages kept to be published again after a loss, which is the limit: publishing waits for confirms; see \
                 `Recovery::keep_max`{end}",
                Counted(kept as u64, "byte")
            )
        });
        self.log_due();
    }

    /// The driver has checked whether the peer is silent.
    #[inline]
    pub(crate) fn log_silence(&mut self, silent: bool, now: Instant) {
        if !self.log.is_built() || silent == self.story.silent {
            return;
        }
        self.story.silent = silent;
        let heard = self.last_heard.map(|at| now.saturating_duration_since(at));
        let Some(time) = heard.filter(|_| self.proto.is_open()) else { return };
        let interval = self.proto.negotiated().map_or(Duration::ZERO, |found| found.heartbeat);
        if silent {
            self.log.line(Level::Warn, None, || {
                format!(
                    "the broker has sent nothing for {}, and its heartbeats are due every {interval:?}: the network is \
                     interrupted, or the broker hangs",
                    Rounded(time)
                )
            });
        } else {
            self.log.line(Level::Info, None, || "the broker sends again".to_owned());
        }
        self.log_due();
    }

    /// Queues the lines about an event.
    pub(super) fn log_event(&mut self, event: &ConnectionEvent) {
        if !self.log.is_built() {
            return;
        }
        let log = self.log.clone();
        match event {
            ConnectionEvent::Opened => {
                self.story.opened = true;
                self.log_open();
                log.line(Level::Info, None, || self.connected("connected", self.took(&log)));
            }
            ConnectionEvent::Blocked { reason } => {
                self.story.blocked_at = self.now;
                log.line(Level::Warn, None, || {
                    format!(
                        "the broker blocks publishing ({}): messages wait until its alarm ends; see `rabbitmq-diagnostics alarms`",
                        reason.escaped()
                    )
                });
            }
            ConnectionEvent::Unblocked => {
                let times = self.story.blocked_at.take().zip(self.now);
                let time = times.map(|(from, to)| to.saturating_duration_since(from));
                log.line(Level::Info, None, || match time {
                    Some(time) => {
                        format!("the broker accepts messages again, after {}", Rounded(time))
                    }
                    None => event.to_string(),
                });
            }
            ConnectionEvent::ConsumerLags { channel, consumer_tag, bytes } => {
                let now = self.now;
                let Some(end) = self.story.lags.count(now) else { return };
                (self.story.reading_paused, self.story.requeued) = (now, 0);
                let budget = self.story.budget;
                let own = self.channels.iter().flatten().find(|own| own.id == *channel);
                let prefetch = own.and_then(|own| own.log.prefetch(consumer_tag)).unwrap_or(0);
                log.line(Level::Warn, Some(*channel), || {
                    format!(
                        "consumer '{}' does not take its deliveries ({bytes} bytes, {}): with more than {budget} untaken bytes, the \
                         client stops reading, and all consumers of the connection wait; set a lower prefetch limit, or take \
                         deliveries faster{end}",
                        consumer_tag.escaped(),
                        Prefetch(prefetch)
                    )
                });
            }
            ConnectionEvent::TokenNotRenewed { why } => {
                let now = self.now;
                let Some(end) = self.story.not_renewed.count(now) else { return };
                log.line(Level::Warn, None, || {
                    let why = one_line(why);
                    format!("the token was not renewed, the client tries again: {why}{end}")
                });
            }
            ConnectionEvent::Lost { reason } => {
                let lost = std::mem::take(&mut self.story.lost);
                (self.story.blocked_at, self.story.silent) = (None, false);
                self.story.reading_paused = None;
                let losses = self.story.losses.count(self.now);
                let loss = self.loss(reason, lost, self.proto.kept(), losses);
                log.line(Level::Warn, None, || loss.to_string());
            }
            ConnectionEvent::Waiting { endpoint, time, node } => {
                if self.story.attempts.is_quiet() {
                    return;
                }
                log.line(Level::Info, None, || {
                    let node = Node(endpoint.as_ref(), *node);
                    format!("the next attempt to connect to {node} is in {}", Rounded(*time))
                });
            }
            ConnectionEvent::Connecting { attempt, .. } => {
                self.story.attempts.begin(*attempt, self.now);
                if !self.story.attempts.is_quiet() {
                    log.line(Level::Debug, None, || event.to_string());
                }
            }
            ConnectionEvent::AttemptFailed { node, endpoint, step, reason } => {
                self.story.lost = InFlight::default();
                let Some(end) = self.story.attempts.failed(reason, self.now) else { return };
                let story = &self.story;
                log.line(Level::Warn, None, || {
                    let node = Node(endpoint.as_ref(), *node);
                    let login = self.proto.config().get_username();
                    one_line(&story.attempts.text(&node, *step, reason, login, story.opened)) + &end
                });
            }
            ConnectionEvent::Recovered(report) => {
                self.log_open();
                let restored = restored(report);
                let complete = report.failed.is_empty()
                    && report.locked.is_empty()
                    && report.left_out.is_empty();
                let level = if complete { Level::Info } else { Level::Warn };
                let time = Some(report.connecting + report.restoring);
                log.line(level, None, || self.connected("reconnected", time) + &restored);
                self.log_missing(report);
                self.log_renamed(report);
            }
            ConnectionEvent::Restored { entity } => {
                log.line(Level::Info, None, || format!("restored {entity}"));
            }
            ConnectionEvent::NotRestored { error, entity } => {
                log.line(Level::Warn, None, || missing(entity, error));
            }
            ConnectionEvent::Closed(reason) => self.log_end(reason),
            ConnectionEvent::Missed(_) => {}
        }
    }

    /// The connection was opened, and these are its parameters.
    fn connected(&self, how: &str, time: Option<Duration>) -> String {
        let mut text = how.to_owned();
        let endpoint = self.endpoints.get(self.node);
        // Writing to a string does not fail.
        let _ = write!(text, " to {}", Node(endpoint, self.node));
        if let Some(addr) = self.peer_addr {
            let _ = write!(text, " ({addr})");
        }
        if let Some(time) = time {
            let _ = write!(text, " in {}", Rounded(time));
        }
        let Some(negotiated) = self.proto.negotiated() else { return text };
        match BrokerVersion::from_properties(&negotiated.peer_properties) {
            Some(version) => {
                let _ = write!(text, ": {}", version.to_string().escape_debug());
            }
            None => text.push_str(": unknown broker"),
        }
        text.push_str(if self.tls_missing.is_some() { ", TLS" } else { ", no TLS" });
        let config = self.proto.config();
        if let Some(user) = config.get_username().filter(|user| !user.is_empty()) {
            let _ = write!(text, ", user '{}'", user.escape_debug());
        }
        let host = config.get_virtual_host().escaped();
        let heartbeat = match negotiated.heartbeat {
            Duration::ZERO => "heartbeats off (a dead network goes unnoticed)".to_owned(),
            heartbeat => format!("heartbeat {heartbeat:?}"),
        };
        let _ = write!(
            text,
            ", virtual host '{host}', {heartbeat}, frame_max {}, channel_max {}",
            negotiated.frame_max, negotiated.channel_max
        );
        text
    }

    /// Returns for how long nothing has arrived.
    fn idle(&self) -> Option<Duration> {
        let (now, heard) = self.now.zip(self.last_heard)?;
        Some(now.saturating_duration_since(heard))
    }

    /// The connection is open, for the first time or again.
    fn log_open(&mut self) {
        self.story.attempts.clear();
        if let Some(negotiated) = self.proto.negotiated() {
            self.story.heartbeat = negotiated.heartbeat;
        }
    }

    fn loss<'a>(
        &self,
        reason: &'a ConnectionError,
        in_flight: InFlight,
        kept: usize,
        losses: Option<(u32, Duration)>,
    ) -> Loss<'a> {
        Loss { reason, idle: self.idle(), heartbeat: self.story.heartbeat, in_flight, kept, losses }
    }

    fn took(&self, log: &Log) -> Option<Duration> {
        let (from, to) = log.began().zip(self.last_heard)?;
        Some(to.saturating_duration_since(from))
    }

    /// Queues the lines about entities that were not restored.
    fn log_missing(&self, report: &RecoveryReport) {
        // The line about the end of a consumer has the reason.
        let consumer = |entity: &Entity| matches!(entity, Entity::Consumer { .. });
        let failed = report.failed.iter().filter(|(entity, _)| !consumer(entity));
        for (entity, error) in failed.clone().take(MISSING_MAX) {
            self.log.line(Level::Warn, None, || missing(entity, error));
        }
        for entity in report.left_out.iter().take(MISSING_MAX) {
            self.log.line(Level::Warn, None, || {
                format!("cannot restore {entity}: its queue is missing")
            });
        }
        for entity in report.locked.iter().take(MISSING_MAX) {
            self.log.line(Level::Warn, None, || {
                format!("cannot restore {entity} yet: another connection holds it; the client tries again")
            });
        }
        let more = failed.count().saturating_sub(MISSING_MAX)
            + report.left_out.len().saturating_sub(MISSING_MAX)
            + report.locked.len().saturating_sub(MISSING_MAX);
        if more > 0 {
            self.log.line(Level::Warn, None, || format!("{more} more entities are missing"));
        }
    }

    /// Queues the lines about queues whose names the broker has changed.
    fn log_renamed(&mut self, report: &RecoveryReport) {
        for (old, new) in &report.renamed {
            self.channels.iter_mut().flatten().for_each(|channel| channel.log.renamed(old, new));
        }
        for (old, new) in report.renamed.iter().take(MISSING_MAX) {
            self.log.line(Level::Info, None, || {
                format!("queue '{}' has a new name: '{}'", old.escaped(), new.escaped())
            });
        }
        let more = report.renamed.len().saturating_sub(MISSING_MAX);
        if more > 0 {
            self.log.line(Level::Info, None, || format!("{more} more queues have new names"));
        }
    }

    /// The connection has ended for good.
    fn log_end(&self, reason: &ConnectionError) {
        let log = &self.log;
        match reason {
            ConnectionError::Closed(close) if close.by == Initiator::Local => {
                log.line(Level::Info, None, || {
                    let pending = self.story.lost.pending();
                    format!("closed by the application{}{pending}", self.story.attempts.closed())
                });
            }
            ConnectionError::NotRecovered { .. } => log.line(Level::Error, None, || {
                format!("stops reconnecting: {}", one_line(&chain(reason)))
            }),
            ConnectionError::DriverGone if !self.story.opened => {}
            reason if !self.story.opened => log.line(Level::Warn, None, || {
                let step = self.connect_step().unwrap_or(amqp_proto::ConnectStep::VirtualHost);
                let Some(endpoint) = self.endpoints.get(self.node).cloned() else {
                    return format!("cannot connect (step: {step}): {}", one_line(&chain(reason)));
                };
                let config = self.proto.config();
                let error = ConnectError::refused(endpoint, step, reason.clone(), config);
                one_line(&chain(&error))
            }),
            reason => log.line(Level::Error, None, || {
                let loss = self.loss(reason, self.story.lost, 0, None);
                format!("{loss}; the client does not reconnect")
            }),
        }
    }
}
