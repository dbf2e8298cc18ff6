//! Brokers that change their mind: what they accepted once, they do not accept again.

use amqp_client_core::proto::method::{BasicQos, ChannelFlow, Method};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{Event, ReplyCode, ServerConfig, SessionEvent};

use crate::pair::{Pair, accept};

#[test]
fn a_limit_and_a_pause_last_over_a_loss() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    let pause = ChannelFlow { active: false };
    let channel = &mut pair.session.channel(id).expect("it is open");
    channel.request(qos.clone()).expect("it is sent");
    channel.request(pause.clone()).expect("it is sent");
    pair.run(accept);
    pair.session.handle_eof(pair.now);
    pair.run(accept);
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert!(pair.session.is_open());
    assert_eq!(pair.asked, [qos.into(), pause.into()]);
}

#[test]
fn what_ends_the_whole_connection_is_not_asked_for_again_and_again() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    pair.session.channel(id).expect("it is open").request(qos).expect("it is sent");
    pair.run(accept);
    pair.session.handle_eof(pair.now);
    pair.run(accept);
    // The broker was upgraded meanwhile.
    pair.reconnect(ServerConfig::default());
    let now = pair.now;
    pair.run(|server, _, method| {
        assert!(matches!(method, Method::BasicQos(_)));
        server.close_over(now, ReplyCode::NOT_IMPLEMENTED, "no such limits any more", (60, 10));
    });
    assert!(!pair.session.is_open() && pair.session.check().is_ok());
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert!(pair.session.is_open() && pair.asked.is_empty());
    let report = pair.events.iter().find_map(|event| match event {
        Event::Session(SessionEvent::Recovered(report)) => Some(report),
        _ => None,
    });
    let report = report.expect("it is recovered");
    let [(entity, error)] = report.failed.as_slice() else { panic!("{:?}", report.failed) };
    assert_eq!(*entity, Entity::Prefetch(id));
    assert!(error.to_string().contains("no such limits any more"), "{error}");
}
