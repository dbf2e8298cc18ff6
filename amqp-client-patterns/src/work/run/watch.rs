//! Reports to the observer of a worker, other than those of failed messages.

use std::task::{Context, Poll};

use amqp_client_core::ChannelEvent;
use futures_util::{FutureExt as _, StreamExt as _};

use super::Worker;
use crate::work::source::{Arriving, Taken as _};
use crate::work::{Routes, WorkEvent};

/// Number of times that the watchdog looks in the time after which it reports a handler.
pub(super) const LOOKS: u32 = 4;

impl<S, R: Routes<S>, A: Arriving> Worker<S, R, A> {
    /// Reports the messages that the client does not accept.
    pub(super) fn listen(&mut self, cx: &mut Context<'_>) {
        while let Some(Poll::Ready(event)) = self.events.as_mut().map(|all| all.poll_next_unpin(cx))
        {
            match event {
                Some(ChannelEvent::Unusable { delivery_tag, why, .. }) => {
                    self.options.report(&WorkEvent::Unusable { delivery_tag, why: &why });
                }
                Some(_) => {}
                None => self.events = None,
            }
        }
    }

    /// Reports the handlers that have been running for long, once each.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        while let Some(Poll::Ready(passed)) = self.look.as_mut().map(|look| look.poll_unpin(cx)) {
            // Nothing measures the time once the connection has ended.
            let time = self.options.warn_after;
            self.look = passed.ok().map(|()| self.connection.after(time / LOOKS));
            self.looks = self.looks.wrapping_add(1);
            for (_, job) in &self.jobs {
                // A handler began between two looks, so it has been running for `LOOKS` times when one more has passed.
                if self.looks.wrapping_sub(job.began) == LOOKS + 1 {
                    let message = job.delivery.as_ref().map(|taken| &**taken.delivery());
                    self.options.report(&WorkEvent::Slow { message, running: time });
                }
            }
        }
    }
}
