//! The server's end of the protocol, which accepts everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use amqp_client_core::proto::method::{
    BasicAck, BasicCancelOk, BasicConsumeOk, BasicDeliver, BasicGetOk, BasicQosOk, BasicReturn,
    ChannelFlow, ChannelFlowOk, ConfirmSelectOk, ExchangeDeclareOk, ExchangeDeleteOk,
    ExchangeUnbindOk, Method, QueueBindOk, QueueDeclareOk, QueueDeleteOk, QueuePurgeOk,
    QueueUnbindOk, TxSelectOk,
};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, ConnectionError, Event, FieldTable, Properties, Published,
    ReplyCode, Secret, ServerConfig, ServerEvent, ShortStr, Transmit,
};
use bytes::BytesMut;

use super::Peer;

/// A server with RabbitMQ's properties, as far as they matter.
fn capable() -> Arc<ServerConfig> {
    let capabilities = FieldTable::new().with("basic.nack", true).expect("it fits");
    let properties = FieldTable::new().with("capabilities", capabilities).expect("it fits");
    Arc::new(ServerConfig::default().server_properties(properties))
}

/// Why the server closes the channel of a method, if it does.
type Refusal = Option<(ReplyCode, &'static str)>;

/// A server that replies as a broker whose queues always exist, confirms what is published, and delivers what the test says.
pub(crate) struct Server {
    connection: Connection,
    /// Secrets that the client has sent.
    pub(crate) secrets: Vec<Secret>,
    /// The credentials of each connection.
    pub(crate) logins: Vec<Secret>,
    /// The next delivery tag.
    next_delivery: u64,
    /// The methods that the client has sent on channels, except publishes, if they are [recorded](Self::record).
    pub(crate) methods: Vec<Method>,
    recording: bool,
    /// `queue.purge` gets no reply: the request of tests that wait.
    pub(crate) ignores_purges: bool,
    /// The new tags of consumers that were restarted under another tag, by their tags at the client.
    tags: BTreeMap<String, ShortStr>,
    /// The channels that publish, the number of publishes of each, and how many of them are confirmed.
    publishing: Vec<(ChannelId, u64, u64)>,
    /// The number of replies to a request with this body. They come directly, before the confirm, and have its body.
    pub(crate) replies: Option<fn(&[u8]) -> u64>,
    /// The number of these replies so far.
    pub(crate) replied: u64,
    /// The tag of the last consumer, which gets the replies.
    replies_to: ShortStr,
    /// Publishes get no confirm.
    pub(crate) ignores_publishes: bool,
    /// Methods for which the server closes their channel.
    pub(crate) refusals: Option<fn(&Method) -> Refusal>,
    /// Queues that the server has named.
    named: u64,
}

impl Peer for Server {
    fn connect(&mut self, now: Instant) {
        self.connection = Connection::server(capable(), now);
        self.tags.clear();
        self.publishing.clear();
    }

    fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        let understood = self.connection.handle_input(now, input);
        let closed = matches!(understood, Err(ConnectionError::Closed(_)));
        assert!(understood.is_ok() || closed, "{understood:?}");
    }

    fn reply(&mut self, _: Instant) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { response, .. }) => {
                    self.logins.push(response);
                    self.connection.accept_login()
                }
                Event::Server(ServerEvent::Open { .. }) => self.connection.accept_open(),
                Event::Server(ServerEvent::UpdateSecret { new_secret, .. }) => {
                    self.secrets.push(new_secret);
                    Ok(())
                }
                Event::Channel(id, ChannelEvent::Published(published)) => {
                    match self.publishing.iter_mut().find(|(channel, ..)| *channel == id) {
                        Some((_, published, _)) => *published += 1,
                        None => self.publishing.push((id, 1, 0)),
                    }
                    self.reply_to(id, &published);
                    Ok(())
                }
                Event::Channel(id, ChannelEvent::Method(method)) => {
                    self.answer(id, method);
                    Ok(())
                }
                _ => Ok(()),
            }
            .expect("it is waiting");
        }
        if self.ignores_publishes {
            return;
        }
        for (id, published, confirmed) in &mut self.publishing {
            if published != confirmed {
                *confirmed = *published;
                let ack = BasicAck { delivery_tag: *published, multiple: true };
                // A later frame may have closed the channel.
                if let Ok(mut channel) = self.connection.channel(*id) {
                    channel.send(ack).expect("it is sent");
                }
            }
        }
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<&mut Transmit> {
        self.connection.poll_transmit(now)
    }

    /// It learns of the end by the next transport.
    fn handle_eof(&mut self, _: Instant) {}
}

