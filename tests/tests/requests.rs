//! Every request of the protocol, in every state of its channel: there is a reply or an error, and nothing waits forever.

mod harness;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use amqp_client_core::proto::method::{
    AccessRequest, BasicCancel, BasicConsume, BasicGet, BasicQos, BasicRecover, ChannelFlow,
    ConfirmSelect, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, QueueBind,
    QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, Request, TxCommit, TxRollback, TxSelect,
};
use amqp_client_core::{CallError, Channel, Connection};
use harness::{Broker, ClientRig};

/// The state in which a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Confirming,
    Transactional,
    /// Another request is under way.
    Busy,
    Closing,
    Closed,
    ClosedByBroker,
    ConnectionClosing,
    ConnectionClosed,
    Lost,
    Recovering,
    /// The transport is lost when the request is under way.
    LostBehind,
    /// The transport is lost when the request is under way, and there is another.
    RecoveringBehind,
}

const STATES: [State; 13] = [
    State::Open,
    State::Confirming,
    State::Transactional,
    State::Busy,
    State::Closing,
    State::Closed,
    State::ClosedByBroker,
    State::ConnectionClosing,
    State::ConnectionClosed,
    State::Lost,
    State::Recovering,
    State::LostBehind,
    State::RecoveringBehind,
];

impl State {
    /// Returns whether no more requests can be made.
    const fn is_over(self) -> bool {
        use State::{Closed, ClosedByBroker, Closing, ConnectionClosed, ConnectionClosing, Lost};
        matches!(
            self,
            Closing | Closed | ClosedByBroker | ConnectionClosing | ConnectionClosed | Lost
        )
    }
}

