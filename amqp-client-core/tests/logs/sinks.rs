//! Sinks that panic, use the connection, or cause further lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use amqp_client_core::ConsumeOptions;

use crate::harness::poll_once;
use crate::scene::Scene;

#[test]
fn it_may_panic() {
    let mut scene = Scene::new("panics");
    scene.act(|_, _| panic!("this sink panics"));
    let channel = scene.open_channel();
    let _consumer = scene.consume(&channel);
    let connection = scene.connection.clone();
    scene.run(connection.close()).expect("it is closed");
    assert_eq!(scene.lines().len(), 2);
}

#[test]
fn it_may_use_the_connection() {
    let mut scene = Scene::new("used");
    let used = Arc::new(AtomicU32::new(0));
    let count = used.clone();
    scene.act(move |_, connection| {
        // Twice only: that channels are opened and closed causes further lines, in later turns.
        if count.fetch_add(1, Ordering::Relaxed) < 2 {
            // The lock is free, or this would hang.
            let _health = connection.health();
            let _events = connection.events();
            let _opening = poll_once(connection.open_channel());
        }
    });
    let channel = scene.open_channel();
    let _consumer = scene.consume(&channel);
    let connection = scene.connection.clone();
    scene.run(connection.close()).expect("it is closed");
    assert!(used.load(Ordering::Relaxed) >= 2, "the sink has used it");
    let lines = scene.lines();
    assert_eq!(
        lines[lines.len() - 1],
        "INFO closed by the application; pending: 1 consumer",
        "{lines:?}"
    );
}

/// Each line causes another one at once. If that were written as well, the first would never end.
#[test]
pub(crate) fn it_may_cause_a_line_for_each_line() {
    let mut scene = Scene::new("endless");
    let channel = scene.open_channel();
    let written = Arc::new(AtomicU32::new(0));
    let count = written.clone();
    let own = channel.clone();
    scene.act(move |_, _| {
        assert!(count.fetch_add(1, Ordering::Relaxed) < 100, "the test ends, if nothing else does");
        let _starting = own.basic_consume("q", ConsumeOptions::new());
    });
    let consumer = scene.consume(&channel);
    // The line of the consumer that was started, and one about those that were left out. Each has caused two: a consumer was
    // started, and dropped.
    let left_out =
        "WARN 2 lines were left out, because the sink of the log caused them while it wrote others";
    scene.expect(&[
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'q' starts, no prefetch limit",
        left_out,
    ]);
    drop(consumer);
    scene.turn();
    let lines = scene.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        lines[1],
        "WARN 4 lines were left out, because the sink of the log caused them while it wrote others"
    );
}

/// Another thread causes a line for each line, as fast as they are written.
#[test]
fn other_threads_may_cause_a_line_for_each_line() {
    let mut scene = Scene::new("threads");
    let channel = scene.open_channel();
    let (ask, asked) = mpsc::channel::<()>();
    let (reply, replied) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        for () in asked {
            let _starting = channel.basic_consume("q", ConsumeOptions::new());
            let _gone = reply.send(());
        }
        channel
    });
    let (ask, replied) = (std::sync::Mutex::new(Some(ask)), std::sync::Mutex::new(replied));
    let (ask, written) = (Arc::new(ask), Arc::new(AtomicU32::new(0)));
    let (to_thread, count) = (ask.clone(), written.clone());
    scene.act(move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) < 100_000 {
            let ask = to_thread.lock().expect("no panic").clone();
            let sent = ask.is_some_and(|ask| ask.send(()).is_ok());
            if sent {
                let _late = replied.lock().expect("no panic").recv_timeout(Duration::from_secs(10));
            }
        }
    });
    scene.peer.hold(None);
    scene.step();
    let after_one = written.load(Ordering::Relaxed);
    assert!(after_one < 10_000, "a turn ends: {after_one}");
    *ask.lock().expect("no panic") = None;
    let channel = thread.join().expect("no panic");
    scene.turn();
    drop(channel);
    let lines = scene.lines();
    assert!(
        lines.len() > 1000,
        "the lines that were left are written by the next turn: {}",
        lines.len()
    );
}
