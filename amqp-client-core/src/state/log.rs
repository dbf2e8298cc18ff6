//! The lines about a connection in the log.

use std::fmt;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use amqp_proto::error::chain;
use amqp_proto::session::{Entity, RecoveryReport};
use amqp_proto::{ChannelEvent, ConnectionError, Initiator};

use super::State;
use crate::BrokerVersion;
use crate::connect::ConnectError;
use crate::event::ConnectionEvent;
use crate::logs::{InFlight, Level, Log, one_line};

/// What the lines have to know of earlier events.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Counted until the line about the loss.
    lost: InFlight,
    blocked_at: Option<Instant>,
    /// The silence of the peer was reported.
    silent: bool,
    /// The connection has been open.
    opened: bool,
}

impl State {
    /// Has the queued lines written once the lock is released.
    #[inline]
    pub(crate) fn log_due(&mut self) {
        if self.log.is_due() {
            self.wakes.log(self.log.clone());
        }
    }

    /// A channel reports what a loss has interrupted.
    #[inline]
    pub(super) fn count_lost(&mut self, event: &ChannelEvent) {
        if !self.log.is_built() {
            return;
        }
        let lost = &mut self.story.lost;
        match event {
            ChannelEvent::Interrupted { .. } => lost.channels += 1,
            ChannelEvent::Failed { .. } => lost.requests += 1,
            ChannelEvent::Unconfirmed { publishes, .. } => {
                let (first, last) = (publishes.start().get(), publishes.end().get());
                let count = last.saturating_sub(first).saturating_add(1);
                lost.unconfirmed = lost.unconfirmed.saturating_add(count);
            }
            _ => {}
        }
    }

    /// The driver has looked whether the peer is silent.
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
                self.story.blocked_at = self.last_heard;
                log.line(Level::Warn, None, || {
                    format!(
                        "the broker blocks publishing ({}): messages wait until its alarm ends; see `rabbitmq-diagnostics alarms`",
                        reason.escaped()
                    )
                });
            }
            ConnectionEvent::Unblocked => {
                let times = self.story.blocked_at.take().zip(self.last_heard);
                let time = times.map(|(from, to)| to.saturating_duration_since(from));
                log.line(Level::Info, None, || match time {
                    Some(time) => {
                        format!("the broker accepts messages again, after {}", Rounded(time))
                    }
                    None => event.to_string(),
                });
            }
            ConnectionEvent::ConsumerLags { channel, consumer_tag, bytes } => {
                log.line(Level::Warn, Some(*channel), || {
                    format!(
                        "consumer '{}' does not take its deliveries ({bytes} bytes): the client stops reading, and all \
                         consumers of the connection wait; set a prefetch limit, or take deliveries faster",
                        consumer_tag.escaped()
                    )
                });
            }
            ConnectionEvent::TokenNotRenewed { why } => {
                log.line(Level::Warn, None, || {
                    format!("the token was not renewed, the client tries again: {}", one_line(why))
                });
            }
            ConnectionEvent::Lost { reason } => {
                let lost = std::mem::take(&mut self.story.lost);
                (self.story.blocked_at, self.story.silent) = (None, false);
                let kept = self.proto.kept();
                log.line(Level::Warn, None, || lost_line(reason, lost, kept));
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
            }
            ConnectionEvent::Restored { entity } => {
                log.line(Level::Info, None, || format!("restored {entity}, later than the rest"));
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
        let host = self.proto.config().get_virtual_host().escaped();
        let _ = write!(
            text,
            ", virtual host '{host}', heartbeat {:?}, frame_max {}, channel_max {}",
            negotiated.heartbeat, negotiated.frame_max, negotiated.channel_max
        );
        text
    }

    fn took(&self, log: &Log) -> Option<Duration> {
        let (from, to) = log.began().zip(self.last_heard)?;
        Some(to.saturating_duration_since(from))
    }

    /// What could not be restored.
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
        for (old, new) in report.renamed.iter().take(MISSING_MAX) {
            self.log.line(Level::Info, None, || {
                format!("queue '{}' has a new name: '{}'", old.escaped(), new.escaped())
            });
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
                let Some(endpoint) = self.endpoints.get(self.node).cloned() else {
                    return format!("could not connect: {}", chain(reason));
                };
                let step = self.connect_step().unwrap_or(amqp_proto::ConnectStep::VirtualHost);
                let config = self.proto.config();
                let error = ConnectError::refused(endpoint, step, reason.clone(), config);
                one_line(&chain(&error))
            }),
            reason => log.line(Level::Error, None, || {
                let lost = lost_line(reason, self.story.lost, 0);
                format!("{lost}; the client does not reconnect")
            }),
        }
    }
}

/// Lines about entities that one recovery writes at most.
const MISSING_MAX: usize = 20;

fn missing(entity: &Entity, error: &amqp_proto::ChannelError) -> String {
    format!("cannot restore {entity}: {}", one_line(&chain(error)))
}

/// The reason of a loss, what it may mean, and what it has interrupted.
fn lost_line(reason: &ConnectionError, lost: InFlight, kept: usize) -> String {
    let mut text = format!("connection lost: {}", one_line(&chain(reason)));
    text.push_str(match reason {
        ConnectionError::Eof => {
            "; the broker was stopped or killed, or a proxy or firewall ended the TCP connection"
        }
        ConnectionError::PeerSilent(_) => {
            "; the network is interrupted, or the broker hangs or is overloaded"
        }
        _ => "",
    });
    let InFlight { channels, requests, unconfirmed } = lost;
    let _ = write!(
        text,
        "; interrupted: {channels} channels, {requests} pending requests, {unconfirmed} unconfirmed messages"
    );
    if kept > 0 {
        let _ = write!(text, "; {kept} bytes of messages are kept to be published again");
    }
    text
}

/// What a recovery has restored.
fn restored(report: &RecoveryReport) -> String {
    let counts = [
        (report.channels, "channels"),
        (report.exchanges, "exchanges"),
        (report.queues, "queues"),
        (report.bindings, "bindings"),
        (report.consumers, "consumers"),
        (report.republished, "messages published again"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    let counts = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
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

/// A duration without digits that nobody reads.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
