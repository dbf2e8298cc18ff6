//! Many tasks that publish at the same time: each is woken when there is room for its message, and not before.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::rc::Rc;

use amqp_client_core::{ConnectionEvent, PublisherOptions};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::client::{Desk, Task, tried};

/// Number of tasks that publish one message each, and of messages that may be unconfirmed.
const CROWD: usize = 60;
const WINDOW: usize = 2;

/// Maximum average number of polls of a task if nothing fails: the first, one when there is room, and a few more.
const POLLS: usize = 6;

impl Task {
    /// Publishes as many tasks would, and counts how often each of them is polled.
    pub(crate) async fn crowd(&self, desk: &Rc<Desk>) {
        if desk.books.may_be_kept() {
            // There are no confirms on such a channel.
            return;
        }
        let options = PublisherOptions::new().mandatory(false).window(WINDOW, usize::MAX);
        let Ok(publisher) = desk.channel.default_exchange().publisher(options) else { return };
        let (mut events, losses) = (desk.channel.connection().events(), self.losses());
        let since = self.world.history.borrow().mark();
        let polls = Cell::new(0);
        let mut publishing: FuturesUnordered<_> = (0..CROWD)
            .map(|_| {
                let (id, body) = self.world.ledger.borrow_mut().publish(12, false, false);
                desk.tally.publishing(12);
                let mut publishing = Box::pin(publisher.publish("shared-0", body));
                let polls = &polls;
                poll_fn(move |cx| {
                    polls.set(polls.get() + 1);
                    publishing.as_mut().poll(cx).map(|published| (id, published))
                })
            })
            .collect();
        let mut failed = false;
        while let Some((id, published)) = publishing.next().await {
            desk.tally.published(12, published.is_ok(), true);
            match published {
                Ok(confirmation) => {
                    self.tallies.borrow_mut().insert(id, desk.tally.clone());
                    self.confirmations.borrow_mut().push((id, confirmation));
                }
                Err(error) => {
                    failed = true;
                    desk.tally.add("publish_failed", 1);
                    self.judge_publish(id, &error);
                }
            }
        }
        // A gate that stops all of them wakes all of them when it opens.
        while let Some(Some(event)) = tried(events.next()).await {
            failed |= matches!(event, ConnectionEvent::Blocked { .. } | ConnectionEvent::Unblocked);
        }
        let id = desk.channel.id().get();
        failed |= self.world.history.borrow().has_refused_on(since, self.number, id);
        if !failed && self.losses() == losses && polls.get() > POLLS * CROWD {
            let polls = polls.get();
            self.fail(format!(
                "{CROWD} tasks publish a message each, and are polled {polls} times"
            ));
        }
    }
}
