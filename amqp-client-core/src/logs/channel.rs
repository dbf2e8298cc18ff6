//! The lines about a channel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use amqp_proto::error::chain;
use amqp_proto::{ChannelError, ChannelId, Initiator, PublishError, PublishSeq, ShortStr};

use super::repeats::Repeats;
use super::text::{Consumer, Prefetch, explained};
use super::{Counted, InFlight, Level, Limit, Log, Pause, one_line};
use crate::counters::Counters;
use crate::event::ChannelEvent;

/// The log of a channel. `None` until the channel has a connection.
#[derive(Debug, Default)]
pub(crate) struct ChannelLog(Option<Box<Lines>>);

#[derive(Debug)]
struct Lines {
    log: Log,
    id: ChannelId,
    /// The broker closed this channel, and not the whole connection.
    reopens: bool,
    /// The queues of the consumers, and their prefetch limits. 0 is no limit.
    consumers: BTreeMap<ShortStr, (ShortStr, u16)>,
    /// Counted until the channel reports that it was interrupted.
    in_flight: InFlight,
    /// The requests and messages that the loss of the connection has interrupted, until the connection takes these numbers.
    lost: Option<InFlight>,
    limits: Limits,
    /// The line about a pause was written.
    paused: bool,
    progress: Progress,
    repeats: Repeats,
    ended: bool,
}

/// The number of deliveries that the application had settled at the last check, and since when this number has not changed.
#[derive(Debug, Default)]
struct Progress {
    settled: u64,
    since: Option<Instant>,
    /// A line has reported that nothing is settled.
    reported: bool,
}

/// If deliveries are unsettled and none is settled for this time, a line reports it.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The limits of lines that could come with each message.
#[derive(Debug, Default)]
struct Limits {
    returned: Limit,
    unusable: Limit,
    panicked: Limit,
    refused: Limit,
    not_resent: Limit,
    stale: Limit,
    paused: Limit,
    flow: Limit,
    stuck: Limit,
}

impl ChannelLog {
    pub(crate) fn new(log: &Log, id: ChannelId) -> Self {
        Self(log.is_built().then(|| {
            let lines = Lines {
                log: log.clone(),
                id,
                reopens: false,
                consumers: BTreeMap::new(),
                in_flight: InFlight::default(),
                lost: None,
                limits: Limits::default(),
                paused: false,
                progress: Progress::default(),
                repeats: Repeats::default(),
                ended: false,
            };
            Box::new(lines)
        }))
    }

    /// Reports an event.
    pub(crate) fn event(&mut self, event: &ChannelEvent, now: Option<Instant>) {
        if let Some(lines) = &mut self.0 {
            lines.event(event, now);
        }
    }

    /// The channel ends for good, with that many pending requests and unconfirmed messages.
    pub(crate) fn ends_with(&mut self, requests: usize, unconfirmed: usize) {
        if let Some(lines) = &mut self.0 {
            let in_flight = &mut lines.in_flight;
            in_flight.requests += requests;
            in_flight.unconfirmed += unconfirmed as u64;
        }
    }

    /// The channel is interrupted, with that many unsettled deliveries.
    pub(crate) fn interrupted(&mut self, unsettled: usize) {
        if let Some(lines) = &mut self.0 {
            lines.in_flight.unsettled += unsettled;
        }
    }

    /// A request was interrupted.
    pub(crate) fn request_failed(&mut self) {
        if let Some(lines) = &mut self.0 {
            lines.in_flight.requests += 1;
        }
    }

    /// The confirms of these messages were interrupted.
    pub(crate) fn unconfirmed(&mut self, first: PublishSeq, last: PublishSeq) {
        if let Some(lines) = &mut self.0 {
            let unconfirmed = &mut lines.in_flight.unconfirmed;
            *unconfirmed = unconfirmed.saturating_add(count(first, last));
        }
    }

    /// Takes the number of requests and messages that the loss of the connection has interrupted. Call this after each event: a channel
    /// that has ended needs its log no longer, and the application may keep many such channels.
    pub(crate) fn take_lost(&mut self) -> Option<InFlight> {
        let lines = self.0.as_mut()?;
        let lost = lines.lost.take();
        if lines.ended {
            self.0 = None;
        }
        lost
    }

