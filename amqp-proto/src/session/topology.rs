use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::record::consumers::Consumer;
use super::report::Entity;
use crate::method::{
    ExchangeBind, ExchangeDeclare, Method, QueueBind, QueueDeclare, QueueDeclareOk,
};
use crate::{ChannelId, ConsumerId, FieldTable, Route, ShortStr};

/// The exchanges, queues and bindings that were declared, and are still there as far as this session can know.
#[derive(Debug, Default)]
pub(super) struct Topology {
    exchanges: BTreeMap<ShortStr, ExchangeDeclare>,
    /// Bindings between exchanges, by destination.
    exchange_bindings: BTreeMap<ShortStr, BTreeSet<Binding>>,
    queues: BTreeMap<ShortStr, Queue>,
    /// Bindings of queues, by queue; it may have been declared elsewhere.
    queue_bindings: BTreeMap<ShortStr, BTreeSet<Binding>>,
    /// Former names of queues that were declared again without a name, and their present names.
    aliases: BTreeMap<ShortStr, ShortStr>,
    /// Queues that this session consumes. A consumer may start before its queue is declared here, or without that.
    consumed: BTreeMap<ShortStr, Consumed>,
    /// Number of queues that were consumed so far.
    incarnations: u64,
}

#[derive(Debug)]
struct Queue {
    declare: QueueDeclare,
    /// Former names, the oldest first.
    names: Vec<ShortStr>,
}

/// The consumers of a queue in this session.
#[derive(Debug)]
struct Consumed {
    /// Distinguishes queues that had the same name one after the other. The broker may report the end of a consumer after its queue
    /// was deleted and declared again.
    incarnation: u64,
    /// Number of consumers. At least one.
    consumers: usize,
}

/// Earlier names of a queue that still lead to it: the first, which handles have, and the latest. Enough for as many losses as a
/// handle of such a name can last in practice.
const NAMES_MAX: usize = 10;

/// A binding, seen from its destination.
#[derive(Debug, Clone, Eq)]
struct Binding {
    source: ShortStr,
    routing_key: ShortStr,
    arguments: FieldTable,
    /// The routing key is the name of the queue, whatever that is: both were left out.
    by_name: bool,
}

impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Binding {
    fn key(&self) -> (&ShortStr, &ShortStr, &[u8]) {
        (&self.source, &self.routing_key, self.arguments.as_encoded())
    }
}

impl Ord for Binding {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Binding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A method that declares something again.
#[derive(Debug, Clone)]
pub(super) struct Declaration {
    pub(super) method: Method,
    pub(super) entity: Entity,
    /// The queue to which the entity belongs. If the queue cannot be declared, the entity is left out.
    pub(super) queue: Option<ShortStr>,
    pub(super) purpose: Purpose,
}

/// The purpose of a declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To restore what was lost with the connection.
    Restore,
    /// To restore what was lost with a channel. Some of it may have been counted before.
    Again,
    /// To see whether an exclusive consumer could be started.
    Probe(ChannelId, ConsumerId),
    /// To see whether the queue of a paused consumer is still there. A consumer of a queue that is not would cost its neighbours
    /// the channel.
    Resume(ChannelId, ConsumerId),
}

impl Declaration {
    pub(super) fn new(method: Method, entity: Entity, queue: Option<&ShortStr>) -> Self {
        Self { method, entity, queue: queue.cloned(), purpose: Purpose::Restore }
    }
}

