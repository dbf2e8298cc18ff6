//! The dispatcher and its calls in several threads, under every order of events that a random scheduler comes up with:
//! `RUSTFLAGS='--cfg shuttle' cargo test -p amqp-client-patterns --lib rpc::`, with any number of `SHUTTLE_ITERATIONS`.
//!
//! A lost wake-up is a deadlock here, and found. A scripted broker takes the place of the connection, so there are few steps, and
//! many of their orders are tried. `tests/threads.rs` has the whole client.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use amqp_client_core::{ChannelError, ChannelEvent, ConsumerEnd, ShortStr, proto};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::Condvar;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use super::calls::{Calls, Entry};
use super::dispatch::{Dispatcher, ReplyOrEnd, Source};
use super::error::{Failed, RpcError};
use super::sync::{Mutex, lock};

/// A request that gets no reply.
const SILENT: u64 = 0;

/// A broker, with servers that reply to a request with its body.
#[derive(Default)]
struct Broker {
    state: Mutex<State>,
    /// There is a request, or the servers are to end.
    requested: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<ChannelEvent>,
    replies: VecDeque<(ShortStr, u64)>,
    /// Number of all replies so far.
    replied: u64,
    requests: VecDeque<Request>,
    confirms: Vec<Confirm>,
    /// The connection is lost, and not recovered yet.
    lost: bool,
    end: Option<ConsumerEnd>,
    /// The dispatcher, and the calls that wait to be sent.
    dispatcher: Option<Waker>,
    unsent: Vec<Waker>,
    /// The servers are to end.
    closing: bool,
}

struct Request {
    correlation_id: ShortStr,
    body: u64,
    /// The index of its confirm.
    number: usize,
}

#[derive(Default)]
struct Confirm {
    /// Once the request is confirmed, or was lost before.
    outcome: Option<Result<(), ConsumerEnd>>,
    waker: Option<Waker>,
}

impl State {
    /// The connection is lost, with the requests that have no reply.
    fn lose(&mut self, reason: &ConsumerEnd, wakers: &mut Vec<Waker>) {
        self.lost = true;
        self.requests.clear();
        for confirm in &mut self.confirms {
            confirm.settle(Err(reason.clone()), wakers);
        }
    }
}

impl Confirm {
    fn settle(&mut self, outcome: Result<(), ConsumerEnd>, wakers: &mut Vec<Waker>) {
        self.outcome.get_or_insert(outcome);
        wakers.extend(self.waker.take());
    }
}

