//! Calls, and what they are made with, dropped at every poll: nothing is left over, and the next call gets its own reply.

mod harness;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use amqp_client_core::{Connection, Queue, QueueOptions};
use amqp_client_patterns::handler::Text;
use amqp_client_patterns::pool::ChannelPool;
use amqp_client_patterns::rpc::{RpcClient, RpcOptions, RpcServer};
use harness::{Broker, ClientRig};

/// More polls than any of them takes.
const POLLS: usize = 80;

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

struct Scene {
    rig: ClientRig<Broker>,
    connection: Connection,
    queue: Queue,
    client: RpcClient,
    pool: ChannelPool,
    server: Task<'static>,
}

impl Scene {
    fn set(reply_queue: bool) -> Self {
        let (mut rig, connection) = ClientRig::joined();
        // Futures are polled often while the event that they wait for comes nearer.
        rig.piece = 24;
        let (queue, replies) = rig.run_by_steps(async {
            connection.ready().await.expect("a connection");
            let channel = connection.open_channel().await.expect("a channel");
            let declare = async |name| channel.queue_declare(name, QueueOptions::new()).await;
            (declare("q").await.expect("a queue"), declare("replies").await.expect("a queue"))
        });
        let options = RpcOptions::new();
        let options = if reply_queue { options.reply_queue(&replies) } else { options };
        let client = rig.run_by_steps(RpcClient::open_with(&connection, options));
        let client = client.expect("a client");
        let pool = ChannelPool::new(&connection, 1);
        let echo = async |Text(text): Text| text;
        let server = RpcServer::on(&queue).at_once(2).serve(echo).run();
        let server = Box::pin(async { drop(server.await) });
        Self { rig, connection, queue, client, pool, server }
    }

    /// Lets a piece pass, while the server works.
    fn step(&mut self) {
        let _running = self.server.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.rig.step();
    }

    /// Runs a future to its end.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        for _ in 0..100_000 {
            let mut cx = Context::from_waker(Waker::noop());
            if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.step();
        }
        panic!("it waits forever");
    }

    fn check(&mut self, what: &str) {
        for text in ["next", "the one after"] {
            let client = self.client.clone();
            let reply = self.run(client.call("q", text).timeout(Duration::MAX));
            let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(reply.body(), text.as_bytes(), "{what}: somebody else's reply");
        }
        let pool = self.pool.clone();
        drop(self.run(pool.get()).unwrap_or_else(|error| panic!("{what}: {error}")));
        for _ in 0..200 {
            self.step();
        }
        assert_eq!(self.client.pending_calls(), 0, "{what}");
        assert!(self.client.late_replies() <= 1, "{what}");
        assert_eq!(self.rig.peer.engine.take_violation(), None, "{what}");
        let health = self.connection.health();
        assert_eq!((health.unsettled, health.unconfirmed), (0, 0), "{what}: {health:?}");
    }
}

/// Creates the future to drop.
type Make = fn(&Scene) -> Task<'static>;

const CASES: &[(&str, Make)] = &[
    ("call", |scene| {
        let client = scene.client.clone();
        Box::pin(async move { drop(client.call("q", "dropped").await) })
    }),
    ("idempotent call", |scene| {
        let client = scene.client.clone();
        Box::pin(async move { drop(client.call("q", "dropped").idempotent().await) })
    }),
    ("call to nobody", |scene| {
        let client = scene.client.clone();
        Box::pin(async move { drop(client.call("nobody", "dropped").await) })
    }),
    ("open", |scene| {
        let connection = scene.connection.clone();
        Box::pin(async move { drop(RpcClient::open(&connection).await) })
    }),
    ("until", |scene| {
        let server = RpcServer::on(&scene.queue).serve(async || "other");
        let pause = scene.connection.after(Duration::ZERO);
        Box::pin(async move { drop(server.until(pause).await) })
    }),
    ("get", |scene| {
        let pool = scene.pool.clone();
        Box::pin(async move { drop(pool.get().await) })
    }),
];

#[test]
fn whatever_is_dropped_whenever_nothing_is_left_over() {
    let mut drops = 0;
    for reply_queue in [false, true] {
        for (name, make) in CASES {
            for polls in 0..POLLS {
                let mut scene = Scene::set(reply_queue);
                let mut future = make(&scene);
                let mut ready = false;
                for _ in 0..polls {
                    let mut cx = Context::from_waker(Waker::noop());
                    ready = future.as_mut().poll(&mut cx).is_ready();
                    if ready {
                        break;
                    }
                    scene.step();
                }
                drop(future);
                // Half of the time, the events that it left behind come first.
                if polls % 2 == 0 {
                    scene.rig.settle();
                }
                scene.check(&format!("{name}, dropped after {polls} polls"));
                if ready {
                    break;
                }
                drops += 1;
            }
        }
    }
    assert!(drops > 100, "{drops} drops");
}
