//! The commands of tasks, as data, so that a script can be printed and can lose any part of it.
//!
//! Commands name channels, consumers and queues by small numbers, modulo their count: so a command is valid whatever was dropped
//! before it.

use std::time::Duration;

use amqp_client_core::proto::Oversized;
use amqp_client_core::{OnPanic, StreamOffset};

use amqp_test_broker::Verdict;

use super::acts::Act;
use crate::script::Fault;
use crate::wire::Conditions;

/// The largest body that some clients take.
pub(crate) const BODY_MAX: usize = 4_000;

/// A run: nodes, clients, the commands of their tasks, and the faults.
#[derive(Debug, Clone)]
pub struct Exploration {
    pub(crate) seed: u64,
    pub(crate) conditions: Conditions,
    /// True if transports are inside of TLS sessions.
    pub(crate) tls: bool,
    pub(crate) heartbeat: Duration,
    /// True if quorum queues count failed deliveries only.
    pub(crate) counts_failures: bool,
    /// The delivery limit of the quorum queue.
    pub(crate) delivery_limit: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Policy>,
    pub(crate) tasks: Vec<Plan>,
    pub(crate) faults: Vec<Fault>,
}

impl Exploration {
    /// Returns whether the users' code panics: handlers, callbacks and sources of tokens.
    pub(crate) const fn panics(&self) -> bool {
        self.seed % 5 == 4
    }

    /// The number of failures that a message survives, if `basic.nack` does not count as a failure and the broker supports it.
    pub(crate) fn blameless(&self) -> Option<u32> {
        let nack = self.nodes.iter().all(|node| node.nack);
        (self.counts_failures && nack).then_some(self.delivery_limit)
    }

    /// The way in which clients settle bodies above their limit.
    pub(crate) fn settles_large(&self) -> impl Iterator<Item = Verdict> {
        self.clients.iter().filter_map(|client| match client.oversized? {
            Oversized::Requeue => Some(Verdict::Blamed),
            Oversized::Reject => Some(Verdict::Rejected),
            _ => None,
        })
    }
}

/// The differences between nodes.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat: Duration,
    /// True if it knows `basic.nack`.
    pub(crate) nack: bool,
}

/// The configuration of a client.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// The timeout for replies and confirms.
    pub(crate) timeout: Option<Duration>,
    pub(crate) delivery_budget: usize,
    pub(crate) frame_max: u32,
    /// Its policy for a body of more than [`BODY_MAX`] bytes, if it has such a limit.
    pub(crate) oversized: Option<Oversized>,
    /// The lifetime of its tokens and the behaviour of its token source, if it has one.
    pub(crate) tokens: Option<Tokens>,
    /// The recovery of its connections, if they are recovered.
    pub(crate) recovery: Option<Recovering>,
}

/// A source of tokens.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) valid_for: Duration,
    /// Its replies, repeated in this order.
    pub(crate) replies: Vec<TokenReply>,
}

/// A reply of a token source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenReply {
    Done,
    Late(Duration),
    Fails,
    Never,
    Panics,
}

#[derive(Debug, Clone)]
pub(crate) struct Recovering {
    pub(crate) reopen_channels: bool,
    pub(crate) resubscribe: bool,
    /// The time until a locked queue is retried; `None` is failure.
    pub(crate) locked: Option<Duration>,
    pub(crate) keep_max: usize,
    /// The delay after the first failure and the longest one, if they are not left as they are.
    pub(crate) delays: Option<(Duration, Duration)>,
    /// True if the first declaration of a locked queue is tried again, too.
    pub(crate) retry_locked: bool,
    pub(crate) give_up_after: Option<Duration>,
    /// Maximum number of attempts.
    pub(crate) attempts_max: Option<u32>,
    /// True if the first connection is retried like any other.
    pub(crate) retry_open: bool,
}

