use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{Arguments as _, BasicConsume, Method};
use amqp_proto::{
    ChannelEvent, ChannelId, Connection, ConnectionError, Event, Limits, Published, ReplyCode,
    ServerConfig, ServerEvent, ShortStr, Transmit, Unusable,
};
use bytes::BytesMut;

use crate::channel::ChannelState;
use crate::choices::Choices;
use crate::deaths::Death;
use crate::exchange::{Exchange, Kind};
use crate::fault::{Fault, Scope};
use crate::message::Message;
use crate::name::Name;
use crate::observe::Note;
use crate::queue::Queue;
use crate::requeue::Requeue;
use crate::{Options, SessionId, login};

/// The broker as a state machine: no I/O, no threads, and time as an argument.
///
/// Each client has a session. Pass to it the bytes from the client, write its output to the client, and call
/// [`handle_timeout`](Self::handle_timeout) at the time that [`poll_timeout`](Self::poll_timeout) returns. Input of one session
/// can produce output for others.
#[derive(Debug)]
pub struct Engine {
    pub(crate) now: Instant,
    pub(crate) options: Options,
    config: Arc<ServerConfig>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: u64,
    pub(crate) exchanges: BTreeMap<Name, Exchange>,
    pub(crate) queues: BTreeMap<Name, Queue>,
    /// Queues with something to deliver, perhaps.
    pub(crate) dirty: BTreeSet<Name>,
    pub(crate) last_message: u64,
    pub(crate) last_name: u64,
    /// Counts the channels that were put into confirm mode.
    pub(crate) last_confirms: u64,
    /// Messages that died, with their queue, to be routed to the dead-letter exchange.
    pub(crate) dead: VecDeque<(Name, Message, Death)>,
    /// True if a caller is already routing these.
    pub(crate) burying: bool,
    /// Channels in confirm mode with confirms to send.
    pub(crate) confirming: BTreeSet<At>,
    /// Consumers whose start is delayed.
    pub(crate) later: Vec<Delayed>,
    /// The reason why clients have to stop publishing.
    pub(crate) alarm: Option<String>,
    pub(crate) choices: Choices,
    /// The first protocol violation of a client since the last request for it.
    violation: Option<ConnectionError>,
    /// The notes, if they were requested.
    pub(crate) notes: Option<Vec<Note>>,
    /// The requests to refuse, with their number.
    pub(crate) refusals: Option<((u16, u16), u32, Scope)>,
    /// Number of publishes to refuse.
    pub(crate) nacks: u32,
    /// Confirms are held: no publisher gets any.
    pub(crate) holds_confirms: bool,
    /// Nobody is let in.
    pub(crate) refuses_logins: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) proto: Connection,
    pub(crate) channels: BTreeMap<ChannelId, ChannelState>,
    pub(crate) user: ShortStr,
    /// The one that it has opened.
    pub(crate) virtual_host: ShortStr,
    /// True if it has published anything.
    pub(crate) publishes: bool,
    /// Nothing is read from it or written to it.
    pub(crate) frozen: bool,
}

/// Bytes queued for a client above which nothing more is read from it. So replies take no more memory than this and the replies
/// to one read.
const UNREAD_MAX: usize = 4 * 1024 * 1024;

impl Session {
    /// Returns whether to read from it.
    pub(crate) fn is_heard(&self, alarm: bool) -> bool {
        let held = alarm && self.publishes || self.proto.queued() >= UNREAD_MAX;
        // Input after the end is read and dropped; otherwise, the client might not be able to read the reason.
        !self.frozen && (!held || self.proto.check().is_err())
    }
}

/// The start of a consumer that its queue has yet to reply to.
#[derive(Debug)]
pub(crate) struct Delayed {
    until: Instant,
    at: At,
    consume: BasicConsume,
    prefetch: u16,
}

/// A channel of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) session: SessionId,
    pub(crate) channel: ChannelId,
}