impl Broker {
    /// Changes the state, and wakes whom that concerns, in this thread: the dispatcher among them, if `arrives`.
    fn change(&self, arrives: bool, change: impl FnOnce(&mut State, &mut Vec<Waker>)) {
        let mut wakers = Vec::new();
        let mut state = lock(&self.state);
        change(&mut state, &mut wakers);
        if let Some(dispatcher) = state.dispatcher.take_if(|_| arrives) {
            let index = thread_rng().gen_range(0..=wakers.len());
            wakers.insert(index, dispatcher);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lose(&self) {
        let reason = ChannelError::from(proto::ConnectionError::Eof);
        self.change(true, |state, wakers| {
            state.lose(&reason.clone().into(), wakers);
            state.events.push_back(ChannelEvent::Interrupted(reason));
        });
    }

    fn restore(&self) {
        self.change(true, |state, wakers| {
            state.lost = false;
            state.events.push_back(ChannelEvent::Restored);
            wakers.append(&mut state.unsent);
        });
    }

    fn end(&self) {
        self.change(true, |state, wakers| {
            state.lose(&ConsumerEnd::Cancelled, wakers);
            state.end = Some(ConsumerEnd::Cancelled);
            wakers.append(&mut state.unsent);
        });
    }

    /// Is ready with the number of the request, once that is sent.
    fn poll_publish(&self, id: &str, body: u64, cx: &Context<'_>) -> Poll<Result<usize, RpcError>> {
        let mut state = lock(&self.state);
        if let Some(end) = &state.end {
            return Poll::Ready(Err(RpcError::Ended(end.clone())));
        }
        if state.lost {
            state.unsent.push(cx.waker().clone());
            return Poll::Pending;
        }
        let number = state.confirms.len();
        state.confirms.push(Confirm::default());
        state.requests.push_back(Request { correlation_id: ShortStr::truncated(id), body, number });
        drop(state);
        self.requested.notify_one();
        Poll::Ready(Ok(number))
    }

    fn poll_confirm(&self, number: usize, cx: &Context<'_>) -> Poll<Option<Failed>> {
        let confirm = &mut lock(&self.state).confirms[number];
        confirm.waker = Some(cx.waker().clone());
        match &confirm.outcome {
            None => Poll::Pending,
            Some(outcome) => Poll::Ready(outcome.clone().err().map(Failed::Lost)),
        }
    }

    /// Waits until this is so.
    fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        while !is_so(&lock(&self.state)) {
            thread::yield_now();
        }
    }

    /// Confirms a request and replies to it, in any order.
    fn serve(&self, request: Request) {
        let Request { correlation_id, body, number } = request;
        let confirm = |state: &mut State, wakers: &mut Vec<Waker>| {
            state.confirms[number].settle(Ok(()), wakers);
        };
        let confirmed_first = thread_rng().r#gen();
        if confirmed_first {
            self.change(false, confirm);
        }
        self.change(true, |state, _| {
            // The request may have been lost by now, and a reply with it.
            let is_lost = matches!(state.confirms[number].outcome, Some(Err(_)));
            if body != SILENT && !is_lost && !state.lost {
                state.replies.push_back((correlation_id, body));
                state.replied += 1;
            }
        });
        if !confirmed_first {
            self.change(false, confirm);
        }
    }

    fn next_request(&self) -> Option<Request> {
        let mut state = lock(&self.state);
        while state.requests.is_empty() && !state.closing {
            state = self.requested.wait(state).expect("no thread panics");
        }
        state.requests.pop_front()
    }
}

/// The broker as the source of replies.
struct Incoming(Arc<Broker>);

impl Source for Incoming {
    type Reply = u64;

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<ChannelEvent>> {
        let mut state = lock(&self.0.state);
        state.dispatcher = Some(cx.waker().clone());
        state.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(Some(event)))
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReplyOrEnd<u64>>> {
        let mut state = lock(&self.0.state);
        state.dispatcher = Some(cx.waker().clone());
        match (state.replies.pop_front(), &state.end) {
            (Some((id, body)), _) => Poll::Ready(Some(Ok((Some(id), body)))),
            (None, Some(end)) => Poll::Ready(Some(Err(end.clone()))),
            (None, None) => Poll::Pending,
        }
    }
}

/// What the threads share.
struct Scene {
    broker: Arc<Broker>,
    dispatcher: Arc<Dispatcher<Incoming>>,
    /// Number of calls that got their reply.
    got: AtomicU64,
}

impl Scene {
    /// Makes a call as `Call` does. The reply has to be the one to its request.
    async fn call(&self, body: u64, idempotent: bool) -> Result<(), Failed> {
        let calls = self.dispatcher.calls();
        let entry = calls.register().map_err(|end| Failed::Call(RpcError::Ended(end)))?;
        loop {
            match self.attempt(&entry, body).await {
                Ok(reply) => {
                    assert_eq!(reply, body, "the reply to another call");
                    self.got.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                Err(Failed::Lost(_)) if idempotent && calls.ended().is_none() => entry.send_again(),
                Err(failed) => return Err(failed),
            }
        }
    }

    async fn attempt(&self, entry: &Entry<u64>, body: u64) -> Result<u64, Failed> {
        let id = entry.correlation_id();
        let publish = || poll_fn(|cx| self.broker.poll_publish(&id, body, cx));
        let sending = entry.send(publish);
        let Some(number) = sending.await? else { return entry.reply(pending(), || ()).await };
        let refused = poll_fn(|cx| self.broker.poll_confirm(number, cx));
        entry.reply(refused, || self.dispatcher.run()).await
    }

    fn serve(&self) {
        while let Some(request) = self.broker.next_request() {
            self.broker.serve(request);
        }
    }

    /// Runs a future.
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let (calls, thread) = (Arc::clone(self.dispatcher.calls()), thread::current());
        let waker = Waker::from(Arc::new(Look { calls, thread }));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                // Not polled again unless it is woken.
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Makes a call that gets no reply. Does something else once the request is sent.
    fn call_in_vain(&self, then: impl FnOnce()) -> Result<(), Failed> {
        let (mut call, mut then) = (pin!(self.call(SILENT, false)), Some(then));
        self.run(poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            if let Some(then) = then.take() {
                then();
            }
            polled
        }))
    }
}

/// A waker that looks at the calls, as a program's may.
struct Look {
    calls: Arc<Calls<u64>>,
    thread: thread::Thread,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        let _any = self.calls.waiting();
        self.thread.unpark();
    }
}

type Thread = fn(&Scene);

/// Runs the threads in many orders. In the end, nothing of any call is left, and every reply was taken or counted.
fn check<const N: usize>(threads: [Thread; N]) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok());
    let iterations = iterations.unwrap_or(1_000);
    shuttle::check_random(move || run(&threads), iterations);
    // Few switches between threads, each anywhere: this finds what happens while one thread is between two steps.
    shuttle::check_pct(move || run(&threads), iterations, 3);
}

