use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client_core::proto::method::{
    BasicConsume, BasicQos, ConfirmSelect, ExchangeDeclare, FromReply, QueueBind, QueueDeclare,
    QueueDeclareOk, Request,
};
use amqp_client_core::proto::session::{Dial, Recovery, RecoveryReport, Session};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, ClientConfig, CommandError, ConsumerId, Delivery, Event, PublishSeq,
    RawProperties, Reply, RequestId, Route, SessionEvent, ShortStr,
};
use amqp_test_broker::{Engine, Options, SessionId};
use bytes::{Buf as _, BytesMut};

/// A session, a broker, and the transport between them.
pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) broker: Engine,
    pub(crate) now: Instant,
    /// The broker's end of the transport.
    pub(crate) peer: Option<SessionId>,
    up: BytesMut,
    down: BytesMut,
    /// What happened and was not looked at.
    pub(crate) events: Vec<Event>,
    /// How often octets have gone there and back.
    pub(crate) rounds: usize,
    /// After how many more of those the transport is cut.
    pub(crate) cut_after: Option<usize>,
    /// Whether nodes can be reached.
    pub(crate) reachable: bool,
    /// Octets come one by one, and what is delivered is acknowledged at once.
    pub(crate) eager: bool,
}

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::truncated(text)
}

impl World {
    pub(crate) fn new(recovery: Recovery) -> Self {
        Self::with_broker(recovery, Options::new())
    }

    pub(crate) fn with_broker(recovery: Recovery, options: Options) -> Self {
        let now = Instant::now();
        let mut broker = Engine::new(options, now);
        let peer = Some(broker.connect(now));
        let mut session = Session::new(Arc::new(ClientConfig::default()), now);
        session.recover_with(recovery, 1, 0);
        let mut world = Self {
            session,
            broker,
            now,
            peer,
            up: BytesMut::new(),
            down: BytesMut::new(),
            events: Vec::new(),
            rounds: 0,
            cut_after: None,
            reachable: true,
            eager: false,
        };
        world.run();
        assert!(world.session.is_open());
        world.events.clear();
        world
    }

    /// Lets octets flow until nothing moves.
    pub(crate) fn run(&mut self) {
        loop {
            self.session.handle_timeout(self.now);
            self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
            if !self.carry() {
                break;
            }
        }
    }

    /// The same, once.
    pub(crate) fn round(&mut self) {
        self.session.handle_timeout(self.now);
        self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
        self.carry();
        self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
    }

    /// One round: what the session has to say, and the broker's answer.
    fn carry(&mut self) -> bool {
        let Some(peer) = self.peer else { return false };
        let mut moved = false;
        while let Some(transmit) = self.session.poll_transmit(self.now) {
            moved = true;
            self.up.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        match self.eager {
            // Each frame is seen to by itself, so that answers and deliveries mix.
            true => {
                let mut input = BytesMut::new();
                while self.up.has_remaining() {
                    input.extend_from_slice(&self.up.split_to(1));
                    self.broker.handle_input(peer, self.now, &mut input);
                }
            }
            false => self.broker.handle_input(peer, self.now, &mut self.up),
        }
        self.broker.handle_timeout(self.now);
        while let Some(transmit) = self.broker.poll_transmit(peer, self.now) {
            moved = true;
            self.down.extend_from_slice(transmit.chunk());
            transmit.advance(transmit.chunk().len());
        }
        if moved {
            self.rounds += 1;
            if self.cut_after.is_some_and(|after| self.rounds >= after) {
                self.cut_after = None;
                self.cut();
                return true;
            }
        }
        match self.eager {
            true => self.receive_eagerly(),
            false => {
                let _lost = self.session.handle_input(self.now, &mut self.down);
            }
        }
        if self.session.is_disconnected() {
            self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
            self.hang_up();
        }
        moved
    }

    fn receive_eagerly(&mut self) {
        let mut input = BytesMut::new();
        while self.down.has_remaining() {
            input.extend_from_slice(&self.down.split_to(1));
            let _lost = self.session.handle_input(self.now, &mut input);
            while let Some(event) = self.session.poll_event() {
                if let Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) = &event {
                    let channel = &mut self.session.channel(*id).expect("it delivers");
                    channel.ack(delivery.delivery_tag()).expect("it was delivered just now");
                }
                self.events.push(event);
            }
        }
    }

