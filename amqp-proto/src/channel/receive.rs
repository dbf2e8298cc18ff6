use alloc::boxed::Box;
use bytes::Bytes;

use super::acks::{Arrival, Settlement};
use super::consumers::Consumer;
use super::equals::Attribution;
use super::fingerprint::Head;
use super::requests::{Effect, Pending};
use super::state::{ChannelState, Mode, Phase};
use crate::content::{
    Apart, Complete, ContentMethod, Incoming, arguments_of, find_whole, unexpected,
};
use crate::delivery::{DeliverArguments, stream_offset};
use crate::frame::FrameKind;
use crate::method::{
    Arguments as _, BasicAck, BasicCancelOk, BasicDeliver, BasicGetOk, ChannelClose,
    ChannelCloseOk, ChannelFlowOk, ConnectionClose, Method,
};
use crate::outbound::{Outbound, Role};
use crate::properties::identity;
use crate::wire::unwrapped;
use crate::{
    ChannelError, ChannelEvent, Close, ConnectionError, Delivery, DeliveryTag, GetReply, Initiator,
    Published, RawProperties, Reply, ReplyCode, Returned, ShortStr, Unusable, Violation,
};

type Received = Result<(), ConnectionError>;

/// The ids in front of a method's arguments.
const fn ids(class: u16, method: u16) -> [u8; 4] {
    let [c0, c1] = class.to_be_bytes();
    let [m0, m1] = method.to_be_bytes();
    [c0, c1, m0, m1]
}

/// Servers count deliveries from 1 on each channel, so they never get here. Sessions add the tags of channels that came one
/// after the other.
const MAX_DELIVERY_TAG: u64 = 1 << 56;

const DELIVER: [u8; 4] = ids(BasicDeliver::CLASS_ID, BasicDeliver::METHOD_ID);
const ACK: [u8; 4] = ids(BasicAck::CLASS_ID, BasicAck::METHOD_ID);
const CLOSE: [u8; 4] = ids(ChannelClose::CLASS_ID, ChannelClose::METHOD_ID);
const GET_OK: [u8; 4] = ids(BasicGetOk::CLASS_ID, BasicGetOk::METHOD_ID);

impl ChannelState {
    /// Processes the payload of a method frame. `chunk` is the read buffer, with the payload at `payload` and the next frame at
    /// `next`. Returns where the next frame to process starts: after the message, if all of it was there.
    pub(crate) fn receive_method(
        &mut self,
        outbound: &mut Outbound,
        chunk: &Bytes,
        payload: core::ops::Range<usize>,
        next: usize,
    ) -> Result<usize, ConnectionError> {
        let bytes = chunk.get(payload.clone()).unwrap_or_default();
        debug_assert_eq!(self.awaits, self.awaits_peer(), "whatever changes it notes it");
        if let Some(incoming) = self.incoming() {
            // Accept `channel.close` in the middle of content: it carries the real error.
            if bytes.first_chunk() != Some(&CLOSE) {
                return Err(unexpected(FrameKind::Method, incoming.expected()).into());
            }
        }
        match bytes.first_chunk() {
            Some(&DELIVER) if outbound.role == Role::Client => {
                self.receive_deliver(outbound, chunk, payload, next)
            }
            Some(&GET_OK) if outbound.role == Role::Client => {
                self.expect_get()?;
                self.begin_content(
                    outbound,
                    ContentMethod::GetOk { payload: chunk.slice(payload) },
                );
                Ok(next)
            }
            // Second hot path: publisher confirms.
            Some(&ACK) if outbound.role == Role::Client => {
                let ack = BasicAck::decode(&chunk.slice(payload.start + ACK.len()..payload.end))?;
                self.confirmed(outbound, ack.delivery_tag, ack.multiple, true)?;
                Ok(next)
            }
            _ => {
                let method = Method::decode(&chunk.slice(payload))?;
                let facts = method.facts();
                if facts.id.0 == ConnectionClose::CLASS_ID {
                    let channel = self.id.0;
                    return Err(Violation::WrongChannel { method: facts.name, channel }.into());
                }
                match outbound.role {
                    Role::Client => {
                        self.receive_from_server(outbound, method)?;
                        self.note_awaiting(outbound);
                    }
                    Role::Server => self.receive_from_client(outbound, method)?,
                }
                Ok(next)
            }
        }
    }