fn run(threads: &[Thread]) {
    let broker = Arc::new(Broker::default());
    let dispatcher = Dispatcher::new(Incoming(broker.clone()), true);
    let scene = Arc::new(Scene { broker, dispatcher, got: AtomicU64::new(0) });
    let spawn = |body: Thread| {
        let scene = scene.clone();
        thread::spawn(move || body(&scene))
    };
    let servers: [Thread; 2] = [Scene::serve; 2];
    let servers = servers.map(spawn);
    let threads: Vec<_> = threads.iter().map(|body| spawn(*body)).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("the thread is done"));
    lock(&scene.broker.state).closing = true;
    scene.broker.requested.notify_all();
    servers.into_iter().for_each(|thread| thread.join().expect("the thread is done"));
    let calls = scene.dispatcher.calls();
    assert_eq!(calls.waiting(), 0, "a call was left");
    let state = lock(&scene.broker.state);
    assert_eq!(calls.register().is_err(), state.end.is_some());
    let (replied, got) = (state.replied, scene.got.load(Ordering::SeqCst));
    assert_eq!(got + calls.late(), replied, "a reply was left");
}

/// Makes a call that no event disturbs.
fn call(scene: &Scene, body: u64) {
    assert!(scene.run(scene.call(body, false)).is_ok());
}

/// Makes a call that gets its reply, or is lost.
fn call_once(scene: &Scene, body: u64) {
    let outcome = scene.run(scene.call(body, false));
    assert!(matches!(outcome, Ok(()) | Err(Failed::Lost(_))));
}

/// Begins a call, and drops it.
fn begin(scene: &Scene, body: u64, polls: usize) {
    let mut call = pin!(scene.call(body, false));
    for _ in 0..polls {
        if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn each_call_gets_its_own_reply() {
    let twice: Thread = |scene| {
        call(scene, 1);
        call(scene, 2);
    };
    check([twice, twice, |scene| call(scene, 3)]);
}

#[test]
fn a_dropped_call_disturbs_no_other_one() {
    check([|scene| begin(scene, 1, 1), |scene| begin(scene, 2, 4), |scene| call(scene, 3)]);
}

#[test]
fn a_call_is_sent_again_after_a_loss() {
    check([
        |scene| {
            scene.broker.lose();
            scene.broker.restore();
        },
        |scene| assert!(scene.run(scene.call(1, true)).is_ok()),
        |scene| {
            call_once(scene, 2);
            call_once(scene, 3);
        },
    ]);
}

#[test]
fn a_loss_ends_the_calls_without_a_reply() {
    check([
        |scene| {
            let outcome = scene.call_in_vain(|| scene.broker.lose());
            assert!(matches!(outcome, Err(Failed::Lost(_))));
            scene.broker.restore();
        },
        |scene| call_once(scene, 1),
        |scene| begin(scene, 2, 2),
    ]);
}

/// The request is confirmed before the loss. The call may notice the loss before it notices that the request was sent.
#[test]
fn a_loss_ends_a_call_that_is_just_sent() {
    check([
        |scene| assert!(matches!(scene.call_in_vain(|| {}), Err(Failed::Lost(_)))),
        |scene| {
            scene.broker.wait_until(|state| {
                state.confirms.first().is_some_and(|confirm| confirm.outcome.is_some())
            });
            scene.broker.lose();
            scene.broker.restore();
        },
    ]);
}

/// It learns of the loss from its confirm, which may be before the dispatcher does.
#[test]
fn the_end_ends_a_call_that_is_sent_again() {
    check([
        |scene| assert!(scene.run(scene.call(SILENT, true)).is_err()),
        |scene| {
            scene.broker.wait_until(|state| !state.confirms.is_empty());
            scene.broker.lose();
            scene.broker.end();
        },
    ]);
}

#[test]
fn the_end_ends_all_calls() {
    let call: Thread = |scene| {
        let outcome = scene.run(scene.call(1, true));
        assert!(matches!(
            outcome,
            Ok(()) | Err(Failed::Lost(_) | Failed::Call(RpcError::Ended(_)))
        ));
    };
    check([
        |scene| {
            let outcome = scene.call_in_vain(|| scene.broker.end());
            assert!(matches!(outcome, Err(Failed::Lost(_))));
        },
        call,
        call,
    ]);
}

#[test]
fn everything_may_happen_at_once() {
    check([
        |scene| {
            scene.broker.lose();
            scene.broker.restore();
            scene.broker.lose();
            scene.broker.end();
        },
        |scene| drop(scene.run(scene.call(1, true))),
        |scene| drop(scene.run(scene.call(2, false))),
        |scene| begin(scene, 3, 2),
    ]);
}
