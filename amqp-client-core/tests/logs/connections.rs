//! Lines about connections that are not lost: opened, blocked, silent, closed.

use std::time::Duration;

use amqp_client_core::{Config, Connection, PublisherOptions};

use crate::harness::{ClientRig, Server};
use crate::scene::{Scene, lines_of, protocol, unique};

const SECOND: Duration = Duration::from_secs(1);

#[test]
pub(crate) fn an_open_connection_has_its_parameters() {
    let name = unique("open");
    let config = protocol().connection_name(&name).expect("short");
    let config = config.virtual_host("shop").expect("short").heartbeat(10 * SECOND);
    let rig = ClientRig::new(Config::default().protocol(config));
    let mut lines = lines_of(&name);
    assert_eq!(
        lines.pop().as_deref(),
        Some(
            "INFO connected to node 0 in 0.0 s: unknown broker, no TLS, user 'orders', virtual host 'shop', heartbeat 10s, \
             frame_max 131072, channel_max 2047"
        )
    );
    assert!(lines.is_empty());
    drop(rig);
}

#[test]
pub(crate) fn a_connection_that_cannot_be_opened_has_the_step() {
    let name = unique("refused");
    let config = Config::default().protocol(protocol().connection_name(&name).expect("short"));
    let now = std::time::Instant::now();
    let mut rig = ClientRig::connecting(config, Server::new(now), now);
    rig.step();
    rig.cut();
    let connection: Connection = rig.connection.clone();
    rig.run(connection.ready()).expect_err("the peer has disconnected");
    let lines = lines_of(&name);
    assert_eq!(
        lines,
        [
            "WARN cannot connect (step: login): login failed: connection closed during login; the credentials were probably rejected: check the user and the password"
        ]
    );
}

#[test]
pub(crate) fn a_silent_broker_is_reported_before_it_is_given_up() {
    let mut scene = Scene::new("silent");
    scene.silence();
    for _ in 0..13 {
        scene.advance(10 * SECOND);
    }
    scene.expect(&[
        "WARN the broker has sent nothing for 120.0 s, and its heartbeats are due every 60s: the network is interrupted, or the \
         broker hangs",
    ]);
    scene.peer.send_heartbeat();
    scene.turn();
    scene.expect(&["INFO the broker sends again"]);
}

#[test]
pub(crate) fn an_alarm_of_the_broker_has_its_time() {
    let mut scene = Scene::new("blocked");
    scene.peer.hold(None);
    scene.turn();
    scene.expect(&[
        "WARN the broker blocks publishing (memory): messages wait until its alarm ends; see `rabbitmq-diagnostics alarms`",
    ]);
    scene.advance(12 * SECOND);
    scene.peer.release(None);
    scene.turn();
    scene.expect(&["INFO the broker accepts messages again, after 12.0 s"]);
}

#[test]
pub(crate) fn a_close_by_the_application_is_no_warning() {
    let mut scene = Scene::new("closed");
    let connection = scene.connection.clone();
    scene.run(connection.close()).expect("it is closed");
    scene.expect(&["INFO closed by the application"]);
}

#[test]
pub(crate) fn a_close_by_the_application_has_what_is_pending() {
    let mut scene = Scene::new("pending");
    let channel = scene.open_channel();
    let _consumer = scene.consume(&channel);
    scene.peer.ignores_publishes = true;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    let _confirm = scene.run(publisher.publish("q", b"body")).expect("queued");
    scene.turn();
    scene.lines();
    let connection = scene.connection.clone();
    scene.run(connection.close()).expect("it is closed");
    scene.expect(&["INFO closed by the application; pending: 1 consumer, 1 unconfirmed message"]);
}

#[test]
pub(crate) fn a_close_by_the_broker_without_recovery_has_what_it_interrupts() {
    let mut scene = Scene::new("forced");
    let channel = scene.open_channel();
    scene.peer.ignores_purges = true;
    let _purging = channel.queue_purge("q");
    scene.turn();
    let now = scene.now();
    scene.peer.close(now, "CONNECTION_FORCED - Closed via management plugin");
    scene.turn();
    scene.expect(&[
        "ERROR connection lost: connection closed by the peer: 320 CONNECTION_FORCED: Closed via management plugin; interrupted: \
         1 channel, 1 pending request; the client does not reconnect",
    ]);
}

#[test]
pub(crate) fn a_connection_whose_driver_is_gone_says_so() {
    let mut scene = Scene::new("dropped");
    scene.drop_driver();
    scene.expect(&[
        "ERROR connection lost: the connection's driver was dropped: its task was aborted, or the runtime shut down; the client \
         does not reconnect",
    ]);
}
