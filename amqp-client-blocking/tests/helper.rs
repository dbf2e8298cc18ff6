//! The helper thread of idle connections: one for all of them.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_blocking::{Connection, Message, QueueOptions, Wait as _, connect};
use amqp_test_broker::{Broker, Options};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The number of helper threads of this process.
fn helpers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux lists the threads of a process");
    let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|name| name.trim() == "amqp-io").count()
}

/// Waits until there are so many helper threads. A thread has its name only once it runs, and ends a little after its last
/// connection.
fn until_helpers(count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while helpers() != count {
        assert!(Instant::now() < deadline, "{} helpers instead of {count}", helpers());
        thread::yield_now();
    }
}

/// In one test, because all connections of the process share the helper.
#[test]
fn one_helper_runs_all_idle_connections_and_ends_with_the_last() -> Outcome {
    let broker = Broker::start_with(Options::new().heartbeat(Duration::from_secs(1)))?;
    let connections =
        (0..30).map(|_| connect(&broker.uri())).collect::<Result<Vec<Connection>, _>>()?;
    until_helpers(1);
    // Silence for twice the interval would end a connection, seen from either end.
    let computing = Instant::now();
    while computing.elapsed() < Duration::from_millis(3500) {
        std::hint::spin_loop();
    }
    assert!(connections.iter().all(Connection::is_open));
    // Each of them can still be used, and messages that nobody waits for are written.
    for connection in &connections {
        let channel = connection.open_channel().wait()?;
        let queue = channel.queue_declare("q", QueueOptions::new()).wait()?;
        queue.publish(&Message::new("here")).wait()?;
    }
    let queue = connections[0].open_channel().wait()?.queue_declare("q", QueueOptions::new());
    let queue = queue.wait()?;
    for _ in &connections {
        while queue.get_no_ack().wait()?.is_none() {
            thread::yield_now();
        }
    }
    until_helpers(1);
    for connection in connections {
        connection.close().wait()?;
    }
    until_helpers(0);
    // The next connection starts another.
    let connection = connect(&broker.uri())?;
    until_helpers(1);
    Ok(connection.close().wait()?)
}
