//! The comparison of two declarations of one exchange or queue, as a broker makes it.

use amqp_proto::method::{ExchangeDeclare, QueueDeclare};
use amqp_proto::{FieldTable, Value};

pub(super) fn same_exchange(one: &ExchangeDeclare, other: &ExchangeDeclare) -> bool {
    one.kind == other.kind
        && (one.durable, one.auto_delete, one.internal)
            == (other.durable, other.auto_delete, other.internal)
        && same_arguments(&one.arguments, &other.arguments)
}

pub(super) fn same_queue(one: &QueueDeclare, other: &QueueDeclare) -> bool {
    (one.durable, one.auto_delete, one.exclusive)
        == (other.durable, other.auto_delete, other.exclusive)
        && same_arguments(&one.arguments, &other.arguments)
}

/// Neither the order of the arguments nor the width of an integer matters to a broker.
fn same_arguments(one: &FieldTable, other: &FieldTable) -> bool {
    let same = |value: &Value, other: &Value| match (value.as_i64(), other.as_i64()) {
        (Some(number), Some(other)) => number == other,
        _ => value == other,
    };
    one.len() == other.len()
        && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(&value, &other)))
}
