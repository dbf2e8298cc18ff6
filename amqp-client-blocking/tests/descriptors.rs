//! Descriptors of the system: none outlives its use.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_blocking::{Connection, Wait as _, connect};
use amqp_test_broker::Broker;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The number of open descriptors of this process.
fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux lists the descriptors of a process").count()
}

/// A program may keep handles long after their connection: a channel in a cache, or a delivery.
#[test]
fn a_closed_connection_keeps_no_descriptor_for_its_handles() -> Outcome {
    let broker = Broker::start()?;
    let before = open_descriptors();
    let connections =
        (0..20).map(|_| connect(&broker.uri())).collect::<Result<Vec<Connection>, _>>()?;
    for connection in &connections {
        connection.close().wait()?;
    }
    // The helper and the broker close theirs a little later.
    let deadline = Instant::now() + Duration::from_secs(20);
    while open_descriptors() > before {
        assert!(Instant::now() < deadline, "{} descriptors stay", open_descriptors() - before);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(connections.iter().all(|connection| !connection.is_open()));
    Ok(())
}
