//! Records what requests change: their arguments at once, and the rest with the reply.

use alloc::boxed::Box;

use super::record::consumers::{Consumer, Pause};
use super::record::request::{InFlight, Limits, Noted};
use super::record::{ChannelRecord, Mode};
use super::topology::{Topology, queue_of};
use crate::method::{BasicQos, Method};
use crate::time::Instant;
use crate::{Reply, RequestId};

/// Requests a reply although the application wants none, if without it the session would not know what to restore: the name of a
/// queue that the broker names, or whether the broker has deleted what it deletes only on a condition. Returns whether there will be
/// a reply.
pub(super) fn ask_for_reply(method: &mut Method, wanted: bool) -> bool {
    let no_wait = match method {
        Method::QueueDeclare(declare) if declare.queue.is_empty() => &mut declare.no_wait,
        Method::QueueDelete(delete) if delete.if_unused || delete.if_empty => &mut delete.no_wait,
        Method::ExchangeDelete(delete) if delete.if_unused => &mut delete.no_wait,
        _ => return wanted,
    };
    *no_wait = false;
    true
}

/// A request was sent: records what is known now. The rest is recorded with the reply. `wanted`: the application wants the reply.
pub(super) fn note(
    record: &mut ChannelRecord,
    topology: &mut Topology,
    id: RequestId,
    mut method: Method,
    wanted: bool,
    recovers: bool,
    now: Instant,
) {
    let answered = ask_for_reply(&mut method, wanted);
    let mut before = None;
    if let Method::BasicQos(qos @ BasicQos { global: false, .. }) = &method {
        record.qos_now = Some(qos.clone());
    }
    match &method {
        Method::BasicQos(qos) if recovers => {
            let limits = Limits { qos: record.qos.clone(), global_qos: record.global_qos.clone() };
            before = Some(Box::new(limits));
            match qos.global {
                true => record.global_qos = Some(qos.clone()),
                false => record.qos = Some(qos.clone()),
            }
        }
        Method::QueueDeclare(declare) => {
            let declared = record.declared();
            declared.last_queue_unknown = false;
            declared.declaring = answered.then(|| (id, declare.queue.clone()));
        }
        Method::ConfirmSelect(_) => record.mode = Mode::Confirm,
        Method::TxSelect(_) => record.select(id),
        Method::BasicConsume(consume) => {
            let (mut consume, qos) = (consume.clone(), record.qos.clone());
            let mut declaration = None;
            if consume.queue.is_empty() {
                // Not when its reply arrives: the reply to the next declaration may arrive before.
                match record.queue_declared_last() {
                    Ok(queue) => consume.queue = queue,
                    Err(unnamed) => declaration = Some(unnamed),
                }
            }
            let offset = consume.arguments.get("x-stream-offset");
            if offset.is_some() || topology.is_stream(&consume.queue) {
                record.streams.starts_reader();
            }
            if !consume.no_ack {
                let present = record.consumers.iter().map(|consumer| consumer.id);
                record.streams.watch(id.into(), present);
            }
            let mut consumer = Consumer {
                id: id.into(),
                consume,
                declaration,
                renamed: None,
                qos,
                qos_now: record.qos_now.clone(),
                recovers,
                counts: None,
                pause: Pause::Running,
            };
            // Not when its reply arrives: another consumer of the queue may end before, and the queue has this one by then.
            topology.consumed(&mut consumer);
            record.consumers.insert(consumer);
        }
        Method::BasicCancel(cancel) => {
            if let Some(consumer) = record.remove_consumer(&cancel.consumer_tag) {
                topology.unconsumed(&consumer);
                record.cancelling.insert(consumer.id, cancel.consumer_tag.clone());
            }
        }
        _ => {}
    }
    let names_none = queue_of(&mut method).is_some_and(|queue| queue.is_empty());
    let last_queue = names_none.then(|| record.queue_declared_last());
    let known = last_queue.clone().and_then(Result::ok);
    if answered {
        let note = Noted::concerns(&method).then(|| Box::new(Noted { method, last_queue: known }));
        let (abandoned, leaving, ahead_of) = (!wanted, None, record.seqs.next());
        let sent = InFlight { id, note, before, recovers, abandoned, leaving, ahead_of };
        record.in_flight.push(sent);
    } else if Noted::concerns(&method) {
        let noted = Noted { method, last_queue: known };
        // As far as is known, the consumer starts now.
        record.streams.started(id.into(), now);
        if let Some(Err(unnamed)) = last_queue.filter(|_| noted.is_topology()) {
            record.declared().unnamed.push_back((unnamed, noted, recovers));
            return;
        }
        noted.learn(record, topology, id, recovers, None);
    }
}

