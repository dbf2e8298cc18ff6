//! Lines about losses and recoveries.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use amqp_client_core::login::{Token, TokenError, keep_fresh};
use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::Method;
use amqp_client_core::{
    Config, ExchangeKind, ExchangeOptions, FieldTable, OnLoss, PublisherOptions, QueueOptions,
};

use crate::harness::Clock;
use crate::scene::{Scene, protocol, recovery};

const SECOND: Duration = Duration::from_secs(1);

const EOF: &str = "WARN connection lost: the peer disconnected without closing the connection; the broker was killed or has crashed, or a proxy or firewall ended the TCP connection (RabbitMQ would have announced an orderly stop)";

const WAITS: &str = "INFO the next attempt to connect to node 0 is in 0.1 s";

const CONNECTING: &str = "DEBUG connecting to node 0, attempt 1";

const RECONNECTED: &str = "INFO reconnected to node 0 in 0.1 s: unknown broker, no TLS, user 'orders', virtual host '/', \
                           heartbeat 60s, frame_max 131072, channel_max 2047; attempt 1; restored in 0.0 s";

const ONE_CHANNEL: &str = "; interrupted: 1 channel";

#[test]
pub(crate) fn a_loss_says_why_and_what_it_interrupts_and_a_recovery_what_it_restores() {
    let mut scene = Scene::recovering("lost", recovery());
    let channel = scene.open_channel();
    let consumer = scene.consume(&channel);
    scene.run(channel.queue_declare("orders", QueueOptions::new())).expect("it is declared");
    scene.peer.deliver(channel.id(), consumer.tag(), 3, b"body");
    scene.turn();
    let other = scene.open_channel();
    scene.peer.ignores_publishes = true;
    let publisher = other.default_exchange().publisher(PublisherOptions::new()).expect("open");
    let _confirm = scene.run(publisher.publish("q", b"body")).expect("queued");
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let keeps = other.default_exchange().publisher(options).expect("open");
    let _kept = scene.run(keeps.publish("q", b"kept")).expect("queued");
    scene.peer.ignores_purges = true;
    let _purging = channel.queue_purge("q");
    scene.turn();
    scene.lines();
    scene.lose();
    scene.turn();
    scene.expect(&[
        &format!(
            "{EOF}; interrupted: 2 channels, 1 pending request, 1 unconfirmed message (the broker may have it or not, and the client does not publish it again: the confirm fails); the broker delivers 3 unsettled messages \
             again; 176 bytes of messages kept: the client publishes them again"
        ),
        WAITS,
        CONNECTING,
        &format!("{RECONNECTED}: 2 channels, 1 queue, 1 consumer, 1 unconfirmed message (published again)"),
    ]);
}

#[test]
pub(crate) fn the_end_of_an_idle_connection_says_for_how_long() {
    let mut scene = Scene::recovering("idle", recovery());
    scene.pass(20 * SECOND);
    scene.cut();
    scene.turn();
    let lines = scene.lines();
    assert_eq!(lines[0], format!("{EOF}; nothing had arrived for 20.0 s"));
}

#[test]
pub(crate) fn a_reset_means_the_same_as_the_end_of_the_stream() {
    let mut scene = Scene::recovering("reset", recovery());
    scene.fail(&std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset"));
    scene.turn();
    let lines = scene.lines();
    assert_eq!(
        lines[0],
        "WARN connection lost: the transport failed: reset; the broker was killed or has crashed, or a proxy or firewall ended the TCP connection (RabbitMQ would have announced an orderly stop)"
    );
}

/// Each byte of a message is a sign of life, and so is a heartbeat. Without both, a proxy may end the connection.
#[test]
fn without_heartbeats_an_idle_connection_was_ended_by_a_proxy() {
    let config = protocol().heartbeat(Duration::ZERO);
    let mut scene = Scene::with("proxy", Config::default().protocol(config));
    scene.recover_with(recovery());
    scene.pass(20 * SECOND);
    scene.cut();
    scene.turn();
    let lines = scene.lines();
    let expected = "WARN connection lost: the peer disconnected without closing the connection; nothing had arrived for 20.0 s, and \
                    heartbeats are off: a proxy or firewall probably ends idle connections; enable heartbeats of at most 10 s";
    assert_eq!(lines[0], expected);
}

#[test]
fn losses_that_repeat_are_counted() {
    let mut scene = Scene::recovering("again", recovery());
    for _ in 0..3 {
        scene.pass(SECOND);
        scene.lose();
        scene.turn();
    }
    let lines = scene.lines();
    let lost: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix(EOF)).collect();
    assert_eq!(lost.len(), 3, "{lines:?}");
    assert_eq!(lost[0], "");
    assert!(lost[2].starts_with("; this is loss 3 in 2."), "{lost:?}");
}

