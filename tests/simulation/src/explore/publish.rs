//! Publishing in all the ways there are.

use std::rc::Rc;

use amqp_client_core::proto::{Gate, RawProperties, Route};
use amqp_client_core::{
    Channel, ConfirmError, Confirmation, DeliveryMode, MessageProperties, OnLoss, PublishError,
    Publisher, PublisherOptions,
};
use bytes::Bytes;

use super::client::{Desk, STREAM, Task};
use super::commands::{Loss, Manner, Name, Shape};
use super::ledger::Id;

/// The owner of a body, which uses a handle when it is dropped.
struct Tattler {
    body: Bytes,
    channel: Channel,
}

impl AsRef<[u8]> for Tattler {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Tattler {
    fn drop(&mut self) {
        let _open = (self.channel.is_open(), self.channel.connection().health());
    }
}

impl Task {
    pub(crate) async fn publish(
        &self,
        desk: &Rc<Desk>,
        exchange: &str,
        queue: Name,
        manner: Manner,
        shape: Shape,
    ) {
        let key = match exchange {
            "" => self.name(desk, queue),
            _ => "key".to_owned(),
        };
        let Some(properties) = properties(shape) else { return };
        let loss = match manner {
            Manner::Plain | Manner::Immediate => {
                return self.publish_plain(desk, exchange, &key, manner, shape, &properties).await;
            }
            Manner::Confirmed(loss)
            | Manner::Prepared(loss)
            | Manner::Batch(loss)
            | Manner::Try(loss) => loss,
        };
        let options = PublisherOptions::new()
            .mandatory(shape.mandatory)
            .window(shape.window, usize::MAX)
            .on_loss(match loss {
                Loss::Fail => OnLoss::Fail,
                Loss::Wait => OnLoss::Wait,
                Loss::Keep => OnLoss::Keep,
            })
            .properties(properties);
        let options = match shape.keep_for {
            Some(time) => options.keep_for(time),
            None => options,
        };
        let Ok(exchange) = desk.channel.exchange(exchange) else { return };
        let Ok(publisher) = exchange.publisher(options) else { return };
        if matches!(manner, Manner::Batch(_)) {
            return self.publish_batch(desk, &publisher, &key, loss, shape).await;
        }
        for _ in 0..shape.count {
            let (id, body) = self.body(desk, shape, loss == Loss::Keep, &key);
            let size = body.len();
            let result = match manner {
                Manner::Prepared(_) => {
                    let Ok(prepared) = publisher.prepare(&key) else { return };
                    self.perhaps("prepared.publish", prepared.publish(body)).await
                }
                Manner::Try(_) => Some(match publisher.try_publish(&key, body) {
                    Ok(confirmation) => Ok(confirmation),
                    Err(error) => match error.error {
                        PublishError::Gated(gate) => {
                            desk.tally.published(size, false, true);
                            let fails = loss == Loss::Fail && gate == Gate::Recovering;
                            desk.tally.add("publish_failed", usize::from(fails));
                            return self.not_sent(id);
                        }
                        error => Err(error),
                    },
                }),
                _ => self.perhaps("publisher.publish", publisher.publish(&key, body)).await,
            };
            Self::tally(desk, size, &result, true);
            match result {
                Some(Ok(confirmation)) => {
                    self.tallies.borrow_mut().insert(id, desk.tally.clone());
                    self.confirmations.borrow_mut().push((id, confirmation));
                }
                Some(Err(error)) => return self.judge_publish(id, &error),
                None => {}
            }
        }
    }

    async fn publish_plain(
        &self,
        desk: &Rc<Desk>,
        exchange: &str,
        key: &str,
        manner: Manner,
        shape: Shape,
        properties: &MessageProperties,
    ) {
        let Ok(properties) = properties.encode() else { return };
        let mut route = Route::new(exchange, key);
        if shape.mandatory {
            route = route.mandatory();
        }
        if manner == Manner::Immediate {
            route = route.immediate();
        }
        for _ in 0..shape.count {
            let (id, body) = self.body(desk, shape, false, key);
            let size = body.len();
            let published = desk.channel.basic_publish(&route, &properties, body);
            let published = self.perhaps("basic_publish", published).await;
            Self::tally(desk, size, &published, false);
            match published {
                Some(Ok(())) => desk.books.published(id),
                Some(Err(error)) => return self.judge_publish(id, &error),
                None => {}
            }
        }
    }

    async fn publish_batch(
        &self,
        desk: &Rc<Desk>,
        publisher: &Publisher,
        key: &str,
        loss: Loss,
        shape: Shape,
    ) {
        let Ok(prepared) = publisher.prepare(key) else { return };
        let (ids, bodies): (Vec<_>, Vec<_>) =
            (0..shape.count).map(|_| self.body(desk, shape, loss == Loss::Keep, key)).unzip();
        let sizes: Vec<_> = bodies.iter().map(Bytes::len).collect();
        let (confirmations, error) =
            match self.perhaps("publish_all", prepared.publish_all(bodies)).await {
                Some(Ok(confirmations)) => (confirmations, None),
                Some(Err(error)) => (error.sent, Some(error.error)),
                None => return,
            };
        let sent = confirmations.len();
        for (index, size) in sizes.into_iter().enumerate() {
            desk.tally.published(size, index < sent, true);
        }
        desk.tally.add("publish_failed", usize::from(error.is_some()));
        let tallied = ids.iter().take(sent).map(|id| (*id, desk.tally.clone()));
        self.tallies.borrow_mut().extend(tallied);
        let pairs = ids.iter().copied().zip(confirmations);
        self.confirmations.borrow_mut().extend(pairs);
        if let (Some(error), Some(id)) = (error, ids.get(sent)) {
            self.judge_publish(*id, &error);
        }
    }