impl Topology {
    /// The broker has carried out this request. `last_queue` is the queue that an empty name stands for on its channel.
    pub(super) fn learn(&mut self, done: Method, last_queue: &ShortStr) {
        let named = |queue: ShortStr| if queue.is_empty() { last_queue.clone() } else { queue };
        match done {
            Method::ExchangeDeclare(mut declare) if !declare.passive => {
                declare.exchange = declare.exchange.detached();
                self.exchanges.insert(declare.exchange.clone(), declare);
            }
            Method::ExchangeDelete(delete) => self.forget_exchange(&delete.exchange),
            Method::ExchangeBind(bind) => {
                let binding = Binding::new(&bind.source, &bind.routing_key, bind.arguments);
                let bindings = self.exchange_bindings.entry(bind.destination.detached());
                bindings.or_default().insert(binding);
            }
            Method::ExchangeUnbind(unbind) => {
                let binding = Binding::new(&unbind.source, &unbind.routing_key, unbind.arguments);
                remove(&mut self.exchange_bindings, &unbind.destination, &binding);
                self.forget_unused(&unbind.source);
            }
            Method::QueueDelete(delete) => self.forget_queue(&named(delete.queue)),
            Method::QueueBind(bind) => {
                let by_name = bind.queue.is_empty() && bind.routing_key.is_empty();
                let queue = named(bind.queue);
                // The name stands for no queue, so the broker refuses the request.
                if queue.is_empty() {
                    return;
                }
                let routing_key = if by_name { &queue } else { &bind.routing_key };
                let mut binding = Binding::new(&bind.exchange, routing_key, bind.arguments);
                binding.by_name = by_name;
                let bindings = self.queue_bindings.entry(queue.detached());
                bindings.or_default().insert(binding);
            }
            Method::QueueUnbind(unbind) => {
                let by_name = unbind.queue.is_empty() && unbind.routing_key.is_empty();
                let queue = named(unbind.queue);
                let routing_key = if by_name { &queue } else { &unbind.routing_key };
                let binding = Binding::new(&unbind.exchange, routing_key, unbind.arguments);
                remove(&mut self.queue_bindings, &queue, &binding);
                self.forget_unused(&unbind.exchange);
            }
            _ => {}
        }
    }

    /// A queue was declared, and has the name of the reply if there is one. Returns the name without the read buffer of which it may
    /// be a part: an application may declare a queue whose name it has received.
    pub(super) fn declared(
        &mut self,
        mut declare: QueueDeclare,
        answer: Option<&QueueDeclareOk>,
    ) -> ShortStr {
        let name = answer.map_or(&declare.queue, |answer| &answer.queue);
        // Each broker names its queues. A queue without a name would get every request that leaves the name out.
        if declare.passive || name.is_empty() {
            return name.detached();
        }
        let known = self.queues.get_mut(name);
        // A copy of the name is shared by everything that is recorded for the queue.
        let earlier = known.as_ref().map(|queue| &queue.declare.queue).filter(|own| *own == name);
        let own = earlier.map_or_else(|| name.detached(), ShortStr::clone);
        declare.queue = if declare.queue == own { own.clone() } else { declare.queue.detached() };
        match known {
            Some(queue) => queue.declare = declare,
            None => drop(self.queues.insert(own.clone(), Queue { declare, names: Vec::new() })),
        }
        own
    }

    /// Returns whether the queue was declared as a stream.
    pub(super) fn is_stream(&self, queue: &ShortStr) -> bool {
        let declared = self.queues.get(queue).map(|queue| &queue.declare.arguments);
        let kind = declared.and_then(|arguments| arguments.get("x-queue-type"));
        kind.is_some_and(|kind| kind.as_str() == Some("stream"))
    }

    /// Counts a consumer of this session whose start was sent, unless it was counted already.
    pub(super) fn consumed(&mut self, consumer: &mut Consumer) {
        // The name of its queue is not known yet.
        if consumer.declaration.is_some() {
            return;
        }
        let Self { consumed, incarnations, .. } = self;
        let queue = consumed.entry(consumer.consume.queue.clone()).or_insert_with(|| {
            *incarnations += 1;
            Consumed { incarnation: *incarnations, consumers: 0 }
        });
        if consumer.counts.replace(queue.incarnation) != Some(queue.incarnation) {
            queue.consumers += 1;
        }
    }

    /// A consumer has left its queue. If it was the last, an auto-delete queue was deleted with it.
    pub(super) fn unconsumed(&mut self, consumer: &Consumer) {
        let name = &consumer.consume.queue;
        if self.uncount(consumer) && self.goes_with_consumers(name) {
            self.forget_queue(name);
        }
    }