    /// The broker has confirmed or refused these messages.
    pub(crate) fn confirmed(
        &mut self,
        first: PublishSeq,
        last: PublishSeq,
        ack: bool,
        now: Option<Instant>,
    ) {
        let Some(lines) = self.0.as_deref_mut().filter(|_| !ack) else { return };
        let Some(end) = lines.limits.refused.count(now) else { return };
        lines.line(Level::Warn, || {
            let refused = Counted(count(first, last), "message");
            format!(
                "the broker refused {refused} (basic.nack): a queue is full and rejects messages (x-overflow), or has failed{end}"
            )
        });
    }

    /// A kept message will not be sent again.
    pub(crate) fn not_resent(&mut self, error: &PublishError, now: Option<Instant>) {
        // The application has withdrawn it, and knows that.
        let failed = !matches!(error, PublishError::Withdrawn);
        let Some(lines) = self.0.as_deref_mut().filter(|_| failed) else { return };
        let Some(end) = lines.limits.not_resent.count(now) else { return };
        lines.line(Level::Warn, || {
            format!("a kept message is not published again: {}{end}", one_line(&chain(error)))
        });
    }

    /// The application has settled a delivery of an earlier transport.
    pub(crate) fn stale(&mut self, tag: u64, now: Option<Instant>) {
        let Some(lines) = &mut self.0 else { return };
        let Some(end) = lines.limits.stale.count(now) else { return };
        lines.line(Level::Debug, || {
            format!(
                "delivery {tag} was settled too late: the connection or channel was interrupted, and the broker delivers the \
                 message again{end}"
            )
        });
    }

    /// The application starts a consumer.
    pub(crate) fn consumer_starts(&mut self, tag: &ShortStr, queue: &ShortStr, prefetch: u16) {
        let Some(lines) = &mut self.0 else { return };
        lines.consumers.insert(tag.clone(), (queue.clone(), prefetch));
        lines.line(Level::Debug, || {
            format!("{} starts, {}", Consumer(tag, Some(queue)), Prefetch(prefetch))
        });
    }

    /// Returns the prefetch limit of a consumer. 0 is no limit.
    pub(crate) fn prefetch(&self, tag: &ShortStr) -> Option<u16> {
        self.0.as_ref()?.consumers.get(tag).map(|(_, prefetch)| *prefetch)
    }

    /// A consumer was paused.
    pub(crate) fn paused(&mut self, tag: &ShortStr, pause: &Pause, now: Option<Instant>) {
        let Some(lines) = &mut self.0 else { return };
        let end = lines.limits.paused.count(now);
        lines.paused = end.is_some();
        let Some(end) = end else { return };
        lines.line(Level::Warn, || {
            let Pause { kept: (kept, bytes), requeued, budget } = *pause;
            let prefetch = lines.consumers.get(tag).map_or(0, |(_, prefetch)| *prefetch);
            format!(
                "{} is paused, so that others can go on: it took none of its deliveries for a while, and the limit of {budget} \
                 untaken bytes was exceeded ({}); it keeps {} ({bytes} bytes), and {requeued} were requeued; the client starts it \
                 again once the application has taken those that it keeps: check whether its handlers hang{end}",
                Consumer(tag, lines.queue(tag)),
                Prefetch(prefetch),
                if kept == 1 { "1 delivery".to_owned() } else { format!("{kept} deliveries") },
            )
        });
    }

    /// A consumer could not be started again.
    pub(crate) fn consumer_failed(&mut self, tag: &ShortStr, error: &ChannelError) {
        let Some(lines) = &mut self.0 else { return };
        let queue = lines.remove(tag);
        lines.line(Level::Warn, || {
            let consumer = Consumer(tag, queue.as_ref());
            format!("{consumer} has ended: {}", explained(error))
        });
    }