#[test]
pub(crate) fn a_failed_attempt_has_its_step_and_the_end_its_reason() {
    let mut scene = Scene::recovering("attempts", recovery().attempts_max(Some(1)));
    let _channel = scene.open_channel();
    scene.lose();
    scene.step();
    scene.cut();
    scene.turn();
    scene.expect(&[
        &format!("{EOF}{ONE_CHANNEL}"),
        WAITS,
        CONNECTING,
        "WARN attempt 1 to connect to node 0 failed after 0.0 s (step: login): login failed: connection closed during login; the credentials \
         were probably rejected: check the user and the password; user 'orders' was tried; this login has worked before: the user or the password was changed, or the broker has lost its users",
        "ERROR stops reconnecting: connection lost and not recovered (attempts: 1, last failure: login \
         failed: connection closed during login; the credentials were probably rejected: check the user and the password): the \
         peer disconnected without closing the connection",
    ]);
}

/// The broker refuses some queues.
fn refuses(method: &Method) -> Option<(ReplyCode, &'static str)> {
    match method {
        Method::QueueDeclare(declare) if declare.queue == "gone" => Some((
            ReplyCode::ACCESS_REFUSED,
            "ACCESS_REFUSED - configure access to queue 'gone' in vhost '/' refused for user 'orders'",
        )),
        Method::QueueDeclare(declare) if declare.queue == "held" => Some((
            ReplyCode::RESOURCE_LOCKED,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'held' in vhost '/'",
        )),
        _ => None,
    }
}

#[test]
pub(crate) fn what_is_missing_after_a_recovery_is_listed() {
    let mut scene = Scene::recovering("missing", recovery());
    let channel = scene.open_channel();
    scene.run(channel.queue_declare("gone", QueueOptions::new())).expect("it is declared");
    let exchange = ExchangeOptions::new();
    scene
        .run(channel.exchange_declare("orders", ExchangeKind::Direct, exchange))
        .expect("declared");
    let bound = channel.queue_bind("gone", "orders", "ship", FieldTable::new());
    scene.run(bound).expect("it is bound");
    let exclusive = QueueOptions::new().exclusive(true);
    scene.run(channel.queue_declare("held", exclusive)).expect("it is declared");
    let _consumer =
        scene.run(channel.basic_consume("gone", Default::default())).expect("it starts");
    scene.lines();
    scene.peer.refusals = Some(refuses);
    scene.lose();
    scene.turn();
    let refused = "403 ACCESS_REFUSED: configure access to queue 'gone' in vhost '/' refused for user 'orders' (caused by \
                   queue.declare); grant the user the configure permission (rabbitmqctl set_permissions)";
    scene.expect(&[
        &format!("{EOF}{ONE_CHANNEL}"),
        WAITS,
        CONNECTING,
        &format!(
            "WARN, channel 1: consumer 'ctag-1.1' of queue 'gone' has ended: its queue \"gone\" could not be declared again: {refused}"
        ),
        &format!(
            "{}: 1 channel, 1 exchange; missing: queue 'gone', consumer 'ctag-1.1' of channel 1, binding of 'gone' to 'orders' by \
             'ship'; tried again later: queue 'held'",
            RECONNECTED.replace("INFO", "WARN")
        ),
        &format!("WARN cannot restore queue 'gone': {refused}"),
        "WARN cannot restore binding of 'gone' to 'orders' by 'ship': its queue is missing",
        "WARN cannot restore queue 'held' yet: another connection holds it; the client tries again",
    ]);
    scene.peer.refusals = None;
    for _ in 0..3 {
        scene.advance(SECOND);
    }
    scene.expect(&["INFO restored queue 'held'"]);
}

