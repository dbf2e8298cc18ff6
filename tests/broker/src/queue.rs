use std::collections::VecDeque;
use std::time::{Duration, Instant};

use amqp_proto::{ChannelId, FieldTable, ShortStr, Value};

use crate::SessionId;
use crate::fault::Fault;
use crate::message::Message;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) durable: bool,
    /// The session that has it to itself.
    pub(crate) owner: Option<SessionId>,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) limits: Limits,
    /// Ready for delivery.
    pub(crate) messages: VecDeque<Message>,
    /// Those of higher priority first.
    pub(crate) consumers: Vec<Consumer>,
    /// When it was last declared, got from, or left by a consumer.
    pub(crate) last_used: Instant,
}

/// What the arguments of a queue say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_length: Option<usize>,
    pub(crate) max_octets: Option<usize>,
    pub(crate) overflow: Overflow,
    pub(crate) dead_letter_exchange: Option<ShortStr>,
    pub(crate) dead_letter_routing_key: Option<ShortStr>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) single_active: bool,
    pub(crate) delivery_limit: Option<u32>,
    /// Messages stay, and each consumer reads for itself.
    pub(crate) is_stream: bool,
    /// A quorum queue: deliveries say how often a message came back.
    pub(crate) counts_deliveries: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

/// Somebody who takes messages.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
    pub(crate) tag: ShortStr,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) priority: i64,
    /// What it reads next, if the queue is a stream.
    pub(crate) offset: usize,
}

impl Limits {
    /// Reads the arguments of a declaration.
    pub(crate) fn parse(arguments: &FieldTable) -> Result<Self, Fault> {
        let mut limits = Self::default();
        for (name, value) in arguments {
            let name = name.to_string();
            let number = || number(&name, &value);
            let text = || text(&name, &value);
            match name.as_str() {
                "x-message-ttl" => limits.message_ttl = Some(Duration::from_millis(number()?)),
                "x-expires" => limits.expires = Some(Duration::from_millis(number()?)),
                "x-max-length" => limits.max_length = usize::try_from(number()?).ok(),
                "x-max-length-bytes" => limits.max_octets = usize::try_from(number()?).ok(),
                "x-max-priority" => limits.max_priority = u8::try_from(number()?).ok(),
                "x-delivery-limit" => limits.delivery_limit = u32::try_from(number()?).ok(),
                "x-dead-letter-exchange" => {
                    limits.dead_letter_exchange = Some(ShortStr::truncated(&text()?));
                }
                "x-dead-letter-routing-key" => {
                    limits.dead_letter_routing_key = Some(ShortStr::truncated(&text()?));
                }
                "x-single-active-consumer" => {
                    limits.single_active = value.as_bool().unwrap_or(false);
                }
                "x-overflow" => {
                    limits.overflow = match text()?.as_str() {
                        "drop-head" => Overflow::DropHead,
                        "reject-publish" => Overflow::RejectPublish,
                        "reject-publish-dlx" => Overflow::RejectPublishDlx,
                        other => {
                            return Err(invalid(
                                &name,
                                &format!("{{invalid_overflow,<<\"{other}\">>}}"),
                            ));
                        }
                    };
                }
                "x-queue-type" => match text()?.as_str() {
                    "classic" => {}
                    "quorum" => limits.counts_deliveries = true,
                    "stream" => limits.is_stream = true,
                    other => {
                        let text = format!("queue type '{other}' is not kept in memory");
                        return Err(Fault::not_implemented(&text));
                    }
                },
                _ => {}
            }
        }
        Ok(limits)
    }
}

fn number(name: &str, value: &Value) -> Result<u64, Fault> {
    match value.as_i64() {
        Some(number) => u64::try_from(number)
            .map_err(|_| invalid(name, &format!("{{value_negative,{number}}}"))),
        None => Err(invalid(name, "{unacceptable_type,value}")),
    }
}

fn text(name: &str, value: &Value) -> Result<String, Fault> {
    value.as_str().map(str::to_owned).ok_or_else(|| invalid(name, "{unacceptable_type,value}"))
}

fn invalid(name: &str, why: &str) -> Fault {
    Fault::precondition(format!("invalid arg '{name}' for queue in vhost '/': {why}"))
}

impl Queue {
    pub(crate) fn new(arguments: FieldTable, limits: Limits, now: Instant) -> Self {
        Self {
            durable: false,
            owner: None,
            auto_delete: false,
            arguments,
            limits,
            messages: VecDeque::new(),
            consumers: Vec::new(),
            last_used: now,
        }
    }

    /// Puts a message where it belongs: behind those of its priority that came before it.
    pub(crate) fn put(&mut self, message: Message) {
        let place = (std::cmp::Reverse(message.priority), message.order);
        let index = self
            .messages
            .partition_point(|other| (std::cmp::Reverse(other.priority), other.order) < place);
        self.messages.insert(index, message);
    }

    /// Whether one more message of that size would be too much.
    pub(crate) fn is_full(&self, size: usize) -> bool {
        let octets = || self.messages.iter().map(|message| message.body.len()).sum::<usize>();
        self.limits.max_length.is_some_and(|max| self.messages.len() >= max)
            || self.limits.max_octets.is_some_and(|max| octets() + size > max)
    }

    /// Whether it holds more than it may.
    pub(crate) fn overflows(&self) -> bool {
        let octets = || self.messages.iter().map(|message| message.body.len()).sum::<usize>();
        self.limits.max_length.is_some_and(|max| self.messages.len() > max)
            || self.limits.max_octets.is_some_and(|max| octets() > max)
    }

    /// Adds a consumer behind those of its priority.
    pub(crate) fn add(&mut self, consumer: Consumer) {
        let index = self.consumers.partition_point(|other| other.priority >= consumer.priority);
        self.consumers.insert(index, consumer);
    }

    /// The consumer at `index` got a message: others of its priority come first now.
    pub(crate) fn served(&mut self, index: usize) {
        let priority = self.consumers[index].priority;
        let consumer = self.consumers.remove(index);
        let end = self.consumers.partition_point(|other| other.priority >= priority);
        self.consumers.insert(end, consumer);
    }

    /// When something happens to it by itself.
    pub(crate) fn due(&self) -> Option<Instant> {
        let message = self.messages.front().and_then(|message| message.expires_at);
        let unused = self.consumers.is_empty().then_some(self.limits.expires).flatten();
        let gone = unused.and_then(|expires| self.last_used.checked_add(expires));
        message.into_iter().chain(gone).min()
    }
}
