//! The reasons for the ends of consumers and channels: an action of the broker or the application has to explain each end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use amqp_client_core::proto::{ChannelError, Close, Initiator, ReplyCode};
use amqp_client_core::{CallError, Connection, ConsumerEnd, Status};

use super::client::{Connected, Desk, Start, Taker, Task};
use super::commands::{Name, Recovering};
use super::history::{DECLARE, History};
use crate::script::What;

const CONSUME: (u16, u16) = (60, 20);

/// More channels than a client uses at once.
const MANY: u16 = 100;

/// As long as a driver needs to do something that does not depend on the broker.
const TURN: Duration = Duration::from_millis(1);

impl Task {
    /// A consumer has ended, quietly or with an error.
    pub(crate) fn judge_end(&self, taker: &Start, end: Option<&ConsumerEnd>) {
        if let Err(text) = self.explain(taker, end) {
            self.fail(format!("a consumer of {:?} ended {text}", taker.name));
        }
    }

    fn explain(&self, taker: &Start, end: Option<&ConsumerEnd>) -> Result<(), String> {
        let (desk, history) = (&taker.desk, self.world.history.borrow());
        let by_hand = desk.cancelled.borrow().contains(&taker.tag);
        let asked = taker.asked.get() || by_hand;
        let channel = &desk.channel;
        let id = channel.id().get();
        let error = match end {
            None if asked || desk.shut.stopped.get() => return Ok(()),
            None => return Err("without an error, although it was not cancelled".to_owned()),
            Some(ConsumerEnd::Cancelled) => {
                let tag = taker.tag.to_string();
                // A consumer that was paused while its queue was deleted is notified when it is resumed.
                let paused =
                    self.pauses() && history.misses(taker.since, self.number, &taker.queue);
                let told = paused || history.cancelled(taker.since, self.number, id, &tag);
                return match told {
                    true => Ok(()),
                    false => Err("as cancelled by the broker, which has not done that".to_owned()),
                };
            }
            Some(ConsumerEnd::Ended(error)) => error,
            Some(other) => return Err(format!("for an unknown reason: {other}")),
        };
        self.judge(error);
        match error {
            ChannelError::Closed(close) if close.by == Initiator::Local => {
                match desk.closed.get() || desk.shut.closed.get() {
                    true => Ok(()),
                    false => Err(format!("although its channel was not closed: {error}")),
                }
            }
            ChannelError::Closed(close) => {
                if !history.has_said(desk.since, self.number, id, close) {
                    return Err(format!("with a close that the broker did not send: {error}"));
                }
                // A mode that the broker refuses ends the channel.
                let whole = desk.unrecovered || matches!(close.class_id, 85 | 90);
                // A close that names no request, while a channel is reopened step by step after another close, is blamed on the step.
                let blamed = (close.class_id, close.method_id) == (0, 0)
                    && history.closes(desk.since, self.number, id) > 1;
                match self.reopens() && !whole && !blamed && !is_own(taker, close) {
                    true => Err(format!("with the close of another request: {error}")),
                    false => self.allow(taker, close, &history),
                }
            }
            ChannelError::Connection(own) => {
                let cost = own.as_close().is_some_and(|close| is_own(taker, close));
                match cost || desk.unrecovered || desk.closed.get() || is_over(channel.connection())
                {
                    true => Ok(()),
                    false => Err(format!("with a connection that goes on: {error}")),
                }
            }
            ChannelError::NotRestored { .. } => self.allow_left_out(taker, error, &history),
            _ => Err(format!("for an unknown reason: {error}")),
        }
    }

