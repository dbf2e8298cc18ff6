//! The output of handles, drivers and events for logs: enough for a line, no credentials, no bodies, no internals.

mod harness;

use std::fmt::Debug;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_client_core::adapter::Driver;
use amqp_client_core::adapter::{Drive, Timer, Transport};
use amqp_client_core::login::Token;
use amqp_client_core::{
    ChannelEvent, ClientConfig, Config, ConnectStep, ConnectionError, ConnectionEvent,
    ConsumeOptions, Endpoint, Message, PublisherOptions, Recovery, ShortStr, Target,
};
use amqp_proto::Violation;
use bytes::{Buf as _, BytesMut};
use harness::ClientRig;

const PASSWORD: &str = "Pa55-w0rd";

/// The password, as a text or as a list of bytes, does not show, and the whole is short.
#[track_caller]
fn assert_fit_for_logs(what: &str, shown: &dyn Debug) {
    let numbers = format!("{:?}", PASSWORD.as_bytes()).replace(['[', ']', ' '], "");
    for text in [format!("{shown:?}"), format!("{shown:#?}")] {
        let compact = text.replace(['\n', ' '], "");
        let shows = compact.contains(PASSWORD) || compact.contains(&numbers);
        assert!(!shows, "{what} shows the password: {text}");
        assert!(compact.len() < 1000, "{what} takes {} bytes: {text}", compact.len());
    }
}

fn with_password() -> Config {
    Config::default().protocol(ClientConfig::default().login("user", PASSWORD))
}

/// A transport that takes everything, and shows it.
#[derive(Debug)]
struct Tells(#[expect(dead_code, reason = "`Debug` reads it")] &'static str);

impl Transport for Tells {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut BytesMut) -> Poll<std::io::Result<usize>> {
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct Never;

impl Timer for Never {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_until(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
        Poll::Pending
    }
}

#[test]
fn credentials_are_not_shown_wherever_they_are() {
    let uri: Target = format!("amqp://user:{PASSWORD}@host").parse().expect("a URI");
    assert_fit_for_logs("Target", &uri);
    assert_fit_for_logs("Config", &with_password());
    assert_fit_for_logs("Token", &Token::new(PASSWORD, std::time::Duration::from_secs(1)));

    // The pending output is the response to the server's challenge.
    let now = Instant::now();
    let (connection, mut driver) = Driver::new(with_password(), now);
    let mut server = amqp_client_core::proto::Connection::server(Arc::default(), now);
    driver.turn(now, Waker::noop());
    let mut header = BytesMut::new();
    header.extend_from_slice(driver.output().chunk());
    driver.written(now, header.len());
    server.handle_input(now, &mut header).expect("it is a header");
    let start = server.poll_transmit(now).expect("connection.start");
    driver.input().extend_from_slice(&start.copy_to_bytes(start.remaining()));
    driver.received(now);
    for turned in [false, true] {
        if turned {
            driver.turn(now, Waker::noop());
            let output = driver.output();
            let mut parts = output.chunk().windows(PASSWORD.len());
            assert!(parts.any(|part| part == PASSWORD.as_bytes()), "this is where it is");
            assert_fit_for_logs("Transmit", &output);
        }
        assert_fit_for_logs("Driver", &driver);
        assert_fit_for_logs("Connection", &connection);
    }

    let transport = Tells(PASSWORD);
    let (connection, drive) = Drive::new(transport, Never, with_password());
    assert_fit_for_logs("Drive", &drive);
    assert_fit_for_logs("Connection", &connection);

    let (_connection, mut driver) = Driver::new(with_password(), now);
    driver.recover_with(Recovery::default(), 1, 0);
    driver.eof(now);
    driver.turn(now, Waker::noop());
    assert_fit_for_logs("Reconnector", &driver.into_reconnector());
}

#[test]
fn debug_of_handles_omits_pending_work() {
    let mut rig = ClientRig::new(with_password());
    let connection = rig.connection.clone();
    let channel = rig.run(connection.open_channel()).expect("it opens");
    let opening = connection.open_channel();
    assert_fit_for_logs("OpenChannel", &opening);
    assert_fit_for_logs("Channel", &channel);
    let consumed = channel.basic_consume("q", ConsumeOptions::new().consumer_tag("t"));
    assert_fit_for_logs("Reply", &consumed);
    let mut consumer = rig.run(consumed).expect("it consumes");
    let body = PASSWORD.repeat(1000);
    rig.peer.deliver(channel.id(), consumer.tag(), 100, body.as_bytes());
    rig.turn();
    assert_fit_for_logs("Connection", &connection);
    let delivery = consumer.try_next().expect("it was delivered");
    assert_fit_for_logs("Delivery", &delivery);
    assert!(format!("{delivery:?}").contains("9000"), "{delivery:?}");
    assert_fit_for_logs("Consumer", &consumer);
    let publisher = channel.default_exchange().publisher(PublisherOptions::new()).expect("open");
    assert_fit_for_logs("Publisher", &publisher);
    let message = Message::new(body);
    assert_fit_for_logs("Message", &message);
    let confirmation = rig.run(publisher.publish_message("q", &message)).expect("it is sent");
    assert_fit_for_logs("Confirmation", &confirmation);
    assert_fit_for_logs("ChannelEvents", &channel.events());
    assert_fit_for_logs("ConnectionEvents", &connection.events());
    assert_fit_for_logs("Health", &connection.health());
}

#[test]
fn events_are_displayed_with_their_node_and_their_causes_in_one_line() {
    let endpoint = Some(Endpoint::new("rabbit-2", 5672));
    let connecting = ConnectionEvent::Connecting { node: 1, endpoint, attempt: 3 };
    assert_eq!(connecting.to_string(), "connecting to rabbit-2:5672, attempt 3");
    let (step, reason) = (Some(ConnectStep::Tcp), "cannot reach it".to_owned());
    let failed = ConnectionEvent::AttemptFailed { node: 1, endpoint: None, step, reason };
    assert_eq!(failed.to_string(), "attempt to connect to node 1 failed: cannot reach it");
    let reason = ConnectionError::from(Violation::UnexpectedMethod { method: "basic.ack" });
    assert_eq!(
        ConnectionEvent::Lost { reason }.to_string(),
        "connection lost: protocol violation by the peer: unexpected basic.ack"
    );
    let consumer_tag = ShortStr::truncated("a\nb");
    let cancelled = ChannelEvent::ConsumerCancelled { consumer_tag };
    assert_eq!(cancelled.to_string(), "consumer 'a\\nb' cancelled by the broker");
}