impl Server {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            connection: Connection::server(capable(), now),
            secrets: Vec::new(),
            logins: Vec::new(),
            next_delivery: 0,
            methods: Vec::new(),
            recording: false,
            ignores_purges: false,
            tags: BTreeMap::new(),
            publishing: Vec::new(),
            replies: None,
            replied: 0,
            replies_to: ShortStr::default(),
            ignores_publishes: false,
            refusals: None,
            named: 0,
        }
    }

    /// Sends a method on a channel.
    pub(crate) fn send(&mut self, id: ChannelId, method: impl Into<Method>) {
        self.connection.channel(id).expect("open").send(method).expect("it is sent");
    }

    /// Returns a message that no queue takes.
    pub(crate) fn give_back(&mut self, id: ChannelId, routing_key: &str, body: &[u8]) {
        let returned = BasicReturn {
            reply_code: ReplyCode::NO_ROUTE.0,
            reply_text: "NO_ROUTE".try_into().expect("short"),
            routing_key: routing_key.try_into().expect("short"),
            ..BasicReturn::default()
        };
        let mut channel = self.connection.channel(id).expect("open");
        channel.send_content(returned, &Properties::default(), body).expect("it is sent");
    }

    /// Ends what [`hold`](Self::hold) began.
    pub(crate) fn release(&mut self, channel: Option<ChannelId>) {
        match channel {
            Some(id) => {
                let flow = ChannelFlow { active: true };
                self.connection.channel(id).expect("open").request(flow).expect("it is sent");
            }
            None => self.connection.set_blocked(None),
        }
    }

    /// The server closes a channel because of a method. It has processed earlier methods, and replies to none of them.
    pub(crate) fn refuse(&mut self, id: ChannelId, code: ReplyCode, cause: (u16, u16)) {
        while self.connection.poll_event().is_some() {}
        self.connection.channel(id).expect("open").close_over(code, "refused", cause);
        self.publishing.retain(|(channel, ..)| *channel != id);
    }

    /// The server asks the client to publish nothing: on one channel, or on the whole connection.
    pub(crate) fn hold(&mut self, channel: Option<ChannelId>) {
        match channel {
            Some(id) => {
                let flow = ChannelFlow { active: false };
                self.connection.channel(id).expect("open").request(flow).expect("it is sent");
            }
            None => self.connection.set_blocked(Some("memory")),
        }
    }

    /// The server closes the connection.
    pub(crate) fn close(&mut self, now: Instant, text: &str) {
        self.connection.close(now, ReplyCode::CONNECTION_FORCED, text);
    }

    /// Sends a heartbeat.
    pub(crate) fn send_heartbeat(&mut self) {
        self.connection.send_heartbeat();
    }

    /// From now on, the client's methods are kept in `methods`. Benchmarks do without: it would be counted.
    pub(crate) const fn record(&mut self) {
        self.recording = true;
    }

    /// Queues deliveries to a consumer.
    pub(crate) fn deliver(
        &mut self,
        id: ChannelId,
        consumer_tag: &ShortStr,
        count: u64,
        body: &[u8],
    ) {
        // Benchmarks do without: looking would be counted.
        let renamed = (!self.tags.is_empty()).then(|| self.tags.get(&consumer_tag.to_string()));
        let renamed = renamed.flatten();
        let consumer_tag = renamed.unwrap_or(consumer_tag);
        for _ in 0..count {
            self.next_delivery += 1;
            let deliver = BasicDeliver {
                consumer_tag: consumer_tag.clone(),
                delivery_tag: self.next_delivery,
                ..BasicDeliver::default()
            };
            let mut channel = self.connection.channel(id).expect("open");
            channel.send_content(deliver, &Properties::default(), body).expect("it is sent");
        }
    }

    /// Queues a delivery that was delivered before.
    pub(crate) fn redeliver(&mut self, id: ChannelId, consumer_tag: &ShortStr, body: &[u8]) {
        self.next_delivery += 1;
        let (consumer_tag, delivery_tag) = (consumer_tag.clone(), self.next_delivery);
        let deliver = BasicDeliver {
            consumer_tag,
            delivery_tag,
            redelivered: true,
            ..BasicDeliver::default()
        };
        let mut channel = self.connection.channel(id).expect("open");
        channel.send_content(deliver, &Properties::default(), body).expect("it is sent");
    }

    fn reply_to(&mut self, id: ChannelId, request: &Published) {
        let Some(replies) = self.replies else { return };
        for _ in 0..replies(&request.body) {
            self.next_delivery += 1;
            let deliver = BasicDeliver {
                consumer_tag: self.replies_to.clone(),
                delivery_tag: self.next_delivery,
                ..BasicDeliver::default()
            };
            // A later frame may have closed the channel or the connection.
            let sent = self.connection.channel(id).is_ok_and(|mut channel| {
                channel.send_content(deliver, &request.properties, &request.body).is_ok()
            });
            self.replied += u64::from(sent);
        }
    }

    /// Answers a `basic.get` with a message.
    pub(crate) fn give(&mut self, id: ChannelId, body: &[u8]) {
        self.next_delivery += 1;
        let got = BasicGetOk { delivery_tag: self.next_delivery, ..BasicGetOk::default() };
        let mut channel = self.connection.channel(id).expect("open");
        channel.send_content(got, &Properties::default(), body).expect("it is sent");
    }

    fn answer(&mut self, id: ChannelId, method: Method) {
        if let Method::BasicConsume(consume) = &method {
            self.replies_to = consume.consumer_tag.clone();
            // A consumer that was paused is started again under its tag with a number in front.
            if let Some((_, tag)) = consume.consumer_tag.to_string().split_once(".ctag") {
                self.tags.insert(format!("ctag{tag}"), consume.consumer_tag.clone());
            }
        }
        if let Some((code, text)) = self.refusals.and_then(|refuses| refuses(&method)) {
            let cause = method.facts().id;
            self.connection.channel(id).expect("open").close_over(code, text, cause);
            return;
        }
        let ignored = self.ignores_purges && matches!(method, Method::QueuePurge(_));
        let mut reply = consent(&method).filter(|_| !ignored);
        match &mut reply {
            Some(Method::QueueDeclareOk(declared)) if declared.queue.is_empty() => {
                self.named += 1;
                let name = format!("amq.gen-{}", self.named);
                declared.queue = name.as_str().try_into().expect("short");
            }
            _ => {}
        }
        if let Some(reply) = reply {
            // A later frame may have closed the channel or the connection.
            let _closing = self.connection.channel(id).expect("open").send(reply);
        }
        if self.recording {
            self.methods.push(method);
        }
    }
}

