//! The requests of a session, and their outcomes.

use amqp_client_core::proto::method::{
    BasicConsume, BasicQos, ConfirmSelect, ExchangeDeclare, FromReply, QueueBind, QueueDeclare,
    QueueDeclareOk, Request,
};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, ConsumerId, Delivery, Event, PublishSeq, RawProperties,
    Reply, RequestId, Route, ShortStr,
};

use super::SessionRig;
use crate::harness::Peer;

impl<P: Peer> SessionRig<P> {
    pub(crate) fn open(&mut self) -> ChannelId {
        let id = self.session.open_channel().expect("there is room");
        self.run();
        id
    }

    /// Makes a request whose reply is ignored.
    pub(crate) fn send<R: Request>(&mut self, id: ChannelId, request: R) -> RequestId {
        self.channel(id).request(request).expect("it is sent")
    }

    /// Makes a request and waits for its reply.
    pub(crate) fn ask<R: Request>(&mut self, id: ChannelId, request: R) -> Option<R::Reply> {
        let request = self.send(id, request);
        self.run();
        self.answer(request).and_then(R::Reply::from_reply)
    }

    /// Takes the reply to a request.
    pub(crate) fn answer(&mut self, wanted: RequestId) -> Option<Reply> {
        let index = self.events.iter().position(|event| {
            matches!(event, Event::Channel(_, ChannelEvent::Reply { request, .. }) if *request == wanted)
        })?;
        match self.events.remove(index) {
            Event::Channel(_, ChannelEvent::Reply { reply, .. }) => Some(reply),
            _ => None,
        }
    }

    /// Returns why a request has no reply.
    pub(crate) fn failure(&self, wanted: RequestId) -> Option<&CommandError> {
        self.channel_events().find_map(|event| match event {
            ChannelEvent::Failed { request, error } if *request == wanted => Some(error),
            _ => None,
        })
    }

    pub(crate) fn queue(&mut self, id: ChannelId, declare: QueueDeclare) -> ShortStr {
        let declared: QueueDeclareOk = self.ask(id, declare).expect("it is declared");
        declared.queue
    }

    /// Returns how many messages are ready in a queue, and how many consumers it has.
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
        self.channel(id).publish(&route, &RawProperties::EMPTY, body).expect("it is sent")
    }

    pub(crate) fn keep(&mut self, id: ChannelId, key: &str, body: &str) -> PublishSeq {
        let route = Route::new("", key);
        self.channel(id).publish_kept(&route, &RawProperties::EMPTY, body).expect("it is taken")
    }

    /// Takes the deliveries.
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

    /// Returns the bodies of the deliveries to that consumer.
    pub(crate) fn texts(&mut self, wanted: ConsumerId) -> Vec<String> {
        let deliveries = self.deliveries().into_iter().filter(|(consumer, _)| *consumer == wanted);
        deliveries.map(|(_, delivery)| text(&delivery)).collect()
    }
}

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::truncated(text)
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.body()).into_owned()
}

pub(crate) fn durable(name: &str) -> QueueDeclare {
    QueueDeclare { queue: short(name), durable: true, ..<_>::default() }
}

/// A queue that a connection has to itself.
pub(crate) fn exclusive(name: &str) -> QueueDeclare {
    QueueDeclare { queue: short(name), exclusive: true, ..<_>::default() }
}

/// A queue without a name, of this connection alone.
pub(crate) fn nameless() -> QueueDeclare {
    QueueDeclare { exclusive: true, auto_delete: true, ..<_>::default() }
}