/// The broker refuses all queues that it has not named itself.
fn refuses_all(method: &Method) -> Option<(ReplyCode, &'static str)> {
    let refused = matches!(method, Method::QueueDeclare(declare) if !declare.queue.is_empty());
    refused.then_some((ReplyCode::ACCESS_REFUSED, "refused"))
}

#[test]
pub(crate) fn long_lists_are_cut() {
    let mut scene = Scene::recovering("many", recovery());
    let channel = scene.open_channel();
    for number in 0..25 {
        let named = channel.queue_declare(format!("queue-{number}"), QueueOptions::new());
        scene.run(named).expect("it is declared");
        scene.run(channel.queue_declare("", QueueOptions::new())).expect("it is declared");
    }
    scene.peer.refusals = Some(refuses_all);
    scene.lose();
    scene.turn();
    let lines = scene.lines();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((count("WARN cannot restore queue"), count("INFO queue 'amq.gen-")), (20, 20));
    assert!(lines.iter().any(|line| line == "WARN 5 more entities are missing"), "{lines:?}");
    assert!(lines.iter().any(|line| line == "INFO 5 more queues have new names"), "{lines:?}");
}

#[test]
pub(crate) fn a_renewed_token_is_reported() {
    let mut scene = Scene::new("renewed");
    let clock = Clock::at(scene.now());
    let source = Arc::new(|| async { Ok(Token::new("Pa55-w0rd", 20 * SECOND)) });
    let first = Token::new("Pa55-w0rd", 10 * SECOND);
    let mut renewing = pin!(keep_fresh(&scene.connection, source, &first, clock.clone()));
    for _ in 0..9 {
        scene.advance(SECOND);
        clock.set(scene.now());
        for _ in 0..3 {
            let _pending = renewing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            scene.turn();
        }
    }
    scene.expect(&["INFO the token was renewed, for 20s"]);
}

#[test]
pub(crate) fn a_queue_with_another_name_is_reported() {
    let mut scene = Scene::recovering("renamed", recovery());
    let channel = scene.open_channel();
    let queue = scene.run(channel.queue_declare("", QueueOptions::new())).expect("it is declared");
    let consumer = scene.run(queue.consume(Default::default())).expect("it starts");
    scene.lines();
    scene.lose();
    scene.turn();
    scene.expect(&[
        &format!("{EOF}{ONE_CHANNEL}"),
        WAITS,
        CONNECTING,
        &format!("{RECONNECTED}: 1 channel, 1 queue, 1 consumer"),
        "INFO queue 'amq.gen-1' has a new name: 'amq.gen-2'",
    ]);
    scene.run(consumer.cancel()).expect("it is cancelled");
    scene.expect(&[
        "DEBUG, channel 1: consumer 'ctag-1.1' of queue 'amq.gen-2' was cancelled by the application",
    ]);
}

#[test]
pub(crate) fn a_token_that_is_not_renewed_is_reported() {
    let mut scene = Scene::new("token");
    let clock = Clock::at(scene.now());
    let source = Arc::new(|| async {
        let error: TokenError = Arc::new(std::io::Error::other("the authorization server is down"));
        Err(error)
    });
    let first = Token::new("first", 10 * SECOND);
    let mut renewing = pin!(keep_fresh(&scene.connection, source, &first, clock.clone()));
    for _ in 0..9 {
        scene.advance(SECOND);
        clock.set(scene.now());
        for _ in 0..3 {
            let _pending = renewing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
    scene.expect(&[
        "WARN the token was not renewed, the client tries again: the authorization server is down",
    ]);
}