    /// The application has ended a consumer. `how` is `cancelled` or `dropped`.
    pub(crate) fn consumer_cancelled(&mut self, tag: &ShortStr, how: &str) {
        let Some(lines) = &mut self.0 else { return };
        let queue = lines.remove(tag);
        lines.line(Level::Debug, || {
            format!("{} was {how} by the application", Consumer(tag, queue.as_ref()))
        });
    }

    /// Checks whether the application makes progress. `unsettled` deliveries are open, and `settled` were settled so far.
    pub(crate) fn progress(&mut self, unsettled: usize, settled: u64, now: Instant) {
        let Some(lines) = &mut self.0 else { return };
        let progress = &mut lines.progress;
        let Some(since) = progress.since.filter(|_| unsettled > 0 && settled == progress.settled)
        else {
            let goes_on = progress.reported && settled != progress.settled;
            let since = (unsettled > 0).then_some(now);
            *progress = Progress { settled, since, reported: false };
            if goes_on {
                lines.line(Level::Info, || "the application settles deliveries again".to_owned());
            }
            return;
        };
        let time = now.saturating_duration_since(since);
        if time < STUCK_AFTER || progress.reported {
            return;
        }
        let Some(end) = lines.limits.stuck.count(Some(now)) else { return };
        progress.reported = true;
        lines.line(Level::Info, || {
            format!(
                "the application has settled none of {} for {} s: handlers take long or hang, or acknowledgements are missing; at \
                 the prefetch limit, the broker delivers no more{end}",
                Counted(unsettled as u64, "delivered message"),
                time.as_secs()
            )
        });
    }

    /// Checks whether the application requeues the same messages again and again. The last check was `every` ago.
    pub(crate) fn repeats(&mut self, counters: &Counters, now: Instant, every: Duration) {
        let Some(lines) = &mut self.0 else { return };
        let Lines { repeats, consumers, .. } = &mut **lines;
        let line = repeats.check(counters, (now, every), || named(consumers));
        if let Some((level, text)) = line {
            lines.line(level, || text);
        }
    }

    /// The broker has given a queue another name.
    pub(crate) fn renamed(&mut self, old: &ShortStr, new: &ShortStr) {
        let consumers = self.0.iter_mut().flat_map(|lines| lines.consumers.values_mut());
        let queues = consumers.map(|(queue, _)| queue);
        queues.filter(|queue| *queue == old).for_each(|queue| queue.clone_from(new));
    }
}

impl Lines {
    fn queue(&self, tag: &ShortStr) -> Option<&ShortStr> {
        self.consumers.get(tag).map(|(queue, _)| queue)
    }

    fn remove(&mut self, tag: &ShortStr) -> Option<ShortStr> {
        self.consumers.remove(tag).map(|(queue, _)| queue)
    }

    fn line(&self, level: Level, text: impl FnOnce() -> String) {
        self.log.line(level, Some(self.id), text);
    }