/// Returns the reply of a broker in which all entities exist, and which refuses nothing.
pub(crate) fn consent(method: &Method) -> Option<Method> {
    let reply = match method {
        Method::ConfirmSelect(select) if select.no_wait => return None,
        Method::BasicCancel(cancel) if cancel.no_wait => return None,
        Method::BasicQos(_) => BasicQosOk {}.into(),
        Method::BasicConsume(consume) => {
            BasicConsumeOk { consumer_tag: consume.consumer_tag.clone() }.into()
        }
        Method::BasicCancel(cancel) => {
            BasicCancelOk { consumer_tag: cancel.consumer_tag.clone() }.into()
        }
        Method::ChannelFlow(flow) => ChannelFlowOk { active: flow.active }.into(),
        Method::ConfirmSelect(_) => ConfirmSelectOk {}.into(),
        Method::ExchangeDeclare(_) => ExchangeDeclareOk {}.into(),
        Method::ExchangeDelete(_) => ExchangeDeleteOk {}.into(),
        Method::ExchangeUnbind(_) => ExchangeUnbindOk {}.into(),
        Method::QueueDeclare(declare) => {
            QueueDeclareOk { queue: declare.queue.clone(), ..QueueDeclareOk::default() }.into()
        }
        Method::QueueBind(_) => QueueBindOk {}.into(),
        Method::QueueUnbind(_) => QueueUnbindOk {}.into(),
        Method::QueuePurge(_) => QueuePurgeOk::default().into(),
        Method::QueueDelete(_) => QueueDeleteOk::default().into(),
        Method::TxSelect(_) => TxSelectOk {}.into(),
        _ => return None,
    };
    Some(reply)
}
