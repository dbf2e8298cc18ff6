//! The lines of the log: what a sink gets, when, and what a sink may do.

#![cfg(feature = "log")]

mod harness;

use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use amqp_client_core::{ClientConfig, Config, Connection};
use harness::{ClientRig, poll_once};

/// Keeps the lines of all tests. Each test looks for those of its own connections, by their name.
struct Sink {
    lines: Mutex<Vec<String>>,
    /// A connection that a test wants the sink to use, with its name.
    used: Mutex<Option<(&'static str, Connection)>>,
}

static SINK: Sink = Sink { lines: Mutex::new(Vec::new()), used: Mutex::new(None) };

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert_eq!(record.target(), "amqp_client");
        let line = format!("{} {}", record.level(), record.args());
        lock(&SINK.lines).push(line.clone());
        // Once only: a sink that causes a line for each line never ends.
        let used = lock(&SINK.used).take_if(|(name, _)| line.contains(&format!("({name})")));
        if let Some((_, connection)) = used {
            // The lock is free, or this would hang.
            let _health = connection.health();
            let _events = connection.events();
            let _opening = poll_once(connection.open_channel());
        }
        assert!(!line.contains("(panics)"), "this sink panics");
    }

    fn flush(&self) {}
}

/// A rig whose connection has that name.
fn rig(name: &'static str) -> ClientRig {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&SINK).expect("there is no other");
        log::set_max_level(log::LevelFilter::Trace);
    });
    let protocol = ClientConfig::default().login("user", "Pa55-w0rd").connection_name(name);
    ClientRig::new(Config::default().protocol(protocol.expect("it is short")))
}

/// The lines of the connection with that name, without its number.
fn lines(name: &str) -> Vec<String> {
    let all = lock(&SINK.lines);
    assert!(all.iter().all(|line| !line.contains("Pa55-w0rd")), "{all:?}");
    let own = all.iter().filter(|line| line.contains(&format!("({name})")));
    own.map(|line| {
        let (level, text) = line.split_once(" connection ").expect("the line names the connection");
        let (number, text) = text.split_once(' ').expect("the line has a number");
        assert!(number.parse::<u64>().is_ok(), "{line}");
        format!("{level} {}", text.trim_start_matches(&format!("({name})")))
    })
    .collect()
}

#[track_caller]
fn assert_lines(name: &str, expected: &[&str]) {
    assert_eq!(lines(name), expected, "the lines of {name}");
}

const CONNECTED: &str = "INFO : connected to node 0 in 0.0 s: unknown broker, no TLS, virtual host '/', heartbeat 60s, \
                         frame_max 131072, channel_max 2047";

#[test]
fn a_loss_says_why_and_what_it_interrupts_and_a_recovery_what_it_restores() {
    let mut rig = rig("lost");
    rig.recover();
    let channel = rig.open_channel();
    let _consumer = rig.consume(&channel);
    rig.lose();
    rig.turn();
    let lines = lines("lost");
    assert_eq!(lines[0], CONNECTED);
    let expected = [
        "DEBUG , channel 1: consumer 'ctag-1.1' starts on queue 'q'",
        "WARN : connection lost: the peer disconnected without closing the connection; the broker was stopped or killed, or a \
         proxy or firewall ended the TCP connection; interrupted: 1 channels, 0 pending requests, 0 unconfirmed messages",
    ];
    assert_eq!(lines[1..3], expected);
    assert!(
        lines[3].starts_with("INFO : the next attempt to connect to node 0 is in "),
        "{lines:?}"
    );
    assert_eq!(lines[4], "DEBUG : connecting to node 0, attempt 1");
    let end = "; attempt 1; restored in 0.0 s: 1 channels, 1 consumers";
    assert!(lines[5].starts_with("INFO : reconnected to node 0 in "), "{lines:?}");
    assert!(lines[5].ends_with(end), "{lines:?}");
    assert_eq!(lines.len(), 6, "{lines:?}");
}

#[test]
fn silence_is_reported_before_the_connection_is_given_up() {
    let mut rig = rig("silent");
    rig.silence();
    for _ in 0..13 {
        rig.advance(Duration::from_secs(10));
    }
    let lines = lines("silent");
    assert!(lines[1].contains("the broker has sent nothing for "), "{lines:?}");
    assert!(lines[1].starts_with("WARN "), "{lines:?}");
}

#[test]
fn a_close_by_the_application_is_no_warning() {
    let mut rig = rig("closed");
    let connection = rig.connection.clone();
    rig.run(connection.close()).expect("it is closed");
    assert_lines("closed", &[CONNECTED, "INFO : closed by the application"]);
}

#[test]
fn a_sink_may_panic() {
    let mut rig = rig("panics");
    let channel = rig.open_channel();
    let _consumer = rig.consume(&channel);
    let connection = rig.connection.clone();
    rig.run(connection.close()).expect("it is closed");
    assert_eq!(lines("panics").len(), 3);
}

#[test]
fn a_sink_may_use_the_connection() {
    let mut rig = rig("used");
    *lock(&SINK.used) = Some(("used", rig.connection.clone()));
    let channel = rig.open_channel();
    let _consumer = rig.consume(&channel);
    let connection = rig.connection.clone();
    rig.run(connection.close()).expect("it is closed");
    assert!(lock(&SINK.used).is_none(), "the sink has used it");
    let lines = lines("used");
    assert_eq!(lines[lines.len() - 1], "INFO : closed by the application", "{lines:?}");
}