    /// The hot path: a delivery, usually with all its frames in the buffer.
    fn receive_deliver(
        &mut self,
        outbound: &mut Outbound,
        chunk: &Bytes,
        payload: core::ops::Range<usize>,
        next: usize,
    ) -> Result<usize, ConnectionError> {
        let start = payload.start;
        let bytes = chunk.get(payload.clone()).unwrap_or_default();
        let arguments = arguments_of(bytes)?;
        let unknown = Violation::UnknownConsumer { channel: self.id };
        let Consumer { id: consumer, no_ack, unwanted } =
            self.consumers.find(arguments.consumer_tag).ok_or(unknown)?;
        let whole = match find_whole(chunk, next, self.id.0, outbound.limits.body_max) {
            Some(whole) if !unwanted && matches!(self.phase, Phase::Open) => whole,
            _ => {
                let payload = chunk.slice(payload);
                let method = ContentMethod::Deliver { consumer, no_ack, payload };
                self.begin_content(outbound, method);
                return Ok(next);
            }
        };
        self.note_delivery(outbound, arguments.tag, no_ack)?;
        let within = |range: core::ops::Range<usize>| range.start - start..range.end - start;
        let delivery = Delivery::contiguous(
            chunk.slice(start..whole.body.end),
            &arguments,
            within(whole.properties),
            whole.body.len(),
            no_ack,
        );
        outbound.events.push_delivery(self.id, consumer, delivery);
        Ok(whole.end)
    }

    fn begin_content(&mut self, outbound: &mut Outbound, method: ContentMethod) {
        self.incoming.get_or_insert_default().begin(method);
        outbound.note_attached(self.id);
    }

    /// The rest of an incomplete message comes with another read.
    pub(crate) fn detach_content(&mut self, outbound: &mut Outbound) -> Received {
        let Some(incoming) = self.incoming() else { return Ok(()) };
        outbound.unfinished += incoming.detach();
        check_unfinished(outbound, incoming)
    }

    /// Processes the payload of a content header frame.
    pub(crate) fn receive_header(&mut self, outbound: &mut Outbound, payload: &Bytes) -> Received {
        let Some(incoming) = self.incoming() else {
            return Err(unexpected(FrameKind::Header, "a method frame").into());
        };
        incoming.header(payload, outbound)?;
        outbound.note_attached(self.id);
        self.complete_content(outbound)
    }

    /// Processes the payload of a body frame.
    pub(crate) fn receive_body(&mut self, outbound: &mut Outbound, payload: Bytes) -> Received {
        let Some(incoming) = self.incoming() else {
            return Err(unexpected(FrameKind::Body, "a method frame").into());
        };
        outbound.unfinished += incoming.body(payload, &mut outbound.body_pool)?;
        check_unfinished(outbound, incoming)?;
        self.complete_content(outbound)
    }

    fn complete_content(&mut self, outbound: &mut Outbound) -> Received {
        let complete = self.incoming().filter(|incoming| incoming.is_complete());
        let Some(incoming) = complete else { return Ok(()) };
        outbound.unfinished -= incoming.kept();
        let complete = incoming.take_complete(&mut outbound.body_pool);
        let Some(Complete { method, properties, body }) = complete else { return Ok(()) };
        match method {
            ContentMethod::Deliver { consumer, no_ack, payload } => {
                let arguments = arguments_of(&payload)?;
                self.note_delivery(outbound, arguments.tag, no_ack)?;
                // Looked up again: the consumer may have been abandoned while the body arrived.
                let unwanted = self.consumer_of(arguments.consumer_tag).is_none_or(|found| found.2);
                if unwanted || !matches!(self.phase, Phase::Open) {
                    let of_stream = stream_offset(&properties).is_some();
                    return self.requeue(outbound, arguments.tag, no_ack, of_stream);
                }
                match body {
                    Ok(body) => {
                        let delivery = assembled(&payload, &arguments, &properties, body, no_ack);
                        outbound.events.push_delivery(self.id, consumer, delivery);
                    }
                    Err(why) => {
                        let of_stream = stream_offset(&properties).is_some();
                        self.put_aside(outbound, arguments.tag, no_ack, Some(consumer), of_stream)?;
                        let delivery_tag = DeliveryTag(arguments.tag);
                        let event = ChannelEvent::Unusable { consumer, delivery_tag, why };
                        outbound.emit(self.id, event);
                    }
                }
                Ok(())
            }
            ContentMethod::GetOk { payload } => self.got(outbound, &payload, &properties, body),
            ContentMethod::Return(method) => {
                let body = body.map(Apart::into_whole).unwrap_or_default();
                let returned = Box::new(Returned::new(&method, &properties, body));
                if let Attribution::Known(publish, returned) = self.publish_of(returned) {
                    outbound.emit(self.id, ChannelEvent::Returned { publish, returned });
                }
                Ok(())
            }
            ContentMethod::Publish(method) => {
                let event = match body {
                    Ok(body) => {
                        let body = body.into_whole();
                        ChannelEvent::Published(Box::new(Published { method, properties, body }))
                    }
                    Err(why) => ChannelEvent::UnusablePublish(why),
                };
                outbound.emit(self.id, event);
                Ok(())
            }
        }
    }