impl Engine {
    /// An empty broker: virtual hosts with the usual exchanges.
    #[must_use]
    pub fn new(options: Options, now: Instant) -> Self {
        let config = ServerConfig::default()
            .mechanisms("PLAIN AMQPLAIN")
            .server_properties(login::server_properties(options.rabbitmq_4_3))
            .heartbeat(options.heartbeat)
            .limits(Limits::default().body_max(options.max_message_size));
        let mut engine = Self {
            now,
            choices: Choices::new(options.nondeterminism),
            options,
            config: Arc::new(config),
            sessions: BTreeMap::new(),
            last_session: 0,
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            dirty: BTreeSet::new(),
            last_message: 0,
            last_name: 0,
            last_confirms: 0,
            dead: VecDeque::new(),
            burying: false,
            confirming: BTreeSet::new(),
            later: Vec::new(),
            alarm: None,
            violation: None,
            notes: None,
            refusals: None,
            nacks: 0,
            holds_confirms: false,
            refuses_logins: false,
        };
        for virtual_host in engine.options.virtual_hosts.clone() {
            for (name, kind) in [
                ("amq.direct", Kind::Direct),
                ("amq.fanout", Kind::Fanout),
                ("amq.topic", Kind::Topic),
                ("amq.headers", Kind::Headers),
                ("amq.match", Kind::Headers),
            ] {
                let text = ShortStr::truncated(name);
                let name = Name { virtual_host: virtual_host.clone(), text };
                engine.exchanges.insert(name, Exchange::new(kind));
            }
        }
        engine
    }

    /// A client has connected.
    pub fn connect(&mut self, now: Instant) -> SessionId {
        self.connect_to(now, self.config.clone())
    }

    /// A client has connected to a node that is set up in another way than this broker is by default: nodes of a cluster
    /// share queues and exchanges, but not their limits.
    pub fn connect_to(&mut self, now: Instant, config: Arc<ServerConfig>) -> SessionId {
        self.now = now;
        self.last_session += 1;
        let id = SessionId(self.last_session);
        let session = Session {
            proto: Connection::server(config, now),
            channels: BTreeMap::new(),
            user: ShortStr::EMPTY,
            virtual_host: ShortStr::EMPTY,
            publishes: false,
            frozen: false,
        };
        self.sessions.insert(id, session);
        self.note(|| Note::Connected);
        id
    }

    /// Processes bytes from a client, and leaves an incomplete frame in `input`.
    pub fn handle_input(&mut self, id: SessionId, now: Instant, input: &mut BytesMut) {
        self.now = now;
        if let Some(session) = self.sessions.get_mut(&id) {
            // The error becomes the session's end, which is an event.
            let _over = session.proto.handle_input(now, input);
        }
        self.settle();
    }

