use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use crate::method::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicDeliver, BasicQos,
    BasicQosOk, ConfirmSelect, ConfirmSelectOk, Method, QueueBind, QueueBindOk, QueueDeclare,
    QueueDeclareOk, TxCommit, TxCommitOk, TxRollbackOk, TxSelect, TxSelectOk,
};
use crate::session::{OnCancel, Reconnect, Recovery, Session};
use crate::{
    ChannelEvent, ChannelId, ClientConfig, ConnectStep, Connection, ConsumerId, DeliveryTag, Event,
    Properties, PublishSeq, RawProperties, ReplyCode, Route, ServerConfig, ServerEvent, ShortStr,
    TimerReason,
};

/// A session, and a server that replies to everything, refuses some requests, and disconnects when the data says so. In the end,
/// the session has to be restored.
pub fn session(data: &[u8]) {
    let mut scene = Scene::new(data);
    scene.exchange();
    while let Some(op) = scene.next() {
        scene.act(op);
    }
    scene.come_back();
}

struct Scene<'a> {
    data: &'a [u8],
    session: Session,
    server: Connection,
    now: Instant,
    channels: Vec<ChannelId>,
    deliveries: VecDeque<(ChannelId, DeliveryTag)>,
    consumers: VecDeque<(ChannelId, ConsumerId)>,
    names: u32,
    tags: u64,
    /// The requests, among the next ones, that the server refuses. It accepts all others.
    refusals: u8,
    over: bool,
    /// Number of messages that the server has received on each channel with confirms; `None` once it has closed the channel.
    published: BTreeMap<ChannelId, Option<u64>>,
    /// Publishes that nothing was reported of yet.
    open: BTreeSet<(ChannelId, u64)>,
}

