use std::time::Duration;

use amqp_proto::{
    ClientConfig, ConnectionError, Properties, ReplyCode, Route, ServerConfig, TimerReason,
    Transmit,
};
use bytes::{Buf as _, Bytes};

use crate::harness::Pair;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn pair(heartbeat: u64) -> Pair {
    let config = ClientConfig::default().heartbeat(seconds(heartbeat));
    Pair::opened(config, ServerConfig::default())
}

#[test]
fn a_heartbeat_is_due_after_half_the_interval_without_traffic() {
    let mut pair = pair(10);
    let due = pair.client.poll_timeout().expect("a timer");
    assert_eq!(due, (pair.now + seconds(5), TimerReason::Heartbeat));
    pair.advance(seconds(4));
    assert!(pair.client.poll_transmit(pair.now).is_none());
    // Anything sent puts it off.
    pair.client.open_channel().expect("there is room");
    pair.drive();
    let due = pair.client.poll_timeout().expect("a timer");
    assert_eq!(due, (pair.now + seconds(5), TimerReason::Heartbeat));
}

#[test]
fn heartbeats_keep_a_quiet_connection_alive() {
    let mut pair = pair(1);
    pair.advance(seconds(1000));
    assert!(pair.client.is_open() && pair.server.is_open());
}

#[test]
fn a_silent_peer_is_given_up_after_two_intervals() {
    let mut pair = pair(10);
    let begin = pair.now;
    // The server sends nothing any more.
    for second in 1..20 {
        pair.client.handle_timeout(begin + seconds(second));
        assert!(pair.client.is_open(), "after {second} s");
    }
    // The loop may have been held up: it looks once more.
    pair.client.handle_timeout(begin + seconds(20));
    assert!(pair.client.is_open() && pair.client.peer_seems_silent());
    let (due, reason) = pair.client.poll_timeout().expect("a timer");
    assert_eq!((due, reason), (begin + seconds(20) + LOOK_AGAIN, TimerReason::Silence));
    pair.client.handle_timeout(due);
    assert_eq!(pair.client_error(), ConnectionError::PeerSilent(seconds(20)));
    assert!(pair.client.poll_timeout().is_none() && !pair.client.peer_seems_silent());
}

/// The time that a peer that seems silent gets.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[test]
fn a_suspended_loop_reads_heartbeats_before_giving_up_the_peer() {
    let mut pair = pair(10);
    for held_up in [21, 25, 1000, 1_000_000] {
        // It lies in the transport.
        pair.server.send_heartbeat();
        pair.now += seconds(held_up);
        pair.client.handle_timeout(pair.now);
        assert!(pair.client.peer_seems_silent());
        pair.drive();
        assert!(pair.client.is_open() && !pair.client.peer_seems_silent());
        pair.client.handle_timeout(pair.now + seconds(19));
        assert!(pair.client.is_open() && !pair.client.peer_seems_silent());
        pair.now += seconds(19);
        pair.server.send_heartbeat();
        pair.drive();
    }
}

#[test]
fn any_input_counts_as_a_sign_of_life() {
    let mut pair = pair(10);
    let begin = pair.now;
    let mut input = bytes::BytesMut::new();
    for second in 1..100u64 {
        let now = begin + seconds(second);
        pair.client.handle_timeout(now);
        if second % 15 == 0 {
            // One byte of a frame is enough.
            input.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0xce][input.len()..=input.len()]);
            pair.client.handle_input(now, &mut input).expect("a heartbeat in pieces");
        }
    }
    assert!(pair.client.is_open());
}

#[test]
fn while_reading_is_suspended_a_read_that_finds_nothing_means_silence() {
    let mut pair = pair(10);
    let begin = pair.now;
    pair.client.handle_reading(begin, false);
    pair.client.handle_no_input(begin + seconds(19));
    assert!(pair.client.is_open() && !pair.client.peer_seems_silent());
    for second in 20..1000 {
        pair.client.handle_timeout(begin + seconds(second));
        assert!(pair.client.is_open() && pair.client.peer_seems_silent(), "it may not have read");
    }
    let (due, reason) = pair.client.poll_timeout().expect("it is asked to read again");
    assert_eq!((due, reason), (begin + seconds(999) + LOOK_AGAIN, TimerReason::Silence));
    pair.client.handle_no_input(begin + seconds(1000));
    assert_eq!(pair.client_error(), ConnectionError::PeerSilent(seconds(20)));
}

#[test]
fn without_heartbeats_no_peer_counts_as_silent() {
    let mut pair = pair(0);
    pair.client.handle_no_input(pair.now + seconds(1_000_000));
    assert!(pair.client.is_open() && !pair.client.peer_seems_silent());
}

