//! Direct reply-to: replies go from the channel that publishes them to the channel that made the request, through no queue.

use amqp_proto::method::{BasicConsume, BasicConsumeOk, BasicDeliver, BasicPublish};
use amqp_proto::{RawProperties, ShortStr};
use bytes::Bytes;

use crate::SessionId;
use crate::engine::{At, Engine};
use crate::fault::Fault;
use crate::requests::Done;

/// The name that clients use for the pseudo-queue.
const NAME: &str = "amq.rabbitmq.reply-to";

/// The maximum number of queued bytes for a client that does not read its replies. Further replies are dropped, because the
/// clients that send them cannot be slowed down.
const REPLIES_MAX: usize = 64 * 1024 * 1024;

/// The consumer of a channel for the replies to its requests.
#[derive(Debug)]
pub(crate) struct ReplyConsumer {
    pub(crate) tag: ShortStr,
    /// The address of its replies.
    address: ShortStr,
}

/// Returns whether the name of a queue means direct reply-to, as such or as the address of a channel.
pub(crate) fn is_meant_by(name: &ShortStr) -> bool {
    name.as_bytes()
        .strip_prefix(NAME.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
}

impl Engine {
    /// Returns whether a client waits for replies there. Declaring the name as a queue shows that.
    pub(crate) fn is_reply_address(&mut self, name: &ShortStr) -> bool {
        is_meant_by(name) && (*name == NAME || self.reply_consumer(name).is_some())
    }

    pub(crate) fn consume_replies(&mut self, at: At, method: BasicConsume) -> Done {
        self.last_name += 1;
        let secret = self.last_name;
        let address = format!("{NAME}.{}.{secret}", at.session.0);
        let Some(channel) = self.channel(at) else { return Ok(()) };
        let tag = channel.name_consumer(method.consumer_tag)?;
        if !method.no_ack {
            return Err(Fault::precondition("reply consumer cannot acknowledge"));
        }
        if channel.replies.is_some() {
            return Err(Fault::precondition("reply consumer already set"));
        }
        let address = ShortStr::truncated(&address);
        channel.replies = Some(ReplyConsumer { tag: tag.clone(), address });
        if !method.no_wait {
            self.send(at, BasicConsumeOk { consumer_tag: tag });
        }
        Ok(())
    }

    /// Adds the address of its channel to a message that wants a direct reply.
    pub(crate) fn with_address(
        &mut self,
        at: At,
        properties: RawProperties,
    ) -> Result<RawProperties, Fault> {
        let wanted = properties.reply_to().ok().flatten();
        if wanted.is_none_or(|reply_to| reply_to != NAME) {
            return Ok(properties);
        }
        let Some(channel) = self.channel(at) else { return Ok(properties) };
        let Some(consumer) = &channel.replies else {
            return Err(Fault::precondition("fast reply consumer does not exist"));
        };
        let Ok(mut addressed) = properties.decode() else { return Ok(properties) };
        addressed.reply_to = Some(consumer.address.clone());
        Ok(RawProperties::from(&addressed))
    }

    /// Returns the channel that waits for replies at an address.
    pub(crate) fn reply_consumer(&mut self, address: &ShortStr) -> Option<At> {
        let rest = address.to_str().ok()?.strip_prefix(NAME)?.strip_prefix('.')?;
        let session = SessionId(rest.split('.').next()?.parse().ok()?);
        let mut channels = self.sessions.get(&session)?.channels.iter();
        let waits = |consumer: &ReplyConsumer| consumer.address == *address;
        let (channel, _) = channels.find(|(_, own)| own.replies.as_ref().is_some_and(waits))?;
        Some(At { session, channel: *channel })
    }

    /// Delivers a reply to the channel that waits for it.
    pub(crate) fn reply(
        &mut self,
        to: At,
        method: &BasicPublish,
        properties: &RawProperties,
        body: Bytes,
    ) {
        if self.session(to.session).is_none_or(|own| own.proto.queued() >= REPLIES_MAX) {
            return;
        }
        let Some(channel) = self.channel(to) else { return };
        let Some(consumer) = &channel.replies else { return };
        let consumer_tag = consumer.tag.clone();
        channel.last_delivery += 1;
        let deliver = BasicDeliver {
            consumer_tag,
            delivery_tag: channel.last_delivery,
            redelivered: false,
            exchange: method.exchange.clone(),
            routing_key: method.routing_key.clone(),
        };
        self.send_content(to, deliver, properties, body);
    }
}
