use std::sync::Arc;
use std::time::Duration;

use amqp_proto::sasl::{Anonymous, External, Plain};
use amqp_proto::{
    ClientConfig, ConnectionError, Event, Initiator, Limits, LoginError, Mechanism, ReplyCode,
    SaslError, SaslExchange, Secret, ServerConfig, ServerEvent, ShortStr, Violation, WrongProtocol,
};
use bytes::{Buf as _, BytesMut};

use crate::harness::{Pair, short};

fn client() -> ClientConfig {
    ClientConfig::default()
}

fn server() -> ServerConfig {
    ServerConfig::default()
}

fn login(events: &[Event]) -> (String, Vec<u8>) {
    let login = events.iter().find_map(|event| match event {
        Event::Server(ServerEvent::Login { mechanism, response, .. }) => {
            Some((mechanism.to_string(), response.expose().to_vec()))
        }
        _ => None,
    });
    login.expect("the client logged in")
}

#[test]
fn both_ends_open_and_agree() {
    let mut pair = Pair::new(client().connection_name("pair").expect("fits"), server());
    pair.drive();
    assert!(pair.client.is_open() && pair.server.is_open());
    let (ours, theirs) = (pair.client.negotiated(), pair.server.negotiated());
    let (ours, theirs) = (ours.expect("agreed"), theirs.expect("agreed"));
    assert_eq!(ours.frame_max, 131_072);
    assert_eq!((ours.channel_max, ours.frame_max), (theirs.channel_max, theirs.frame_max));
    assert!(theirs.peer_can("connection.blocked") && theirs.peer_can("basic.nack"));
    let name = theirs.peer_properties.get("connection_name").expect("a name");
    assert_eq!(name.as_str(), Some("pair"));
    let events = pair.take_server();
    assert_eq!(login(&events), ("PLAIN".to_owned(), b"\0guest\0guest".to_vec()));
    let open = Event::Server(ServerEvent::Open { virtual_host: short("/") });
    assert!(events.contains(&open));
    assert!(matches!(pair.take_client()[..], [Event::Opened(_)]));
}

#[test]
fn the_best_mechanism_that_is_offered_is_used() {
    let config = client().mechanisms(vec![
        Arc::new(External::default()),
        Arc::new(Anonymous::default()),
        Arc::new(Plain::new("user", "secret")),
    ]);
    let mut pair = Pair::new(config, server().mechanisms("AMQPLAIN PLAIN ANONYMOUS"));
    pair.drive();
    assert_eq!(login(&pair.take_server()), ("ANONYMOUS".to_owned(), Vec::new()));
    assert!(pair.client.is_open());
}

#[test]
fn without_a_common_mechanism_nothing_is_tried() {
    let mut pair = Pair::new(client(), server().mechanisms("EXTERNAL SCRAM"));
    pair.drive();
    let ConnectionError::Login(LoginError::NoCommonMechanism { offered, configured }) =
        pair.client_error()
    else {
        panic!("{:?}", pair.client_error())
    };
    assert_eq!((&*offered, &*configured), ("EXTERNAL SCRAM", "PLAIN"));
}

/// Counts challenges and responds to each.
#[derive(Debug)]
struct Counting;

impl Mechanism for Counting {
    fn name(&self) -> &str {
        "COUNTING"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        let mut round = 0;
        Box::new(move |challenge: Option<&[u8]>| {
            round += 1;
            if challenge == Some(b"give up") {
                return Err(SaslError::BadChallenge("give up"));
            }
            Ok(Secret::from(format!("{round}")))
        })
    }
}

fn counting() -> Pair {
    let config = client().mechanisms(vec![Arc::new(Counting)]);
    let mut pair = Pair::new(config, server().mechanisms("COUNTING"));
    pair.welcoming = false;
    pair.drive();
    assert_eq!(login(&pair.take_server()), ("COUNTING".to_owned(), b"1".to_vec()));
    pair
}

#[test]
fn challenges_get_responses_until_the_login_is_accepted() {
    let mut pair = counting();
    for round in 2..=5 {
        pair.server.challenge("more".into()).expect("it is waiting");
        pair.drive();
        let response = Secret::from(format!("{round}"));
        let expected = Event::Server(ServerEvent::LoginResponse { response });
        assert_eq!(pair.take_server(), [expected]);
    }
    pair.server.accept_login().expect("it is waiting");
    pair.drive();
    pair.server.accept_open().expect("it is waiting");
    pair.drive();
    assert!(pair.client.is_open());
}

#[test]
fn the_number_of_challenges_is_limited() {
    let mut pair = counting();
    let mut rounds = 0;
    while pair.server.challenge("more".into()).is_ok() {
        pair.drive();
        rounds += 1;
        assert!(rounds < 100);
    }
    let expected = Violation::TooManyChallenges { limit: 16 };
    assert_eq!(pair.client_error(), ConnectionError::Violation(expected));
}