#[test]
fn while_reading_is_suspended_time_means_nothing() {
    let mut pair = pair(10);
    pair.client.handle_reading(pair.now, false);
    let later = pair.now + seconds(1000);
    pair.client.handle_timeout(later);
    assert!(pair.client.is_open());
    pair.client.handle_reading(later, true);
    pair.client.handle_timeout(later + seconds(19));
    assert!(pair.client.is_open());
    pair.client.handle_timeout(later + seconds(20));
    pair.client.handle_timeout(later + seconds(20) + LOOK_AGAIN);
    assert!(!pair.client.is_open());
}

#[test]
fn heartbeats_can_be_off() {
    let mut pair = pair(0);
    assert_eq!(pair.client.poll_timeout(), None);
    assert_eq!(pair.server.poll_timeout(), None);
    pair.advance(seconds(1_000_000));
    assert!(pair.client.is_open() && pair.server.is_open());
}

#[test]
fn one_can_be_sent_by_hand() {
    let mut pair = pair(0);
    pair.client.send_heartbeat();
    let transmit = pair.client.poll_transmit(pair.now).expect("a heartbeat");
    assert_eq!(bytes::Buf::chunk(transmit), [8, 0, 0, 0, 0, 0, 0, 0xce]);
}

const MIB: usize = 1024 * 1024;

/// A client that closes behind a body of 30 MiB.
fn closing() -> Pair {
    let mut pair = pair(0);
    let id = pair.open_channel();
    let mut channel = pair.client.channel(id).expect("open");
    let body = Bytes::from(vec![7; 30 * MIB]);
    channel.publish(&Route::new("", "q"), &Properties::default(), body).expect("it is queued");
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "bye");
    pair
}

/// The way in which bytes are written: lent, or taken.
#[derive(Debug)]
enum Way {
    Lent,
    Taken(Transmit),
}

fn ways() -> [Way; 2] {
    [Way::Lent, Way::Taken(Transmit::new())]
}

impl Way {
    /// The transport accepts that many bytes. Returns whether everything is written.
    fn write(&mut self, pair: &mut Pair, count: usize) -> bool {
        match self {
            Self::Lent => {
                let Some(transmit) = pair.client.poll_transmit(pair.now) else { return true };
                transmit.advance(count.min(transmit.remaining()));
                pair.client.poll_transmit(pair.now).is_none()
            }
            Self::Taken(taken) => {
                pair.client.take_transmit(pair.now, taken);
                taken.advance(count.min(taken.remaining()));
                pair.client.handle_written(pair.now, taken.remaining());
                taken.is_empty()
            }
        }
    }
}

#[test]
fn a_close_behind_a_large_body_has_its_time_from_when_it_is_written() {
    for mut way in ways() {
        let mut pair = closing();
        while !way.write(&mut pair, MIB) {
            pair.now += seconds(9);
            pair.client.handle_timeout(pair.now);
            assert_eq!(pair.client.check(), Ok(()));
        }
        // A heartbeat that follows makes no difference.
        pair.now += seconds(9);
        pair.client.send_heartbeat();
        assert!(way.write(&mut pair, MIB));
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.client.check(), Ok(()));
        pair.now += seconds(1);
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.client_error(), ConnectionError::CloseTimeout(seconds(10)));
    }
}

#[test]
fn a_close_that_cannot_be_written_ends_in_time() {
    for mut way in ways() {
        let mut pair = closing();
        for _ in 0..3 {
            assert!(!way.write(&mut pair, MIB));
            pair.now += seconds(5);
        }
        // Since five seconds, nothing moves.
        assert!(!way.write(&mut pair, 0));
        pair.now += seconds(5) - Duration::from_nanos(1);
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.client.check(), Ok(()));
        pair.now += Duration::from_nanos(1);
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.client_error(), ConnectionError::CloseTimeout(seconds(10)));
    }
}

#[test]
fn a_close_may_take_for_ever_or_no_time() {
    for (timeout, ends) in [(Duration::MAX, false), (Duration::ZERO, true)] {
        let config = ClientConfig::default().heartbeat(Duration::ZERO).close_timeout(timeout);
        let mut pair = Pair::opened(config, ServerConfig::default());
        pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "bye");
        assert!(Way::Lent.write(&mut pair, MIB));
        pair.client.handle_written(pair.now + seconds(1), 0);
        pair.client.handle_timeout(pair.now);
        assert_eq!(pair.client.check().is_err(), ends);
        pair.client.handle_timeout(pair.now + seconds(1_000_000));
        assert_eq!(pair.client.check().is_err(), ends);
    }
}
