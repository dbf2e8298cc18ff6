use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use amqp_client_core::{
    CallError, Channel, Connection, ConsumeOptions, Consumer, QueueOptions, ReplyCode, ShortStr,
};
use futures_util::{FutureExt as _, StreamExt as _};

use super::{Partitions, PartitionsError, queue_name};

/// A slot that a member has taken: an exclusive queue, which the broker deletes with its consumer. Other connections cannot declare it,
/// and other groups of the same connection find its consumer.
///
/// After a loss, the client takes the slot again, and waits as long as another connection has it.
pub(super) struct Slot {
    number: u16,
    queue: ShortStr,
    consumer: Consumer,
    /// Finds out whether another connection has the slot.
    check: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

/// Whether a slot is free.
enum Found {
    Free(Consumer),
    Taken,
    /// Another group of this connection may have taken it at the same time.
    Refused(CallError),
}

impl Slot {
    /// Takes the lowest free slot.
    pub(super) async fn take(
        connection: &Connection,
        partitions: &Partitions,
    ) -> Result<Self, PartitionsError> {
        for number in 0..=u16::MAX {
            let queue = queue_name(partitions.name(), format_args!("slot.{number}"))?;
            let mut found = look_at(connection, &queue).await?;
            if let Found::Refused(_) = found {
                found = look_at(connection, &queue).await?;
            }
            match found {
                Found::Free(consumer) => {
                    return Ok(Self { number, queue, consumer, check: None });
                }
                Found::Taken => {}
                Found::Refused(error) => return Err(error.into()),
            }
        }
        Err(PartitionsError::NoSlot)
    }

    pub(super) const fn number(&self) -> u16 {
        self.number
    }

    /// The connection was lost and recovered. After some time, finds out whether another connection has the slot.
    pub(super) fn check_after(&mut self, time: Duration) {
        let connection = self.consumer.channel().connection().clone();
        let (queue, after) = (self.queue.clone(), connection.after(time));
        self.check = Some(Box::pin(async move {
            let asked = async {
                after.await.ok()?;
                let channel = connection.open_channel().await.ok()?;
                channel.queue_declare_passive(queue).await.err()?.reply_code()
            };
            asked.await == Some(ReplyCode::RESOURCE_LOCKED)
        }));
    }

    /// Returns true, once, if a check has found that another connection has the slot.
    pub(super) fn is_lost(&mut self, cx: &mut Context<'_>) -> bool {
        // Messages that somebody publishes to the queue have no meaning.
        while let Poll::Ready(Some(Ok(foreign))) = self.consumer.poll_next_unpin(cx) {
            let _closed = foreign.ack();
        }
        let Some(Poll::Ready(lost)) = self.check.as_mut().map(|check| check.poll_unpin(cx)) else {
            return false;
        };
        self.check = None;
        lost
    }
}

async fn look_at(connection: &Connection, queue: &ShortStr) -> Result<Found, CallError> {
    // If the slot is taken, the broker closes the channel.
    let channel: Channel = connection.open_channel().await?;
    let options = QueueOptions::new().exclusive(true).auto_delete(true);
    let declared = match channel.queue_declare(queue, options).await {
        Err(error) if error.reply_code() == Some(ReplyCode::RESOURCE_LOCKED) => {
            return Ok(Found::Taken);
        }
        declared => declared?,
    };
    if declared.consumer_count() > 0 {
        return Ok(Found::Taken);
    }
    match channel.basic_consume(queue, ConsumeOptions::new().exclusive(true)).await {
        Ok(consumer) => Ok(Found::Free(consumer)),
        Err(error) if error.reply_code() == Some(ReplyCode::ACCESS_REFUSED) => {
            Ok(Found::Refused(error))
        }
        Err(error) => Err(error),
    }
}
