//! Tokens are renewed in time, in virtual time.

mod harness;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::login::{Token, TokenError, keep_fresh};
use amqp_client_core::{ClientConfig, Config, ConnectionEvent, QueueOptions, Status};
use harness::{ClientRig, Clock};

const SECOND: Duration = Duration::from_secs(1);

/// A connection without heartbeats, and the clock of its token renewal.
fn scene() -> (ClientRig, Clock) {
    let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
    let rig = ClientRig::new(Config::default().protocol(protocol));
    let clock = Clock::at(rig.now());
    (rig, clock)
}

/// Begins it.
fn begin(renewing: &mut Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
    renewing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets a second pass. Says whether the renewing has ended.
fn tick(
    rig: &mut ClientRig,
    clock: &Clock,
    renewing: &mut Pin<&mut impl Future<Output = ()>>,
) -> bool {
    rig.advance(SECOND);
    clock.set(rig.now());
    let mut over = false;
    for _ in 0..4 {
        over |= !over && begin(renewing).is_ready();
        rig.turn();
    }
    over
}

#[test]
fn the_next_token_is_sent_when_a_fifth_of_the_time_is_left() {
    let (mut rig, clock) = scene();
    let source = Arc::new(|| async { Ok(Token::new("second", 20 * SECOND)) });
    let first = Token::new("first", 10 * SECOND);
    let mut renewing = pin!(keep_fresh(&rig.connection, source, &first, clock.clone()));
    assert!(begin(&mut renewing).is_pending());
    for second in 1..=40 {
        assert!(!tick(&mut rig, &clock, &mut renewing));
        let expected =
            (second >= 8) as usize + (second >= 8 + 16) as usize + (second >= 40) as usize;
        assert_eq!(rig.peer.secrets.len(), expected, "after {second} s");
    }
    assert!(rig.peer.secrets.iter().all(|secret| secret.expose() == b"second"));
}

#[test]
fn without_a_token_it_is_retried_and_reported() {
    let (mut rig, clock) = scene();
    let attempts = Arc::new(AtomicU32::new(0));
    let count = attempts.clone();
    let source = Arc::new(move || {
        let attempt = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let down: TokenError = Arc::new(io::Error::other("down"));
            match attempt {
                0 => Err(down),
                // Too slow is as bad.
                1 => std::future::pending().await,
                _ => Ok(Token::new("at last", 1000 * SECOND)),
            }
        }
    });
    let mut events = rig.connection.events();
    let first = Token::new("first", 100 * SECOND);
    let mut renewing = pin!(keep_fresh(&rig.connection, source, &first, clock.clone()));
    assert!(begin(&mut renewing).is_pending());
    for second in 1..=110 {
        assert!(!tick(&mut rig, &clock, &mut renewing));
        let expected = (second >= 80) as u32 + (second >= 85) as u32 + (second >= 110) as u32;
        assert_eq!(attempts.load(Ordering::Relaxed), expected, "after {second} s");
    }
    assert_eq!(rig.peer.secrets.len(), 1);
    for expected in ["down", "the token source returned no token within 20s"] {
        let event = rig.run(events.next());
        assert_eq!(event, Some(ConnectionEvent::TokenNotRenewed { why: expected.to_owned() }));
    }
}

#[test]
fn a_source_that_panics_is_asked_again() {
    let (mut rig, clock) = scene();
    let attempts = Arc::new(AtomicU32::new(0));
    let count = attempts.clone();
    let source = Arc::new(move || {
        let attempt = count.fetch_add(1, Ordering::Relaxed);
        assert!(attempt != 0, "at once");
        async move {
            assert!(attempt != 1, "later, attempt {attempt}");
            Ok(Token::new("at last", 1000 * SECOND))
        }
    });
    let mut events = rig.connection.events();
    let first = Token::new("first", 100 * SECOND);
    let mut renewing = pin!(keep_fresh(&rig.connection, source, &first, clock.clone()));
    assert!(begin(&mut renewing).is_pending());
    for _ in 1..=90 {
        assert!(!tick(&mut rig, &clock, &mut renewing));
    }
    assert_eq!(rig.peer.secrets.len(), 1);
    for expected in ["at once", "later, attempt 1"] {
        let why = format!("the token source panicked: {expected}");
        assert_eq!(rig.run(events.next()), Some(ConnectionEvent::TokenNotRenewed { why }));
    }
}

#[test]
fn a_token_that_is_good_for_ever_is_not_renewed() {
    let (rig, clock) = scene();
    let source = Arc::new(|| async { Ok(Token::new("never", SECOND)) });
    let forever = Token::new("first", Duration::MAX);
    let mut renewing = pin!(keep_fresh(&rig.connection, source, &forever, clock.clone()));
    assert!(begin(&mut renewing).is_ready());
    assert!(rig.peer.secrets.is_empty());
}

#[test]
fn it_ends_with_the_connection_and_does_not_keep_it_open() {
    let (mut rig, clock) = scene();
    let source = Arc::new(|| async { Ok(Token::new("second", 20 * SECOND)) });
    let first = Token::new("first", 10 * SECOND);
    let handle = rig.connection.clone();
    let mut renewing = pin!(keep_fresh(&handle, source, &first, clock.clone()));
    assert!(!tick(&mut rig, &clock, &mut renewing));
    let closing = rig.connection.clone();
    rig.run(async move { closing.close().await }).expect("it closes");
    assert!(tick(&mut rig, &clock, &mut renewing));
}

#[test]
fn the_next_connection_logs_in_with_the_last_secret() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    let connection = rig.connection.clone();
    rig.run(connection.update_secret("renewed", "by hand")).expect("it is taken");
    for _ in 0..2 {
        rig.lose();
        rig.run(connection.ready()).expect("it comes back");
    }
    let logins: Vec<_> = rig.peer.logins.iter().map(|login| login.expose()).collect();
    assert_eq!(logins, [&b"\0guest\0guest"[..], b"\0guest\0renewed", b"\0guest\0renewed"]);
}

/// The reply to the first secret is lost with the connection. That must not be taken for a reply that is still to come.
#[test]
fn a_secret_is_accepted_after_an_earlier_one_was_lost() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    let connection = rig.connection.clone();
    rig.silence();
    let mut lost = Box::pin(connection.update_secret("lost", ""));
    assert!(rig.poll(lost.as_mut()).is_none());
    rig.turn();
    rig.lose();
    rig.run(connection.ready()).expect("it comes back");
    rig.run(connection.update_secret("renewed", "")).expect("it is taken");
    assert!(rig.run(lost).is_err());
}

/// For the broker, the connection is open while the client restores its state, and is lost before that is complete.
#[test]
fn a_secret_ends_with_an_attempt_to_reconnect() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover();
    let connection = rig.connection.clone();
    let channel = rig.run(connection.open_channel()).expect("it opens");
    rig.run(channel.queue_declare("queue", QueueOptions::new())).expect("it is declared");
    rig.lose();
    let mut lost = loop {
        let mut update = Box::pin(connection.update_secret("lost", ""));
        match rig.poll(update.as_mut()) {
            None => break update,
            Some(refused) => assert!(refused.is_err()),
        }
        rig.write(true);
        rig.answer_all();
    };
    assert_eq!(connection.health().status, Status::Recovering);
    rig.silence();
    rig.turn();
    rig.lose();
    rig.run(connection.ready()).expect("it comes back");
    assert!(rig.poll(lost.as_mut()).expect("it has ended").is_err());
    rig.run(connection.update_secret("renewed", "")).expect("it is taken");
}
