//! Calls in several threads, under every order of events that a random scheduler comes up with. Run as
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test -p amqp-client-patterns --test threads
//! ```
//!
//! with any number of `SHUTTLE_ITERATIONS`. A lost wake-up is a deadlock here, and found. The client, its connection and its driver
//! are the real ones. The server is scripted: it replies to each request as often as the request's body says.

#![cfg(shuttle)]

#[path = "../../amqp-client-core/tests/harness/mod.rs"]
mod harness;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use amqp_client_core::{ClientConfig, Config, proto};
use amqp_client_patterns::rpc::{RpcClient, RpcError};
use harness::ClientRig;
use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

type Reply = Result<proto::Delivery, RpcError>;

/// The timeout of the calls that are to time out.
const SECOND: Duration = Duration::from_secs(1);

/// Lets a thread go on that has parked.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An event that a thread requests of the driver's thread.
#[derive(Clone, Copy)]
enum Event {
    /// The connection is lost, and recovers.
    Loss,
    /// A second passes, and more.
    Pause,
    /// The runtime ends, with the driver.
    End,
}

/// The client of the threads, and their way to the driver's thread.
#[derive(Clone)]
struct Caller {
    client: RpcClient,
    driver: thread::Thread,
    events: Arc<Mutex<Vec<Event>>>,
    /// Number of calls that got their reply.
    replied: Arc<AtomicUsize>,
}

impl Caller {
    /// Requests an event.
    fn cause(&self, event: Event) {
        self.events.lock().expect("no panic").push(event);
        self.driver.unpark();
    }

    /// Counts a reply, which has to be that to this request.
    fn check(&self, request: &'static str, reply: Reply) -> Result<(), RpcError> {
        assert_eq!(reply?.body(), request.as_bytes(), "the reply to another call");
        self.replied.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn call(&self, request: &'static str) -> Result<(), RpcError> {
        self.check(request, block_on(self.client.call("q", request)))
    }

    /// Repeats the request after a loss.
    fn call_idempotent(&self, request: &'static str) -> Result<(), RpcError> {
        self.check(request, block_on(self.client.call("q", request).idempotent()))
    }

    /// Polls a call that often, unless it is ready earlier, and drops it.
    fn begin(&self, request: &'static str, polls: usize) {
        let mut call = pin!(self.client.call("q", request));
        for _ in 0..polls {
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let std::task::Poll::Ready(reply) = polled {
                return self.check(request, reply).expect("no other outcome");
            }
            thread::yield_now();
        }
    }

    /// Calls with a timeout, and lets it pass once the call waits.
    fn call_in_vain(&self, request: &'static str) -> Result<(), RpcError> {
        let mut call = pin!(self.client.call("q", request).timeout(SECOND));
        let mut begun = false;
        let reply = block_on(poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            if !std::mem::replace(&mut begun, true) {
                self.cause(Event::Pause);
            }
            polled
        }));
        self.check(request, reply)
    }
}

type Thread = fn(&Caller);

/// The number of replies to a request, by its first letter.
fn replies(request: &[u8]) -> u64 {
    match request.first() {
        Some(b'0') => 0,
        Some(b'2') => 2,
        _ => 1,
    }
}

/// Runs the threads, and the driver in this one, in many orders. At the end, nothing of any call is left.
fn check<const N: usize>(threads: [Thread; N], loses: bool) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok());
    shuttle::check_random(move || run(&threads, loses), iterations.unwrap_or(500));
}

fn run(threads: &[Thread], loses: bool) {
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    let mut rig = ClientRig::new(Config::default().protocol(protocol));
    rig.recover();
    rig.peer.replies = Some(replies);
    let connection = rig.connection.clone();
    let client = rig.run(RpcClient::open(&connection)).expect("it is open");
    let driver = thread::current();
    rig.waker = Waker::from(Arc::new(Unpark(driver.clone())));
    let (events, replied) = (Arc::default(), Arc::default());
    let caller = Caller { client, driver, events, replied };
    let left = Arc::new(AtomicUsize::new(threads.len()));
    let threads: Vec<_> = threads
        .iter()
        .map(|&body| {
            let (left, caller) = (left.clone(), caller.clone());
            thread::spawn(move || {
                body(&caller);
                left.fetch_sub(1, Ordering::SeqCst);
                caller.driver.unpark();
            })
        })
        .collect();
    let mut replies = 0;
    let mut rig = Some(rig);
    while left.load(Ordering::SeqCst) > 0 {
        let events = std::mem::take(&mut *caller.events.lock().expect("no panic"));
        for event in events {
            match (event, &mut rig) {
                (Event::Loss, Some(rig)) => rig.lose(),
                (Event::Pause, Some(rig)) => rig.advance(2 * SECOND),
                (Event::End, _) => rig = None,
                (_, None) => {}
            }
        }
        if let Some(rig) = &mut rig {
            rig.turn();
            replies = rig.peer.replied;
        }
        thread::park();
    }
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is done"));
    if let Some(mut rig) = rig {
        rig.turn();
        replies = rig.peer.replied;
        // Not while an assertion unwinds: that would lock in a scenario that has failed.
        drop(rig);
    }
    let Caller { client, replied, .. } = caller;
    assert_eq!(client.pending_calls(), 0, "a call was left");
    // Every reply went to its call, or was counted; but a loss may take replies with it.
    let counted = replied.load(Ordering::SeqCst) as u64 + client.late_replies();
    assert!(counted == replies || loses && counted < replies, "{counted} of {replies} replies");
}

#[test]
fn each_call_gets_its_own_reply() {
    let twice: Thread = |caller| {
        caller.call("a").expect("a reply");
        caller.call("2b").expect("a reply");
    };
    check([twice, |caller| caller.call("c").expect("a reply"), twice], false);
}

#[test]
fn a_dropped_call_disturbs_no_other_one() {
    check(
        [
            |caller| caller.begin("dropped at once", 1),
            |caller| caller.begin("dropped later", 4),
            |caller| caller.call("kept").expect("a reply"),
        ],
        false,
    );
}

#[test]
fn a_call_without_a_reply_times_out() {
    check(
        [
            |caller| {
                let outcome = caller.call_in_vain("0 replies");
                assert!(
                    matches!(outcome, Err(RpcError::TimedOut { sent: true, .. })),
                    "{outcome:?}"
                );
            },
            |caller| match caller.call_in_vain("in time or late") {
                Ok(()) | Err(RpcError::TimedOut { .. }) => {}
                outcome => panic!("{outcome:?}"),
            },
            |caller| caller.call("without haste").expect("a reply"),
        ],
        false,
    );
}

#[test]
fn a_loss_ends_the_calls_whose_replies_it_took() {
    check(
        [
            |caller| caller.cause(Event::Loss),
            |caller| match caller.call("once") {
                Ok(()) | Err(RpcError::Lost(_)) => {}
                outcome => panic!("{outcome:?}"),
            },
            |caller| caller.call_idempotent("until there is a reply").expect("a reply"),
        ],
        true,
    );
}

#[test]
fn a_close_ends_all_calls() {
    fn call(caller: &Caller) {
        match caller.call("before or after") {
            Ok(()) | Err(RpcError::Lost(_) | RpcError::NotSent(_) | RpcError::Ended(_)) => {}
            outcome => panic!("{outcome:?}"),
        }
    }
    check([|caller| caller.cause(Event::End), call, call], true);
    let close: Thread = |caller| drop(block_on(caller.client.connection().close()));
    check([close, call, call], true);
}