    /// A message that was asked for has come.
    fn got(
        &mut self,
        outbound: &mut Outbound,
        payload: &Bytes,
        properties: &RawProperties,
        body: Result<Apart, Unusable>,
    ) -> Received {
        let (_, (arguments, message_count)) = DeliverArguments::get_ok(payload)
            .map_err(|error| unwrapped(error).within("basic.get-ok"))?;
        self.expect_get()?;
        let Some(Pending { id, effect: Effect::Get { no_ack }, abandoned, .. }) =
            self.pending.take_oldest()
        else {
            return Err(out_of_place("basic.get-ok"));
        };
        self.note_awaiting(outbound);
        self.note_delivery(outbound, arguments.tag, no_ack)?;
        if abandoned || !matches!(self.phase, Phase::Open) {
            return self.requeue(outbound, arguments.tag, no_ack, false);
        }
        let message = match body {
            Ok(body) => GetReply::Message {
                delivery: assembled(payload, &arguments, properties, body, no_ack),
                message_count,
            },
            Err(why) => {
                self.put_aside(outbound, arguments.tag, no_ack, None, false)?;
                GetReply::Unusable { delivery_tag: DeliveryTag(arguments.tag), why }
            }
        };
        outbound.emit(self.id, ChannelEvent::Reply { request: id, reply: Reply::Message(message) });
        Ok(())
    }

    fn receive_from_server(&mut self, outbound: &mut Outbound, method: Method) -> Received {
        match method {
            Method::ChannelOpenOk(_) if matches!(self.phase, Phase::Opening) => {
                self.phase = Phase::Open;
                outbound.emit(self.id, ChannelEvent::Opened);
            }
            // The channel was abandoned before the reply to its opening.
            Method::ChannelOpenOk(_) if matches!(self.phase, Phase::Closing(_)) => {}
            Method::ChannelClose(close) => return self.closed_by_peer(outbound, close),
            Method::ChannelCloseOk(_) => return self.close_answered(outbound),
            Method::ChannelFlow(flow) => {
                self.flow = flow.active;
                self.flush_acks(outbound);
                outbound.reply(self.id.0, &ChannelFlowOk { active: flow.active })?;
                outbound.emit(self.id, ChannelEvent::Flow { active: flow.active });
            }
            Method::BasicReturn(returned) => {
                self.begin_content(outbound, ContentMethod::Return(returned));
            }
            Method::BasicAck(ack) => {
                return self.confirmed(outbound, ack.delivery_tag, ack.multiple, true);
            }
            Method::BasicNack(nack) => {
                return self.confirmed(outbound, nack.delivery_tag, nack.multiple, false);
            }
            Method::BasicCancel(cancel) => {
                if !cancel.no_wait {
                    let consumer_tag = cancel.consumer_tag.clone();
                    self.flush_acks(outbound);
                    outbound.reply(self.id.0, &BasicCancelOk { consumer_tag })?;
                }
                // The tag may be unknown: the client's own cancel may have been sent before this one came.
                let consumer = self.consumers.remove(cancel.consumer_tag.as_bytes());
                if let Some(consumer) = consumer {
                    let Consumer { id: consumer, unwanted, .. } = consumer;
                    if !unwanted {
                        // If the client has cancelled it as well, its cancel ends it, and not this one.
                        let event = match self.pending.is_cancelling(&cancel.consumer_tag, consumer)
                        {
                            true => ChannelEvent::ConsumerEnded { consumer },
                            false => ChannelEvent::Cancelled { consumer },
                        };
                        outbound.emit(self.id, event);
                    }
                    self.release_held(outbound, consumer)?;
                }
            }
            answer => return self.answered(outbound, answer),
        }
        Ok(())
    }

