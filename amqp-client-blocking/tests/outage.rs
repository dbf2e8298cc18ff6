//! Connections that wait for their broker cost as little as idle ones.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_blocking::{Connection, Recovery, Target, Wait as _, connect_target};
use amqp_test_broker::Broker;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The number of threads of this process that run a task.
fn tasks() -> usize {
    let threads = fs::read_dir("/proc/self/task").expect("Linux lists the threads of a process");
    let names = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("comm")));
    names.flatten().filter(|name| name.trim() == "amqp-task").count()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// When a broker restarts, a program may have no room for as many threads as it has connections. Those without a thread would
/// end for good.
#[test]
fn a_connection_that_waits_for_its_broker_costs_no_thread() -> Outcome {
    let broker = Broker::start()?;
    let target: Target = broker.uri().parse()?;
    let delay = Duration::from_millis(300);
    let target = target.recovery(Recovery::default().delay_min(delay).delay_max(delay));
    let connections =
        (0..20).map(|_| connect_target(target.clone())).collect::<Result<Vec<Connection>, _>>()?;
    broker.stop();
    until("the loss is not noticed", || connections.iter().all(|lost| !lost.is_open()));
    let waits = Instant::now();
    while waits.elapsed() < Duration::from_secs(1) {
        assert_eq!(tasks(), 0);
        thread::sleep(Duration::from_millis(10));
    }
    // Requests are kept meanwhile, and deadlines go on.
    let channel = connections[0].open_channel();
    connections[1].after(Duration::from_millis(10)).wait()?;
    broker.start_again()?;
    until("a connection stays lost", || connections.iter().all(Connection::is_open));
    channel.wait()?.close().wait()?;
    for connection in &connections {
        connection.close().wait()?;
    }
    Ok(())
}