    /// Counts one consumer less, if it was counted. Returns whether it was the last of its queue. The queue stays: the broker does not
    /// delete it for the end of a consumer that it has not had since the queue was declared.
    pub(super) fn uncount(&mut self, consumer: &Consumer) -> bool {
        let name = &consumer.consume.queue;
        let queue = self.consumed.get_mut(name);
        let Some(queue) = queue.filter(|queue| consumer.counts == Some(queue.incarnation)) else {
            return false;
        };
        queue.consumers -= 1;
        let was_last = queue.consumers == 0;
        if was_last {
            self.consumed.remove(name);
        }
        was_last
    }

    /// A queue was declared again without a name, and has another one now.
    pub(super) fn renamed(&mut self, old: &ShortStr, new: &ShortStr) {
        if let Some(consumed) = self.consumed.remove(old) {
            self.consumed.insert(new.clone(), consumed);
        }
        let Some(mut queue) = self.queues.remove(old) else { return };
        queue.names.push(old.clone());
        if queue.names.len() > NAMES_MAX {
            self.aliases.remove(&queue.names.remove(1));
        }
        self.queues.insert(new.clone(), queue);
        if let Some(bindings) = self.queue_bindings.remove(old) {
            let renamed = bindings.into_iter().map(|mut binding| {
                if binding.by_name {
                    binding.routing_key = new.clone();
                }
                binding
            });
            self.queue_bindings.insert(new.clone(), renamed.collect());
        }
        for name in self.aliases.values_mut().filter(|name| *name == old) {
            *name = new.clone();
        }
        self.aliases.insert(old.clone(), new.clone());
    }

    /// Returns whether the exchange is known to ignore the routing keys of its bindings.
    fn ignores_keys(&self, exchange: &ShortStr) -> bool {
        let kind = self.exchanges.get(exchange).map(|declare| &declare.kind);
        let by_key = |kind: &ShortStr| *kind != "fanout" && *kind != "headers";
        let standard = ["amq.fanout", "amq.headers", "amq.match"];
        kind.map_or_else(|| standard.iter().any(|name| exchange == name), |kind| !by_key(kind))
    }

    /// Returns whether a binding has to wait for the name that the broker assigns to the queue: together with an empty queue
    /// name, the broker would take an empty routing key for the name of the queue as well.
    pub(super) fn needs_name(&self, step: &Declaration) -> bool {
        let Method::QueueBind(bind) = &step.method else { return false };
        bind.queue.is_empty() && step.entity.has_empty_key() && !self.ignores_keys(&bind.exchange)
    }

    /// Returns the current name of a queue.
    pub(super) fn current<'a>(&'a self, queue: &'a ShortStr) -> &'a ShortStr {
        self.aliases.get(queue).unwrap_or(queue)
    }