    fn receive_from_client(&mut self, outbound: &mut Outbound, method: Method) -> Received {
        let closing = matches!(self.phase, Phase::Closing(_));
        match method {
            Method::ChannelClose(close) => return self.closed_by_peer(outbound, close),
            Method::ChannelCloseOk(_) => return self.close_answered(outbound),
            Method::BasicPublish(publish) => {
                self.begin_content(outbound, ContentMethod::Publish(publish));
            }
            // Ignores methods that the client sent before it received the close (spec 1.5.2.5).
            _ if closing => {}
            Method::ChannelFlowOk(_) | Method::BasicCancelOk(_) => {
                self.answered(outbound, method)?;
                self.note_awaiting(outbound);
            }
            Method::ChannelOpen(_) => {
                return Err(Violation::BadChannel { channel: self.id.0 }.into());
            }
            method => outbound.emit(self.id, ChannelEvent::Method(method)),
        }
        Ok(())
    }

    /// Matches a reply to its request, and carries out its effect.
    fn answered(&mut self, outbound: &mut Outbound, answer: Method) -> Received {
        let facts = answer.facts();
        let Some(pending) = self.take_pending(&answer) else {
            return Err(out_of_place(facts.name));
        };
        let mut emitted = !pending.abandoned;
        match pending.effect {
            Effect::Consume { tag, no_ack, noted } => {
                emitted |= noted;
                let tag = if tag.is_empty() { tag_of(&answer) } else { tag };
                let id = pending.id.into();
                if !self.consumers.contains(&tag) || pending.abandoned {
                    let consumer = Consumer { id, no_ack, unwanted: pending.abandoned };
                    self.consumers.insert(tag.clone(), consumer);
                }
                if pending.abandoned && matches!(self.phase, Phase::Open) {
                    self.cancel_unwanted(outbound, tag, true);
                }
            }
            Effect::Cancel { tag, consumer } => {
                let found = self.consumers.find(tag.as_bytes());
                // The server may have cancelled it as well, and another consumer may have its tag by now.
                if let Some(found) = found.filter(|found| Some(found.id) == consumer) {
                    self.consumers.remove(tag.as_bytes());
                    if !found.unwanted {
                        outbound.emit(self.id, ChannelEvent::ConsumerEnded { consumer: found.id });
                    }
                    self.release_held(outbound, found.id)?;
                }
            }
            Effect::Recover => {
                self.unsettled.recovered();
                // Once more: deliveries that arrived since the request may wait for the application.
                self.report_requeued(outbound);
            }
            Effect::Get { .. } | Effect::None => {}
        }
        if emitted {
            let reply = Reply::Method(answer);
            outbound.emit(self.id, ChannelEvent::Reply { request: pending.id, reply });
        }
        Ok(())
    }

    /// The request that a reply belongs to.
    fn take_pending(&mut self, answer: &Method) -> Option<Pending> {
        match answer {
            Method::BasicConsumeOk(answer) => self.pending.take_consume(&answer.consumer_tag),
            Method::BasicCancelOk(answer) => self.pending.take_cancel(&answer.consumer_tag),
            answer => {
                let id = answer.facts().id;
                self.pending.oldest().filter(|oldest| oldest.method.replies.contains(&id))?;
                self.pending.take_oldest()
            }
        }
    }

    fn expect_get(&self) -> Received {
        match self.pending.oldest() {
            Some(Pending { effect: Effect::Get { .. }, .. }) => Ok(()),
            _ => Err(out_of_place("basic.get-ok")),
        }
    }

    fn confirmed(
        &mut self,
        outbound: &mut Outbound,
        tag: u64,
        multiple: bool,
        ack: bool,
    ) -> Received {
        let channel = self.id;
        let Mode::Confirm(confirms) = &mut self.mode else {
            return Err(out_of_place(if ack { "basic.ack" } else { "basic.nack" }));
        };
        confirms.confirming(tag, multiple, |publish, returned| {
            let publish = Some(publish);
            outbound.emit(channel, ChannelEvent::Returned { publish, returned });
        });
        let known = confirms.settle(tag, multiple, |publishes| {
            outbound.emit(channel, ChannelEvent::Confirmed { publishes, ack });
        });
        if confirms.len() == 0 {
            self.note_awaiting(outbound);
        }
        if known { Ok(()) } else { Err(Violation::UnknownPublish { channel, tag }.into()) }
    }

    fn publish_of(&mut self, returned: Box<Returned>) -> Attribution {
        let Mode::Confirm(confirms) = &mut self.mode else {
            return Attribution::Known(None, returned);
        };
        let identity = identity(returned.properties.as_encoded());
        let head =
            Head::of(returned.exchange.as_bytes(), returned.routing_key.as_bytes(), identity);
        confirms.returned(head.body(&returned.body), returned)
    }