impl Noted {
    /// Records what the broker has carried out, with its reply if there is one.
    pub(super) fn learn(
        self,
        record: &mut ChannelRecord,
        topology: &mut Topology,
        request: RequestId,
        recovers: bool,
        reply: Option<&Reply>,
    ) {
        // A request without a reply is recorded when it is sent.
        let last_queue = |record: &ChannelRecord| {
            let declared = record.declared.as_deref();
            let named = || declared.map(|declared| declared.last_named.clone()).unwrap_or_default();
            self.last_queue.clone().unwrap_or_else(named)
        };
        match self.method {
            Method::QueueDeclare(declare) => {
                let is_unnamed = declare.queue.is_empty();
                let answer = match reply {
                    Some(Reply::Method(Method::QueueDeclareOk(answer))) => Some(answer),
                    _ => None,
                };
                let name = match recovers {
                    true => topology.declared(declare, answer),
                    false => answer.map_or(&declare.queue, |answer| &answer.queue).detached(),
                };
                // The reply to this declaration may come after a later one, which gets none, was sent.
                let declared = record.declared();
                if Some(request) >= declared.last_declaration {
                    (declared.last_queue, declared.last_declaration) =
                        (name.clone(), Some(request));
                }
                if reply.is_some() {
                    declared.last_named = name.clone();
                    declared.declaring.take_if(|(declaration, _)| *declaration == request);
                }
                while let Some((noted, recovers)) = record.declared().next_unnamed(request) {
                    noted.learn(record, topology, request, recovers, None);
                }
                for consumer in record.consumers.iter_mut().filter(|_| is_unnamed) {
                    if consumer.declaration.take_if(|own| *own == request).is_some() {
                        consumer.consume.queue = name.clone();
                        topology.consumed(consumer);
                    }
                }
            }
            Method::BasicConsume(_) => {
                if let Some(Reply::Method(Method::BasicConsumeOk(answer))) = reply {
                    record.consumers.set_tag(request.into(), answer.consumer_tag.detached());
                }
            }
            Method::ChannelFlow(flow) => record.paused = recovers && !flow.active,
            // An entity that is removed no longer exists, whoever declared it.
            other if recovers || !brings(&other) => {
                topology.learn(other, &last_queue(record));
            }
            _ => {}
        }
    }
}

const fn brings(method: &Method) -> bool {
    matches!(method, Method::ExchangeDeclare(_) | Method::ExchangeBind(_) | Method::QueueBind(_))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ShortStr;
    use crate::method::{ExchangeDeclare, QueueBind, QueueDeclare, QueueDeclareOk};

    #[test]
    fn names_keep_no_read_buffer() {
        let buffer = Bytes::from(b"a name in a large read buffer".repeat(1000));
        let name = || ShortStr::shared(&buffer, &buffer[2..6]);
        let mut topology = Topology::default();
        let exchange = ExchangeDeclare { exchange: name(), ..ExchangeDeclare::default() };
        topology.learn(exchange.into(), &ShortStr::EMPTY);
        let declare = QueueDeclare { queue: name(), ..QueueDeclare::default() };
        let passive = QueueDeclare { passive: true, ..declare.clone() };
        let answer = QueueDeclareOk { queue: name(), message_count: 0, consumer_count: 0 };
        // The second one replaces the first.
        let names = [(&declare, None), (&declare, Some(&answer)), (&passive, Some(&answer))];
        let names = names.map(|(declare, answer)| topology.declared(declare.clone(), answer));
        assert!(names.iter().all(|learned| *learned == name()));
        drop((declare, passive, answer));
        let bind = QueueBind {
            queue: name(),
            exchange: name(),
            routing_key: name(),
            ..QueueBind::default()
        };
        topology.learn(bind.into(), &ShortStr::EMPTY);
        assert_eq!(topology.queue_steps(&names[0]).len(), 2, "the queue and its binding");
        assert!(buffer.is_unique(), "the buffer is kept for names");
    }
}
