//! What a session logs in with after `update_secret`.

use std::sync::Arc;

use amqp_client_core::proto::method::{Arguments as _, ConnectionUpdateSecret};
use amqp_client_core::proto::sasl::Plain;
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ClientConfig, CommandError, Event, Misuse, ReplyCode, Secret};

use crate::pair::{Pair, accept};

fn scene() -> Pair {
    let recovery = Recovery::default().recovers(|_| true);
    let mut pair = Pair::new(recovery);
    pair.run(accept);
    assert!(pair.session.is_open());
    pair
}

fn update(pair: &mut Pair, secret: &str) {
    pair.session.update_secret(Secret::from(secret.to_owned()), "renewed").expect("it is open");
}

fn lose(pair: &mut Pair) {
    pair.cut();
    pair.reconnect(<_>::default());
    pair.run(accept);
    assert!(pair.session.is_open());
}

#[test]
fn the_next_connections_log_in_with_it() {
    let mut pair = scene();
    update(&mut pair, "second");
    pair.run(accept);
    assert!(pair.events.contains(&Event::SecretUpdated));
    lose(&mut pair);
    lose(&mut pair);
    assert_eq!(pair.logins, ["\0guest\0guest", "\0guest\0second", "\0guest\0second"]);
}

#[test]
fn updates_also_end_when_the_connection_is_lost_before_the_reply() {
    let mut pair = scene();
    update(&mut pair, "second");
    update(&mut pair, "third");
    lose(&mut pair);
    assert_eq!(pair.logins, ["\0guest\0guest", "\0guest\0third"]);
}

#[test]
fn a_secret_set_during_an_outage_is_for_the_next_attempt() {
    let mut pair = scene();
    pair.cut();
    let sent = pair.session.update_secret(Secret::from("early".to_owned()), "renewed");
    assert!(matches!(sent, Err(CommandError::Ended(_))), "{sent:?}");
    pair.reconnect(<_>::default());
    // This handshake began with the old secret; the next one does not.
    let sent = pair.session.update_secret(Secret::from("late".to_owned()), "renewed");
    assert_eq!(sent, Err(Misuse::NotOpenYet.into()));
    pair.run(accept);
    lose(&mut pair);
    assert_eq!(pair.logins, ["\0guest\0guest", "\0guest\0early", "\0guest\0late"]);
}

#[test]
fn a_secret_that_the_broker_refuses_is_forgotten() {
    let mut pair = scene();
    update(&mut pair, "good");
    pair.run(accept);
    update(&mut pair, "bad");
    update(&mut pair, "worse");
    let cause = (ConnectionUpdateSecret::CLASS_ID, ConnectionUpdateSecret::METHOD_ID);
    pair.server.close_over(pair.now, ReplyCode::NOT_ALLOWED, "new secret was refused", cause);
    pair.run(accept);
    pair.reconnect(<_>::default());
    pair.run(accept);
    assert_eq!(pair.logins, ["\0guest\0guest", "\0guest\0good"]);
}

#[test]
fn a_secret_that_was_not_sent_because_it_is_too_large_changes_nothing() {
    let mut pair = scene();
    let large = Secret::from("x".repeat(1 << 20));
    let sent = pair.session.update_secret(large, "renewed");
    assert!(matches!(sent, Err(CommandError::Misuse(Misuse::TooLarge { .. }))), "{sent:?}");
    lose(&mut pair);
    assert_eq!(pair.logins, ["\0guest\0guest", "\0guest\0guest"]);
}

#[test]
fn it_is_for_all_nodes_and_a_later_configuration_takes_precedence() {
    let mut pair = scene();
    let recovery = Recovery::default().recovers(|_| true);
    pair.session.recover_with(recovery, 3, 0);
    update(&mut pair, "by hand");
    pair.run(accept);
    (0..3).for_each(|_| lose(&mut pair));
    // As from a token source, once: the session goes on with it.
    let mut given = ClientConfig::default();
    given.mechanisms = vec![Arc::new(Plain::new("guest", "from a source"))];
    pair.given = Some(Arc::new(given));
    (0..2).for_each(|_| lose(&mut pair));
    update(&mut pair, "by hand again");
    pair.run(accept);
    lose(&mut pair);
    let secrets: Vec<_> =
        pair.logins.iter().map(|login| login.trim_start_matches("\0guest\0")).collect();
    let by_hand = ["by hand"; 3];
    let expected = ["guest"].into_iter().chain(by_hand);
    let expected = expected.chain(["from a source"; 2]).chain(["by hand again"]);
    assert_eq!(secrets, expected.collect::<Vec<_>>());
}