    /// The start of a consumer was refused. Some refusals are for the client to avoid.
    fn allow(&self, taker: &Start, close: &Close, history: &History) -> Result<(), String> {
        if taker.desk.channel.check().is_err() {
            // Another consumer's start may have closed the channel.
            return Ok(());
        }
        let text = close.reply_text.to_string();
        if taker.ran
            && !taker.desk.unrecovered
            && taker.exclusive
            && self.retries_locked()
            && text.ends_with("exclusive use")
        {
            return Err(format!("instead of waiting for its queue: {text}"));
        }
        let recovers = self.policy().recovery.is_some() && !taker.desk.unrecovered;
        let Name::AutoDelete(number) = taker.name else { return Ok(()) };
        let queue = format!("auto-{number}");
        let gone = close.reply_code == ReplyCode::NOT_FOUND && text.contains(&queue);
        if recovers && taker.ran && gone && taker.declared && history.is_untouched(&queue) {
            return Err(format!("although its queue is declared again: {text}"));
        }
        Ok(())
    }

    /// A consumer was not started again. Something must have been refused, or the consumer not fit.
    fn allow_left_out(
        &self,
        taker: &Start,
        error: &ChannelError,
        history: &History,
    ) -> Result<(), String> {
        let text = error.to_string();
        let lost_queue = text.contains("could not be declared again");
        // The client may use all channels of a node that has few, and then there is none to declare on.
        let few = self.world.script.nodes.iter().any(|node| node.channel_max < MANY);
        let no_room = few && text.ends_with("all channels are in use");
        let refused = history.has_refused(taker.since, self.number);
        match lost_queue && !no_room && !taker.large && !refused {
            true => Err(format!("although the broker refused nothing: {error}")),
            false => Ok(()),
        }
    }

    /// The first declaration of a queue failed. It waits for a locked queue, if it is to.
    pub(crate) fn judge_declaration(&self, desk: &Desk, queue: &str, error: &CallError) {
        let retries = self.policy().recovery.as_ref().is_some_and(|own| own.retry_locked);
        let CallError::Ended(ChannelError::Closed(close)) = error else { return };
        let locked =
            is_locked(close) && close.reply_text.to_string().contains(&format!("'{queue}'"));
        if retries && locked && !desk.unrecovered {
            self.fail(format!("the declaration of a locked queue failed: {error}"));
        }
    }

    /// Returns whether the connection is open, and its channels are: those that are opened again have requests wait.
    pub(crate) fn is_settled(&self) -> bool {
        let reopens = |own: &Recovering| own.reopen_channels || own.retry_locked;
        let whole = !self.policy().recovery.as_ref().is_some_and(reopens);
        whole && self.connected().is_some_and(|own| own.connection.health().status == Status::Open)
    }

    /// Returns whether the client opens channels again that the broker closes.
    pub(crate) fn reopens(&self) -> bool {
        self.policy().recovery.as_ref().is_some_and(|recovering| recovering.reopen_channels)
    }

    pub(crate) fn retries_locked(&self) -> bool {
        self.policy().recovery.as_ref().is_some_and(|recovering| recovering.locked.is_some())
    }

    /// Returns whether this client has declared a queue that nobody deletes but the broker with its last consumer.
    pub(crate) fn has_declared(&self, queue: &str) -> bool {
        let deleted = self.world.script.faults.iter().any(|fault| {
            matches!(fault.what, What::DeleteQueue(_) | What::Wipe | What::Refuse { .. })
        });
        !deleted && self.declared.borrow().contains(queue)
    }

    /// A consumer was cancelled, and nobody waits for the reply: it ends at once, after the deliveries that it holds. Returns
    /// whether it has.
    pub(crate) async fn ends_at_once(&self, taker: &mut Taker) -> bool {
        loop {
            match self.world.clock.within(TURN, taker.consumer.next()).await {
                Some(Some(Ok(delivery))) => self.hold_of(taker, delivery),
                Some(Some(Err(end))) => {
                    self.judge_end(taker, Some(&end));
                    return true;
                }
                Some(None) => return true,
                None => break,
            }
        }
        let network = self.world.network.borrow();
        // While a connection is being closed, its consumers end with it.
        let runs = |own: Connected| {
            own.connection.is_open() && !network.is_starved(own.link, self.world.clock.now())
        };
        if self.connected().is_some_and(runs) {
            self.fail(format!("a consumer of {:?} was cancelled, and does not end", taker.name));
        }
        false
    }

