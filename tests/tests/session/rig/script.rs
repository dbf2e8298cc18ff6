//! Sessions with a server whose replies the test writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client_core::proto::method::{BasicAck, Method};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, Event, PublishError, Published, ReplyCode, ServerConfig,
    ServerEvent, Transmit,
};
use bytes::BytesMut;

use super::SessionRig;
use crate::harness::{Peer, consent};

/// A server that the test controls. It records the requests that it receives.
pub(crate) struct Script {
    pub(crate) server: Connection,
    /// The configuration of the next connection.
    config: Arc<ServerConfig>,
    /// The requests that the server received on this connection.
    pub(crate) asked: Vec<Method>,
    /// The bodies of the messages that it got on this connection.
    pub(crate) published: Vec<String>,
    /// Both, in the order in which they came: names of methods, and bodies of messages.
    pub(crate) log: Vec<String>,
    /// The credentials of the session on each connection.
    pub(crate) logins: Vec<String>,
    /// The server closes the next connection as soon as it is open.
    pub(crate) close_when_open: bool,
    /// The server's decision about messages; without one, it does not confirm.
    pub(crate) judge: Option<Judge>,
    /// It closes the connection over a message, not only the channel.
    pub(crate) strict: bool,
    /// Number of messages that arrived on each open channel.
    counts: BTreeMap<ChannelId, u64>,
    /// Number of times that the server has closed a channel, or the connection, because of a message.
    pub(crate) closes: usize,
}

/// `None`, and the message is confirmed; or the close of the channel: the code, the text, and the method to blame.
pub(crate) type Judge = Box<dyn FnMut(&Published) -> Option<(ReplyCode, String, (u16, u16))>>;

impl Script {
    fn new(now: Instant) -> Self {
        let config = Arc::<ServerConfig>::default();
        Self {
            server: Connection::server(config.clone(), now),
            config,
            asked: Vec::new(),
            published: Vec::new(),
            log: Vec::new(),
            logins: Vec::new(),
            close_when_open: false,
            judge: None,
            strict: false,
            counts: BTreeMap::new(),
            closes: 0,
        }
    }

    /// Handles the input, with these replies to methods.
    fn serve(&mut self, now: Instant, mut answer: impl FnMut(&mut Connection, ChannelId, &Method)) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { response, .. }) => {
                    self.logins.push(String::from_utf8_lossy(response.expose()).into_owned());
                    self.server.accept_login().expect("it logs in");
                }
                Event::Server(ServerEvent::Open { .. }) => {
                    self.server.accept_open().expect("it opens");
                    if std::mem::take(&mut self.close_when_open) {
                        self.server.close(now, ReplyCode::CONNECTION_FORCED, "going down");
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
                    self.take(now, id, &published);
                }
                _ => {}
            }
        }
    }

    /// Writes a message down, unless it comes behind one that closed its channel.
    fn take(&mut self, now: Instant, id: ChannelId, published: &Published) {
        if self.judged(now, id, published) {
            let body = String::from_utf8_lossy(&published.body).into_owned();
            self.log.push(body.clone());
            self.published.push(body);
        }
    }

    /// Confirms a message or closes its channel. Returns whether the server looked at it at all.
    fn judged(&mut self, now: Instant, id: ChannelId, published: &Published) -> bool {
        let Some(judge) = &mut self.judge else { return true };
        // Frames after the one that closed the channel are ignored.
        let Some(count) = self.counts.get_mut(&id) else { return false };
        *count += 1;
        let ack = BasicAck { delivery_tag: *count, multiple: false };
        let mut channel = self.server.channel(id).expect("it is open");
        match judge(published) {
            None => channel.send(ack).expect("it is sent"),
            Some((code, text, cause)) if self.strict => {
                self.server.close_over(now, code, &text, cause);
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
}

impl Peer for Script {
    fn connect(&mut self, now: Instant) {
        self.server = Connection::server(self.config.clone(), now);
        self.asked.clear();
        self.counts.clear();
        self.published.clear();
        self.log.clear();
    }

    fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        let _over = self.server.handle_input(now, input);
    }

    /// Accepts everything.
    fn reply(&mut self, now: Instant) {
        self.serve(now, accept);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.server.poll_transmit(now)
    }

    /// It learns of the end by the next transport.
    fn handle_eof(&mut self, _: Instant) {}
}

impl SessionRig<Script> {
    /// Creates a session that is not open yet, with this recovery policy.
    pub(crate) fn scripted(recovery: Recovery) -> Self {
        let now = Instant::now();
        let mut rig = Self::connecting(Script::new(now), now);
        rig.recover_with(recovery);
        rig
    }

    /// Lets bytes flow until nothing moves. The server gives these replies to methods.
    pub(crate) fn run_with(&mut self, mut answer: impl FnMut(&mut Connection, ChannelId, &Method)) {
        self.run_by(|server, now| server.serve(now, &mut answer));
    }

    /// Time passes, as the session's timers ask for it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.session.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            // The server has no timers, but sends signs of life.
            self.peer.server.send_heartbeat();
            self.run();
        }
        self.now = end;
        self.session.handle_timeout(self.now);
        self.run();
    }

    /// Has the server close the channel over that method.
    pub(crate) fn refuse(&mut self, id: ChannelId, code: ReplyCode, text: &str, cause: (u16, u16)) {
        self.peer.server.channel(id).expect("it is open").close_over(code, text, cause);
        self.peer.counts.remove(&id);
        self.peer.closes += 1;
        self.run();
    }

    /// Has the server say that.
    pub(crate) fn say(&mut self, id: ChannelId, method: impl Into<Method>) {
        self.peer.server.channel(id).expect("it is open").send(method).expect("it is sent");
        self.run();
    }

    /// Reconnects to a server with this configuration, as soon as the session requests a transport.
    pub(crate) fn reconnect_to(&mut self, config: ServerConfig) {
        self.peer.config = Arc::new(config);
        assert!(self.reconnect(), "it wants another transport");
    }

    /// The publishes that were given up, and why.
    pub(crate) fn given_up(&self) -> Vec<(u64, &PublishError)> {
        let given_up = self.channel_events().filter_map(|event| match event {
            ChannelEvent::PublishFailed { publish, error } => Some((publish.get(), error)),
            _ => None,
        });
        given_up.collect()
    }
}

/// Accepts everything.
pub(crate) fn accept(server: &mut Connection, id: ChannelId, method: &Method) {
    if matches!(method, Method::ConfirmSelect(select) if select.no_wait) {
        return;
    }
    let reply = consent(method).unwrap_or_else(|| panic!("{method:?}"));
    // Frames after the close of a channel are ignored.
    let _closing = server.channel(id).expect("it is open").send(reply);
}