    /// The transport ends, for both.
    pub(crate) fn cut(&mut self) {
        self.session.handle_eof(self.now);
        self.hang_up();
        self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
    }

    fn hang_up(&mut self) {
        self.up.clear();
        self.down.clear();
        if let Some(peer) = self.peer.take() {
            self.broker.handle_eof(peer, self.now);
        }
    }

    /// Dials once, waiting as long as the session says. Returns whether there is a transport.
    pub(crate) fn dial(&mut self) -> bool {
        loop {
            match self.session.poll_dial(self.now) {
                Dial::Wait(at) => self.now = at,
                Dial::Connect { .. } if self.reachable => {
                    self.peer = Some(self.broker.connect(self.now));
                    self.session.handle_transport(self.now, None);
                    return true;
                }
                Dial::Connect { .. } => {
                    self.session.handle_unreachable(self.now, "no route to host");
                    return false;
                }
                _ => return false,
            }
        }
    }

    /// Dials and runs until the session is as it was. Returns what it says of that.
    pub(crate) fn recover(&mut self) -> RecoveryReport {
        for _ in 0..100 {
            self.dial();
            self.run();
            if self.session.is_open() {
                return self.report();
            }
        }
        panic!("not recovered: {:?}", self.events);
    }

    /// The last report.
    pub(crate) fn report(&mut self) -> RecoveryReport {
        let reports = self.events.iter().rev().find_map(|event| match event {
            Event::Session(SessionEvent::Recovered(report)) => Some((**report).clone()),
            _ => None,
        });
        reports.expect("it was recovered")
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    pub(crate) fn open(&mut self) -> ChannelId {
        let id = self.session.open_channel().expect("there is room");
        self.run();
        id
    }

    /// Makes a request whose answer is not looked at.
    pub(crate) fn send<R: Request>(&mut self, id: ChannelId, request: R) -> RequestId {
        let channel = &mut self.session.channel(id).expect("it is open");
        channel.request(request).expect("it is sent")
    }

    /// Makes a request and waits for its answer.
    pub(crate) fn ask<R: Request>(&mut self, id: ChannelId, request: R) -> Option<R::Reply> {
        let request = self.send(id, request);
        self.run();
        self.answer(request).and_then(R::Reply::from_reply)
    }

    /// The answer to a request, taken.
    pub(crate) fn answer(&mut self, wanted: RequestId) -> Option<Reply> {
        let index = self.events.iter().position(|event| {
            matches!(event, Event::Channel(_, ChannelEvent::Reply { request, .. }) if *request == wanted)
        })?;
        match self.events.remove(index) {
            Event::Channel(_, ChannelEvent::Reply { reply, .. }) => Some(reply),
            _ => None,
        }
    }

    /// Why a request has no answer.
    pub(crate) fn failure(&self, wanted: RequestId) -> Option<&CommandError> {
        self.channel_events().find_map(|event| match event {
            ChannelEvent::Failed { request, error } if *request == wanted => Some(error),
            _ => None,
        })
    }

    pub(crate) fn channel_events(&self) -> impl Iterator<Item = &ChannelEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Channel(_, event) => Some(event),
            _ => None,
        })
    }

    pub(crate) fn session_events(&self) -> impl Iterator<Item = &SessionEvent> {
        self.events.iter().filter_map(|event| match event {
            Event::Session(event) => Some(event),
            _ => None,
        })
    }

    pub(crate) fn queue(&mut self, id: ChannelId, declare: QueueDeclare) -> ShortStr {
        let declared: QueueDeclareOk = self.ask(id, declare).expect("it is declared");
        declared.queue
    }

    /// How many messages are ready in a queue, and how many consumers it has.
    pub(crate) fn queue_count(&mut self, id: ChannelId, name: &str) -> (u32, u32) {
        let check = QueueDeclare { passive: true, ..durable(name) };
        let declared: QueueDeclareOk = self.ask(id, check).expect("it is there");
        (declared.message_count, declared.consumer_count)
    }

    pub(crate) fn exchange(&mut self, id: ChannelId, name: &str, kind: &str) {
        let declare =
            ExchangeDeclare { exchange: short(name), kind: short(kind), ..<_>::default() };
        self.ask(id, declare).expect("it is declared");
    }

    pub(crate) fn bind(&mut self, id: ChannelId, queue: &ShortStr, exchange: &str, key: &str) {
        let bind = QueueBind {
            queue: queue.clone(),
            exchange: short(exchange),
            routing_key: short(key),
            ..<_>::default()
        };
        self.ask(id, bind).expect("it is bound");
    }

    pub(crate) fn consume(&mut self, id: ChannelId, queue: &ShortStr, tag: &str) -> ConsumerId {
        let consume =
            BasicConsume { queue: queue.clone(), consumer_tag: short(tag), ..<_>::default() };
        let request = self.send(id, consume);
        self.run();
        self.answer(request).expect("it has started");
        request.into()
    }

    pub(crate) fn limit(&mut self, id: ChannelId, prefetch_count: u16) {
        self.ask(id, BasicQos { prefetch_count, ..<_>::default() }).expect("it is set");
    }

    pub(crate) fn confirm(&mut self, id: ChannelId) {
        self.ask(id, ConfirmSelect { no_wait: false }).expect("it is selected");
    }

    pub(crate) fn publish(
        &mut self,
        id: ChannelId,
        exchange: &str,
        key: &str,
        body: &str,
    ) -> Option<PublishSeq> {
        let route = Route::new(exchange, key);
        let channel = &mut self.session.channel(id).expect("it is open");
        channel.publish(&route, &RawProperties::EMPTY, body).expect("it is sent")
    }

    pub(crate) fn keep(&mut self, id: ChannelId, key: &str, body: &str) -> PublishSeq {
        let route = Route::new("", key);
        let channel = &mut self.session.channel(id).expect("it is open");
        channel.publish_kept(&route, &RawProperties::EMPTY, body).expect("it is taken")
    }

    /// What was delivered, taken.
    pub(crate) fn deliveries(&mut self) -> Vec<(ConsumerId, Delivery)> {
        let (deliveries, rest): (Vec<_>, _) = std::mem::take(&mut self.events)
            .into_iter()
            .partition(|event| matches!(event, Event::Channel(_, ChannelEvent::Delivery { .. })));
        self.events = rest;
        let deliveries = deliveries.into_iter().filter_map(|event| match event {
            Event::Channel(_, ChannelEvent::Delivery { consumer, delivery }) => {
                Some((consumer, delivery))
            }
            _ => None,
        });
        deliveries.collect()
    }

    /// The texts of what was delivered to that consumer.
    pub(crate) fn texts(&mut self, wanted: ConsumerId) -> Vec<String> {
        let deliveries = self.deliveries().into_iter().filter(|(consumer, _)| *consumer == wanted);
        deliveries.map(|(_, delivery)| text(&delivery)).collect()
    }

    /// Another client of the broker, which does that and leaves.
    pub(crate) fn elsewhere<T>(&mut self, act: impl FnOnce(&mut Self, ChannelId) -> T) -> T {
        let peer = self.broker.connect(self.now);
        let broker = std::mem::replace(&mut self.broker, Engine::new(Options::new(), self.now));
        let mut other = Self {
            session: Session::new(Arc::new(ClientConfig::default()), self.now),
            broker,
            now: self.now,
            peer: Some(peer),
            up: BytesMut::new(),
            down: BytesMut::new(),
            events: Vec::new(),
            rounds: 0,
            cut_after: None,
            reachable: true,
            eager: false,
        };
        other.run();
        let id = other.open();
        let result = act(&mut other, id);
        other.run();
        // It stays connected if it still has its transport.
        self.broker = other.broker;
        result
    }
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.body()).into_owned()
}

pub(crate) fn durable(name: &str) -> QueueDeclare {
    QueueDeclare { queue: short(name), durable: true, ..<_>::default() }
}

/// A queue without a name, of this connection alone.
pub(crate) fn nameless() -> QueueDeclare {
    QueueDeclare { exclusive: true, auto_delete: true, ..<_>::default() }
}
