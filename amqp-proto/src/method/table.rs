use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{
    Arguments, FromReply, MethodFacts, Request, argument, end, finish, packed_bits, sealed,
};
use crate::wire::{
    DecodeError, DecodeErrorKind, FieldTable, LongStr, Secret, ShortStr, Wire, bit_set,
};

methods! {
    /// Starts the negotiation: the server's properties and the mechanisms to log in.
    ConnectionStart "connection.start" = (10, 10) => ConnectionStartOk {
        /// 0.
        version_major: u8,
        /// 9.
        version_minor: u8,
        /// Product, version, platform, `capabilities`, `cluster_name`.
        server_properties: FieldTable,
        /// SASL mechanisms, separated by spaces.
        mechanisms: LongStr,
        /// Locales of reply texts, separated by spaces.
        locales: LongStr,
    }
    /// Answers [`ConnectionStart`]: selects the mechanism and logs in.
    ConnectionStartOk "connection.start-ok" = (10, 11) {
        /// Product, version, platform, `capabilities`, `connection_name`.
        client_properties: FieldTable,
        /// The SASL mechanism chosen.
        mechanism: ShortStr,
        /// The first response of that mechanism.
        response: Secret,
        /// The locale chosen.
        locale: ShortStr,
    }
    /// Starts one more round of the SASL exchange.
    ConnectionSecure "connection.secure" = (10, 20) => ConnectionSecureOk {
        /// The challenge, to which the client's mechanism responds.
        challenge: LongStr,
    }
    /// Answers [`ConnectionSecure`].
    ConnectionSecureOk "connection.secure-ok" = (10, 21) {
        /// The response of the mechanism.
        response: Secret,
    }
    /// Proposes limits.
    ConnectionTune "connection.tune" = (10, 30) => ConnectionTuneOk {
        /// The highest channel number; 0 is no limit.
        channel_max: u16,
        /// The largest frame in bytes, overhead included; 0 is no limit.
        frame_max: u32,
        /// The heartbeat timeout in seconds; 0 asks for none.
        heartbeat: u16,
    }
    /// Answers [`ConnectionTune`] with the limits that hold from now on.
    ConnectionTuneOk "connection.tune-ok" = (10, 31) {
        /// The highest channel number; 0 is no limit.
        channel_max: u16,
        /// The largest frame in bytes, overhead included; 0 is no limit.
        frame_max: u32,
        /// The heartbeat timeout in seconds; 0 is none.
        heartbeat: u16,
    }
    /// Selects a virtual host.
    ConnectionOpen "connection.open" = (10, 40) => ConnectionOpenOk {
        /// The virtual host.
        virtual_host: ShortStr,
        /// Reserved; empty.
        reserved_1: ShortStr;
        [
            /// Reserved; false.
            reserved_2,
        ]
    }
    /// Answers [`ConnectionOpen`]: the connection is ready.
    ConnectionOpenOk "connection.open-ok" = (10, 41) {
        /// Reserved; empty.
        reserved_1: ShortStr,
    }
    /// Ends the connection.
    ConnectionClose "connection.close" = (10, 50) => ConnectionCloseOk {
        /// The reason, as a number.
        reply_code: u16,
        /// The reason, as text.
        reply_text: ShortStr,
        /// The class of the method that caused it, or 0.
        class_id: u16,
        /// The method that caused it, or 0.
        method_id: u16,
    }
    /// Answers [`ConnectionClose`]: nothing follows.
    ConnectionCloseOk "connection.close-ok" = (10, 51) {}
    /// RabbitMQ: the broker is short of resources and stops reading from connections that publish.
    ConnectionBlocked "connection.blocked" = (10, 60) {
        /// The resource that is short.
        reason: ShortStr,
    }
    /// RabbitMQ: publishing is allowed again.
    ConnectionUnblocked "connection.unblocked" = (10, 61) {}
    /// RabbitMQ: replaces the secret of a running connection, before a token expires.
    ConnectionUpdateSecret "connection.update-secret" = (10, 70) => ConnectionUpdateSecretOk {
        /// The new password or token.
        new_secret: Secret,
        /// The reason of the change; for logs.
        reason: ShortStr,
    }
    /// Answers [`ConnectionUpdateSecret`].
    ConnectionUpdateSecretOk "connection.update-secret-ok" = (10, 71) {}

    /// Opens a channel.
    ChannelOpen "channel.open" = (20, 10) => ChannelOpenOk {
        /// Reserved; empty.
        reserved_1: ShortStr,
    }
    /// Answers [`ChannelOpen`].
    ChannelOpenOk "channel.open-ok" = (20, 11) {
        /// Reserved; empty.
        reserved_1: LongStr,
    }
    /// Requests the peer to pause or resume sending content.
    ///
    /// RabbitMQ: clients cannot stop the server's content with it; use prefetch.
    ChannelFlow "channel.flow" = (20, 20) -> ChannelFlowOk {;
        [
            /// Go on (true) or pause (false).
            active,
        ]
    }
    /// Answers [`ChannelFlow`].
    ChannelFlowOk "channel.flow-ok" = (20, 21) {;
        [
            /// True if content flows now.
            active,
        ]
    }
    /// Ends a channel.
    ChannelClose "channel.close" = (20, 40) => ChannelCloseOk {
        /// The reason, as a number.
        reply_code: u16,
        /// The reason, as text.
        reply_text: ShortStr,
        /// The class of the method that caused it, or 0.
        class_id: u16,
        /// The method that caused it, or 0.
        method_id: u16,
    }
    /// Answers [`ChannelClose`]: the channel's number is free again.
    ChannelCloseOk "channel.close-ok" = (20, 41) {}

    /// Legacy of AMQP 0-8: requests an access ticket. RabbitMQ replies with ticket 1.
    AccessRequest "access.request" = (30, 10) -> AccessRequestOk {
        /// The realm to access.
        realm: ShortStr;
        [
            /// Exclusive access.
            exclusive,
            /// Passive access.
            passive,
            /// Active access.
            active,
            /// Write access.
            write,
            /// Read access.
            read,
        ]
    }
    /// Answers [`AccessRequest`].
    AccessRequestOk "access.request-ok" = (30, 11) {
        /// The ticket.
        reserved_1: u16,
    }

    /// Creates an exchange, or checks that one exists.
    ExchangeDeclare "exchange.declare" = (40, 10) -> ExchangeDeclareOk {
        /// Reserved; 0.
        ticket: u16,
        /// Name of the exchange; `amq.` starts are the broker's.
        exchange: ShortStr,
        /// The type, which determines the routing: `direct`, `fanout`, `topic`, `headers`, or a plugin's.
        kind: ShortStr;
        [
            /// Only check that it exists.
            passive,
            /// The exchange survives a restart of the broker.
            durable,
            /// The exchange is deleted when its last binding is removed.
            auto_delete,
            /// Only other exchanges may publish to it.
            internal,
            /// The server sends no reply.
            no_wait,
        ];
        /// `alternate-exchange` and what plugins take.
        arguments: FieldTable,
    }
    /// Answers [`ExchangeDeclare`].
    ExchangeDeclareOk "exchange.declare-ok" = (40, 11) {}
    /// Deletes an exchange.
    ExchangeDelete "exchange.delete" = (40, 20) -> ExchangeDeleteOk {
        /// Reserved; 0.
        ticket: u16,
        /// Name of the exchange.
        exchange: ShortStr;
        [
            /// Only if nothing is bound to it.
            if_unused,
            /// The server sends no reply.
            no_wait,
        ]
    }
    /// Answers [`ExchangeDelete`].
    ExchangeDeleteOk "exchange.delete-ok" = (40, 21) {}
    /// RabbitMQ: binds an exchange to an exchange.
    ExchangeBind "exchange.bind" = (40, 30) boxed -> ExchangeBindOk {
        /// Reserved; 0.
        ticket: u16,
        /// The exchange that messages reach.
        destination: ShortStr,
        /// The exchange they come from.
        source: ShortStr,
        /// The key to match, as the kind of the source defines it.
        routing_key: ShortStr;
        [
            /// The server sends no reply.
            no_wait,
        ];
        /// The headers to match, for a headers exchange.
        arguments: FieldTable,
    }
    /// Answers [`ExchangeBind`].
    ExchangeBindOk "exchange.bind-ok" = (40, 31) {}
    /// RabbitMQ: removes a binding between exchanges.
    ExchangeUnbind "exchange.unbind" = (40, 40) boxed -> ExchangeUnbindOk {
        /// Reserved; 0.
        ticket: u16,
        /// The exchange that messages reached.
        destination: ShortStr,
        /// The exchange they came from.
        source: ShortStr,
        /// The routing key of the binding.
        routing_key: ShortStr;
        [
            /// The server sends no reply.
            no_wait,
        ];
        /// The arguments of the binding.
        arguments: FieldTable,
    }
    /// Answers [`ExchangeUnbind`].
    ExchangeUnbindOk "exchange.unbind-ok" = (40, 51) {}

    /// Creates a queue, or checks that one exists.
    QueueDeclare "queue.declare" = (50, 10) -> QueueDeclareOk {
        /// Reserved; 0.
        ticket: u16,
        /// Name of the queue; empty lets the server choose one.
        queue: ShortStr;
        [
            /// Only check that it exists.
            passive,
            /// The queue survives a restart of the broker.
            durable,
            /// Only this connection may use it, and it goes with the connection.
            exclusive,
            /// The queue is deleted when its last consumer is cancelled.
            auto_delete,
            /// The server sends no reply.
            no_wait,
        ];
        /// `x-queue-type`, `x-message-ttl`, `x-max-length`...
        arguments: FieldTable,
    }
    /// Answers [`QueueDeclare`].
    QueueDeclareOk "queue.declare-ok" = (50, 11) {
        /// Name of the queue, chosen by the server if the declaration had none.
        queue: ShortStr,
        /// Messages ready for delivery.
        message_count: u32,
        /// Consumers that take messages.
        consumer_count: u32,
    }
    /// Binds a queue to an exchange.
    QueueBind "queue.bind" = (50, 20) boxed -> QueueBindOk {
        /// Reserved; 0.
        ticket: u16,
        /// The queue; empty means the last one declared on this channel.
        queue: ShortStr,
        /// The exchange that messages come from.
        exchange: ShortStr,
        /// The key to match, as the kind of the exchange defines it.
        routing_key: ShortStr;
        [
            /// The server sends no reply.
            no_wait,
        ];
        /// The headers to match, for a headers exchange.
        arguments: FieldTable,
    }
    /// Answers [`QueueBind`].
    QueueBindOk "queue.bind-ok" = (50, 21) {}
    /// Drops the messages of a queue that wait for delivery.
    QueuePurge "queue.purge" = (50, 30) -> QueuePurgeOk {
        /// Reserved; 0.
        ticket: u16,
        /// The queue.
        queue: ShortStr;
        [
            /// The server sends no reply.
            no_wait,
        ]
    }
    /// Answers [`QueuePurge`].
    QueuePurgeOk "queue.purge-ok" = (50, 31) {
        /// Number of messages that were dropped.
        message_count: u32,
    }
    /// Deletes a queue.
    QueueDelete "queue.delete" = (50, 40) -> QueueDeleteOk {
        /// Reserved; 0.
        ticket: u16,
        /// The queue.
        queue: ShortStr;
        [
            /// Only if it has no consumers.
            if_unused,
            /// Only if it has no messages.
            if_empty,
            /// The server sends no reply.
            no_wait,
        ]
    }
    /// Answers [`QueueDelete`].
    QueueDeleteOk "queue.delete-ok" = (50, 41) {
        /// Number of messages that were deleted with the queue.
        message_count: u32,
    }
    /// Removes a binding of a queue.
    QueueUnbind "queue.unbind" = (50, 50) boxed -> QueueUnbindOk {
        /// Reserved; 0.
        ticket: u16,
        /// The queue.
        queue: ShortStr,
        /// The exchange.
        exchange: ShortStr,
        /// The routing key of the binding.
        routing_key: ShortStr,
        /// The arguments of the binding.
        arguments: FieldTable,
    }
    /// Answers [`QueueUnbind`].
    QueueUnbindOk "queue.unbind-ok" = (50, 51) {}

    /// Limits how much may be delivered without being acknowledged.
    BasicQos "basic.qos" = (60, 10) -> BasicQosOk {
        /// Bytes in flight; RabbitMQ knows only 0, no limit.
        prefetch_size: u32,
        /// Messages in flight; 0 is no limit.
        prefetch_count: u16;
        [
            /// RabbitMQ: for the channel as a whole instead of for each new consumer. Denied by RabbitMQ 4.3.
            global,
        ]
    }
    /// Answers [`BasicQos`].
    BasicQosOk "basic.qos-ok" = (60, 11) {}
    /// Starts a consumer.
    BasicConsume "basic.consume" = (60, 20) -> BasicConsumeOk {
        /// Reserved; 0.
        ticket: u16,
        /// The queue.
        queue: ShortStr,
        /// Names the consumer within the channel; empty lets the server choose.
        consumer_tag: ShortStr;
        [
            /// Do not deliver messages that this connection publishes. RabbitMQ ignores it.
            no_local,
            /// Deliveries need no acknowledgement.
            no_ack,
            /// No other consumer may use the queue.
            exclusive,
            /// The server sends no reply.
            no_wait,
        ];
        /// `x-priority`, `x-stream-offset`...
        arguments: FieldTable,
    }
    /// Answers [`BasicConsume`].
    BasicConsumeOk "basic.consume-ok" = (60, 21) {
        /// The consumer's name.
        consumer_tag: ShortStr,
    }
    /// Ends a consumer. RabbitMQ also sends it, when the queue goes away.
    BasicCancel "basic.cancel" = (60, 30) -> BasicCancelOk {
        /// The consumer's name.
        consumer_tag: ShortStr;
        [
            /// The receiver sends no reply.
            no_wait,
        ]
    }
    /// Answers [`BasicCancel`].
    BasicCancelOk "basic.cancel-ok" = (60, 31) {
        /// The consumer's name.
        consumer_tag: ShortStr,
    }
    /// Publishes a message.
    BasicPublish "basic.publish" = (60, 40) content {
        /// Reserved; 0.
        ticket: u16,
        /// The exchange; empty is the default one, which routes by queue name.
        exchange: ShortStr,
        /// The key by which the exchange routes.
        routing_key: ShortStr;
        [
            /// Return the message if it reaches no queue.
            mandatory,
            /// RabbitMQ refuses it.
            immediate,
        ]
    }
    /// Hands back a mandatory message that reached no queue.
    BasicReturn "basic.return" = (60, 50) content {
        /// The reason, as a number.
        reply_code: u16,
        /// The reason, as text.
        reply_text: ShortStr,
        /// The exchange it was published to.
        exchange: ShortStr,
        /// The routing key it was published with.
        routing_key: ShortStr,
    }
    /// Delivers a message to a consumer.
    BasicDeliver "basic.deliver" = (60, 60) content {
        /// The consumer's name.
        consumer_tag: ShortStr,
        /// Numbers the deliveries of the channel.
        delivery_tag: u64;
        [
            /// The message was delivered before, here or elsewhere.
            redelivered,
        ];
        /// The exchange it was published to.
        exchange: ShortStr,
        /// The routing key it was published with.
        routing_key: ShortStr,
    }
    /// Fetches one message.
    BasicGet "basic.get" = (60, 70) -> BasicGetOk | BasicGetEmpty as GetReply {
        /// Reserved; 0.
        ticket: u16,
        /// The queue.
        queue: ShortStr;
        [
            /// The message needs no acknowledgement.
            no_ack,
        ]
    }
    /// Answers [`BasicGet`] with a message.
    BasicGetOk "basic.get-ok" = (60, 71) content {
        /// Numbers the deliveries of the channel.
        delivery_tag: u64;
        [
            /// The message was delivered before, here or elsewhere.
            redelivered,
        ];
        /// The exchange it was published to.
        exchange: ShortStr,
        /// The routing key it was published with.
        routing_key: ShortStr,
        /// Messages left in the queue.
        message_count: u32,
    }
    /// Answers [`BasicGet`]: the queue is empty.
    BasicGetEmpty "basic.get-empty" = (60, 72) {
        /// Reserved; empty.
        reserved_1: ShortStr,
    }
    /// Acknowledges deliveries; from the server, confirms publishes.
    BasicAck "basic.ack" = (60, 80) {
        /// The delivery, or the publish.
        delivery_tag: u64;
        [
            /// And all before it; with tag 0, all there are.
            multiple,
        ]
    }
    /// Rejects one delivery: requeued, or else dropped or dead-lettered.
    BasicReject "basic.reject" = (60, 90) {
        /// The delivery.
        delivery_tag: u64;
        [
            /// Put it back into the queue; else drop or dead-letter it.
            requeue,
        ]
    }
    /// Like [`BasicRecover`], without a reply. Deprecated.
    BasicRecoverAsync "basic.recover-async" = (60, 100) {;
        [
            /// Deliver to any consumer; RabbitMQ knows only true.
            requeue,
        ]
    }
    /// Requests all unacknowledged deliveries of the channel again.
    BasicRecover "basic.recover" = (60, 110) -> BasicRecoverOk {;
        [
            /// Deliver to any consumer; RabbitMQ knows only true.
            requeue,
        ]
    }
    /// Answers [`BasicRecover`].
    BasicRecoverOk "basic.recover-ok" = (60, 111) {}
    /// RabbitMQ: requeues deliveries. From the server: it has not taken responsibility for publishes.
    BasicNack "basic.nack" = (60, 120) {
        /// The delivery, or the publish.
        delivery_tag: u64;
        [
            /// And all before it; with tag 0, all there are.
            multiple,
            /// Put them back into the queue; else drop or dead-letter them.
            requeue,
        ]
    }

    /// Makes the channel transactional.
    TxSelect "tx.select" = (90, 10) -> TxSelectOk {}
    /// Answers [`TxSelect`].
    TxSelectOk "tx.select-ok" = (90, 11) {}
    /// Commits publishes and acknowledgements since the last commit or rollback.
    TxCommit "tx.commit" = (90, 20) -> TxCommitOk {}
    /// Answers [`TxCommit`].
    TxCommitOk "tx.commit-ok" = (90, 21) {}
    /// Abandons publishes and acknowledgements since the last commit or rollback.
    TxRollback "tx.rollback" = (90, 30) -> TxRollbackOk {}
    /// Answers [`TxRollback`].
    TxRollbackOk "tx.rollback-ok" = (90, 31) {}

    /// RabbitMQ: makes the server confirm every publish of the channel.
    ConfirmSelect "confirm.select" = (85, 10) -> ConfirmSelectOk {;
        [
            /// The server sends no reply.
            no_wait,
        ]
    }
    /// Answers [`ConfirmSelect`].
    ConfirmSelectOk "confirm.select-ok" = (85, 11) {}
}