#[test]
fn a_mechanism_that_fails_ends_the_connection() {
    let mut pair = counting();
    pair.server.challenge("give up".into()).expect("it is waiting");
    pair.drive();
    let error = SaslError::BadChallenge("give up");
    let mechanism = "COUNTING".to_owned();
    let expected = LoginError::Mechanism { mechanism, error };
    assert_eq!(pair.client_error(), ConnectionError::Login(expected));
}

/// A mechanism with any name.
#[derive(Debug)]
struct Named(String);

impl Mechanism for Named {
    fn name(&self) -> &str {
        &self.0
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        Counting.begin()
    }
}

#[test]
fn a_mechanism_name_that_is_too_long_is_the_error() {
    let mechanism = "M".repeat(300);
    let config = client().mechanisms(vec![Arc::new(Named(mechanism.clone()))]);
    let mut pair = Pair::new(config, server().mechanisms(mechanism.as_str()));
    pair.drive();
    let error = ShortStr::named("mechanism name", &mechanism).expect_err("it has 300 bytes");
    let expected = LoginError::Mechanism { mechanism, error: SaslError::Name(error) };
    assert_eq!(pair.client_error(), ConnectionError::Login(expected));
}

#[test]
fn refused_credentials_are_distinguished_from_other_closes() {
    let mut pair = Pair::new(client(), server());
    pair.welcoming = false;
    pair.drive();
    pair.server.close(pair.now, ReplyCode::ACCESS_REFUSED, "ACCESS_REFUSED - no");
    pair.drive();
    let ConnectionError::Login(LoginError::Refused(close)) = pair.client_error() else {
        panic!("{:?}", pair.client_error())
    };
    assert_eq!((close.by, close.reply_code), (Initiator::Peer, ReplyCode::ACCESS_REFUSED));
    assert!(pair.server_error().is_local_close());
}

#[test]
fn hanging_up_on_the_credentials_is_a_refusal_too() {
    let mut pair = Pair::new(client(), server());
    pair.welcoming = false;
    pair.drive();
    pair.client.handle_eof(pair.now);
    assert_eq!(pair.client_error(), ConnectionError::Login(LoginError::HungUp));
}

#[test]
fn an_unknown_virtual_host_is_a_close_by_the_peer() {
    let mut pair = Pair::new(client(), server());
    pair.welcoming = false;
    pair.drive();
    pair.server.accept_login().expect("it is waiting");
    pair.drive();
    pair.server.close(pair.now, ReplyCode::NOT_ALLOWED, "no such vhost");
    pair.drive();
    let close = pair.client_error().as_close().cloned().expect("a close");
    assert_eq!((close.by, close.reply_code), (Initiator::Peer, ReplyCode::NOT_ALLOWED));
}

#[test]
fn the_lower_limit_holds_and_zero_is_none() {
    for (client_max, server_max, agreed) in
        [(0, 0, u16::MAX), (0, 7, 7), (5, 7, 5), (9, 7, 7), (5, 0, 5)]
    {
        let limits = |max| Limits::default().channel_max(max);
        let (config, offer) = (client().limits(limits(client_max)), server());
        let pair = Pair::opened(config, offer.limits(limits(server_max)));
        assert_eq!(pair.client.negotiated().expect("agreed").channel_max, agreed);
        assert_eq!(pair.server.negotiated().expect("agreed").channel_max, agreed);
    }
    const CAP: u32 = amqp_proto::config::FRAME_MAX_CAP;
    for (client_max, server_max, agreed) in
        [(0, 0, CAP), (0, 8192, 8192), (4096, 131_072, 4096), (131_072, 0, 131_072)]
    {
        let limits = |max| Limits::default().frame_max(max);
        let (config, offer) = (client().limits(limits(client_max)), server());
        let pair = Pair::opened(config, offer.limits(limits(server_max)));
        assert_eq!(pair.client.negotiated().expect("agreed").frame_max, agreed);
        assert_eq!(pair.server.negotiated().expect("agreed").frame_max, agreed);
    }
}

#[test]
fn heartbeats_are_agreed_on_in_whole_seconds() {
    let millis = Duration::from_millis;
    for (ours, theirs, agreed) in [
        (millis(60_000), millis(10_000), 10),
        (millis(0), millis(10_000), 0),
        (millis(5_000), millis(0), 5),
        (millis(200), millis(60_000), 1),
        (millis(1_500), millis(60_000), 2),
    ] {
        let pair = Pair::opened(client().heartbeat(ours), server().heartbeat(theirs));
        let heartbeat = pair.client.negotiated().expect("agreed").heartbeat;
        assert_eq!(heartbeat, Duration::from_secs(agreed));
    }
}

