//! The arguments of a queue, and those that RabbitMQ refuses.

use std::time::Duration;

use amqp_proto::method::{BasicConsume, QueueDeclare};
use amqp_proto::{FieldTable, ShortStr, Value};

use crate::delayed_retry::DelayedRetry;
use crate::fault::Fault;
use crate::name::Name;

/// The arguments of a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_length: Option<usize>,
    pub(crate) max_bytes: Option<usize>,
    pub(crate) overflow: Overflow,
    pub(crate) dead_letter_exchange: Option<ShortStr>,
    pub(crate) dead_letter_routing_key: Option<ShortStr>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) single_active: bool,
    pub(crate) delivery_limit: Option<i64>,
    pub(crate) delayed_retry: Option<DelayedRetry>,
    /// Messages stay, and each consumer has its own position.
    pub(crate) is_stream: bool,
    /// A quorum queue: deliveries contain the number of times that a message was requeued.
    pub(crate) counts_deliveries: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Classic,
    Quorum,
    Stream,
}

/// The longest time to live, in milliseconds: `?MAX_EXPIRY_TIMER` in RabbitMQ.
const MAX_EXPIRY: u64 = u32::MAX as u64;

impl Limits {
    /// Reads the arguments of a declaration, in the order in which RabbitMQ finds fault with them.
    pub(crate) fn parse(
        name: &Name,
        declare: &QueueDeclare,
        rabbitmq_4_3: bool,
    ) -> Result<Self, Fault> {
        let arguments = &declare.arguments;
        if let Some(value) = arguments.get("x-dead-letter-exchange") {
            if name_of(&value).is_none() {
                return Err(Fault::precondition(format!(
                    "invalid type '{}' for arg 'x-dead-letter-exchange' in queue {name}",
                    type_name(&value)
                )));
            }
        }
        let kind = Kind::parse(name, arguments)?;
        if kind != Kind::Classic && declare.queue.is_empty() {
            return Err(Fault::precondition(format!(
                "Cannot declare a server-named queue for type {}",
                kind.name()
            )));
        }
        let unsupported =
            arguments.iter().find(|(argument, _)| !kind.supports(argument, rabbitmq_4_3));
        if let Some((argument, _)) = unsupported {
            return Err(kind.refuses(&argument, name));
        }
        let mut limits = Self {
            is_stream: kind == Kind::Stream,
            counts_deliveries: kind == Kind::Quorum,
            delayed_retry: DelayedRetry::parse(arguments).filter(|_| rabbitmq_4_3),
            ..Self::default()
        };
        for (argument, value) in arguments {
            limits.set(&argument, &value, rabbitmq_4_3).map_err(|why| {
                Fault::precondition(format!("invalid arg '{argument}' for queue {name}: {why}"))
            })?;
        }
        let has_key = limits.dead_letter_routing_key.is_some();
        if has_key && limits.dead_letter_exchange.is_none() {
            return Err(Fault::precondition(format!(
                "invalid arg 'x-dead-letter-routing-key' for queue {name}: routing_key_but_no_dlx_defined"
            )));
        }
        kind.check_properties(name, declare)?;
        Ok(limits)
    }

    /// Checks the arguments of a consumer of such a queue.
    pub(crate) fn check_consumer(
        &self,
        name: &Name,
        consume: &BasicConsume,
        rabbitmq_4_3: bool,
    ) -> Result<(), Fault> {
        let kind = self.kind();
        for (argument, value) in &consume.arguments {
            let checked = match argument.as_bytes() {
                b"x-priority" if kind != Kind::Stream => integer(&value).map(drop),
                b"x-consumer-timeout" if kind == Kind::Quorum && rabbitmq_4_3 => {
                    number(&value).map(drop)
                }
                _ => Ok(()),
            };
            checked.map_err(|why| {
                Fault::precondition(format!("invalid arg '{argument}' for queue {name}: {why}"))
            })?;
            if !kind.supports_for_consumers(&argument, rabbitmq_4_3) {
                return Err(kind.refuses(&argument, name));
            }
        }
        Ok(())
    }

    const fn kind(&self) -> Kind {
        match (self.is_stream, self.counts_deliveries) {
            (true, _) => Kind::Stream,
            (false, true) => Kind::Quorum,
            (false, false) => Kind::Classic,
        }
    }