    fn event(&mut self, event: &ChannelEvent, now: Option<Instant>) {
        match event {
            ChannelEvent::Returned(_) => {
                let Some(end) = self.limits.returned.count(now) else { return };
                self.line(Level::Warn, || {
                    format!("{event}; no queue is bound for it, or the queue was deleted{end}")
                });
            }
            ChannelEvent::Unusable { .. } => {
                let Some(end) = self.limits.unusable.count(now) else { return };
                self.line(Level::Warn, || format!("{event}{end}"));
            }
            ChannelEvent::HandlerPanicked { .. } => {
                let Some(end) = self.limits.panicked.count(now) else { return };
                self.line(Level::Error, || format!("{}{end}", one_line(event)));
            }
            ChannelEvent::Flow { active: false } => {
                let Some(end) = self.limits.flow.count(now) else { return };
                self.line(Level::Warn, || format!("{event} on this channel (channel.flow){end}"));
            }
            ChannelEvent::Flow { active: true } => {
                self.line(Level::Info, || format!("{event} on this channel (channel.flow)"));
            }
            ChannelEvent::ConsumerCancelled { consumer_tag } => {
                let queue = self.remove(consumer_tag);
                self.line(Level::Warn, || {
                    let consumer = Consumer(consumer_tag, queue.as_ref());
                    format!(
                        "{consumer} was cancelled by the broker: the queue was deleted, or the node that holds it is down; the \
                         consumer has ended"
                    )
                });
            }
            ChannelEvent::ConsumerResumed { consumer_tag } => {
                if std::mem::take(&mut self.paused) {
                    self.line(Level::Info, || {
                        let consumer = Consumer(consumer_tag, self.queue(consumer_tag));
                        format!("{consumer} has taken its deliveries, and starts again")
                    });
                }
            }
            // The line about the connection covers its channels.
            ChannelEvent::Interrupted(ChannelError::Connection(_)) => self.lose(),
            ChannelEvent::Closed(ChannelError::Connection(_)) => {
                self.lose();
                self.end();
            }
            ChannelEvent::Interrupted(error) => {
                self.reopens = true;
                let lost = std::mem::take(&mut self.in_flight);
                self.line(Level::Warn, || {
                    format!("{}{lost}; the client opens the channel again", explained(error))
                });
            }
            ChannelEvent::Restored => {
                if std::mem::take(&mut self.reopens) {
                    self.line(Level::Info, || "channel opened again and restored".to_owned());
                }
            }
            ChannelEvent::Closed(ChannelError::Closed(close)) if close.by == Initiator::Local => {
                self.end();
                self.line(Level::Debug, || "channel closed by the application".to_owned());
            }
            ChannelEvent::Closed(error) => {
                self.end();
                let lost = std::mem::take(&mut self.in_flight);
                self.line(Level::Warn, || {
                    let ended = named(&self.consumers).map(|names| format!(", which ends {names}"));
                    let ended = ended.unwrap_or_default();
                    format!(
                        "{}{lost}; the channel stays closed{ended}; the application has to open another",
                        explained(error)
                    )
                });
            }
            // The connection reports a lag. The line about a pause comes when deliveries were requeued. A listener that misses events
            // is not a matter of the log.
            ChannelEvent::ConsumerLags { .. }
            | ChannelEvent::ConsumerPaused { .. }
            | ChannelEvent::Missed(_) => {}
        }
    }

    /// The connection was lost, or has ended.
    fn lose(&mut self) {
        self.reopens = false;
        let consumers = self.consumers.len();
        self.lost =
            Some(InFlight { channels: 1, consumers, ..std::mem::take(&mut self.in_flight) });
    }

    /// The channel ends: nothing that was left out stays uncounted.
    fn end(&mut self) {
        self.ended = true;
        let Limits {
            returned,
            unusable,
            panicked,
            refused,
            not_resent,
            stale,
            paused,
            flow,
            stuck,
        } = &mut self.limits;
        for (limit, level, what) in [
            (returned, Level::Warn, "returned messages"),
            (unusable, Level::Warn, "messages that were not accepted"),
            (panicked, Level::Error, "handlers that panicked"),
            (refused, Level::Warn, "messages that the broker refused"),
            (not_resent, Level::Warn, "messages that are not published again"),
            (stale, Level::Debug, "deliveries that were settled too late"),
            (paused, Level::Warn, "paused consumers"),
            (flow, Level::Warn, "pauses of publishing"),
            (stuck, Level::Info, "deliveries that nobody settles"),
            (&mut self.repeats.limit, Level::Warn, "messages that are requeued again and again"),
        ] {
            let count = limit.take_left_out();
            if count > 0 {
                self.log.line(level, Some(self.id), || {
                    let were = if count == 1 { "was" } else { "were" };
                    format!("{} about {what} {were} left out", Counted(count, "more line"))
                });
            }
        }
    }
}

fn count(first: PublishSeq, last: PublishSeq) -> u64 {
    last.get().saturating_sub(first.get()).saturating_add(1)
}

/// Returns the names of consumers and their queues, if there are any.
fn named(consumers: &BTreeMap<ShortStr, (ShortStr, u16)>) -> Option<String> {
    let first = consumers.iter().take(NAMED_MAX);
    let mut names: Vec<_> =
        first.map(|(tag, (queue, _))| Consumer(tag, Some(queue)).to_string()).collect();
    let more = consumers.len() - names.len();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// The largest number of consumers that a line names.
const NAMED_MAX: usize = 20;
