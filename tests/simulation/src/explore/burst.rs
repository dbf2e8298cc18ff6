//! Carrying out bursts: see [`acts`](super::acts).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use amqp_client_core::proto::method::{BasicCancel, BasicQos, QueueBind, QueueDeclare};
use amqp_client_core::proto::{ChannelId, FieldTable, ShortStr};
use amqp_client_core::{CallError, Channel, ConsumeOptions, StreamOffset};
use amqp_test_broker::SessionId;

use super::act::{LOCKED, declared, is_durable, is_exclusive};
use super::acts::Act;
use super::client::{Desk, Start, Taker, Task};
use super::commands::{Cancelling, Ending, Loss, Manner, Name, Shape};

/// In a network without latency, the number of turns of other tasks that stands for half of it.
const TURNS: u32 = 4;

/// Lets others have a turn.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// A request whose reply is awaited, or a consumer that has no reply.
pub(super) enum What<'a> {
    Reply(Pin<Box<dyn Future<Output = Option<Taker>> + 'a>>),
    Consumer(Box<Taker>),
}

/// The consumer that a request starts.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) tag: ShortStr,
    pub(super) queue: String,
}

pub(super) struct Open<'a> {
    pub(super) what: What<'a>,
    pub(super) consumer: Option<Asked>,
    /// The channel whose prefetch limit it sets.
    pub(super) limits: Option<(SessionId, ChannelId)>,
}

/// A burst under way.
pub(super) struct Burst<'a> {
    pub(super) task: &'a Task,
    pub(super) desk: &'a Rc<Desk>,
    /// In the order of the requests.
    pub(super) open: Vec<Open<'a>>,
}

impl Task {
    pub(crate) async fn burst(&self, desk: &Rc<Desk>, acts: &[Act], end: Ending) {
        if desk.books.may_be_kept() {
            // Deliveries and publishes of such a channel have to be committed.
            return;
        }
        let mut burst = Burst { task: self, desk, open: Vec::new() };
        for act in acts {
            burst.act(*act).await;
        }
        match end {
            Ending::Await => {}
            Ending::Late(time) => self.sleep(time).await,
            Ending::Drop => burst.drop_replies(),
        }
        burst.await_all().await;
        let takers = burst.open.into_iter().filter_map(|open| match open.what {
            What::Consumer(taker) => Some(*taker),
            What::Reply(_) => None,
        });
        let takers: Vec<_> = takers.collect();
        self.consumers.borrow_mut().extend(takers);
    }

    /// The connection's end at the broker.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.world.network.borrow().session(self.connected()?.link)
    }

    /// Sets the prefetch limit of later consumers of a channel.
    pub(crate) fn note_limit(
        &self,
        channel: &Channel,
        prefetch: u16,
    ) -> Option<(SessionId, ChannelId)> {
        let (session, id) = (self.session()?, channel.id());
        self.world.unchanged.borrow_mut().limit(session, id, prefetch);
        Some((session, id))
    }
}

impl Task {
    /// A limit was requested. If that failed or was abandoned, nobody knows whether it is carried out.
    pub(crate) fn limited<T>(
        &self,
        place: Option<(SessionId, ChannelId)>,
        limited: Option<Result<T, CallError>>,
    ) {
        let done = limited.is_some_and(|result| self.judge_call(result).is_some());
        if let Some((session, channel)) = place.filter(|_| !done) {
            self.world.unchanged.borrow_mut().doubt(session, channel);
        }
    }
}

impl<'a> Burst<'a> {
    async fn act(&mut self, act: Act) {
        let task = self.task;
        match act {
            Act::Declare { queue, no_wait } => self.declare(queue, no_wait),
            Act::Bind { queue, no_wait } => self.bind(queue, no_wait),
            Act::Consume { queue, no_wait, limit } => self.consume(queue, no_wait, limit),
            Act::Limit { prefetch, recovered } => self.limit(prefetch, recovered),
            Act::Keep { exchange, count } => {
                let (exchange, queue) = (super::act::exchange_name(exchange), Name::Shared(0));
                let shape = Shape { count, ..Shape::SMALL };
                task.publish(self.desk, exchange, queue, Manner::Try(Loss::Keep), shape).await;
            }
            Act::Cancel(how) => self.cancel(how),
            Act::CancelResumed => self.cancel_resumed(),
            Act::Evict => {
                if let Some(taker) = self.last_taker() {
                    task.cancel_at_broker(taker);
                }
            }
            Act::DropLast => self.drop_last(),
            Act::Fetch { latencies } => self.fetch(latencies).await,
            Act::Doze => self.doze().await,
            Act::Wake => self.wake(true),
            Act::Hold => self.wake(false),
            Act::Settle { count, pick, how } => task.settle_some(count, pick, how),
            Act::Feed { queue, count } => {
                let shape = Shape { count, ..Shape::SMALL };
                task.publish(self.desk, "", queue, Manner::Plain, shape).await;
            }
            Act::Await => self.await_all().await,
            Act::Wait(latencies) => self.wait(latencies).await,
            Act::Strike(what) => task.world.strike(what),
        }
    }

