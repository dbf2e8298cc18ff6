//! The lines about a connection in the log.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::time::{Duration, Instant};

use amqp_proto::error::chain;
use amqp_proto::session::{Entity, RecoveryReport};
use amqp_proto::{ConnectionError, Initiator};

use super::State;
use crate::BrokerVersion;
use crate::connect::ConnectError;
use crate::event::ConnectionEvent;
use crate::logs::{Counted, InFlight, Level, Limit, Log, one_line};

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
    /// Since when the driver does not read, if there was a line about it.
    reading_paused: Option<Instant>,
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
        self.log.line(Level::Info, None, || {
            format!(
                "the client reads again, after {}: deliveries were taken or requeued",
                Rounded(time)
            )
        });
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
                self.story.reading_paused = now;
                log.line(Level::Warn, Some(*channel), || {
                    format!(
                        "consumer '{}' does not take its deliveries ({bytes} bytes): the client stops reading, and all \
                         consumers of the connection wait; set a prefetch limit, or take deliveries faster{end}",
                        consumer_tag.escaped()
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
                let kept = self.proto.kept();
                let idle = self.idle();
                log.line(Level::Warn, None, || lost_line(reason, idle, lost, kept));
            }
            ConnectionEvent::Waiting { endpoint, time, node } => {
                log.line(Level::Info, None, || {
                    let node = Node(endpoint.as_ref(), *node);
                    format!("the next attempt to connect to {node} is in {}", Rounded(*time))
                })
            }
            ConnectionEvent::Connecting { .. } => {
                log.line(Level::Debug, None, || event.to_string());
            }
            ConnectionEvent::AttemptFailed { .. } => {
                self.story.lost = InFlight::default();
                log.line(Level::Warn, None, || one_line(event));
            }
            ConnectionEvent::Recovered(report) => {
                let restored = restored(report);
                let time = Some(report.connecting + report.restoring);
                log.line(Level::Info, None, || self.connected("reconnected", time) + &restored);
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
            Duration::ZERO => "no heartbeats".to_owned(),
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

    fn took(&self, log: &Log) -> Option<Duration> {
        let (from, to) = log.began().zip(self.last_heard)?;
        Some(to.saturating_duration_since(from))
    }

    /// Queues the lines about entities that were not restored.
    fn log_missing(&self, report: &RecoveryReport) {
        for (entity, error) in report.failed.iter().take(MISSING_MAX) {
            self.log.line(Level::Warn, None, || missing(entity, error));
        }
        for entity in report.locked.iter().take(MISSING_MAX) {
            self.log.line(Level::Warn, None, || {
                format!("cannot restore {entity} yet: another connection holds it; the client tries again")
            });
        }
        let more = report.failed.len().saturating_sub(MISSING_MAX)
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
                log.line(Level::Info, None, || "closed by the application".to_owned());
            }
            ConnectionError::NotRecovered { .. } => log.line(Level::Error, None, || {
                format!("gives up, and does not try to connect again: {}", one_line(&chain(reason)))
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
                let lost = lost_line(reason, self.idle(), self.story.lost, 0);
                format!("{lost}; the client does not reconnect")
            }),
        }
    }
}

/// The largest number of lines about entities that one recovery writes.
const MISSING_MAX: usize = 20;

fn missing(entity: &Entity, error: &amqp_proto::ChannelError) -> String {
    format!("cannot restore {entity}: {}", one_line(&chain(error)))
}

/// Returns whether the peer has ended the transport.
const fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(kind, ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// A connection on which nothing arrived for that long was idle.
const IDLE_MIN: Duration = Duration::from_secs(5);

/// Returns the line about a loss: its reason, the likely cause, and the number of interrupted requests and messages.
fn lost_line(
    reason: &ConnectionError,
    idle: Option<Duration>,
    lost: InFlight,
    kept: usize,
) -> String {
    let mut text = format!("connection lost: {}", one_line(&chain(reason)));
    let ended =
        "; the broker was stopped or killed, or a proxy or firewall ended the TCP connection";
    text.push_str(match reason {
        ConnectionError::Eof => ended,
        ConnectionError::Transport(failure) if is_end(failure.kind()) => ended,
        ConnectionError::PeerSilent(_) => {
            "; the network is interrupted, or the broker hangs or is overloaded"
        }
        _ => "",
    });
    // Proxies end connections that are idle: the time tells them from other ends.
    let by_transport = matches!(reason, ConnectionError::Eof | ConnectionError::Transport(_));
    if let Some(time) = idle.filter(|time| by_transport && *time >= IDLE_MIN) {
        let _ = write!(text, "; nothing had arrived for {}", Rounded(time));
    }
    let _ = write!(text, "{lost}");
    if kept > 0 {
        let _ = write!(
            text,
            "; {} of messages kept to be published again",
            Counted(kept as u64, "byte")
        );
    }
    text
}

/// Returns the end of the line about a recovery: how many channels, queues and so on it restored.
fn restored(report: &RecoveryReport) -> String {
    let counts = [
        (report.channels, "channel"),
        (report.exchanges, "exchange"),
        (report.queues, "queue"),
        (report.bindings, "binding"),
        (report.consumers, "consumer"),
        (report.republished, "unconfirmed message"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> =
        counts.map(|(count, what)| Counted(count as u64, what).to_string()).collect();
    let mut counts = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    if report.republished > 0 {
        counts += " (published again)";
    }
    let missing = report.failed.len() + report.locked.len();
    let missing = if missing > 0 { format!("; {missing} are missing") } else { String::new() };
    format!(
        "; attempt {}; restored in {}: {counts}{missing}",
        report.attempts,
        Rounded(report.restoring)
    )
}

/// A node, by its endpoint if that is known.
struct Node<'a>(Option<&'a amqp_proto::uri::Endpoint>, usize);

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(endpoint) => endpoint.fmt(f),
            None => write!(f, "node {}", self.1),
        }
    }
}

/// Displays a duration in seconds with one decimal.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