#[test]
fn a_peer_that_speaks_something_else_is_recognized() {
    for (bytes, expected) in [
        (
            &b"AMQP\x00\x00\x09\x01"[..],
            WrongProtocol::Version { id: 0, major: 0, minor: 9, revision: 1 },
        ),
        (
            b"AMQP\x03\x01\x00\x00",
            WrongProtocol::Version { id: 3, major: 1, minor: 0, revision: 0 },
        ),
        (b"HTTP/1.1 400 Bad Request", WrongProtocol::Http),
        (b"\x15\x03\x01\x00\x02\x02\x46", WrongProtocol::Tls),
        (b"\x16\x03\x03\x00\x7a\x02\x00\x00", WrongProtocol::Tls),
        (b"SSH-2.0-", WrongProtocol::Unknown(*b"SSH-2.0-")),
    ] {
        let mut pair = Pair::new(client(), server());
        let result = pair.client.handle_input(pair.now, &mut BytesMut::from(bytes));
        assert_eq!(result, Err(ConnectionError::WrongProtocol(expected)), "{bytes:?}");
        let text = expected.to_string();
        assert!(!text.contains("speaks AMQP 0-9-1"), "{text}");
    }
}

#[test]
fn a_server_replies_to_a_wrong_header_with_its_own() {
    let mut pair = Pair::new(client(), server());
    let mut bytes = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    assert!(pair.server.handle_input(pair.now, &mut bytes).is_err());
    let answer = pair.server.poll_transmit(pair.now).expect("an answer");
    assert_eq!(answer.chunk(), amqp_proto::frame::PROTOCOL_HEADER);
}

#[test]
fn a_stalled_handshake_names_the_step_it_waited_for() {
    let mut pair = Pair::new(client(), server());
    pair.welcoming = false;
    pair.drive();
    pair.advance(Duration::from_secs(60));
    let expected = ConnectionError::HandshakeTimeout {
        waiting_for: "connection.tune",
        limit: Duration::from_secs(20),
    };
    assert_eq!(pair.client_error(), expected);
}

#[test]
fn closing_during_the_handshake_ends_it() {
    let mut pair = Pair::new(client(), server());
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "changed my mind");
    assert!(pair.client_error().is_local_close());
    let mut pair = Pair::new(client(), server());
    pair.welcoming = false;
    pair.drive();
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "changed my mind");
    pair.drive();
    assert!(pair.client_error().is_local_close());
    assert!(matches!(pair.server_error(), ConnectionError::Closed(_)));
}

#[test]
fn either_side_can_close_and_gets_a_reply() {
    let mut pair = Pair::open();
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "bye");
    assert!(pair.client.open_channel().is_err());
    pair.drive();
    let close = pair.client_error().as_close().cloned().expect("a close");
    assert_eq!((close.by, close.reply_text.to_string()), (Initiator::Local, "bye".to_owned()));
    let close = pair.server_error().as_close().cloned().expect("a close");
    assert_eq!((close.by, close.reply_code), (Initiator::Peer, ReplyCode::REPLY_SUCCESS));
    assert!(pair.client.is_drained() && pair.server.is_drained());
    assert_eq!(pair.take_client(), [Event::Closed(pair.client_error())]);
}

#[test]
fn closing_from_both_ends_at_once_ends_both() {
    let mut pair = Pair::open();
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "mine");
    pair.server.close(pair.now, ReplyCode::CONNECTION_FORCED, "theirs");
    pair.drive();
    assert!(pair.client_error().is_local_close());
    assert!(pair.server_error().is_local_close());
    assert!(pair.client.is_drained() && pair.server.is_drained());
}

#[test]
fn a_close_without_reply_ends_at_its_timeout() {
    let mut pair = Pair::open();
    pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "bye");
    let (due, _) = pair.client.poll_timeout().expect("a deadline");
    assert!(due <= pair.now + Duration::from_secs(10));
    pair.client.handle_timeout(pair.now + Duration::from_secs(10));
    assert_eq!(pair.client_error(), ConnectionError::CloseTimeout(Duration::from_secs(10)));
}

#[test]
fn blocking_and_secrets_are_reported() {
    let mut pair = Pair::open();
    pair.client.update_secret("new".into(), "rotation").expect("it is open");
    pair.drive();
    let event = ServerEvent::UpdateSecret { new_secret: "new".into(), reason: short("rotation") };
    assert_eq!(pair.take_server(), [Event::Server(event)]);
    assert_eq!(pair.take_client(), [Event::SecretUpdated]);
    pair.server.set_blocked(Some("low on memory"));
    pair.drive();
    assert!(pair.client.is_blocked());
    assert_eq!(pair.take_client(), [Event::Blocked { reason: short("low on memory") }]);
    pair.server.set_blocked(None);
    pair.drive();
    assert!(!pair.client.is_blocked());
    assert_eq!(pair.take_client(), [Event::Unblocked]);
}