    fn reply(&mut self, reply: impl Future<Output = ()> + 'a) {
        let what = What::Reply(Box::pin(async move {
            reply.await;
            None
        }));
        self.open.push(Open { what, consumer: None, limits: None });
    }

    fn declare(&mut self, queue: Name, no_wait: bool) {
        let (task, desk) = (self.task, self.desk);
        let name = match queue {
            Name::ServerNamed => String::new(),
            queue => task.name(desk, queue),
        };
        let (begun, under_way) = desk.declarations.get();
        desk.declarations.set((begun + 1, under_way + 1));
        let channel = &desk.channel;
        if no_wait {
            desk.unanswered.set(true);
            if name.is_empty() {
                task.world.history.borrow_mut().blur(task.number, channel.id().get());
            }
            let method = QueueDeclare {
                queue: ShortStr::truncated(&name),
                durable: is_durable(queue),
                exclusive: is_exclusive(queue),
                auto_delete: matches!(queue, Name::AutoDelete(_)),
                no_wait,
                ..<_>::default()
            };
            let sent = task.judge_call(channel.call_no_wait(method)).is_some();
            if sent && !desk.unrecovered && !name.is_empty() {
                task.declared.borrow_mut().insert(name);
            }
            return;
        }
        let reply = declared(channel, &name, queue, task.world.script.delivery_limit);
        self.reply(async move {
            let result = reply.await;
            let (begun, under_way) = desk.declarations.get();
            desk.declarations.set((begun, under_way - 1));
            let Some(queue) = task.judge_call(result) else { return };
            task.world.history.borrow_mut().name(task.number, desk.channel.id().get());
            if name.is_empty() {
                let known =
                    task.world.unchanged.borrow_mut().named(&queue.current_name().to_string());
                task.check(known);
                *desk.named.borrow_mut() = Some(queue);
            } else if !desk.unrecovered {
                task.declared.borrow_mut().insert(name);
            }
        });
    }

    fn bind(&mut self, queue: Name, no_wait: bool) {
        let (task, channel) = (self.task, &self.desk.channel);
        let name = task.name(self.desk, queue);
        let key = task.world.unchanged.borrow_mut().name();
        if no_wait {
            let (queue, routing_key) = (ShortStr::truncated(&name), ShortStr::truncated(&key));
            let exchange = ShortStr::truncated("amq.direct");
            let method = QueueBind { queue, exchange, routing_key, no_wait, ..<_>::default() };
            task.judge_call(channel.call_no_wait(method));
            return;
        }
        let reply = channel.queue_bind(&name, "amq.direct", &key, FieldTable::new());
        self.reply(async move {
            task.judge_call(reply.await);
        });
    }

    fn consume(&mut self, queue: Name, no_wait: bool, limit: Option<u16>) {
        let (task, desk, channel) = (self.task, self.desk, &self.desk.channel);
        let name = task.name(desk, queue);
        let tag = task.world.unchanged.borrow_mut().name();
        let options = ConsumeOptions::new().consumer_tag(&tag);
        let options = match queue {
            Name::Stream => options.stream_offset(StreamOffset::First),
            _ => options,
        };
        let options = match limit {
            Some(limit) => options.prefetch(limit),
            None => options,
        };
        let start = self.start((&tag, limit), queue, &name, !no_wait);
        let consumer = Some(Asked { tag: start.tag.clone(), queue: name.clone() });
        let what = if no_wait {
            let consumer = channel.basic_consume_no_wait(&name, options);
            let Some(consumer) = task.judge_call(consumer) else { return };
            What::Consumer(Box::new(Taker { consumer, start }))
        } else {
            let reply = channel.basic_consume(&name, options);
            What::Reply(Box::pin(async move {
                let consumer = task.judge_call(reply.await)?;
                let declared =
                    start.desk.channel.check().is_ok() && task.has_declared(&start.queue);
                Some(Taker { consumer, start: Start { declared, ..start } })
            }))
        };
        self.open.push(Open { what, consumer, limits: None });
    }

    /// The known facts of a consumer that is about to be requested.
    pub(super) fn start(
        &self,
        (tag, limit): (&str, Option<u16>),
        name: Name,
        queue: &str,
        ran: bool,
    ) -> Start {
        let (task, desk) = (self.task, self.desk);
        let mut history = task.world.history.borrow_mut();
        let since = history.mark();
        history.consume(queue, task.number, desk.channel.id().get());
        if let Some(session) = task.session() {
            let place = (session, desk.channel.id());
            task.world.unchanged.borrow_mut().expect(tag, place, limit);
        }
        Start {
            tag: ShortStr::truncated(tag),
            name,
            no_ack: false,
            exclusive: false,
            desk: desk.clone(),
            queue: queue.to_owned(),
            declared: task.has_declared(queue),
            ran,
            large: false,
            since,
            asked: Rc::default(),
            last: Rc::default(),
        }
    }

