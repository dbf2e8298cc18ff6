//! Output of `Debug` and `Display`: enough for a log line, no credentials, no bodies, nothing that a terminal acts on.

use std::fmt::Debug;
use std::sync::Arc;

use amqp_proto::frame::Frame;
use amqp_proto::method::{BasicConsume, BasicConsumeOk, BasicDeliver};
use amqp_proto::sasl::{AmqPlain, Mechanism, Plain};
use amqp_proto::session::Session;
use amqp_proto::{
    ChannelError, ChannelEvent, ClientConfig, Connection, Prepared, RawProperties, ReplyCode,
    Route, ServerConfig,
};
use bytes::{Buf as _, BytesMut};

use crate::harness::{Pair, short, start};

const PASSWORD: &str = "Pa55-w0rd";

/// Returns whether `Debug` shows the password, as a text or as a list of bytes, or goes on forever.
#[track_caller]
fn assert_fit_for_logs(what: &str, shown: &dyn Debug) {
    let numbers = format!("{:?}", PASSWORD.as_bytes());
    let numbers = numbers.trim_matches(['[', ']']);
    for text in [format!("{shown:?}"), format!("{shown:#?}").replace(['\n', ' '], "")] {
        let numbers = [numbers.to_owned(), numbers.replace(' ', "")];
        let shows = text.contains(PASSWORD) || numbers.iter().any(|list| text.contains(list));
        assert!(!shows, "{what} shows the password: {text}");
        assert!(text.len() < 1000, "{what} takes {} bytes: {text}", text.len());
    }
}

fn mechanisms() -> [Arc<dyn Mechanism>; 2] {
    [Arc::new(Plain::new("user", PASSWORD)), Arc::new(AmqPlain::new("user", PASSWORD))]
}

#[test]
fn credentials_are_not_shown_on_their_way_out() {
    for mechanism in mechanisms() {
        let config = ClientConfig::default().mechanisms(vec![mechanism]);
        assert_fit_for_logs("ClientConfig", &config);
        let now = start();
        let config = Arc::new(config);
        let mut session = Session::new(config.clone(), now);
        let mut client = Connection::client(config, now);
        let offering = ServerConfig::default().mechanisms("PLAIN AMQPLAIN");
        let mut server = Connection::server(Arc::new(offering), now);
        let mut to_server = BytesMut::new();
        let mut to_client = BytesMut::new();
        // The protocol header, and connection.start: after them the client's response is being sent.
        let transmit = client.poll_transmit(now).expect("a header");
        to_server.extend_from_slice(&transmit.copy_to_bytes(transmit.remaining()));
        let transmit = session.poll_transmit(now).expect("a header");
        transmit.advance(transmit.remaining());
        server.handle_input(now, &mut to_server).expect("it is a header");
        let transmit = server.poll_transmit(now).expect("connection.start");
        to_client.extend_from_slice(&transmit.copy_to_bytes(transmit.remaining()));
        session.handle_input(now, &mut to_client.clone()).expect("connection.start");
        client.handle_input(now, &mut to_client).expect("connection.start");
        assert_fit_for_logs("Session", &session);
        assert_fit_for_logs("Session's Transmit", session.poll_transmit(now).expect("start-ok"));
        assert_fit_for_logs("Connection", &client);
        let transmit = client.poll_transmit(now).expect("connection.start-ok");
        assert_fit_for_logs("Transmit", transmit);
        to_server.extend_from_slice(&transmit.copy_to_bytes(transmit.remaining()));
        let carries = to_server.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
        assert!(carries, "this is where the password is");
        let frame = Frame::decode(&mut to_server.clone(), 131_072).expect("a frame");
        assert_fit_for_logs("Frame", &frame.expect("a whole one"));
        server.handle_input(now, &mut to_server).expect("connection.start-ok");
        assert_fit_for_logs("the server's Connection", &server);
        while let Some(event) = server.poll_event() {
            assert_fit_for_logs("Event", &event);
        }
    }
}

#[test]
fn messages_are_shown_without_their_bodies() {
    let (mut pair, id) = Pair::with_channel();
    let consume = BasicConsume { consumer_tag: short("t"), ..BasicConsume::default() };
    pair.call(id, consume, BasicConsumeOk { consumer_tag: short("t") });
    pair.client_channel(id);
    pair.take_server();
    let body = PASSWORD.repeat(5000);
    for delivery_tag in 1..200 {
        let deliver = BasicDeliver {
            consumer_tag: short("t"),
            delivery_tag,
            routing_key: short("orders"),
            ..BasicDeliver::default()
        };
        pair.on_server(id)
            .send_content(deliver, &RawProperties::EMPTY, body.clone())
            .expect("it is sent");
    }
    pair.drive();
    let events = pair.client_channel(id);
    let ChannelEvent::Delivery { delivery, .. } = &events[0] else { panic!("{events:?}") };
    assert_fit_for_logs("Delivery", delivery);
    let shown = format!("{delivery:?}");
    assert!(shown.contains("orders") && shown.contains("45000"), "{shown}");
    let route = Route::queue("q").mandatory();
    pair.on_client(id).publish(&route, &RawProperties::EMPTY, body.clone()).expect("it is sent");
    let prepared = Prepared::new(id, &route, &RawProperties::EMPTY).expect("short");
    assert_fit_for_logs("Prepared", &prepared);
    assert_fit_for_logs("Channel", &pair.on_client(id));
    assert_fit_for_logs("Connection", &pair.client);
    pair.drive();
    let event = pair.server_channel(id).remove(0);
    assert_fit_for_logs("ChannelEvent", &event);
}

#[test]
fn texts_of_the_peer_cannot_forge_log_lines() {
    let (mut pair, id) = Pair::with_channel();
    let text = "no queue 'größe'\r\n2026-11-21 ERROR forged \x1b[31mred\u{202e}\u{2028}\0end";
    pair.on_server(id).close(ReplyCode::NOT_FOUND, text);
    pair.drive();
    let events = pair.client_channel(id);
    let Some(ChannelEvent::Closed(error)) = events.last() else { panic!("{events:?}") };
    let shown = "'größe'\\r\\n2026-11-21 ERROR forged \\u{1b}[31mred\\u{202e}\\u{2028}\\0end";
    assert!(error.to_string().contains(shown), "{error}");
    let ChannelError::Closed(close) = error else { panic!("{error}") };
    assert_eq!(close.reply_text, text, "the text itself is as it was");
    for shown in [format!("{error:?}"), format!("{error:#?}"), error.to_string()] {
        let acts = |c: char| c.is_control() && c != '\n' || ('\u{2028}'..'\u{202f}').contains(&c);
        assert!(!shown.contains(acts), "{shown:?}");
    }
    assert!(!error.to_string().contains('\n'));
}