    /// Applies one of the arguments, or returns the same error as RabbitMQ.
    fn set(
        &mut self,
        argument: &ShortStr,
        value: &Value,
        rabbitmq_4_3: bool,
    ) -> Result<(), String> {
        match argument.as_bytes() {
            b"x-message-ttl" => self.message_ttl = Some(time(value)?),
            b"x-expires" => match time(value)? {
                Duration::ZERO => return Err("{value_zero,0}".to_owned()),
                time => self.expires = Some(time),
            },
            b"x-max-length" => self.max_length = usize::try_from(number(value)?).ok(),
            b"x-max-length-bytes" => self.max_bytes = usize::try_from(number(value)?).ok(),
            b"x-max-priority" => {
                let number = number(value)?;
                let priority = u8::try_from(number);
                self.max_priority =
                    Some(priority.map_err(|_| format!("{{max_value_exceeded,{number}}}"))?);
            }
            b"x-delivery-limit" => self.delivery_limit = Some(integer(value)?),
            b"x-dead-letter-exchange" => self.dead_letter_exchange = name_of(value),
            b"x-dead-letter-routing-key" => {
                self.dead_letter_routing_key =
                    Some(name_of(value).ok_or_else(|| unacceptable(value))?);
            }
            b"x-single-active-consumer" => {
                self.single_active = value.as_bool().ok_or_else(|| unacceptable(value))?;
            }
            b"x-overflow" => {
                self.overflow = match value.as_str().ok_or_else(|| unacceptable(value))? {
                    "drop-head" => Overflow::DropHead,
                    "reject-publish" => Overflow::RejectPublish,
                    "reject-publish-dlx" => Overflow::RejectPublishDlx,
                    _ => return Err("invalid_overflow".to_owned()),
                };
            }
            b"x-queue-mode" if !rabbitmq_4_3 => {
                match value.as_str().ok_or_else(|| unacceptable(value))? {
                    "default" | "lazy" => {}
                    other => return Err(format!("\"unsupported queue mode '{other}'\"")),
                }
            }
            b"x-queue-version" => match number(value)? {
                1 | 2 => {}
                other => return Err(format!("\"unsupported queue version '{other}'\"")),
            },
            b"x-dead-letter-strategy" => {
                match value.as_str().ok_or_else(|| unacceptable(value))? {
                    "at-most-once" | "at-least-once" => {}
                    _ => return Err("invalid_dlx_strategy".to_owned()),
                }
            }
            b"x-queue-leader-locator" => {
                match value.as_str().ok_or_else(|| unacceptable(value))? {
                    "client-local" | "balanced" | "random" | "least-leaders" => {}
                    "min-masters" if rabbitmq_4_3 => {}
                    _ => return Err("invalid_queue_locator_arg".to_owned()),
                }
            }
            b"x-quorum-initial-group-size" | b"x-initial-cluster-size" if number(value)? == 0 => {
                return Err("{value_zero,0}".to_owned());
            }
            b"x-max-in-memory-length"
            | b"x-max-in-memory-bytes"
            | b"x-stream-max-segment-size-bytes" => {
                number(value)?;
            }
            b"x-consumer-timeout" | b"x-consumer-disconnected-timeout" if rabbitmq_4_3 => {
                number(value)?;
            }
            b"x-max-age" => {
                let age = value.as_str().ok_or_else(|| unacceptable(value))?;
                interval(age).ok_or_else(|| "invalid_max_age".to_owned())?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Kind {
    fn parse(name: &Name, arguments: &FieldTable) -> Result<Self, Fault> {
        let Some(value) = arguments.get("x-queue-type") else { return Ok(Self::Classic) };
        match value.as_str() {
            Some("classic") => Ok(Self::Classic),
            Some("quorum") => Ok(Self::Quorum),
            Some("stream") => Ok(Self::Stream),
            other => {
                let why = match other {
                    Some(other) => format!("\"unsupported queue type '{other}'\""),
                    None => unacceptable(&value),
                };
                let text = format!("invalid arg 'x-queue-type' for queue {name}: {why}");
                Err(Fault::precondition(text))
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    /// Returns whether queues of this type accept such an argument. Arguments that no type knows are ignored.
    fn supports(self, argument: &ShortStr, rabbitmq_4_3: bool) -> bool {
        match argument.as_bytes() {
            b"x-max-priority"
            | b"x-queue-mode"
            | b"x-queue-version"
            | b"x-queue-master-locator" => self == Self::Classic,
            b"x-message-ttl"
            | b"x-expires"
            | b"x-max-length"
            | b"x-overflow"
            | b"x-dead-letter-exchange"
            | b"x-dead-letter-routing-key"
            | b"x-single-active-consumer" => self != Self::Stream,
            b"x-queue-leader-locator" => self != Self::Classic || rabbitmq_4_3,
            b"x-delivery-limit"
            | b"x-quorum-initial-group-size"
            | b"x-dead-letter-strategy"
            | b"x-max-in-memory-length"
            | b"x-max-in-memory-bytes" => self == Self::Quorum,
            b"x-consumer-timeout"
            | b"x-consumer-disconnected-timeout"
            | b"x-delayed-retry-type"
            | b"x-delayed-retry-min"
            | b"x-delayed-retry-max" => self == Self::Quorum || !rabbitmq_4_3,
            b"x-max-age" | b"x-stream-max-segment-size-bytes" | b"x-initial-cluster-size" => {
                self == Self::Stream
            }
            b"x-stream-filter-size-bytes" => self == Self::Stream || !rabbitmq_4_3,
            _ => true,
        }
    }

    /// Like [`supports`](Self::supports), for arguments of consumers.
    fn supports_for_consumers(self, argument: &ShortStr, rabbitmq_4_3: bool) -> bool {
        match argument.as_bytes() {
            b"x-priority" => self != Self::Stream,
            b"x-stream-offset" => self == Self::Stream,
            b"x-cancel-on-ha-failover" => self == Self::Classic || rabbitmq_4_3,
            b"x-stream-filter" | b"x-stream-match-unfiltered" => {
                self == Self::Stream || !rabbitmq_4_3
            }
            b"x-consumer-timeout" => self == Self::Quorum || !rabbitmq_4_3,
            _ => true,
        }
    }

    fn refuses(self, argument: &ShortStr, name: &Name) -> Fault {
        Fault::precondition(format!(
            "invalid arg '{argument}' for queue {name} of queue type {}",
            self.name()
        ))
    }

    /// Checks the properties of a queue: quorum queues and streams are durable, and neither exclusive nor auto-delete.
    fn check_properties(self, name: &Name, declare: &QueueDeclare) -> Result<(), Fault> {
        let properties = [
            ("auto-delete", declare.auto_delete),
            ("exclusive-owner", declare.exclusive),
            ("non-durable", !declare.durable),
        ];
        match properties.into_iter().find(|(_, has)| *has && self != Self::Classic) {
            Some((property, _)) => {
                let text = format!("invalid property '{property}' for queue {name}");
                Err(Fault::precondition(text))
            }
            None => Ok(()),
        }
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    let wrong = || format!("\"expected integer, got {}\"", type_name(value));
    value.as_i64().ok_or_else(wrong)
}

fn number(value: &Value) -> Result<u64, String> {
    let number = integer(value)?;
    u64::try_from(number).map_err(|_| format!("{{value_negative,{number}}}"))
}

fn time(value: &Value) -> Result<Duration, String> {
    match number(value)? {
        number if number > MAX_EXPIRY => Err(format!("{{value_too_large,{number}}}")),
        number => Ok(Duration::from_millis(number)),
    }
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

/// A value that is the name of something: bytes, which need not be UTF-8.
pub(crate) fn name_of(value: &Value) -> Option<ShortStr> {
    match value {
        Value::LongStr(name) => ShortStr::named("name", name.as_bytes()).ok(),
        _ => None,
    }
}

/// Parses a duration such as `"90s"`, with RabbitMQ's units.
pub(crate) fn interval(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        'Y' => 365 * 24 * 60 * 60,
        'M' => 30 * 24 * 60 * 60,
        'D' => 24 * 60 * 60,
        'h' => 60 * 60,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    let count: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    Some(Duration::from_secs(count.saturating_mul(unit)))
}

/// Returns RabbitMQ's name for the type of a value.
pub(crate) const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::LongStr(_) => "longstr",
        Value::Bool(_) => "bool",
        Value::I8(_) => "byte",
        Value::U8(_) => "unsignedbyte",
        Value::I16(_) => "short",
        Value::U16(_) => "unsignedshort",
        Value::I32(_) => "signedint",
        Value::U32(_) => "unsignedint",
        Value::I64(_) => "long",
        Value::F32(_) => "float",
        Value::F64(_) => "double",
        Value::Decimal(_) => "decimal",
        Value::Array(_) => "array",
        Value::Timestamp(_) => "timestamp",
        Value::Table(_) => "table",
        Value::ByteArray(_) => "binary",
        _ => "void",
    }
}