impl<'a> Scene<'a> {
    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn new(data: &'a [u8]) -> Self {
        let now = Instant::now();
        let recovery = Recovery::default()
            .on_cancel(OnCancel::Resubscribe)
            .reopen_channels(data.len() % 2 == 0)
            .keep_max(10_000)
            .seed(Some(1));
        let mut session = Session::new(Arc::new(ClientConfig::default()), now);
        session.recover_with(recovery, 2, 0);
        Self {
            data,
            session,
            server: Connection::server(Arc::new(ServerConfig::default()), now),
            now,
            channels: Vec::new(),
            deliveries: VecDeque::new(),
            consumers: VecDeque::new(),
            names: 0,
            tags: 0,
            refusals: 0,
            over: false,
            published: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.data.split_first()?;
        self.data = rest;
        Some(*first)
    }

    fn act(&mut self, op: u8) {
        let id = self.channels.get(usize::from(op / 16) % self.channels.len().max(1)).copied();
        match (op % 16, id) {
            (0, _) => self.channels.extend(self.session.open_channel().ok()),
            (8, _) => self.exchange(),
            (9, _) => self.cut(),
            (10, _) => self.reconnect(),
            (11, _) => {
                self.now += Duration::from_millis(u64::from(op) * 40);
                self.session.handle_timeout(self.now);
            }
            (12, _) => self.refusals = op / 16,
            (13, _) => self.garble(),
            (kind, Some(id)) => self.command(kind, id, op),
            (_, None) => {}
        }
        self.drain();
    }

    /// Gives the session a command; that it cannot be carried out is fine.
    fn command(&mut self, kind: u8, id: ChannelId, op: u8) {
        let queue = ShortStr::truncated(["", "a", "b"][usize::from(op / 16) % 3]);
        let Ok(mut channel) = self.session.channel(id) else { return };
        let route = Route::new("", "a");
        let _refused = match kind {
            1 => channel.request(QueueDeclare { queue, ..<_>::default() }).map(drop),
            2 => channel
                .request(QueueBind { queue, exchange: ShortStr::truncated("x"), ..<_>::default() })
                .map(drop),
            3 => {
                let consumer_tag = ShortStr::truncated(["s", "t", ""][usize::from(op / 16) % 3]);
                let consume = BasicConsume { queue, consumer_tag, ..<_>::default() };
                channel
                    .request(consume)
                    .map(|request| self.consumers.push_back((id, request.into())))
            }
            4 => channel.request(BasicQos { prefetch_count: 1, ..<_>::default() }).map(drop),
            5 if op < 128 => channel.request(ConfirmSelect { no_wait: op < 64 }).map(drop),
            5 => channel.request(TxSelect {}).map(drop),
            6 => {
                let kept = channel.publish_kept(&route, &RawProperties::EMPTY, vec![0; 100]);
                self.open.extend(kept.ok().map(|publish| (id, publish.get())));
                Ok(())
            }
            7 => {
                let sent = channel.publish(&route, &Properties::default(), "body");
                self.open.extend(sent.ok().flatten().map(|publish| (id, publish.get())));
                channel.request(TxCommit {}).map(drop)
            }
            14 => match self.deliveries.pop_front() {
                Some((at, tag)) if at == id => channel.ack(tag),
                _ => Ok(()),
            },
            _ if op < 200 => {
                match self.consumers.pop_front() {
                    Some((at, consumer)) if at == id => channel.discard_consumer(consumer),
                    _ => {}
                }
                Ok(())
            }
            _ => {
                channel.close(ReplyCode::REPLY_SUCCESS, "done");
                Ok(())
            }
        };
    }

    /// Bytes that no server would send, as likely as not.
    fn garble(&mut self) {
        let count = usize::from(self.next().unwrap_or(0) % 32).min(self.data.len());
        let (bytes, rest) = self.data.split_at(count);
        self.data = rest;
        let _lost = self.session.handle_input(self.now, &mut BytesMut::from(bytes));
    }

    fn cut(&mut self) {
        self.session.handle_eof(self.now);
        self.drain();
    }

    fn reconnect(&mut self) {
        match self.session.poll_reconnect(self.now) {
            Reconnect::Wait(at) => self.now = at,
            Reconnect::Connect { node } if node == 0 || self.refusals < 8 => {
                assert!(self.session.handle_transport(self.now, None), "it asked for it");
                self.server = Connection::server(Arc::new(ServerConfig::default()), self.now);
                self.tags = 0;
                self.published.clear();
            }
            Reconnect::Connect { .. } => {
                self.session.handle_unreachable(self.now, ConnectStep::Tcp, "not there")
            }
            Reconnect::Nothing => {}
        }
    }

    /// Lets bytes flow until nothing moves.
    fn exchange(&mut self) {
        let mut wire = BytesMut::new();
        let mut rounds = 0;
        let mut moved = true;
        while moved {
            rounds += 1;
            assert!(rounds < 1000, "they never stop talking");
            moved = false;
            while let Some(transmit) = self.session.poll_transmit(self.now) {
                wire.extend_from_slice(transmit.chunk());
                transmit.advance(transmit.chunk().len());
                moved = true;
            }
            let _over = self.server.handle_input(self.now, &mut wire);
            self.serve();
            wire.clear();
            while let Some(transmit) = self.server.poll_transmit(self.now) {
                wire.extend_from_slice(transmit.chunk());
                transmit.advance(transmit.chunk().len());
                moved = true;
            }
            let _lost = self.session.handle_input(self.now, &mut wire);
            wire.clear();
            self.drain();
            if self.server.check().is_err() && !self.session.is_disconnected() {
                self.cut();
            }
        }
    }

    fn serve(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { .. }) => drop(self.server.accept_login()),
                Event::Server(ServerEvent::Open { .. }) => drop(self.server.accept_open()),
                Event::Channel(id, ChannelEvent::Method(method)) => self.answer(id, method),
                Event::Channel(id, ChannelEvent::Published(_)) => self.confirm(id),
                Event::Channel(id, ChannelEvent::Closed(_)) => drop(self.published.remove(&id)),
                _ => {}
            }
        }
    }

    /// Confirms a message, or closes its channel.
    fn confirm(&mut self, id: ChannelId) {
        let Some(Some(count)) = self.published.get_mut(&id) else { return };
        *count += 1;
        let ack = BasicAck { delivery_tag: *count, multiple: false };
        let refused = self.refusals & 1 == 1;
        self.refusals >>= 1;
        let Ok(mut channel) = self.server.channel(id) else { return };
        if refused {
            self.published.insert(id, None);
            let cause = [(60, 40), (0, 0)][usize::from(self.refusals & 1)];
            return channel.close_over(ReplyCode::NOT_FOUND, "NOT_FOUND - no", cause);
        }
        let _sent = channel.send(ack);
    }

    fn answer(&mut self, id: ChannelId, method: Method) {
        let refused = self.refusals & 1 == 1;
        self.refusals >>= 1;
        let cause = method.facts().id;
        let Ok(mut channel) = self.server.channel(id) else { return };
        if matches!(method, Method::ConfirmSelect(_)) {
            self.published.entry(id).or_insert(Some(0));
        }
        if refused {
            self.published.insert(id, None);
            return channel.close_over(ReplyCode::NOT_FOUND, "NOT_FOUND - no", cause);
        }
        let answer: Method = match method {
            Method::QueueDeclare(declare) => {
                self.names += 1;
                let queue = match declare.queue.is_empty() {
                    true => ShortStr::truncated(&format!("amq.gen-{}", self.names)),
                    false => declare.queue,
                };
                QueueDeclareOk { queue, ..<_>::default() }.into()
            }
            Method::QueueBind(_) => QueueBindOk {}.into(),
            Method::BasicQos(_) => BasicQosOk {}.into(),
            Method::TxSelect(_) => TxSelectOk {}.into(),
            Method::TxCommit(_) => TxCommitOk {}.into(),
            Method::TxRollback(_) => TxRollbackOk {}.into(),
            Method::ConfirmSelect(select) if !select.no_wait => ConfirmSelectOk {}.into(),
            Method::BasicCancel(cancel) if !cancel.no_wait => {
                BasicCancelOk { consumer_tag: cancel.consumer_tag }.into()
            }
            Method::BasicConsume(consume) => {
                self.names += 1;
                let consumer_tag = match consume.consumer_tag.is_empty() {
                    true => ShortStr::truncated(&format!("amq.ctag-{}", self.names)),
                    false => consume.consumer_tag,
                };
                let _sent = channel.send(BasicConsumeOk { consumer_tag: consumer_tag.clone() });
                self.tags += 1;
                let delivery_tag = self.tags;
                let tag = consumer_tag.clone();
                let deliver = BasicDeliver { consumer_tag: tag, delivery_tag, ..<_>::default() };
                let _sent = channel.send_content(deliver, &Properties::default(), "body");
                if self.names % 4 == 0 {
                    let _sent = channel.send(BasicCancel { consumer_tag, no_wait: true });
                }
                return;
            }
            _ => return,
        };
        let _sent = channel.send(answer);
    }

    fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(!self.over, "{event:?} comes behind the end");
            match event {
                Event::Channel(id, ChannelEvent::Closed(_)) => {
                    self.channels.retain(|other| *other != id);
                    self.open.retain(|(other, _)| *other != id);
                    self.deliveries.retain(|(other, _)| *other != id);
                }
                Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) => {
                    self.deliveries.push_back((id, delivery.delivery_tag()));
                }
                Event::Channel(id, ChannelEvent::Confirmed { publishes, .. }) => {
                    self.settled(id, publishes);
                }
                Event::Channel(id, ChannelEvent::Unconfirmed { publishes, .. }) => {
                    self.settled(id, publishes);
                }
                Event::Channel(id, ChannelEvent::PublishFailed { publish, .. }) => {
                    self.settled(id, publish..=publish);
                }
                Event::Closed(_) => self.over = true,
                _ => {}
            }
        }
    }

    /// Each publish is reported once.
    fn settled(&mut self, id: ChannelId, publishes: RangeInclusive<PublishSeq>) {
        for publish in publishes.start().get()..=publishes.end().get() {
            assert!(self.open.remove(&(id, publish)), "publish {publish} of {id} is not open");
        }
    }

    /// Nothing goes wrong any more: the session must be back in no time, and all its messages arrive.
    fn come_back(&mut self) {
        self.refusals = 0;
        for _ in 0..100 {
            self.exchange();
            if self.session.is_open() || self.over {
                break;
            }
            self.reconnect();
        }
        assert!(self.session.is_open() || self.over, "it does not come back: {:?}", self.session);
        assert_eq!(self.over, self.session.check().is_err());
        for _ in 0..20 {
            self.exchange();
            let Some((at, TimerReason::Recovery)) = self.session.poll_timeout() else { break };
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
        }
        self.exchange();
        let waiting = self.session.kept() > 0 || !self.open.is_empty();
        assert!(self.over || !waiting, "{:?} {:?}", self.open, self.session);
    }
}