    /// Returns whether any queue has got a new name.
    #[inline]
    pub(super) fn renames(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// A route that leads to the queue as it is called now, if it leads to a queue by name.
    #[inline]
    pub(super) fn redirect<'a>(&'a self, route: &Route<'a>) -> Route<'a> {
        if self.renames() && route.exchange.is_empty() {
            if let Some(now) = self.aliases.get(route.routing_key) {
                return Route { routing_key: now.as_bytes(), ..*route };
            }
        }
        *route
    }

    /// Replaces the names of queues in a method by their present names.
    pub(super) fn translate(&self, method: &mut Method) {
        if self.aliases.is_empty() {
            return;
        }
        let queue = match method {
            Method::QueueDeclare(declare) => Some(&mut declare.queue),
            other => queue_of(other),
        };
        if let Some(queue) = queue {
            *queue = self.current(queue).clone();
        }
    }

    /// Everything there is, in an order in which it can be declared without waiting: the bindings of a queue that the broker
    /// names leave the name out, and mean the queue that was declared right before.
    pub(super) fn steps(&self) -> Vec<Declaration> {
        let mut steps = Vec::new();
        for (name, declare) in &self.exchanges {
            let method = ExchangeDeclare { no_wait: false, ..declare.clone() }.into();
            steps.push(Declaration::new(method, Entity::Exchange(name.clone()), None));
        }
        for (destination, bindings) in &self.exchange_bindings {
            steps.extend(bindings.iter().map(|binding| binding.of_exchange(destination)));
        }
        for name in self.queues.keys() {
            steps.extend(self.queue_steps(name));
        }
        for (queue, bindings) in &self.queue_bindings {
            if !self.queues.contains_key(queue) {
                steps.extend(bindings.iter().map(|binding| binding.of_queue(queue, queue)));
            }
        }
        steps
    }

    /// A queue and its bindings, if it was declared here.
    pub(super) fn queue_steps(&self, name: &ShortStr) -> Vec<Declaration> {
        let Some(Queue { declare, .. }) = self.queues.get(name) else {
            return Vec::new();
        };
        let method = QueueDeclare { no_wait: false, ..declare.clone() }.into();
        let entity = Entity::Queue(name.clone());
        let mut steps = alloc::vec![Declaration::new(method, entity, Some(name))];
        let bindings = self.queue_bindings.get(name).into_iter().flatten();
        steps.extend(bindings.map(|binding| binding.of_queue(&declare.queue, name)));
        steps
    }

    /// Returns whether the queue is deleted with its last consumer.
    pub(super) fn goes_with_consumers(&self, queue: &ShortStr) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.declare.auto_delete)
    }

    /// Returns whether it is safe to cancel a consumer of the queue for some time: the queue is not deleted meanwhile, and
    /// the consumer does not lose its place as the single active one. `None` if the queue was not declared here.
    pub(super) fn outlasts_consumers(&self, queue: &ShortStr) -> Option<bool> {
        let declare = &self.queues.get(queue)?.declare;
        let single = declare.arguments.get("x-single-active-consumer");
        let is_single = single.is_some_and(|single| single.as_bool() != Some(false));
        let expires = declare.arguments.get("x-expires").is_some();
        Some(!declare.auto_delete && !expires && !is_single && !self.is_stream(queue))
    }

    /// Removes a queue that the broker has deleted by itself, its bindings, and the exchanges that may have been deleted with
    /// those.
    pub(super) fn steps_again(&self, queue: &ShortStr) -> Vec<Declaration> {
        let mut exchanges: Vec<&ShortStr> = Vec::new();
        let mut bindings: Vec<&Binding> =
            self.queue_bindings.get(queue).into_iter().flatten().collect();
        // From the queue towards the sources: an auto-delete exchange is deleted with its last binding, and so are the bindings
        // to it.
        while let Some(binding) = bindings.pop() {
            let source = &binding.source;
            let goes = self.exchanges.get(source).is_some_and(|exchange| exchange.auto_delete);
            if goes && !exchanges.contains(&source) {
                exchanges.push(source);
                bindings.extend(self.exchange_bindings.get(source).into_iter().flatten());
            }
        }
        let mut steps = Vec::new();
        for name in &exchanges {
            if let Some(declare) = self.exchanges.get(*name) {
                let method = ExchangeDeclare { no_wait: false, ..declare.clone() }.into();
                steps.push(Declaration::new(method, Entity::Exchange((*name).clone()), None));
            }
        }
        for name in exchanges {
            let bindings = self.exchange_bindings.get(name).into_iter().flatten();
            steps.extend(bindings.map(|binding| binding.of_exchange(name)));
        }
        steps.extend(self.queue_steps(queue));
        steps.iter_mut().for_each(|step| step.purpose = Purpose::Again);
        steps
    }

    /// Forgets an entity, so that it is not declared again.
    pub(super) fn forget(&mut self, entity: &Entity) {
        match entity {
            Entity::Exchange(name) => self.forget_exchange(name),
            Entity::Queue(name) => self.forget_queue(name),
            Entity::Binding { source, destination, routing_key } => {
                for all in [&mut self.queue_bindings, &mut self.exchange_bindings] {
                    let Some(bindings) = all.get_mut(destination) else { continue };
                    bindings.retain(|binding| {
                        (&binding.source, &binding.routing_key) != (source, routing_key)
                    });
                    if bindings.is_empty() {
                        all.remove(destination);
                    }
                }
                self.forget_unused(source);
            }
            // These entities belong to channels.
            _ => {}
        }
    }

    fn forget_exchange(&mut self, name: &ShortStr) {
        self.exchanges.remove(name);
        let sources = self.exchange_bindings.remove(name).unwrap_or_default();
        for bindings in self.exchange_bindings.values_mut().chain(self.queue_bindings.values_mut())
        {
            bindings.retain(|binding| binding.source != *name);
        }
        for binding in sources {
            self.forget_unused(&binding.source);
        }
    }

    fn forget_queue(&mut self, name: &ShortStr) {
        self.queues.remove(name);
        self.consumed.remove(name);
        self.aliases.retain(|_, now| now != name);
        for binding in self.queue_bindings.remove(name).unwrap_or_default() {
            self.forget_unused(&binding.source);
        }
    }

    /// An auto-delete exchange goes when the last binding from it goes.
    fn forget_unused(&mut self, source: &ShortStr) {
        if !self.exchanges.get(source).is_some_and(|exchange| exchange.auto_delete) {
            return;
        }
        let mut bindings =
            self.exchange_bindings.values().chain(self.queue_bindings.values()).flatten();
        if !bindings.any(|binding| binding.source == *source) {
            self.forget_exchange(&source.clone());
        }
    }
}

