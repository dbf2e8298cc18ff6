//! The end of a connection when its runtime ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amqp_client_tokio::connect;
use amqp_test_broker::Broker;
use tokio::runtime::{Builder, Runtime};

/// The callbacks would have been tasks of the runtime, which takes no more of them.
fn callbacks_run(runtime: Runtime) {
    let broker = Broker::start().expect("a broker");
    let called = Arc::new(AtomicUsize::new(0));
    let handles = runtime.block_on(async {
        let connection = connect(&broker.uri()).await.expect("a connection");
        let channel = connection.open_channel().await.expect("a channel");
        let counts = called.clone();
        channel.on_close(move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..2 {
            let counts = called.clone();
            connection.on_close(move |_| {
                counts.fetch_add(1, Ordering::SeqCst);
            });
        }
        (connection, channel)
    });
    drop(runtime);
    assert!(!handles.0.is_open() && !handles.1.is_open());
    assert_eq!(called.load(Ordering::SeqCst), 3);
}

#[test]
fn callbacks_run_when_a_runtime_of_one_thread_ends() {
    callbacks_run(Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

#[test]
fn callbacks_run_when_a_runtime_of_several_threads_ends() {
    let mut builder = Builder::new_multi_thread();
    callbacks_run(builder.worker_threads(2).enable_all().build().expect("a runtime"));
}