    fn note_delivery(&mut self, outbound: &mut Outbound, tag: u64, no_ack: bool) -> Received {
        let bad = Violation::BadDeliveryTag { channel: self.id, tag };
        if tag > MAX_DELIVERY_TAG {
            return Err(bad.into());
        }
        if no_ack {
            return Ok(());
        }
        // An acknowledgement counts as a reply, too, although the application issues it.
        outbound.check_replies()?;
        match self.unsettled.delivered(tag) {
            Arrival::Waits => Ok(()),
            Arrival::Requeued => {
                self.report_requeued(outbound);
                Ok(())
            }
            Arrival::OutOfOrder => Err(bad.into()),
        }
    }

    /// Reports which deliveries the peer requeues because of a `basic.recover`.
    #[cold]
    pub(super) fn report_requeued(&self, outbound: &mut Outbound) {
        if let Some(last) = self.unsettled.last_recovered() {
            outbound.emit(self.id, ChannelEvent::Requeued { last });
        }
    }

    /// Requeues messages that nobody waits for any more. That is no fault of the message.
    pub(super) fn requeue(
        &mut self,
        outbound: &mut Outbound,
        tag: u64,
        no_ack: bool,
        of_stream: bool,
    ) -> Received {
        let settlement = match of_stream {
            // RabbitMQ: a stream does not requeue, and responds by closing the connection (540).
            true => Settlement::Ack,
            false => Settlement::Nack { requeue: true },
        };
        self.settle_unreported(outbound, tag, no_ack, settlement)
    }

    /// Rejects a message that nobody can use.
    pub(super) fn reject(
        &mut self,
        outbound: &mut Outbound,
        tag: u64,
        no_ack: bool,
        requeue: bool,
    ) -> Received {
        self.settle_unreported(outbound, tag, no_ack, Settlement::Reject { requeue })
    }

    /// Settles a delivery that the application has not got, and so cannot settle.
    fn settle_unreported(
        &mut self,
        outbound: &mut Outbound,
        tag: u64,
        no_ack: bool,
        settlement: Settlement,
    ) -> Received {
        if no_ack || !matches!(self.phase, Phase::Open) {
            return Ok(());
        }
        outbound.check_replies()?;
        // During a recovery the broker requeues the delivery by itself, and does not know its tag any more.
        let _recovering = self.settle_apart(outbound, DeliveryTag(tag), settlement);
        Ok(())
    }

    fn closed_by_peer(&mut self, outbound: &mut Outbound, close: ChannelClose) -> Received {
        outbound.reply(self.id.0, &ChannelCloseOk {})?;
        // If this end also requested a close, the reply to that is still outstanding.
        if matches!(self.phase, Phase::Closing(_)) {
            return Ok(());
        }
        let close = Close {
            by: Initiator::Peer,
            channel: Some(self.id),
            reply_code: ReplyCode(close.reply_code),
            reply_text: close.reply_text.detached(),
            class_id: close.class_id,
            method_id: close.method_id,
        };
        self.end(outbound, ChannelError::Closed(close));
        Ok(())
    }

    fn close_answered(&mut self, outbound: &mut Outbound) -> Received {
        let Phase::Closing(close) = &self.phase else {
            return Err(out_of_place("channel.close-ok"));
        };
        let close = ChannelError::Closed((**close).clone());
        self.end(outbound, close);
        Ok(())
    }
}

/// Checks the memory that unfinished messages take together. One message always may be unfinished: the size of its body and
/// of its header is checked elsewhere.
fn check_unfinished(outbound: &Outbound, incoming: &Incoming) -> Received {
    let limit =
        outbound.limits.unfinished_max.max(outbound.limits.body_max).max(outbound.returnable);
    if outbound.unfinished as u64 > limit && outbound.unfinished > incoming.kept() {
        return Err(Violation::TooMuchUnfinished { limit }.into());
    }
    Ok(())
}

fn assembled(
    payload: &[u8],
    arguments: &DeliverArguments<'_>,
    properties: &RawProperties,
    body: Apart,
    no_ack: bool,
) -> Delivery {
    Delivery::assembled(payload, arguments, properties.as_encoded(), body, no_ack)
}

fn tag_of(answer: &Method) -> ShortStr {
    match answer {
        Method::BasicConsumeOk(answer) => answer.consumer_tag.detached(),
        _ => ShortStr::EMPTY,
    }
}

fn out_of_place(method: &'static str) -> ConnectionError {
    Violation::UnexpectedMethod { method }.into()
}
