use amqp_proto::ReplyCode;

use crate::name::Name;

/// The reason why a request is refused, and whether the channel or the connection is closed. The texts are RabbitMQ's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) scope: Scope,
    pub(crate) code: ReplyCode,
    pub(crate) text: String,
}

/// The scope of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has no other")]
pub enum Scope {
    /// The channel of the request.
    Channel,
    /// The whole connection.
    Connection,
}

impl Fault {
    fn channel(code: ReplyCode, text: String) -> Self {
        Self::new(Scope::Channel, code, &text)
    }

    fn new(scope: Scope, code: ReplyCode, text: &str) -> Self {
        let text = format!("{} - {text}", code.name().unwrap_or("ERROR"));
        Self { scope, code, text }
    }

    pub(crate) fn no_queue(name: &Name) -> Self {
        Self::channel(ReplyCode::NOT_FOUND, format!("no queue {name}"))
    }

    pub(crate) fn no_exchange(name: &Name) -> Self {
        Self::channel(ReplyCode::NOT_FOUND, format!("no exchange {name}"))
    }

    pub(crate) fn locked(name: &Name) -> Self {
        let text = format!(
            "cannot obtain exclusive access to locked queue {name}. It could be originally declared on \
             another connection or the exclusive property value does not match that of the original declaration."
        );
        Self::channel(ReplyCode::RESOURCE_LOCKED, text)
    }

    /// A request for one message of a quorum queue with a single active consumer.
    pub(crate) fn single_active(name: &Name, rabbitmq_4_3: bool) -> Self {
        let kind = if rabbitmq_4_3 { "<<\"quorum\">>" } else { "quorum" };
        let text = format!(
            "cannot obtain access to locked queue {name}. basic.get operations are not supported by {kind} queues with \
             single active consumer"
        );
        Self::channel(ReplyCode::RESOURCE_LOCKED, text)
    }

    pub(crate) fn reserved(kind: &str, name: &Name) -> Self {
        let text = format!("{kind} name '{}' contains reserved prefix 'amq.*'", name.text);
        Self::channel(ReplyCode::ACCESS_REFUSED, text)
    }

    pub(crate) fn inequivalent(
        argument: &str,
        kind: &str,
        name: &Name,
        received: &str,
        current: &str,
    ) -> Self {
        Self::precondition(format!(
            "inequivalent arg '{argument}' for {kind} {name}: received {received} but current is {current}"
        ))
    }

    pub(crate) fn precondition(text: impl Into<String>) -> Self {
        Self::channel(ReplyCode::PRECONDITION_FAILED, text.into())
    }

    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::channel(ReplyCode::ACCESS_REFUSED, text.into())
    }

    pub(crate) fn internal(text: &str) -> Self {
        Self::channel(ReplyCode::INTERNAL_ERROR, text.to_owned())
    }

    pub(crate) fn not_allowed(text: &str) -> Self {
        Self::new(Scope::Connection, ReplyCode::NOT_ALLOWED, text)
    }

    pub(crate) fn not_implemented(text: &str) -> Self {
        Self::new(Scope::Connection, ReplyCode::NOT_IMPLEMENTED, text)
    }

    pub(crate) fn invalid(text: &str) -> Self {
        Self::new(Scope::Connection, ReplyCode::COMMAND_INVALID, text)
    }
}