impl Binding {
    fn new(source: &ShortStr, routing_key: &ShortStr, arguments: FieldTable) -> Self {
        let (source, routing_key) = (source.detached(), routing_key.detached());
        Self { source, routing_key, arguments, by_name: false }
    }

    /// `declared` is the name that the queue is declared with, or none.
    fn of_queue(&self, declared: &ShortStr, queue: &ShortStr) -> Declaration {
        let is_unknown = self.by_name && declared.is_empty();
        let routing_key = if is_unknown { &ShortStr::EMPTY } else { &self.routing_key };
        let bind = QueueBind {
            queue: declared.clone(),
            exchange: self.source.clone(),
            routing_key: routing_key.clone(),
            arguments: self.arguments.clone(),
            ..QueueBind::default()
        };
        Declaration::new(bind.into(), self.entity(queue), Some(queue))
    }

    fn of_exchange(&self, destination: &ShortStr) -> Declaration {
        let bind = ExchangeBind {
            destination: destination.clone(),
            source: self.source.clone(),
            routing_key: self.routing_key.clone(),
            arguments: self.arguments.clone(),
            ..ExchangeBind::default()
        };
        Declaration::new(bind.into(), self.entity(destination), None)
    }

    fn entity(&self, destination: &ShortStr) -> Entity {
        Entity::Binding {
            source: self.source.clone(),
            destination: destination.clone(),
            routing_key: self.routing_key.clone(),
        }
    }
}

fn remove(
    all: &mut BTreeMap<ShortStr, BTreeSet<Binding>>,
    destination: &ShortStr,
    binding: &Binding,
) {
    if let Some(bindings) = all.get_mut(destination) {
        bindings.remove(binding);
        if bindings.is_empty() {
            all.remove(destination);
        }
    }
}

/// The queue that a method is about, which an empty name stands for if it was declared last.
pub(super) const fn queue_of(method: &mut Method) -> Option<&mut ShortStr> {
    match method {
        Method::QueueBind(bind) => Some(&mut bind.queue),
        Method::QueueUnbind(unbind) => Some(&mut unbind.queue),
        Method::QueuePurge(purge) => Some(&mut purge.queue),
        Method::QueueDelete(delete) => Some(&mut delete.queue),
        Method::BasicConsume(consume) => Some(&mut consume.queue),
        Method::BasicGet(get) => Some(&mut get.queue),
        _ => None,
    }
}
