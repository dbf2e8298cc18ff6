//! The view that tests have of a broker: its connections and queues, with their contents.

use amqp_proto::{FieldTable, RawProperties, ShortStr};
use bytes::Bytes;

use crate::SessionId;
use crate::engine::{Engine, Session};
use crate::name::Name;
use crate::queue::Queue;

/// A connection, as the broker knows it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConnectionView {
    /// The connection's number.
    pub id: SessionId,
    /// The user; empty before the login.
    pub user: ShortStr,
    /// The virtual host; empty before it is opened.
    pub virtual_host: ShortStr,
    /// The properties that the client sent; empty before the connection is open. `connection_name` here is the name of the
    /// connection.
    pub client_properties: FieldTable,
    /// Number of open channels.
    pub channels: usize,
    /// Number of unacknowledged deliveries.
    pub unacknowledged: usize,
}

/// A queue and its contents.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueueView {
    /// Its virtual host.
    pub virtual_host: ShortStr,
    /// Its name.
    pub name: ShortStr,
    /// True if it survives a restart.
    pub durable: bool,
    /// The connection that uses it exclusively, if there is one.
    pub owner: Option<SessionId>,
    /// True if it is deleted with its last consumer.
    pub auto_delete: bool,
    /// The arguments that it was declared with.
    pub arguments: FieldTable,
    /// Number of consumers.
    pub consumers: usize,
    /// Number of messages that are delivered and not acknowledged.
    pub unacknowledged: usize,
    /// The messages that are ready for delivery, the next one first; all messages of a stream.
    pub messages: Vec<MessageView>,
}

/// A message in a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MessageView {
    /// The exchange that it was published to.
    pub exchange: ShortStr,
    /// Its routing key.
    pub routing_key: ShortStr,
    /// Its properties, as they will be delivered.
    pub properties: RawProperties,
    /// Its body.
    pub body: Bytes,
    /// True if it was delivered before.
    pub redelivered: bool,
}

impl Engine {
    /// Returns the connections, in the order in which they were opened.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> + '_ {
        self.sessions.iter().map(|(id, session)| self.connection_view(*id, session))
    }

    /// Returns all queues, by virtual hosts and names.
    pub fn queues(&self) -> impl Iterator<Item = QueueView> + '_ {
        self.queues.iter().map(|(name, queue)| self.queue_view(name, queue))
    }

    /// Returns a queue of the virtual host `/`, if there is one of that name.
    #[must_use]
    pub fn queue(&self, name: impl AsRef<[u8]>) -> Option<QueueView> {
        let name = Name::in_default(name);
        Some(self.queue_view(&name, self.queues.get(&name)?))
    }

    fn connection_view(&self, id: SessionId, session: &Session) -> ConnectionView {
        let negotiated = session.proto.negotiated();
        ConnectionView {
            id,
            user: session.user.clone(),
            virtual_host: session.virtual_host.clone(),
            client_properties: negotiated
                .map_or_else(FieldTable::new, |negotiated| negotiated.peer_properties.clone()),
            channels: session.channels.len(),
            unacknowledged: self.unacknowledged_count(id),
        }
    }

    fn queue_view(&self, name: &Name, queue: &Queue) -> QueueView {
        let channels = self.sessions.values().flat_map(|session| session.channels.values());
        let unsettled = channels.flat_map(|channel| channel.unsettled());
        let messages = queue.messages.iter().map(|message| MessageView {
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            properties: message.properties_with(None),
            body: message.body.clone(),
            redelivered: message.redelivered,
        });
        QueueView {
            virtual_host: name.virtual_host.clone(),
            name: name.text.clone(),
            durable: queue.durable,
            owner: queue.owner,
            auto_delete: queue.auto_delete,
            arguments: queue.arguments.clone(),
            consumers: queue.consumers.len(),
            unacknowledged: unsettled.filter(|(_, unacked)| unacked.queue == *name).count(),
            messages: messages.collect(),
        }
    }
}
