//! Texts of the lines about a connection.

use std::fmt::{self, Write as _};
use std::io;
use std::time::{Duration, Instant};

use amqp_proto::ConnectionError;
use amqp_proto::error::chain;
use amqp_proto::session::{Entity, RecoveryReport};

use crate::logs::{Counted, InFlight, explained, one_line};

/// The largest number of missing entities that the line about a recovery names.
const NAMED_MAX: usize = 10;

/// The largest number of lines about entities that one recovery writes.
pub(super) const MISSING_MAX: usize = 20;

pub(super) fn missing(entity: &Entity, error: &amqp_proto::ChannelError) -> String {
    let reason = explained(error);
    // The broker has closed an internal channel, which is of no interest.
    let reason = reason.strip_prefix("closed by the broker: ").unwrap_or(&reason);
    format!("cannot restore {entity}: {reason}")
}

/// Returns the end of the line about a recovery: how many channels, queues and so on it restored.
pub(super) fn restored(report: &RecoveryReport) -> String {
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
    let failed = report.failed.iter().map(|(entity, _)| entity);
    let mut missing: Vec<_> =
        failed.chain(&report.left_out).take(NAMED_MAX).map(Entity::to_string).collect();
    let more = (report.failed.len() + report.left_out.len()).saturating_sub(NAMED_MAX);
    if more > 0 {
        missing.push(format!("{more} more"));
    }
    let mut missing = if missing.is_empty() {
        String::new()
    } else {
        format!("; missing: {}", missing.join(", "))
    };
    if !report.locked.is_empty() {
        let locked: Vec<_> = report.locked.iter().take(NAMED_MAX).map(Entity::to_string).collect();
        // Writing to a string does not fail.
        let _ = write!(missing, "; tried again later: {}", locked.join(", "));
        let more = report.locked.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            let _ = write!(missing, ", {more} more");
        }
    }
    format!(
        "; attempt {}; restored in {}: {counts}{missing}",
        report.attempts,
        Rounded(report.restoring)
    )
}

/// A node, by its endpoint if that is known.
pub(super) struct Node<'a>(pub(super) Option<&'a amqp_proto::uri::Endpoint>, pub(super) usize);

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(endpoint) => endpoint.fmt(f),
            None => write!(f, "node {}", self.1),
        }
    }
}

/// Displays a duration in seconds with one decimal.
pub(super) struct Rounded(pub(super) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}

/// Losses without a long time between them.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// After this time without a loss, the count begins again.
const QUIET: Duration = Duration::from_secs(600);

impl Losses {
    /// Counts a loss. Returns the number of losses and the time since the first, if there were several.
    pub(super) fn count(&mut self, now: Option<Instant>) -> Option<(u32, Duration)> {
        let now = now?;
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= QUIET) {
            *self = Self { count: 0, first: Some(now), last: None };
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
        let first = self.first.filter(|_| self.count > 1)?;
        Some((self.count, now.saturating_duration_since(first)))
    }
}

/// A loss, and what is known of the time before it.
pub(super) struct Loss<'a> {
    pub(super) reason: &'a ConnectionError,
    /// The time for which nothing had arrived.
    pub(super) idle: Option<Duration>,
    /// The negotiated interval of heartbeats.
    pub(super) heartbeat: Duration,
    pub(super) in_flight: InFlight,
    /// Bytes of the messages that will be published again.
    pub(super) kept: usize,
    /// The number of losses, and the time since the first.
    pub(super) losses: Option<(u32, Duration)>,
}

/// A connection on which nothing arrived for that long was idle.
const IDLE_MIN: Duration = Duration::from_secs(5);

/// Returns whether the peer has ended the transport.
const fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
}

/// The reason of a loss, the likely cause, and the number of interrupted requests and messages.
impl fmt::Display for Loss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, idle, heartbeat, in_flight, kept, losses } = self;
        write!(f, "connection lost: {}", one_line(&chain(reason)))?;
        let ended = match reason {
            ConnectionError::Eof => true,
            ConnectionError::Transport(failure) => is_end(failure.kind()),
            _ => false,
        };
        let idle = idle.filter(|time| *time >= IDLE_MIN);
        match idle {
            // With heartbeats, a connection is never idle for long.
            Some(time) if ended && heartbeat.is_zero() => write!(
                f,
                "; nothing had arrived for {}, and heartbeats are off: a proxy or firewall probably ends idle connections; enable \
                 heartbeats of at most {} s",
                Rounded(time),
                time.as_secs() / 2
            )?,
            _ if ended => f.write_str(
                "; the broker was killed or has crashed, or a proxy or firewall ended the TCP connection (RabbitMQ would have \
                 announced an orderly stop)",
            )?,
            _ if matches!(reason, ConnectionError::PeerSilent(_)) => {
                f.write_str("; the network is interrupted, or the broker hangs or is overloaded")?;
            }
            _ => {}
        }
        let by_transport = matches!(reason, ConnectionError::Eof | ConnectionError::Transport(_));
        let told = ended && heartbeat.is_zero();
        if let Some(time) = idle.filter(|_| by_transport && !told) {
            write!(f, "; nothing had arrived for {}", Rounded(time))?;
        }
        if let Some((count, time)) = losses {
            write!(f, "; this is loss {count} in {}", Rounded(*time))?;
        }
        write!(f, "{in_flight}")?;
        match *kept as u64 {
            0 => Ok(()),
            kept => write!(
                f,
                "; {} of messages kept: the client publishes them again",
                Counted(kept, "byte")
            ),
        }
    }
}