    /// Checks closed channels: the reason, and whether the connection reports it, too.
    pub(crate) fn judge_channels(&self) {
        let desks: Vec<_> = self.channels.borrow().iter().flatten().cloned().collect();
        for desk in desks.iter().filter(|desk| !desk.judged.get()) {
            let Err(error) = desk.channel.check() else { continue };
            desk.judged.set(true);
            if let Err(text) = self.explain_channel(desk, &error) {
                self.fail(format!("channel {} ended {text}", desk.channel.id()));
            }
        }
    }

    fn explain_channel(&self, desk: &Rc<Desk>, error: &ChannelError) -> Result<(), String> {
        let (id, history) = (desk.channel.id(), self.world.history.borrow());
        self.judge(error);
        let connection = desk.channel.connection();
        match error {
            ChannelError::Closed(close) if close.by == Initiator::Local => {
                return match desk.closed.get() || desk.shut.closed.get() {
                    true => Ok(()),
                    false => Err(format!("although it was not closed: {error}")),
                };
            }
            ChannelError::Closed(close) => {
                if !history.has_said(desk.since, self.number, id.get(), close) {
                    return Err(format!("with a close that the broker did not send: {error}"));
                }
                // A mode that the broker refuses ends the channel: without it, it would be another one.
                let mode = matches!(close.class_id, 85 | 90);
                let waits = self.policy().recovery.as_ref().is_some_and(|own| own.retry_locked);
                if waits && is_locked(close) && !desk.unrecovered && !desk.unanswered.get() {
                    return Err(format!("instead of waiting for a locked queue: {error}"));
                }
                if self.reopens() && !mode {
                    return Err(format!("instead of being opened again: {error}"));
                }
            }
            ChannelError::NotRestored { .. } => {
                let nodes = self.world.script.nodes.iter();
                let fits =
                    nodes.map(|node| node.channel_max).min().is_none_or(|most| id.get() <= most);
                if fits {
                    return Err(format!("although each node has room for it: {error}"));
                }
            }
            _ if desk.closed.get() || is_over(connection) => return Ok(()),
            _ => return Err(format!("with a connection that goes on: {error}")),
        }
        let health = connection.health();
        let named = health.closed_channels.iter().any(|own| own.id == id && own.reason == *error);
        match named || health.status != Status::Open {
            true => Ok(()),
            false => Err(format!("and the connection's health does not show it: {error}")),
        }
    }
}

/// Returns whether a request was the consumer's own start, or the declaration of its queue.
fn is_own(taker: &Start, close: &Close) -> bool {
    let cause = (close.class_id, close.method_id);
    let text = close.reply_text.to_string();
    let named = text.contains(&format!("'{}'", taker.queue))
        || matches!(taker.name, Name::ServerNamed | Name::Last)
        || text.contains("an operator forbids it")
        || text.contains("consumer tag");
    matches!(cause, CONSUME | DECLARE) && named
}

/// Returns whether a queue could not be declared because another connection has it exclusively.
fn is_locked(close: &Close) -> bool {
    close.reply_code == ReplyCode::RESOURCE_LOCKED && (close.class_id, close.method_id) == DECLARE
}

fn is_over(connection: &Connection) -> bool {
    matches!(connection.health().status, Status::Closed(_))
}

/// True if the application has requested something. All tasks that may request it share the flag.
pub(crate) type Asked = Rc<Cell<bool>>;

/// The way in which the application has ended a connection.
#[derive(Debug, Default)]
pub(crate) struct Shut {
    /// It was closed, or will be closed when the remaining work is done.
    pub(crate) closed: Cell<bool>,
    /// Its consumers were stopped before.
    pub(crate) stopped: Cell<bool>,
}
