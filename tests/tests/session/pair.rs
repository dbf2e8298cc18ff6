use std::sync::Arc;
use std::time::Instant;

use amqp_client_core::proto::method::{
    BasicConsumeOk, BasicQosOk, ChannelFlowOk, ConfirmSelectOk, ExchangeDeclareOk, Method,
    QueueBindOk, QueueDeclareOk, TxSelectOk,
};
use amqp_client_core::proto::session::{Channel, Dial, Recovery, Session};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, ConsumerId, Event, PublishError, ReplyCode,
    ServerConfig, ServerEvent,
};
use bytes::{Buf as _, BytesMut};

/// A session and a server that answers by hand.
pub(crate) struct Pair {
    pub(crate) session: Session,
    pub(crate) server: Connection,
    pub(crate) now: Instant,
    pub(crate) events: Vec<Event>,
    /// What the server was asked for on this connection.
    pub(crate) asked: Vec<Method>,
    /// The bodies of the messages that it got on this connection.
    pub(crate) published: Vec<String>,
    /// The server closes the next connection as soon as it is open.
    pub(crate) close_when_open: bool,
}

impl Pair {
    pub(crate) fn new(recovery: Recovery) -> Self {
        let now = Instant::now();
        let mut session = Session::new(Arc::new(ClientConfig::default()), now);
        session.recover_with(recovery, 1, 0);
        let server = Connection::server(Arc::new(ServerConfig::default()), now);
        Self {
            session,
            server,
            now,
            events: Vec::new(),
            asked: Vec::new(),
            published: Vec::new(),
            close_when_open: false,
        }
    }

    pub(crate) fn run(&mut self, mut answer: impl FnMut(&mut Connection, ChannelId, &Method)) {
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
                        if std::mem::take(&mut self.close_when_open) {
                            let code = ReplyCode::CONNECTION_FORCED;
                            self.server.close(self.now, code, "going down");
                        }
                    }
                    Event::Channel(id, ChannelEvent::Method(method)) => {
                        answer(&mut self.server, id, &method);
                        self.asked.push(method);
                    }
                    Event::Channel(_, ChannelEvent::Published(published)) => {
                        self.published.push(String::from_utf8_lossy(&published.body).into_owned());
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

    /// The transport ends, for both.
    pub(crate) fn cut(&mut self) {
        self.session.handle_eof(self.now);
        self.run(accept);
    }

    pub(crate) fn open(&mut self) -> ChannelId {
        let id = self.session.open_channel().expect("there is room");
        self.run(accept);
        id
    }

    pub(crate) fn channel(&mut self, id: ChannelId) -> Channel<'_> {
        self.session.channel(id).expect("it is open")
    }

    /// Has the server say that.
    pub(crate) fn say(&mut self, id: ChannelId, method: impl Into<Method>) {
        self.server.channel(id).expect("it is open").send(method).expect("it is sent");
        self.run(accept);
    }

    pub(crate) fn channel_events(&self) -> impl Iterator<Item = &ChannelEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Channel(_, event) => Some(event),
            _ => None,
        })
    }

    /// The consumers that were reported to have failed.
    pub(crate) fn failed_consumers(&self) -> Vec<ConsumerId> {
        let failed = self.channel_events().filter_map(|event| match event {
            ChannelEvent::ConsumerFailed { consumer, .. } => Some(*consumer),
            _ => None,
        });
        failed.collect()
    }

    /// The publishes that were confirmed.
    pub(crate) fn confirmed(&self) -> Vec<u64> {
        let confirmed = self.channel_events().filter_map(|event| match event {
            ChannelEvent::Confirmed { publishes, ack: true } => {
                Some(publishes.start().get()..=publishes.end().get())
            }
            _ => None,
        });
        confirmed.flatten().collect()
    }

    /// The publishes that were given up, and why.
    pub(crate) fn given_up(&self) -> Vec<(u64, &PublishError)> {
        let given_up = self.channel_events().filter_map(|event| match event {
            ChannelEvent::PublishFailed { publish, error } => Some((publish.get(), error)),
            _ => None,
        });
        given_up.collect()
    }

    /// Another connection, as soon as the session wants one.
    pub(crate) fn reconnect(&mut self, config: ServerConfig) {
        loop {
            match self.session.poll_dial(self.now) {
                Dial::Wait(at) => self.now = at,
                Dial::Connect { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        self.server = Connection::server(Arc::new(config), self.now);
        self.asked.clear();
        self.published.clear();
        assert!(self.session.handle_transport(self.now, None), "it asked for it");
    }
}

/// Answers that everything is well.
pub(crate) fn accept(server: &mut Connection, id: ChannelId, method: &Method) {
    let answer: Method = match method {
        Method::BasicQos(_) => BasicQosOk {}.into(),
        Method::ChannelFlow(flow) => ChannelFlowOk { active: flow.active }.into(),
        Method::ConfirmSelect(select) if select.no_wait => return,
        Method::ConfirmSelect(_) => ConfirmSelectOk {}.into(),
        Method::BasicConsume(consume) => {
            BasicConsumeOk { consumer_tag: consume.consumer_tag.clone() }.into()
        }
        Method::ExchangeDeclare(_) => ExchangeDeclareOk {}.into(),
        Method::QueueDeclare(declare) => {
            QueueDeclareOk { queue: declare.queue.clone(), ..<_>::default() }.into()
        }
        Method::QueueBind(_) => QueueBindOk {}.into(),
        Method::TxSelect(_) => TxSelectOk {}.into(),
        other => panic!("{other:?}"),
    };
    server.channel(id).expect("it is open").send(answer).expect("it is sent");
}
