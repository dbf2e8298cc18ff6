//! The credentials of a session after `update_secret`.

use std::sync::Arc;

use amqp_client_core::proto::method::{Arguments as _, ConnectionUpdateSecret};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ClientConfig, CommandError, Event, Misuse, ReplyCode, Secret};

use crate::rig::{Script, SessionRig};

fn scene() -> SessionRig<Script> {
    let recovery = Recovery::default().recovers(|_| true);
    let mut rig = SessionRig::scripted(recovery);
    rig.run();
    assert!(rig.session.is_open());
    rig
}

fn update(rig: &mut SessionRig<Script>, secret: &str) {
    rig.session.update_secret(Secret::from(secret.to_owned()), "renewed").expect("it is open");
}

fn lose(rig: &mut SessionRig<Script>) {
    rig.cut();
    rig.reconnect_to(<_>::default());
    rig.run();
    assert!(rig.session.is_open());
}

#[test]
fn the_next_connections_log_in_with_it() {
    let mut rig = scene();
    update(&mut rig, "second");
    rig.run();
    assert!(rig.events.contains(&Event::SecretUpdated));
    lose(&mut rig);
    lose(&mut rig);
    assert_eq!(rig.peer.logins, ["\0guest\0guest", "\0guest\0second", "\0guest\0second"]);
}

#[test]
fn updates_also_end_when_the_connection_is_lost_before_the_reply() {
    let mut rig = scene();
    update(&mut rig, "second");
    update(&mut rig, "third");
    lose(&mut rig);
    assert_eq!(rig.peer.logins, ["\0guest\0guest", "\0guest\0third"]);
}

#[test]
fn a_secret_set_during_an_outage_is_for_the_next_attempt() {
    let mut rig = scene();
    rig.cut();
    let sent = rig.session.update_secret(Secret::from("early".to_owned()), "renewed");
    assert!(matches!(sent, Err(CommandError::Ended(_))), "{sent:?}");
    rig.reconnect_to(<_>::default());
    // This handshake began with the old secret; the next one does not.
    let sent = rig.session.update_secret(Secret::from("late".to_owned()), "renewed");
    assert_eq!(sent, Err(Misuse::NotOpenYet.into()));
    rig.run();
    lose(&mut rig);
    assert_eq!(rig.peer.logins, ["\0guest\0guest", "\0guest\0early", "\0guest\0late"]);
}

#[test]
fn a_secret_that_the_broker_refuses_is_forgotten() {
    let mut rig = scene();
    update(&mut rig, "good");
    rig.run();
    update(&mut rig, "bad");
    update(&mut rig, "worse");
    let cause = (ConnectionUpdateSecret::CLASS_ID, ConnectionUpdateSecret::METHOD_ID);
    rig.peer.server.close_over(rig.now, ReplyCode::NOT_ALLOWED, "new secret was refused", cause);
    rig.run();
    rig.reconnect_to(<_>::default());
    rig.run();
    assert_eq!(rig.peer.logins, ["\0guest\0guest", "\0guest\0good"]);
}

#[test]
fn a_secret_that_was_not_sent_because_it_is_too_large_changes_nothing() {
    let mut rig = scene();
    let large = Secret::from("x".repeat(1 << 20));
    let sent = rig.session.update_secret(large, "renewed");
    assert!(matches!(sent, Err(CommandError::Misuse(Misuse::TooLarge { .. }))), "{sent:?}");
    lose(&mut rig);
    assert_eq!(rig.peer.logins, ["\0guest\0guest", "\0guest\0guest"]);
}

#[test]
fn it_is_for_all_nodes_and_a_later_configuration_takes_precedence() {
    let mut rig = scene();
    let recovery = Recovery::default().recovers(|_| true);
    rig.session.recover_with(recovery, 3, 0);
    update(&mut rig, "by hand");
    rig.run();
    (0..3).for_each(|_| lose(&mut rig));
    // As from a token source, once: the session goes on with it.
    let given = ClientConfig::default().login("guest", "from a source");
    rig.next_config = Some(Arc::new(given));
    (0..2).for_each(|_| lose(&mut rig));
    update(&mut rig, "by hand again");
    rig.run();
    lose(&mut rig);
    let secrets: Vec<_> =
        rig.peer.logins.iter().map(|login| login.trim_start_matches("\0guest\0")).collect();
    let by_hand = ["by hand"; 3];
    let expected = ["guest"].into_iter().chain(by_hand);
    let expected = expected.chain(["from a source"; 2]).chain(["by hand again"]);
    assert_eq!(secrets, expected.collect::<Vec<_>>());
}
