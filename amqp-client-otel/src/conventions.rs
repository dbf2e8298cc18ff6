//! Names of OpenTelemetry's semantic conventions for messaging, version 1.44 (status: development).

pub(crate) const SYSTEM: &str = "messaging.system";
pub(crate) const OPERATION_NAME: &str = "messaging.operation.name";
pub(crate) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(crate) const DESTINATION_NAME: &str = "messaging.destination.name";
pub(crate) const DESTINATION_ANONYMOUS: &str = "messaging.destination.anonymous";
pub(crate) const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
pub(crate) const DELIVERY_TAG: &str = "messaging.rabbitmq.message.delivery_tag";
pub(crate) const MESSAGE_ID: &str = "messaging.message.id";
pub(crate) const CONVERSATION_ID: &str = "messaging.message.conversation_id";
pub(crate) const BODY_SIZE: &str = "messaging.message.body.size";
pub(crate) const BATCH_COUNT: &str = "messaging.batch.message_count";
pub(crate) const CLIENT_ID: &str = "messaging.client.id";
pub(crate) const SERVER_ADDRESS: &str = "server.address";
pub(crate) const SERVER_PORT: &str = "server.port";
pub(crate) const ERROR_TYPE: &str = "error.type";

pub(crate) const RABBITMQ: &str = "rabbitmq";

pub(crate) const OPERATION_DURATION: &str = "messaging.client.operation.duration";
pub(crate) const PROCESS_DURATION: &str = "messaging.process.duration";
pub(crate) const SENT_MESSAGES: &str = "messaging.client.sent.messages";
pub(crate) const CONSUMED_MESSAGES: &str = "messaging.client.consumed.messages";

/// Boundaries of both histograms, in seconds.
pub(crate) const BOUNDARIES: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The operation that a span describes: `messaging.operation.name` and `messaging.operation.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
}

pub(crate) const CREATE: Operation = Operation { name: "create", kind: "create" };
pub(crate) const PUBLISH: Operation = Operation { name: "publish", kind: "send" };
pub(crate) const RECEIVE: Operation = Operation { name: "receive", kind: "receive" };
pub(crate) const PROCESS: Operation = Operation { name: "process", kind: "process" };
pub(crate) const ACK: Operation = Operation { name: "ack", kind: "settle" };
pub(crate) const NACK: Operation = Operation { name: "nack", kind: "settle" };
pub(crate) const REJECT: Operation = Operation { name: "reject", kind: "settle" };
