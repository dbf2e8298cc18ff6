//! A program that matches errors and keeps time compiles with and without the feature `std`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::time::{Clock, Instant};
use amqp_proto::{Close, Connection, ConnectionError, TimerReason};

/// Returns what to log about the end of a connection.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Transport(failure) => failure.text().to_owned(),
        ConnectionError::Closed(Close { reply_code, .. }) => reply_code.to_string(),
        error => error.to_string(),
    }
}

#[test]
fn errors_are_matched_alike_with_and_without_std() {
    let error = ConnectionError::Eof;
    assert_eq!(reason(&error), error.to_string());
}

const SECOND: Duration = Duration::from_secs(1);

/// Uses each operation of instants that exists without the feature.
#[test]
fn instants_have_the_same_operations_with_and_without_std() {
    let clock = Clock::new();
    let start: Instant = clock.at(Duration::ZERO);
    let later = start + SECOND;
    assert_eq!(later, clock.at(SECOND));
    assert_eq!(later.duration_since(start), SECOND);
    assert_eq!(Instant::duration_since(&later, start), SECOND);
    assert_eq!(Instant::saturating_duration_since(&start, later), Duration::ZERO);
    assert_eq!(Instant::checked_add(&start, SECOND), Some(later));
    let mut moved = start;
    moved += SECOND;
    assert!(moved == later && start < later && start.max(later) == later);
    assert_eq!(HashSet::from([start, later, moved]).len(), 2);
    assert!(!format!("{start:?}").is_empty());
}

#[test]
fn a_clock_converts_in_both_directions() {
    let clock = Clock::new();
    assert_eq!(clock.since_start(clock.at(SECOND)), SECOND);
    assert!(clock.at(Duration::MAX) > clock.at(SECOND));
}

#[test]
fn a_connection_keeps_time_by_a_clock() {
    let clock = Clock::default();
    let mut client = Connection::client(Arc::default(), clock.at(SECOND));
    let (due, reason) = client.poll_timeout().expect("the handshake has a timeout");
    assert_eq!(reason, TimerReason::Handshake);
    client.handle_timeout(due);
    assert!(client.check().is_err());
    client.handle_transport_failure("gone");
}