    /// Notes whether a message was published. One whose future was dropped while it waited was not.
    fn tally<T>(desk: &Desk, size: usize, result: &Option<Result<T, PublishError>>, watched: bool) {
        desk.tally.published(size, matches!(result, Some(Ok(_))), watched);
        desk.tally.add("publish_failed", usize::from(matches!(result, Some(Err(_)))));
    }

    /// A message to publish, and its body.
    fn body(&self, desk: &Rc<Desk>, shape: Shape, kept: bool, key: &str) -> (Id, Bytes) {
        let down =
            self.connected().is_some_and(|own| self.world.network.borrow().is_down(own.link));
        let mut ledger = self.world.ledger.borrow_mut();
        let (id, body) = ledger.publish(shape.size, kept, shape.mandatory);
        desk.tally.publishing(body.len());
        if key == STREAM {
            ledger.stream(id);
        }
        if kept && down {
            ledger.outage(id);
        }
        match shape.owned {
            false => (id, body),
            true => (id, Bytes::from_owner(Tattler { body, channel: desk.channel.clone() })),
        }
    }

    /// A message was not published: the broker must not have it.
    pub(crate) fn judge_publish(&self, id: Id, error: &PublishError) {
        match error {
            PublishError::Ended(error) => self.judge(error),
            PublishError::TimedOut { .. } if self.policy().timeout.is_none() => {
                self.fail(format!("{id:?} was not sent in time, and may take any time"));
            }
            _ => {}
        }
        self.not_sent(id);
    }

    fn not_sent(&self, id: Id) {
        let checked = self.world.ledger.borrow_mut().not_sent(id);
        self.check(checked);
    }

    /// Awaits some of the confirmations, in any order.
    pub(crate) async fn confirm(&self, count: usize) {
        for _ in 0..count {
            let open = self.confirmations.borrow().len();
            if open == 0 {
                return;
            }
            let index = self.random(|rng| rng.usize(..open));
            let (id, confirmation) = self.confirmations.borrow_mut().swap_remove(index);
            self.conclude(id, confirmation).await;
        }
    }

    pub(crate) async fn conclude(&self, id: Id, confirmation: Confirmation) {
        if let Some(outcome) = self.perhaps("confirmation", confirmation).await {
            self.judge_outcome(id, outcome);
        }
    }

    /// A confirmation has an outcome.
    pub(crate) fn judge_outcome(&self, id: Id, outcome: Result<(), ConfirmError>) {
        if let Some(tally) = self.tallies.borrow_mut().remove(&id) {
            tally.concluded(&outcome);
        }
        if let Some(audit) = &self.audit {
            self.check(audit.compare(id, &outcome));
        }
        let mut ledger = self.world.ledger.borrow_mut();
        let checked = match &outcome {
            Ok(()) => ledger.confirm(id),
            Err(ConfirmError::Returned(_)) => ledger.returned(id),
            Err(ConfirmError::NotResent(PublishError::Expired)) => ledger.expire(id),
            Err(ConfirmError::Unconfirmed(error)) => {
                drop(ledger);
                return self.judge(error);
            }
            // The broker refuses no message without closing the channel.
            Err(ConfirmError::Nacked) => {
                Err(format!("{id:?} was refused, and the broker did not refuse it"))
            }
            Err(ConfirmError::Refused(close)) => {
                match self.world.history.borrow().has_refused_like(self.number, close) {
                    true => Ok(()),
                    false => Err(format!(
                        "{id:?} failed with a close that the broker did not send: {close}"
                    )),
                }
            }
            Err(ConfirmError::TimedOut { .. }) if self.policy().timeout.is_none() => {
                Err(format!("{id:?} was not confirmed in time, and may take any time"))
            }
            Err(_) => Ok(()),
        };
        drop(ledger);
        self.check(checked);
    }

    /// Gives up some messages. What was never sent must never be.
    pub(crate) fn withdraw(&self, count: usize) {
        for _ in 0..count {
            let open = self.confirmations.borrow().len();
            if open == 0 {
                return;
            }
            let index = self.random(|rng| rng.usize(..open));
            let (id, confirmation) = self.confirmations.borrow_mut().swap_remove(index);
            let tally = self.tallies.borrow_mut().remove(&id);
            if confirmation.withdraw() {
                tally.iter().for_each(|tally| tally.add("unconfirmed", 1));
                self.not_sent(id);
                self.world.ledger.borrow_mut().give_up(id);
            }
        }
    }

    pub(crate) async fn wait_for_confirms(&self, desk: &Rc<Desk>) {
        let Ok(publisher) = desk.channel.default_exchange().publisher(PublisherOptions::new())
        else {
            return;
        };
        let waited = self.perhaps("wait_for_confirms", publisher.wait_for_confirms()).await;
        if let Some(Err(ConfirmError::Unconfirmed(error))) = waited {
            self.judge(&error);
        }
    }
}

fn properties(shape: Shape) -> Option<MessageProperties> {
    let mode = match shape.persistent {
        true => DeliveryMode::Persistent,
        false => DeliveryMode::Transient,
    };
    let properties = MessageProperties::new().delivery_mode(mode);
    if shape.header == 0 {
        return Some(properties);
    }
    let headers =
        amqp_client_core::proto::FieldTable::new().with("x-filler", "f".repeat(shape.header));
    Some(properties.headers(headers.ok()?))
}

/// No properties, already encoded.
pub(crate) const NO_PROPERTIES: RawProperties = RawProperties::EMPTY;
