//! Servers that are broken or mean no good, in virtual time. Whatever they send: what the application waits for ends with an
//! error that says whose fault it is, memory stays within bounds, and nothing panics.

#[path = "../rig/mod.rs"]
mod rig;

mod floods;
mod handshake;
mod traffic;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::{
    CallError, Channel, ChannelEvents, Config, ConfirmError, Confirmation, ConsumeOptions,
    Consumer, ConsumerEnd, PublisherOptions, Queue, QueueOptions, Reply,
};
use rig::Rig;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// It is no AMQP.
    Octets,
    /// It is AMQP that must not come.
    Peer,
    /// It is an orderly close.
    Nobody,
    /// It is the transport, or time.
    Transport,
}

fn blame(error: &ConnectionError) -> Blame {
    match error {
        ConnectionError::Decode(_) => Blame::Octets,
        ConnectionError::Violation(_) | ConnectionError::WrongProtocol(_) => Blame::Peer,
        ConnectionError::Closed(_) | ConnectionError::Login(_) => Blame::Nobody,
        _ => Blame::Transport,
    }
}

/// How long a call may take.
const CALL: Duration = Duration::from_secs(30);

/// A client that waits for something of every kind.
struct Victim {
    rig: Rig,
    channel: Channel,
    declared: Reply<Queue>,
    confirmation: Confirmation,
    consumer: Consumer,
    events: ChannelEvents,
}

impl Victim {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let mut rig = Rig::new(config);
        let opening = rig.connection.open_channel();
        let channel = rig.run(opening).expect("a channel");
        let consuming = channel.basic_consume("q", ConsumeOptions::new());
        let consumer = rig.run(consuming).expect("a consumer");
        let publisher = channel.default_exchange().publisher(PublisherOptions::new());
        let publisher = publisher.expect("the channel is open");
        rig.turn();
        rig.silence();
        let confirmation = rig.run(publisher.publish("q", "message")).expect("it is sent");
        let declared = channel.queue_declare("another", QueueOptions::new());
        rig.turn();
        let events = channel.events();
        Self { rig, channel, declared, confirmation, consumer, events }
    }

    /// Everything has ended with the connection; returns why.
    #[track_caller]
    fn ended(&mut self) -> ConnectionError {
        let error = now(self.rig.connection.closed()).expect("the connection is over");
        let reason = error.clone().into();
        let declared = now(&mut self.declared).map(|result| result.map(|_| ()));
        assert_eq!(declared, Some(Err(CallError::Ended(error.clone().into()))));
        let confirmed = now(&mut self.confirmation);
        assert_eq!(confirmed, Some(Err(ConfirmError::Unconfirmed(reason))));
        let mut last = None;
        while let Some(Some(next)) = now(self.consumer.next()) {
            last = Some(next.map(|_| ()));
        }
        assert_eq!(last, Some(Err(ConsumerEnd::Ended(error.clone().into()))));
        error
    }

    /// Nothing has ended.
    #[track_caller]
    fn endures(&mut self) {
        assert!(self.rig.connection.is_open(), "{:?}", now(self.rig.connection.closed()));
        assert!(self.channel.is_open());
        assert!(now(&mut self.declared).is_none());
    }
}

/// What a future gives at once, if it does.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The most octets that some code held at a time, above what was held before.
fn peak(code: impl FnOnce()) -> u64 {
    allocation_counter::measure(code).bytes_max
}
