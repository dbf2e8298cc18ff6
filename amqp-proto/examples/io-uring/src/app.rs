//! The application, the same as in the example `event_loop`.

use std::error::Error;
use std::time::Instant;

use amqp_proto::method::{BasicConsume, ConfirmSelect, QueueDeclare};
use amqp_proto::{ChannelEvent, Connection, Event, Properties, ReplyCode, Route};

/// The application that uses the connection.
#[derive(Default)]
pub(crate) struct App {
    messages: u64,
    published: u64,
    pub(crate) confirmed: u64,
    pub(crate) consumed: u64,
    channel: Option<amqp_proto::ChannelId>,
}

const QUEUE: &str = "io_uring";

impl App {
    pub(crate) fn new(messages: u64) -> Self {
        Self { messages, ..Self::default() }
    }

    pub(crate) fn handle(
        &mut self,
        connection: &mut Connection,
        event: Event,
    ) -> Result<(), Box<dyn Error>> {
        match event {
            Event::Opened(_) => {
                let id = connection.open_channel()?;
                let mut channel = connection.channel(id)?;
                // All of this, and the opening of the channel, takes one round trip.
                let queue = QUEUE.try_into()?;
                channel.request(QueueDeclare { queue, exclusive: true, ..Default::default() })?;
                channel.request(BasicConsume { queue: QUEUE.try_into()?, ..Default::default() })?;
                channel.request(ConfirmSelect::default())?;
                self.channel = Some(id);
            }
            Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                connection.channel(id)?.ack(delivery.delivery_tag())?;
                self.consumed += 1;
            }
            Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) => {
                self.confirmed += publishes.end().get() - publishes.start().get() + 1;
            }
            Event::Channel(_, ChannelEvent::Closed(error)) if connection.is_open() => {
                return Err(error.into());
            }
            _ => {}
        }
        if self.confirmed == self.messages && self.consumed == self.messages {
            connection.close(Instant::now(), ReplyCode::REPLY_SUCCESS, "done");
        }
        Ok(())
    }

    /// Publishes until the limit of unconfirmed messages is reached. Confirms make the loop call this again.
    pub(crate) fn publish(&mut self, connection: &mut Connection) -> Result<(), Box<dyn Error>> {
        let Some(id) = self.channel.filter(|_| connection.is_open()) else { return Ok(()) };
        let mut channel = connection.channel(id)?;
        while self.published < self.messages
            && channel.unconfirmed() < 1000
            && channel.check_gate().is_ok()
        {
            let body = format!("message {}", self.published);
            channel.publish(&Route::queue(QUEUE), &Properties::default(), body)?;
            self.published += 1;
        }
        Ok(())
    }
}