    fn limit(&mut self, prefetch_count: u16, recovered: bool) {
        let (task, desk) = (self.task, self.desk);
        let channel = if recovered { desk.channel.clone() } else { desk.channel.unrecovered() };
        let reply = channel.call(BasicQos { prefetch_count, ..<_>::default() });
        let limits = task.note_limit(&channel, prefetch_count);
        self.reply(async move {
            // The channel may have been one of an earlier connection.
            task.limited(limits, Some(reply.await));
        });
        if let Some(open) = self.open.last_mut() {
            open.limits = limits;
        }
    }

    /// The place of the last consumer.
    pub(super) fn last(&self) -> Option<usize> {
        self.open.iter().rposition(|open| open.consumer.is_some())
    }

    pub(super) fn last_taker(&mut self) -> Option<&mut Taker> {
        let last = self.last()?;
        match &mut self.open[last].what {
            What::Consumer(taker) => Some(taker),
            What::Reply(_) => None,
        }
    }

    /// A consumer of this queue goes. The queue may go with it, unless the burst has another consumer.
    fn leave(&self, queue: &str) {
        let own = self.open.iter().filter_map(|open| open.consumer.as_ref());
        if own.filter(|consumer| consumer.queue == queue).count() < 2 {
            self.task.world.history.borrow_mut().leave(queue);
        }
    }

    fn cancel(&mut self, how: Cancelling) {
        let Some(last) = self.last() else { return };
        let (task, channel) = (self.task, &self.desk.channel);
        let Some(Asked { tag, queue }) = self.open[last].consumer.clone() else { return };
        self.leave(&queue);
        self.desk.cancelled.borrow_mut().insert(tag.clone());
        let reply = match (how, &self.open[last].what) {
            (Cancelling::CallNoWait, _) => {
                let method = BasicCancel { consumer_tag: tag, no_wait: true };
                task.judge_call(channel.call_no_wait(method));
                return;
            }
            (Cancelling::Call, _) => {
                let reply = channel.call(BasicCancel { consumer_tag: tag, no_wait: false });
                return self.reply(async move {
                    task.judge_call(reply.await);
                });
            }
            (_, What::Consumer(taker)) => {
                taker.asked.set(true);
                taker.consumer.cancel()
            }
            (_, What::Reply(_)) => channel.basic_cancel(tag.as_bytes()),
        };
        if how != Cancelling::Drop {
            self.reply(async move {
                task.judge_call(reply.await);
            });
        }
    }

    fn cancel_resumed(&mut self) {
        let Some(Asked { tag, queue }) =
            self.last().and_then(|last| self.open[last].consumer.clone())
        else {
            return;
        };
        self.leave(&queue);
        self.desk.cancelled.borrow_mut().insert(tag.clone());
        let (task, consumer_tag) = (self.task, ShortStr::truncated(&format!("1.{tag}")));
        let reply = self.desk.channel.call(BasicCancel { consumer_tag, no_wait: false });
        self.reply(async move {
            task.judge_call(reply.await);
        });
    }

    fn drop_last(&mut self) {
        if let Some(Asked { queue, .. }) = self.open.last().and_then(|open| open.consumer.clone()) {
            self.leave(&queue);
        }
        if let Some(open) = self.open.pop() {
            self.give_up(open);
        }
    }

    /// A reply is not awaited any more.
    fn give_up(&self, open: Open<'_>) {
        if let Some((session, channel)) = open.limits {
            self.task.world.unchanged.borrow_mut().doubt(session, channel);
        }
    }

    fn drop_replies(&mut self) {
        while self.open.last().is_some_and(|open| matches!(open.what, What::Reply(_))) {
            self.drop_last();
        }
    }

    async fn await_all(&mut self) {
        let task = self.task;
        for mut open in std::mem::take(&mut self.open) {
            if let What::Reply(reply) = open.what {
                let reply = task.perhaps("a reply of a burst", reply);
                let Some(reply) = task.world.clock.within(LOCKED, reply).await.flatten() else {
                    if let Some(Asked { queue, .. }) = &open.consumer {
                        task.world.history.borrow_mut().leave(queue);
                    }
                    let what = What::Reply(Box::pin(std::future::ready(None)));
                    self.give_up(Open { what, ..open });
                    continue;
                };
                let Some(taker) = reply else { continue };
                open.what = What::Consumer(Box::new(taker));
            }
            self.open.push(open);
        }
    }

    pub(super) async fn wait(&self, latencies: u32) {
        let latency = self.task.world.script.conditions.latency;
        if latency.is_zero() {
            // Whatever takes no time is done before any time has passed.
            for _ in 0..latencies * TURNS {
                yield_now().await;
            }
        }
        self.task.sleep(latency * latencies / 2).await;
    }
}