    /// A client's transport has ended.
    pub fn handle_eof(&mut self, id: SessionId, now: Instant) {
        self.now = now;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.proto.handle_eof(now);
        }
        self.settle();
        self.sessions.remove(&id);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        let alarm = self.alarm.is_some();
        for session in self.sessions.values_mut() {
            session.proto.handle_reading(now, session.is_heard(alarm));
            session.proto.handle_timeout(now);
        }
        self.expire();
        self.catch_up();
        self.settle();
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.values();
        let timers = sessions.filter_map(|session| session.proto.poll_timeout()).map(|(at, _)| at);
        let queues = self.queues.values().filter_map(Queue::due);
        let put_off = self.later.iter().map(|delayed| delayed.until).chain(self.next_confirm());
        timers.chain(queues).chain(put_off).min()
    }

    /// Returns the bytes to write to a client.
    pub fn poll_transmit(&mut self, id: SessionId, now: Instant) -> Option<&mut Transmit> {
        self.now = now;
        // Room for more, perhaps.
        let low = self.sessions.get(&id).is_some_and(|session| session.proto.queued() == 0);
        if low && self.is_consuming(id) {
            self.settle();
        }
        let session = self.sessions.get_mut(&id).filter(|session| !session.frozen)?;
        session.proto.poll_transmit(now)
    }

    /// Returns whether nothing more is to be sent to a client, so that its transport can be closed.
    #[must_use]
    pub fn is_over(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_none_or(|own| own.proto.is_drained() && !own.frozen)
    }

    /// Returns the default configuration of a node, to be changed and passed to [`connect_to`](Self::connect_to).
    #[must_use]
    pub fn config(&self) -> ServerConfig {
        (*self.config).clone()
    }

    /// Takes the violation of the protocol by a client since the last call, if there was one.
    pub fn take_violation(&mut self) -> Option<ConnectionError> {
        self.violation.take()
    }

    /// Returns whether a client is still connected.
    pub(crate) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Returns the number of sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of open channels of a client.
    #[must_use]
    pub fn channel_count(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |session| session.channels.len())
    }

    /// Returns the number of deliveries that a client has not acknowledged.
    #[must_use]
    pub fn unacknowledged_count(&self, id: SessionId) -> usize {
        let channels = self.sessions.get(&id).map(|session| session.channels.values());
        channels.into_iter().flatten().map(ChannelState::unacknowledged_count).sum()
    }

    fn is_consuming(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        let queues: Vec<_> = session
            .channels
            .values()
            .flat_map(|channel| channel.consumers.values().map(|consumer| consumer.queue.clone()))
            .collect();
        let any = !queues.is_empty();
        self.dirty.extend(queues);
        any
    }

    /// Handles all events and delivers messages, until nothing changes.
    pub(crate) fn settle(&mut self) {
        loop {
            let ids: Vec<_> = self.sessions.keys().copied().collect();
            let mut quiet = true;
            for id in ids {
                while let Some(event) =
                    self.sessions.get_mut(&id).and_then(|s| s.proto.poll_event())
                {
                    quiet = false;
                    self.handle(id, event);
                }
            }
            while let Some(queue) = self.dirty.pop_first() {
                self.deliver(&queue);
            }
            self.confirm();
            if quiet {
                return;
            }
        }
    }

    fn handle(&mut self, id: SessionId, event: Event) {
        match event {
            Event::Server(ServerEvent::Login { mechanism, response, .. }) => {
                self.log_in(id, &mechanism, response.expose());
            }
            Event::Server(ServerEvent::Open { virtual_host }) => {
                self.open_virtual_host(id, virtual_host.detached());
            }
            Event::Channel(channel, event) => {
                self.handle_channel(At { session: id, channel }, event);
            }
            Event::Closed(reason) => {
                if matches!(reason, ConnectionError::Decode(_) | ConnectionError::Violation(_)) {
                    self.violation.get_or_insert(reason);
                }
                self.end_session(id);
            }
            _ => {}
        }
    }

    fn log_in(&mut self, id: SessionId, mechanism: &ShortStr, response: &[u8]) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let login = match mechanism.as_bytes() {
            b"PLAIN" => login::plain(response),
            b"AMQPLAIN" => login::amqplain(response),
            _ => None,
        };
        let known =
            |user: &[u8], secret: &[u8]| !self.refuses_logins && self.options.knows(user, secret);
        if let Some((user, _)) = login.filter(|(user, secret)| known(user, secret)) {
            session.user = ShortStr::truncated(&String::from_utf8_lossy(&user));
            let _decided = session.proto.accept_login();
        } else {
            let text = format!(
                "ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For details see the \
                 broker logfile."
            );
            session.proto.close(now, ReplyCode::ACCESS_REFUSED, &text);
        }
    }

    fn open_virtual_host(&mut self, id: SessionId, name: ShortStr) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if self.options.virtual_hosts.contains(&name) {
            session.virtual_host = name;
            let _decided = session.proto.accept_open();
            if let Some(reason) = &self.alarm {
                session.proto.set_blocked(Some(reason));
            }
        } else {
            let fault = Fault::not_allowed(&format!("vhost {name} not found"));
            session.proto.close_over(now, fault.code, &fault.text, (10, 40));
        }
    }

    fn handle_channel(&mut self, at: At, event: ChannelEvent) {
        let result = match event {
            ChannelEvent::Opened => {
                if let Some(session) = self.sessions.get_mut(&at.session) {
                    session.channels.insert(at.channel, ChannelState::default());
                }
                let At { session, channel } = at;
                self.note(|| Note::ChannelOpened { session, channel });
                return;
            }
            ChannelEvent::Closed(reason) => {
                self.note_abandoned(at, &reason);
                return self.end_channel(at);
            }
            // The broker has refused a request on the channel before: it ignores what follows, as the client expects.
            _ if self.channel(at).is_none() => return,
            ChannelEvent::Published(published) => {
                let Published { method, properties, body, .. } = *published;
                (self.published(at, &method, properties, body), (60, 40))
            }
            ChannelEvent::UnusablePublish(why) => (Err(unusable(why)), (60, 40)),
            ChannelEvent::Method(method) => {
                let Some(method) = self.put_off(at, method) else { return };
                let id = method.facts().id;
                let done = match self.refusal(id) {
                    Some(fault) => Err(fault),
                    None => self.request(at, method),
                };
                (done, id)
            }
            _ => return,
        };
        if let (Err(fault), cause) = result {
            self.refuse(at, &fault, cause);
        }
    }

    /// Delays a request, at random: RabbitMQ's queues reply to `basic.consume`, its channels to all other requests, so this one
    /// can be overtaken. The prefetch limit is the one at the time of the request: it is the channel that knows it. Returns the
    /// request if it is not delayed.
    fn put_off(&mut self, at: At, method: Method) -> Option<Method> {
        let Method::BasicConsume(mut consume) = method else { return Some(method) };
        let delay = self.choices.delay();
        if consume.queue.is_empty() {
            // The channel knows which queue is meant. If there is none, no queue has to reply.
            consume.queue = self.channel(at).map(|own| own.last_queue.clone()).unwrap_or_default();
        }
        // A queue starts the consumers of a channel in their order.
        let own =
            self.later.iter().filter(|own| own.at == at && own.consume.queue == consume.queue);
        let until = delay.map(|delay| self.now + delay).max(own.map(|own| own.until).max());
        let Some(until) = until.filter(|_| !consume.queue.is_empty()) else {
            return Some(consume.into());
        };
        let prefetch = self.prefetch(at);
        self.later.push(Delayed { until, at, consume, prefetch });
        None
    }

    /// Returns whether a consumer is to be, but is not yet.
    pub(crate) fn is_put_off(&self, at: At, tag: &ShortStr) -> bool {
        let is_it = |own: &Delayed| own.at == at && own.consume.consumer_tag == *tag;
        self.later.iter().any(is_it)
    }

    /// Processes the delayed requests.
    fn catch_up(&mut self) {
        let now = self.now;
        while let Some(index) = self.later.iter().position(|delayed| delayed.until <= now) {
            let Delayed { at, consume, prefetch, .. } = self.later.remove(index);
            if let Err(fault) = self.basic_consume(at, consume, prefetch) {
                self.refuse(at, &fault, BasicConsume::FACTS.id);
            }
        }
    }

    pub(crate) fn refuse(&mut self, at: At, fault: &Fault, cause: (u16, u16)) {
        let now = self.now;
        let At { session, channel } = at;
        let Fault { code, text, .. } = fault.clone();
        self.note(|| Note::Refused { session, channel, cause, code, text });
        let Some(session) = self.sessions.get_mut(&at.session) else { return };
        match fault.scope {
            Scope::Connection => {
                session.proto.close_over(now, fault.code, &fault.text, cause);
                // Do not wait for the client's reply: before that, the client may connect again and want its queues.
                self.end_session(at.session);
            }
            Scope::Channel => {
                if let Ok(mut channel) = session.proto.channel(at.channel) {
                    channel.close_over(fault.code, &fault.text, cause);
                }
                self.end_channel(at);
            }
        }
    }

    /// Says something on a channel, if that is still there.
    pub(crate) fn send(&mut self, at: At, method: impl Into<Method>) {
        if let Some(session) = self.sessions.get_mut(&at.session) {
            if let Ok(mut channel) = session.proto.channel(at.channel) {
                let _closing = channel.send(method);
            }
        }
    }

    pub(crate) fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(crate) fn channel(&mut self, at: At) -> Option<&mut ChannelState> {
        self.sessions.get_mut(&at.session)?.channels.get_mut(&at.channel)
    }

    /// A channel has ended: its consumers are removed, and its deliveries are ready again.
    fn end_channel(&mut self, at: At) {
        let state = self
            .sessions
            .get_mut(&at.session)
            .and_then(|session| session.channels.remove(&at.channel));
        let Some(state) = state else { return };
        self.later.retain(|delayed| delayed.at != at);
        for (tag, consumer) in &state.consumers {
            self.remove_consumer(at, tag, &consumer.queue);
        }
        for unacked in state.into_unacked() {
            self.requeue(&unacked.queue, unacked.message, Requeue::Abandoned);
        }
    }

    /// Ends a session, and deletes its exclusive queues.
    pub(crate) fn end_session(&mut self, id: SessionId) {
        let channels = self.sessions.get(&id).map(|session| session.channels.keys().copied());
        let channels: Vec<_> = channels.into_iter().flatten().collect();
        for channel in channels {
            self.end_channel(At { session: id, channel });
        }
        let own = self.queues.iter().filter(|(_, queue)| queue.owner == Some(id));
        let own: Vec<_> = own.map(|(name, _)| name.clone()).collect();
        for name in own {
            self.delete_queue(&name);
        }
    }

    /// A name for a queue that has none.
    pub(crate) fn generate_name(&mut self) -> ShortStr {
        self.last_name += 1;
        ShortStr::truncated(&format!("amq.gen-{:022}", self.last_name))
    }

    /// Resolves the name of a queue or an exchange in the client's virtual host.
    pub(crate) fn name(&self, at: At, text: ShortStr) -> Name {
        let session = self.sessions.get(&at.session);
        let virtual_host = session.map_or(ShortStr::EMPTY, |session| session.virtual_host.clone());
        Name { virtual_host, text }
    }
}

/// A message that the broker does not take in.
fn unusable(why: Unusable) -> Fault {
    match why {
        Unusable::BodyTooLarge { size, limit } => Fault::precondition(format!(
            "message size {size} is larger than configured max size {limit}"
        )),
        other => Fault::precondition(other.to_string()),
    }
}
