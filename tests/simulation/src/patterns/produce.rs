//! Messages for workers, batches, and pairs in transactions.

use std::time::Duration;

use amqp_client_core::{
    Channel, ConfirmError, Connection, Message, PublishError, PublisherOptions, SendError,
};
use amqp_client_patterns::batch::Batching;
use amqp_client_patterns::codec::BoxError;
use amqp_client_patterns::pool::ChannelPool;
use futures_util::future::join_all;

use super::actor::{Actor, Again, Try};
use super::ledger::{BATCHES, PAIRS, WORK, body, read};

impl Actor {
    /// Publishes messages, each as often as it takes.
    pub(super) async fn produce(
        &self,
        connection: &Connection,
        batched: bool,
        left: &mut u32,
    ) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        let queue = if batched { BATCHES } else { WORK };
        self.declare(&channel, queue).await?;
        let publisher = channel.default_exchange().publisher(PublisherOptions::new());
        let publisher = publisher.map_err(|error| self.unsent(&error))?;
        let id = self.world.ledger.lock().next_id();
        let mut id = id;
        while *left > 0 {
            self.world.ledger.lock().publish(id, batched);
            match publisher.send(queue, body(id)).await {
                Ok(()) => {
                    self.world.ledger.lock().confirm(id);
                    *left -= 1;
                    id = self.world.ledger.lock().next_id();
                }
                Err(SendError::NotSent(error)) if !error.is_transient() => {
                    return Err(self.unsent(&error));
                }
                Err(SendError::NotConfirmed(
                    error @ (ConfirmError::Returned(_) | ConfirmError::Nacked),
                )) => return Err(self.fail(format!("not confirmed: {error}"))),
                Err(_) if self.world.script.is_calm() => {
                    return Err(self.fail("a message was not confirmed"));
                }
                Err(_) if !channel.is_open() => return Err(Again),
                Err(_) => {}
            }
            self.pause(self.job.pause).await;
        }
        Ok(())
    }

    fn unsent(&self, error: &PublishError) -> Again {
        match error {
            PublishError::Ended(reason) if self.is_fault(&reason.to_string()) => Again,
            error => self.fail(format!("not sent: {error}")),
        }
    }

    /// Takes batches, and acknowledges most of them.
    pub(super) async fn gather(&self, connection: &Connection, size: u16) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        let queue = self.declare(&channel, BATCHES).await?;
        let within = self.milliseconds(2_000);
        let started = Batching::on(&queue, size, within).start().await;
        let mut batches = match started {
            Ok(batches) => batches,
            Err(error) if self.is_fault(&format!("{error:?}")) => return Err(Again),
            Err(error) => return Err(self.fail(format!("no batches: {error:?}"))),
        };
        while !self.world.done.get() {
            let next = self.world.clock.within(Duration::from_secs(1), batches.next()).await;
            let batch = match next {
                None => continue,
                Some(Some(Ok(batch))) => batch,
                Some(Some(Err(end))) if self.is_fault(&end.to_string()) => return Err(Again),
                Some(other) => return Err(self.fail(format!("a batch: {other:?}"))),
            };
            if batch.is_empty() || batch.len() > usize::from(size) {
                return Err(self.fail(format!("a batch of {} messages", batch.len())));
            }
            self.pause(self.job.pause).await;
            if self.one_in(8) {
                continue;
            }
            let taken: Vec<_> = batch
                .iter()
                .map(|delivery| {
                    (read(delivery.body()), delivery.redelivered(), delivery.is_stale())
                })
                .collect();
            let acked = batch.ack().is_ok();
            for (id, repeated, stale) in taken {
                let Some(id) = id else { return Err(self.fail("a message of nobody")) };
                if acked && !stale {
                    self.world.ledger.lock().gather(id, repeated);
                }
            }
        }
        Ok(())
    }

    /// Publishes pairs in transactions, several at the same time.
    pub(super) async fn transact(
        &self,
        connection: &Connection,
        channels: usize,
        left: &mut u32,
    ) -> Try<()> {
        let channel = self.expect(connection.open_channel().await)?;
        self.declare(&channel, PAIRS).await?;
        let pool = ChannelPool::transactional(connection, channels);
        while *left > 0 && connection.is_open() {
            let users = self.random(|rng| rng.u32(1..=3)).min(*left);
            *left -= users;
            let users = join_all((0..users).map(|_| self.pair(&pool)));
            for outcome in self.bounded(Duration::from_secs(300), "a transaction", users).await? {
                outcome?;
            }
            self.pause(self.job.pause).await;
        }
        if connection.is_open() { Ok(()) } else { Err(Again) }
    }

    async fn pair(&self, pool: &ChannelPool) -> Try<()> {
        let id = self.world.ledger.lock().next_id();
        self.world.ledger.lock().pair(id, false);
        let transaction = async {
            let channel = pool.get().await?;
            let publish = async |channel: &Channel| {
                for part in [b'c', b'd'] {
                    let mut text = body(id);
                    text[0] = part;
                    channel.queue(PAIRS)?.publish(&Message::new(text)).await?;
                }
                Ok::<_, BoxError>(())
            };
            channel.transaction(publish).await
        };
        if self.one_in(5) {
            self.dropped(transaction).await;
            return Ok(());
        }
        match transaction.await {
            Ok(()) => self.world.ledger.lock().pair(id, true),
            Err(error) if self.is_fault(&error.to_string()) => {}
            Err(error) => return Err(self.fail(format!("a transaction failed: {error}"))),
        }
        Ok(())
    }
}
