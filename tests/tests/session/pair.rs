use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client_core::proto::method::{
    BasicAck, BasicConsumeOk, BasicQosOk, ChannelFlowOk, ConfirmSelectOk, ExchangeDeclareOk,
    ExchangeDeleteOk, ExchangeUnbindOk, Method, QueueBindOk, QueueDeclareOk, QueueDeleteOk,
    QueuePurgeOk, QueueUnbindOk, TxSelectOk,
};
use amqp_client_core::proto::session::{
    Reconnect, Recovery, RecoveryReport, Session, SessionChannel,
};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, ConsumerId, Event, PublishError, Published,
    ReplyCode, ServerConfig, ServerEvent, SessionEvent,
};
use bytes::{Buf as _, BytesMut};

use crate::world::confirmed;

/// A session and a server whose replies the test writes.
pub(crate) struct Pair {
    pub(crate) session: Session,
    pub(crate) server: Connection,
    pub(crate) now: Instant,
    pub(crate) events: Vec<Event>,
    /// What the server was asked for on this connection.
    pub(crate) asked: Vec<Method>,
    /// The bodies of the messages that it got on this connection.
    pub(crate) published: Vec<String>,
    /// Both, in the order in which they came: names of methods, and bodies of messages.
    pub(crate) log: Vec<String>,
    /// What the session has logged in with, on each connection.
    pub(crate) logins: Vec<String>,
    /// What the next connection is configured with, if that is new.
    pub(crate) given: Option<Arc<ClientConfig>>,
    /// The server closes the next connection as soon as it is open.
    pub(crate) close_when_open: bool,
    /// The server's decision about messages; without one, it does not confirm.
    pub(crate) judge: Option<Judge>,
    /// It closes the connection over a message, not only the channel.
    pub(crate) strict: bool,
    /// How many messages came on each channel that is open.
    counts: BTreeMap<ChannelId, u64>,
    /// How often the server has closed a channel, or the connection over a message.
    pub(crate) closes: usize,
}

/// `None`, and the message is confirmed; or the close of the channel: the code, the text, and the method to blame.
pub(crate) type Judge = Box<dyn FnMut(&Published) -> Option<(ReplyCode, String, (u16, u16))>>;

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
            log: Vec::new(),
            logins: Vec::new(),
            given: None,
            close_when_open: false,
            judge: None,
            strict: false,
            counts: BTreeMap::new(),
            closes: 0,
        }
    }

    pub(crate) fn run(&mut self, mut answer: impl FnMut(&mut Connection, ChannelId, &Method)) {
        loop {
            let mut moved = false;
            self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
            let mut wire = BytesMut::new();
            while let Some(transmit) = self.session.poll_transmit(self.now) {
                wire.extend_from_slice(transmit.chunk());
                transmit.advance(transmit.chunk().len());
                moved = true;
            }
            let _over = self.server.handle_input(self.now, &mut wire);
            while let Some(event) = self.server.poll_event() {
                match event {
                    Event::Server(ServerEvent::Login { response, .. }) => {
                        self.logins.push(String::from_utf8_lossy(response.expose()).into_owned());
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
                        if matches!(method, Method::ConfirmSelect(_)) {
                            self.counts.entry(id).or_default();
                        }
                        answer(&mut self.server, id, &method);
                        self.log.push(method.facts().name.to_owned());
                        self.asked.push(method);
                    }
                    Event::Channel(id, ChannelEvent::Published(published)) => {
                        if !self.judged(id, &published) {
                            continue;
                        }
                        let body = String::from_utf8_lossy(&published.body).into_owned();
                        self.log.push(body.clone());
                        self.published.push(body);
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

    /// Confirms a message or closes its channel. Returns whether the server looked at it at all.
    fn judged(&mut self, id: ChannelId, published: &Published) -> bool {
        let Some(judge) = &mut self.judge else { return true };
        // What comes behind the one that closed the channel is ignored.
        let Some(count) = self.counts.get_mut(&id) else { return false };
        *count += 1;
        let ack = BasicAck { delivery_tag: *count, multiple: false };
        let mut channel = self.server.channel(id).expect("it is open");
        match judge(published) {
            None => channel.send(ack).expect("it is sent"),
            Some((code, text, cause)) if self.strict => {
                self.server.close_over(self.now, code, &text, cause);
                self.counts.clear();
                self.closes += 1;
            }
            Some((code, text, cause)) => {
                channel.close_over(code, &text, cause);
                self.counts.remove(&id);
                self.closes += 1;
            }
        }
        true
    }

    /// Time passes, as the session's timers ask for it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.session.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            // The server has no timers, but sends signs of life.
            self.server.send_heartbeat();
            self.run(accept);
        }
        self.now = end;
        self.session.handle_timeout(self.now);
        self.run(accept);
    }

    /// Has the server close the channel over that method.
    pub(crate) fn refuse(&mut self, id: ChannelId, code: ReplyCode, text: &str, cause: (u16, u16)) {
        self.server.channel(id).expect("it is open").close_over(code, text, cause);
        self.counts.remove(&id);
        self.closes += 1;
        self.run(accept);
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

    pub(crate) fn channel(&mut self, id: ChannelId) -> SessionChannel<'_> {
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

    /// The last report of a recovery.
    pub(crate) fn report(&self) -> &RecoveryReport {
        let report = self.events.iter().rev().find_map(|event| match event {
            Event::Session(SessionEvent::Recovered(report)) => Some(&**report),
            _ => None,
        });
        report.expect("it is recovered")
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
        confirmed(self.channel_events())
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
            match self.session.poll_reconnect(self.now) {
                Reconnect::Wait(at) => self.now = at,
                Reconnect::Connect { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        self.server = Connection::server(Arc::new(config), self.now);
        self.asked.clear();
        self.counts.clear();
        self.published.clear();
        self.log.clear();
        let given = self.given.take();
        assert!(self.session.handle_transport(self.now, given), "it asked for it");
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
        Method::QueuePurge(_) => QueuePurgeOk::default().into(),
        Method::QueueDelete(_) => QueueDeleteOk::default().into(),
        Method::QueueUnbind(_) => QueueUnbindOk {}.into(),
        Method::ExchangeDelete(_) => ExchangeDeleteOk {}.into(),
        Method::ExchangeUnbind(_) => ExchangeUnbindOk {}.into(),
        Method::TxSelect(_) => TxSelectOk {}.into(),
        other => panic!("{other:?}"),
    };
    // What comes behind the close of a channel is ignored.
    let _closing = server.channel(id).expect("it is open").send(answer);
}