/// The work of a task.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Whose task it is. The tasks of a client share its connection, channels, consumers and deliveries.
    pub(crate) client: usize,
    /// It drops one in so many futures before they are done.
    pub(crate) cancel: Option<u32>,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Pause(Duration),
    /// Opens a channel in a slot that has none, on a new connection if there is no other.
    Open {
        slot: usize,
        unrecovered: bool,
    },
    Close {
        slot: usize,
        how: Closing,
    },
    Declare {
        channel: usize,
        queue: Name,
        by: By,
    },
    DeleteQueue {
        channel: usize,
        queue: Name,
        by: By,
    },
    Purge {
        channel: usize,
        queue: Name,
    },
    Bind {
        channel: usize,
        queue: Name,
        exchange: usize,
        unbind: bool,
    },
    DeclareExchange {
        channel: usize,
        exchange: usize,
    },
    DeleteExchange {
        channel: usize,
        exchange: usize,
    },
    Qos {
        channel: usize,
        prefetch: u16,
        global: bool,
    },
    Flow {
        channel: usize,
    },
    Recover {
        channel: usize,
    },
    Publish {
        channel: usize,
        exchange: usize,
        queue: Name,
        manner: Manner,
        message: Shape,
    },
    /// Awaits some of the confirmations that there are.
    Confirm {
        count: usize,
    },
    /// Gives some of the messages up that are not confirmed yet.
    Withdraw {
        count: usize,
    },
    WaitForConfirms {
        channel: usize,
    },
    Consume {
        channel: usize,
        queue: Name,
        kind: Kind,
        by: By,
    },
    /// Takes deliveries from a consumer for a while.
    Take {
        consumer: usize,
        count: usize,
        wait: Duration,
    },
    /// Settles deliveries of a consumer as soon as they come.
    Handle {
        consumer: usize,
        count: usize,
        wait: Duration,
        how: Settling,
    },
    /// Handles a consumer's deliveries, several at the same time. One handler in so many panics.
    HandleAll {
        consumer: usize,
        limit: usize,
        wait: Duration,
        on_panic: OnPanic,
        panics: u32,
    },
    Cancel {
        consumer: usize,
        how: Cancelling,
    },
    DropConsumer {
        consumer: usize,
    },
    /// Settles some of the deliveries that were taken, in any order.
    Settle {
        count: usize,
        pick: usize,
        how: Settling,
    },
    Get {
        channel: usize,
        queue: Name,
        no_ack: bool,
    },
    /// On a transactional channel of the task's own.
    Transact {
        queue: Name,
        publishes: usize,
        gets: usize,
        end: End,
        by_hand: bool,
    },
    /// The methods of transactions, on a channel that all tasks share.
    Tx {
        channel: usize,
        step: Step,
        how: Ending,
    },
    /// Begins to wait for something that does not happen, and drops the future.
    Watch,
    Listen {
        channel: usize,
    },
    /// Has something called when the connection or the channel closes.
    OnClose {
        channel: Option<usize>,
    },
    /// Has something called after each recovery.
    OnRecover,
    UpdateSecret,
    /// Waits until the connection is being recovered, and then for so many times the latency of the network.
    AwaitRecovery {
        latencies: u32,
    },
    /// The broker cancels a consumer while this end does so, too, and another takes its name.
    Usurp {
        consumer: usize,
        channel: usize,
    },
    /// A consumer takes nothing of more than the client takes in, and another one on a channel is to get its messages.
    Starve {
        idle: usize,
        busy: usize,
    },
    /// Takes many messages without ever waiting.
    Feast {
        channel: usize,
    },
    /// Many tasks publish at the same time, and few of their messages may be unconfirmed.
    Crowd {
        channel: usize,
    },
    /// A limit that brokers do not know, which costs the connection.
    QosSize {
        channel: usize,
    },
    /// Requests that are sent before the first reply is awaited, with faults in between.
    Burst {
        channel: usize,
        acts: Vec<Act>,
        end: Ending,
    },
    Shutdown {
        grace: Duration,
    },
    CloseConnection,
}

/// A kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Durable, and everybody's.
    Shared(usize),
    /// A quorum queue of everybody.
    Quorum,
    /// It goes with its last consumer.
    AutoDelete(usize),
    /// A stream of everybody.
    Stream,
    /// The client's connection has it exclusively.
    Exclusive,
    /// Another client's connection has it exclusively, if there is another.
    Foreign,
    /// The client's own, named by the broker, and exclusive.
    ServerNamed,
    /// The queue that was declared last on the channel.
    Last,
    /// There is none.
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Method,
    /// As a raw method.
    Call,
    /// As a raw method without a reply.
    CallNoWait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Await,
    /// The handle is dropped.
    Drop,
    /// The future of the close is polled once.
    Abandon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelling {
    Await,
    /// The reply is made, and dropped at once.
    Drop,
    /// The reply is made now and awaited after a while.
    Late(Duration),
    Call,
    CallNoWait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Without confirms, unless the channel has them anyway.
    Plain,
    Confirmed(Loss),
    Prepared(Loss),
    /// All at once.
    Batch(Loss),
    /// If it goes at once.
    Try(Loss),
    /// With the bit `immediate`, which costs the connection.
    Immediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Fail,
    Wait,
    Keep,
}

/// The properties of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) count: usize,
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    /// The size of the body, at least the size of its identity.
    pub(crate) size: usize,
    /// The size of a header; properties have to fit into a frame.
    pub(crate) header: usize,
    /// The body's owner uses a handle when it is dropped.
    pub(crate) owned: bool,
    /// Maximum number of unconfirmed messages.
    pub(crate) window: usize,
    /// Maximum time for which they are kept.
    pub(crate) keep_for: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) prefetch: Option<u16>,
    /// The offset at which it begins, if it consumes from a stream.
    pub(crate) from: Option<StreamOffset>,
    /// The consumer tag, by its number.
    pub(crate) tag: Option<usize>,
    /// The size of its arguments; they have to fit into a frame.
    pub(crate) filler: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settling {
    Ack,
    AckUpTo,
    Nack,
    NackUpTo,
    NackForGood,
    Reject,
    RejectForGood,
    /// As the methods are, by number.
    Tag {
        multiple: bool,
        by: TagBy,
    },
    Drop,
    /// It stays unacknowledged.
    IntoMessage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagBy {
    Ack,
    Nack,
    /// One only.
    Reject,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    /// The work fails, or is rolled back by hand.
    Fail,
    /// Its future is dropped in the middle of its work.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Select,
    Commit,
    Rollback,
    /// Settles again, by number, what was rolled back.
    SettleAgain,
}

/// The use of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Await,
    /// It is dropped at once.
    Drop,
    /// It is awaited after a while.
    Late(Duration),
}
