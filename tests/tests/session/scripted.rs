//! Brokers that change their mind: what they accepted once, they do not accept again.

use std::sync::Arc;
use std::time::Instant;

use amqp_client_core::proto::method::{BasicQos, BasicQosOk, ChannelFlow, ChannelFlowOk, Method};
use amqp_client_core::proto::session::{Dial, Entity, Recovery, Session};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, Event, ReplyCode, ServerConfig, ServerEvent,
    SessionEvent,
};
use bytes::{Buf as _, BytesMut};

/// A session and a server that answers by hand.
struct Pair {
    session: Session,
    server: Connection,
    now: Instant,
    events: Vec<Event>,
    /// What the server was asked for on this connection.
    asked: Vec<Method>,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut session = Session::new(Arc::new(ClientConfig::default()), now);
        session.recover_with(Recovery::default(), 1, 0);
        let server = Connection::server(Arc::new(ServerConfig::default()), now);
        Self { session, server, now, events: Vec::new(), asked: Vec::new() }
    }

    fn run(&mut self, mut answer: impl FnMut(&mut Connection, ChannelId, &Method)) {
        loop {
            let mut moved = false;
            let mut wire = BytesMut::new();
            while let Some(transmit) = self.session.poll_transmit(self.now) {
                wire.extend_from_slice(transmit.chunk());
                transmit.advance(transmit.chunk().len());
                moved = true;
            }
            let _over = self.server.handle_input(self.now, &mut wire);
            while let Some(event) = self.server.poll_event() {
                match event {
                    Event::Server(ServerEvent::Login { .. }) => {
                        self.server.accept_login().expect("it logs in");
                    }
                    Event::Server(ServerEvent::Open { .. }) => {
                        self.server.accept_open().expect("it opens");
                    }
                    Event::Channel(id, ChannelEvent::Method(method)) => {
                        answer(&mut self.server, id, &method);
                        self.asked.push(method);
                    }
                    _ => {}
                }
            }
            while let Some(transmit) = self.server.poll_transmit(self.now) {
                wire.extend_from_slice(transmit.chunk());
                transmit.advance(transmit.chunk().len());
                moved = true;
            }
            let _lost = self.session.handle_input(self.now, &mut wire);
            self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
            if !moved {
                return;
            }
        }
    }

    /// Another connection, as soon as the session wants one.
    fn reconnect(&mut self) {
        loop {
            match self.session.poll_dial(self.now) {
                Dial::Wait(at) => self.now = at,
                Dial::Connect { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        self.server = Connection::server(Arc::new(ServerConfig::default()), self.now);
        self.asked.clear();
        assert!(self.session.handle_transport(self.now, None), "it asked for it");
    }
}

fn accept(server: &mut Connection, id: ChannelId, method: &Method) {
    let answer: Method = match method {
        Method::BasicQos(_) => BasicQosOk {}.into(),
        Method::ChannelFlow(flow) => ChannelFlowOk { active: flow.active }.into(),
        other => panic!("{other:?}"),
    };
    server.channel(id).expect("it is open").send(answer).expect("it is sent");
}

#[test]
fn a_limit_and_a_pause_last_over_a_loss() {
    let mut pair = Pair::new();
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
    pair.reconnect();
    pair.run(accept);
    assert!(pair.session.is_open());
    assert_eq!(pair.asked, [qos.into(), pause.into()]);
}

#[test]
fn what_ends_the_whole_connection_is_not_asked_for_again_and_again() {
    let mut pair = Pair::new();
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    pair.session.channel(id).expect("it is open").request(qos).expect("it is sent");
    pair.run(accept);
    pair.session.handle_eof(pair.now);
    pair.run(accept);
    // The broker was upgraded meanwhile.
    pair.reconnect();
    let now = pair.now;
    pair.run(|server, _, method| {
        assert!(matches!(method, Method::BasicQos(_)));
        server.close_over(now, ReplyCode::NOT_IMPLEMENTED, "no such limits any more", (60, 10));
    });
    assert!(!pair.session.is_open() && pair.session.check().is_ok());
    pair.reconnect();
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
