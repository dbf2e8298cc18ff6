//! The texts of the lines about channels.

use std::time::Instant;

use amqp_proto::error::chain;
use amqp_proto::{ChannelError, ChannelId, Initiator, ShortStr};

use super::{Level, Limit, Log};
use crate::event::ChannelEvent;

/// What a loss has interrupted, counted while the channels report it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) channels: usize,
    pub(crate) requests: usize,
    pub(crate) unconfirmed: u64,
}

/// The log of a channel. `None` where no facade is built in.
#[derive(Debug, Default)]
pub(crate) struct ChannelLog(Option<Box<Lines>>);

#[derive(Debug)]
struct Lines {
    log: Log,
    id: ChannelId,
    /// The broker closed this channel, and not the whole connection.
    reopens: bool,
    returned: Limit,
    unusable: Limit,
    panicked: Limit,
}

impl ChannelLog {
    pub(crate) fn new(log: &Log, id: ChannelId) -> Self {
        Self(log.is_built().then(|| {
            let (returned, unusable, panicked) = Default::default();
            Box::new(Lines { log: log.clone(), id, reopens: false, returned, unusable, panicked })
        }))
    }

    /// Returns the log of the connection.
    pub(crate) fn log(&self) -> Log {
        self.0.as_ref().map(|lines| lines.log.clone()).unwrap_or_default()
    }

    /// Reports an event. `now` is the time at which the client last heard from the broker.
    pub(crate) fn event(&mut self, event: &ChannelEvent, now: Option<Instant>) {
        if let Some(lines) = &mut self.0 {
            lines.event(event, now);
        }
    }

    /// A consumer could not be started again.
    pub(crate) fn consumer_ended(&self, tag: &ShortStr, error: &ChannelError) {
        let Some(Lines { log, id, .. }) = self.0.as_deref() else { return };
        log.line(Level::Warn, Some(*id), || {
            format!("consumer '{}' ended: {}", tag.escaped(), chain(error))
        });
    }

    /// The application starts a consumer.
    pub(crate) fn consumer_starts(&self, tag: &ShortStr, queue: &ShortStr) {
        let Some(Lines { log, id, .. }) = self.0.as_deref() else { return };
        log.line(Level::Debug, Some(*id), || {
            format!("consumer '{}' starts on queue '{}'", tag.escaped(), queue.escaped())
        });
    }
}

impl Lines {
    fn event(&mut self, event: &ChannelEvent, now: Option<Instant>) {
        let (log, id) = (&self.log, Some(self.id));
        let end = match event {
            ChannelEvent::Returned(_) => self.returned.count(now),
            ChannelEvent::Unusable { .. } => self.unusable.count(now),
            ChannelEvent::HandlerPanicked { .. } => self.panicked.count(now),
            _ => Some(String::new()),
        };
        let Some(end) = end else { return };
        match event {
            ChannelEvent::HandlerPanicked { .. } => {
                log.line(Level::Error, id, || format!("{event}{end}"));
            }
            ChannelEvent::Returned(_)
            | ChannelEvent::Unusable { .. }
            | ChannelEvent::Flow { active: false } => {
                log.line(Level::Warn, id, || format!("{event}{end}"));
            }
            ChannelEvent::ConsumerCancelled { .. } => log.line(Level::Warn, id, || {
                format!("{event}: its queue was deleted, or is no longer available; its stream ends")
            }),
            ChannelEvent::ConsumerPaused { .. } => log.line(Level::Warn, id, || {
                format!("{event}: it took none of its deliveries while others waited; most were requeued")
            }),
            ChannelEvent::ConsumerResumed { .. } | ChannelEvent::Flow { active: true } => {
                log.line(Level::Info, id, || event.to_string());
            }
            // The line about the connection covers its channels.
            ChannelEvent::Interrupted(ChannelError::Connection(_))
            | ChannelEvent::Closed(ChannelError::Connection(_)) => {}
            ChannelEvent::Interrupted(error) => {
                self.reopens = true;
                log.line(Level::Warn, id, || {
                    format!("{}; the channel is being reopened", chain(error))
                });
            }
            ChannelEvent::Restored => {
                if std::mem::take(&mut self.reopens) {
                    log.line(Level::Info, id, || "channel reopened and restored".to_owned());
                }
            }
            ChannelEvent::Closed(ChannelError::Closed(close)) if close.by == Initiator::Local => {
                log.line(Level::Debug, id, || "channel closed by the application".to_owned());
            }
            ChannelEvent::Closed(error) => log.line(Level::Warn, id, || {
                format!("{}; the channel is not reopened, and its consumers have ended", chain(error))
            }),
            // The connection reports a lag. A listener that misses events is not a matter of the log.
            ChannelEvent::ConsumerLags { .. } | ChannelEvent::Missed(_) => {}
        }
    }
}
