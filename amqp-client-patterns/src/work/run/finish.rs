//! The fate of messages whose handlers have returned.

use std::future::ready;
use std::panic::resume_unwind;
use std::time::Duration;

use amqp_client_core::{CallError, Delivery, OnPanic};
use futures_util::future::join;

use super::{Job, Place, Worker};
use crate::handler::Verdict;
use crate::history;
use crate::shown::panicked;
use crate::work::handling::Panic;
use crate::work::settle::{Action, Settled};
use crate::work::source::{Arriving, Taken};
use crate::work::{Failure, Routes, WorkEvent};

impl<S, R: Routes<S>, A: Arriving> Worker<S, R, A> {
    /// Settles a message whose handler has returned. Inlined, as that saves moving the delivery of each message.
    #[inline(always)]
    pub(super) fn handled(
        &mut self,
        delivery: Option<A::Delivery>,
        place: Place,
        verdict: Verdict,
    ) {
        match verdict {
            // Almost always. A stale delivery may be acknowledged as well: that has no effect.
            Verdict::Done => {
                self.summary.done += 1;
                self.leave(delivery, place.key, Taken::ack);
            }
            verdict => self.finish(self.job(delivery, place), verdict, Failure::Handler),
        }
    }

    pub(super) fn panicked(&mut self, job: Job<A::Delivery>, panic: Panic) {
        self.summary.panicked += 1;
        let why = panicked(&*panic);
        let verdict = match self.options.on_panic {
            OnPanic::Propagate => {
                // Only this message counts as failed.
                self.leave(job.delivery, job.place.key, |delivery| delivery.reject(true));
                resume_unwind(panic)
            }
            OnPanic::Reject => Verdict::refuse(why),
            _ => Verdict::retry(why),
        };
        self.finish(job, verdict, Failure::Panic);
    }

    /// Ends the worker by a panic. Its messages are requeued before the panic goes on: a delivery that is dropped by a panic counts
    /// as failed, and its message may be dropped.
    pub(super) fn propagate(&mut self, panic: Panic) -> ! {
        self.abandon();
        self.jobs.clear();
        resume_unwind(panic)
    }

    /// Settles a message by its verdict.
    pub(super) fn finish(&mut self, job: Job<A::Delivery>, verdict: Verdict, by: Failure) {
        let delivery = job.delivery.as_ref().map(Taken::delivery);
        if verdict.why().is_some() {
            let message = delivery.map(|delivery| &**delivery);
            self.options.report(&WorkEvent::Failed { message, verdict: &verdict, by });
        }
        // A delivery that was requeued because of a loss comes again: publishing a copy would duplicate it.
        let action = match delivery {
            Some(delivery) if !delivery.is_stale() => {
                let failures = job.place.failures;
                history::after_failures(failures, || {
                    self.policy.decide(delivery, &verdict, failures)
                })
            }
            _ => Action::Requeue,
        };
        if verdict.why().is_some() {
            self.connection.log_limited(action.kind(), || {
                let message = delivery.map(|delivery| &**delivery);
                let event = WorkEvent::Failed { message, verdict: &verdict, by };
                format!("a worker could not handle {event}; it is {action}")
            });
        }
        let summary = &mut self.summary;
        let counter = match (&verdict, &action) {
            (Verdict::Done, _) => &mut summary.done,
            (Verdict::Requeue, _) => &mut summary.requeued,
            (Verdict::Refuse(_), _) | (_, Action::Park(..)) => &mut summary.refused,
            (Verdict::Retry(_), _) => &mut summary.retried,
        };
        *counter += 1;
        match action {
            Action::Retry(queue, message) | Action::Park(queue, message) => {
                let scope = delivery.map(Delivery::scope).unwrap_or_default();
                let job = self.jobs.insert(job);
                self.settling.push(self.policy.publish(job, queue, message, scope));
            }
            Action::Again(delay) => self.handle_again(job, delay),
            Action::Ack => self.leave(job.delivery, job.place.key, Taken::ack),
            Action::Requeue => self.requeue(job),
            Action::Reject { requeue } => {
                self.leave(job.delivery, job.place.key, |delivery| delivery.reject(requeue))
            }
        }
    }

    /// Handles the same delivery again after some time. Its key is busy meanwhile, its place among the handlers is free.
    fn handle_again(&mut self, job: Job<A::Delivery>, delay: Duration) {
        let Some(delivery) = job.delivery else { return self.free(job.place.key) };
        // Once nothing more is taken, others get the message.
        if self.arriving.is_open() {
            let place = Place { failures: job.place.failures.saturating_add(1), ..job.place };
            self.again.push(join(ready((place, delivery)), self.connection.after(delay)));
        }
    }

    pub(super) fn settled(&mut self, job: usize, settled: Settled) {
        match settled {
            Settled::Published => {
                let job = self.jobs.remove(job);
                self.leave(job.delivery, job.place.key, Taken::ack);
            }
            Settled::NotPublished(queue, error) => {
                if let Some(delivery) = &self.jobs[job].delivery {
                    let (message, queue) = (&**delivery.delivery(), &*queue);
                    let event = WorkEvent::NotPublished { message, queue, error: &error };
                    self.connection.log_limited("not published", || {
                        let then = A::Delivery::AFTER_PAUSE;
                        format!("a worker could not handle {event}; the message is {then}")
                    });
                    self.options.report(&event);
                }
                self.settling.push(self.policy.pause(job));
            }
            Settled::Paused => {
                let job = self.jobs.remove(job);
                match job.delivery {
                    Some(delivery) if A::Delivery::IN_PLACE => {
                        self.next.push_back((job.place, delivery));
                    }
                    _ => self.requeue(job),
                }
            }
        }
    }

    fn requeue(&mut self, job: Job<A::Delivery>) {
        self.leave(job.delivery, job.place.key, Taken::requeue);
    }

    /// Settles the delivery of a job, and frees its key.
    #[inline]
    fn leave(
        &mut self,
        delivery: Option<A::Delivery>,
        key: Option<u64>,
        settle: impl FnOnce(A::Delivery) -> Result<(), CallError>,
    ) {
        if let Some(delivery) = delivery {
            // If the channel is closed, the broker has requeued the delivery, and the consumer ends with the reason.
            let _closed = settle(delivery);
        }
        if key.is_some() {
            self.free(key);
        }
    }

    /// Frees a key for the next delivery that waits for it.
    pub(super) fn free(&mut self, key: Option<u64>) {
        if let (Some(key), Some(order)) = (key, &mut self.order) {
            self.next.extend(order.leave(key).map(|delivery| (Place::of(key), delivery)));
        }
    }
}