fn begin(future: impl Future) {
    let _begun = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// The transport is lost, and there is another. What was there is not restored yet.
fn lose(rig: &mut ClientRig<Broker>) {
    rig.recover();
    rig.lose();
}

/// A channel in that state.
fn reach(rig: &mut ClientRig<Broker>, connection: &Connection, state: State) -> Channel {
    rig.run_by_steps(connection.ready()).expect("it opens");
    let channel = rig.run_by_steps(connection.open_channel()).expect("it opens");
    let declare = QueueDeclare { queue: "queue".try_into().expect("short"), ..<_>::default() };
    rig.run_by_steps(channel.call(declare.clone())).expect("it is declared");
    match state {
        State::Open | State::LostBehind | State::RecoveringBehind => {}
        State::Confirming => drop(rig.run_by_steps(channel.call(ConfirmSelect::default()))),
        State::Transactional => drop(rig.run_by_steps(channel.call(TxSelect {}))),
        State::Busy => begin(channel.call(declare)),
        State::Closing => begin(channel.close()),
        State::Closed => rig.run_by_steps(channel.close()).expect("it closes"),
        State::ClosedByBroker => {
            let missing = QueueDeclare {
                queue: "missing".try_into().expect("short"),
                passive: true,
                ..<_>::default()
            };
            rig.run_by_steps(channel.call(missing)).expect_err("there is none");
        }
        State::ConnectionClosing => begin(connection.close()),
        State::ConnectionClosed => rig.run_by_steps(connection.close()).expect("it closes"),
        State::Lost => {
            rig.cut();
            rig.settle();
        }
        State::Recovering => lose(rig),
    }
    channel
}

fn request<R: Request + Clone>(what: &str, request: &R) {
    for state in STATES {
        let context = format!("{what} when {state:?}");
        let (mut rig, connection) = ClientRig::joined();
        let channel = reach(&mut rig, &connection, state);
        let reply = channel.call(request.clone());
        match state {
            State::LostBehind => rig.cut(),
            State::RecoveringBehind => lose(&mut rig),
            _ => {}
        }
        let result = rig.run_by_steps(reply).map(drop);
        let timed_out = matches!(result, Err(CallError::TimedOut { .. }));
        assert!(!timed_out, "{context}: no reply, and no error");
        if state.is_over() {
            assert!(result.is_err(), "{context}: {result:?}");
        }
        // A request is sent without a reply only if it has `no_wait`.
        let (mut rig, connection) = ClientRig::joined();
        let channel = reach(&mut rig, &connection, state);
        let refused = channel.call_no_wait(request.clone());
        assert!(refused.is_err(), "{context}, without waiting");
        rig.settle();
        // The connection is not affected.
        if connection.is_open() && !matches!(state, State::ConnectionClosing) {
            let other = rig.run_by_steps(connection.open_channel());
            assert!(other.is_ok(), "{context}: {other:?}");
        }
    }
}

/// Checks a request whose `no_wait` bit is set.
fn no_wait<R: Request + Clone>(what: &str, request: &R) {
    for state in STATES {
        let context = format!("{what} when {state:?}");
        let (mut rig, connection) = ClientRig::joined();
        let channel = reach(&mut rig, &connection, state);
        let sent = channel.call_no_wait(request.clone());
        // The close of a connection is sent with the next turn of its driver: this goes out before it.
        if state.is_over() && state != State::ConnectionClosing {
            assert!(sent.is_err(), "{context}");
        }
        match state {
            State::LostBehind => rig.cut(),
            State::RecoveringBehind => lose(&mut rig),
            _ => {}
        }
        // Later requests are not delayed.
        let result = rig.run_by_steps(channel.call(BasicQos::default())).map(drop);
        let timed_out = matches!(result, Err(CallError::TimedOut { .. }));
        assert!(!timed_out, "{context}: what follows has no reply, and no error");
        // To wait for a reply that never comes is a mistake, not a hang.
        let (mut rig, connection) = ClientRig::joined();
        let channel = reach(&mut rig, &connection, state);
        let result = rig.run_by_steps(channel.call(request.clone())).map(drop);
        let timed_out = matches!(result, Err(CallError::TimedOut { .. }));
        assert!(!timed_out && result.is_err(), "{context}, waited for: {result:?}");
    }
}

macro_rules! requests {
    ($($name:ident { $($field:ident: $value:expr),* })*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        #[test]
        #[expect(clippy::needless_update, reason = "some requests have no other fields")]
        fn every_request_has_a_reply_or_an_error_in_every_state() {
            $(request(stringify!($name), &$name {
                $($field: $value.try_into().expect("it fits"),)*
                ..<_>::default()
            });)*
        }
    };
}

requests! {
    ChannelFlow { active: true }
    AccessRequest {}
    ExchangeDeclare { exchange: "exchange", kind: "direct" }
    ExchangeDelete { exchange: "exchange" }
    ExchangeBind { destination: "amq.direct", source: "amq.topic" }
    ExchangeUnbind { destination: "amq.direct", source: "amq.topic" }
    QueueDeclare { queue: "queue" }
    QueueBind { queue: "queue", exchange: "amq.direct" }
    QueuePurge { queue: "queue" }
    QueueDelete { queue: "queue" }
    QueueUnbind { queue: "queue", exchange: "amq.direct" }
    BasicQos { prefetch_count: 1u16 }
    BasicConsume { queue: "queue", consumer_tag: "tag" }
    BasicCancel { consumer_tag: "tag" }
    BasicGet { queue: "queue" }
    BasicRecover { requeue: true }
    TxSelect {}
    TxCommit {}
    TxRollback {}
    ConfirmSelect {}
}

#[test]
fn requests_without_a_reply_hold_nothing_up_in_any_state() {
    let queue = || "queue".try_into().expect("short");
    let declare = QueueDeclare { queue: queue(), no_wait: true, ..<_>::default() };
    no_wait("QueueDeclare", &declare);
    no_wait("QueuePurge", &QueuePurge { queue: queue(), no_wait: true, ..<_>::default() });
    no_wait("QueueDelete", &QueueDelete { queue: queue(), no_wait: true, ..<_>::default() });
    no_wait("BasicCancel", &BasicCancel { no_wait: true, ..<_>::default() });
    no_wait("ConfirmSelect", &ConfirmSelect { no_wait: true });
    let kind = "fanout".try_into().expect("short");
    let exchange = "exchange".try_into().expect("short");
    no_wait(
        "ExchangeDeclare",
        &ExchangeDeclare { exchange, kind, no_wait: true, ..<_>::default() },
    );
}

#[test]
fn the_list_has_every_request_that_clients_make() {
    let table = include_str!("../../amqp-proto/src/method/table.rs");
    let declared = table.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" \"")?;
        let of_channels = rest.contains("\" = (") && rest.contains(" -> ");
        of_channels.then_some(name)
    });
    assert_eq!(declared.collect::<Vec<_>>(), NAMES);
}
