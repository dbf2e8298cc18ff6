//! Carrying out commands: connections, channels, topology and small things. Messages are in `publish`, `consume` and
//! `transact`.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amqp_client_core::proto::method::{BasicQos, ChannelFlow, QueueDeclare, QueueDelete};
use amqp_client_core::proto::{FieldTable, ReplyCode, ShortStr};
use amqp_client_core::{
    CallError, Channel, ExchangeKind, ExchangeOptions, QueueOptions, QueueType,
};

use super::client::{Connected, Desk, Task, tried};
use super::commands::{By, Closing, Command, Name};

/// The time that a task waits for a locked queue.
pub(super) const LOCKED: Duration = Duration::from_secs(100);

/// Number of attempts to connect before a client continues with its script.
const ATTEMPTS: usize = 20;

impl Task {
    /// Carries out a command. It never fails: unexpected failures are recorded.
    pub(crate) async fn act(&self, command: &Command) {
        match *command {
            Command::Pause(time) => self.sleep(time).await,
            Command::Open { slot, unrecovered } => self.open(slot, unrecovered).await,
            Command::Close { slot, how } => self.close(slot, how).await,
            Command::UpdateSecret => self.update_secret().await,
            Command::Shutdown { grace } => self.shut_down(grace).await,
            Command::CloseConnection => self.close_connection().await,
            Command::Confirm { count } => self.confirm(count).await,
            Command::Withdraw { count } => self.withdraw(count),
            Command::Take { consumer, count, wait } => self.take(consumer, count, wait).await,
            Command::Handle { consumer, count, wait, how } => {
                self.handle(consumer, count, wait, how).await;
            }
            Command::HandleAll { consumer, limit, wait, on_panic, panics } => {
                self.handle_all(consumer, limit, wait, on_panic, panics).await;
            }
            Command::Cancel { consumer, how } => self.cancel(consumer, how).await,
            Command::DropConsumer { consumer } => self.drop_consumer(consumer),
            Command::Settle { count, pick, how } => self.settle_some(count, pick, how),
            Command::Transact { queue, publishes, gets, end, by_hand } => {
                self.transact(queue, publishes, gets, end, by_hand).await;
            }
            Command::Watch => self.watch().await,
            Command::OnClose { channel } => self.on_close(channel),
            Command::OnRecover => self.on_recover(),
            Command::AwaitRecovery { latencies } => self.await_recovery(latencies).await,
            Command::Usurp { consumer, channel } => self.usurp(consumer, channel).await,
            Command::Starve { idle, busy } => self.starve(idle, busy).await,
            Command::Declare { channel, .. }
            | Command::DeleteQueue { channel, .. }
            | Command::Purge { channel, .. }
            | Command::Bind { channel, .. }
            | Command::DeclareExchange { channel, .. }
            | Command::DeleteExchange { channel, .. }
            | Command::Qos { channel, .. }
            | Command::Flow { channel }
            | Command::Recover { channel }
            | Command::Publish { channel, .. }
            | Command::WaitForConfirms { channel }
            | Command::Consume { channel, .. }
            | Command::Get { channel, .. }
            | Command::Tx { channel, .. }
            | Command::Feast { channel }
            | Command::Crowd { channel }
            | Command::QosSize { channel }
            | Command::Burst { channel, .. }
            | Command::Listen { channel } => {
                if self.desk(channel).is_none() {
                    self.open(channel, false).await;
                }
                if let Some(desk) = self.desk(channel) {
                    self.act_on(&desk, command).await;
                }
            }
        }
    }

    async fn act_on(&self, desk: &Rc<Desk>, command: &Command) {
        let channel = &desk.channel;
        match *command {
            Command::Burst { ref acts, end, .. } => self.burst(desk, acts, end).await,
            Command::Declare { queue, by, .. } => self.declare(desk, queue, by).await,
            Command::DeleteQueue { queue, by, .. } => self.delete_queue(desk, queue, by).await,
            Command::Purge { queue, .. } => {
                let name = self.name(desk, queue);
                if name.is_empty() {
                    return;
                }
                self.world.ledger.borrow_mut().remove(&name);
                let purged = self.perhaps("queue_purge", channel.queue_purge(&name)).await;
                purged.and_then(|result| self.judge_call(result));
            }
            Command::Bind { queue, exchange, unbind, .. } => {
                let (name, exchange) = (self.name(desk, queue), exchange_name(exchange));
                let reply = match unbind {
                    false => channel.queue_bind(&name, exchange, "key", FieldTable::new()),
                    true => channel.queue_unbind(&name, exchange, "key", FieldTable::new()),
                };
                self.perhaps("queue_bind", reply).await.and_then(|result| self.judge_call(result));
            }
            Command::DeclareExchange { exchange, .. } => {
                let options = ExchangeOptions::new().auto_delete(exchange % 5 == 3);
                let kind =
                    if exchange % 2 == 0 { ExchangeKind::Fanout } else { ExchangeKind::Direct };
                let name = exchange_name(exchange);
                let reply = channel.exchange_declare(name, kind, options);
                let declared = self.perhaps("exchange_declare", reply).await;
                declared.and_then(|result| self.judge_call(result));
            }
            Command::DeleteExchange { exchange, .. } => {
                let reply = channel.exchange_delete(exchange_name(exchange));
                let deleted = self.perhaps("exchange_delete", reply).await;
                deleted.and_then(|result| self.judge_call(result));
            }
            Command::Qos { prefetch, global, .. } => {
                let limit = BasicQos { prefetch_count: prefetch, global, ..<_>::default() };
                let reply = channel.call(limit);
                let place = if global { None } else { self.note_limit(channel, prefetch) };
                self.limited(place, self.perhaps("basic_qos", reply).await);
            }
            Command::Flow { .. } => {
                let flow = self.perhaps("flow", channel.call(ChannelFlow { active: true })).await;
                flow.and_then(|result| self.judge_call(result));
            }
            Command::Recover { .. } => {
                desk.books.lose_track();
                desk.tally.redeliver();
                let recovered = self.perhaps("basic_recover", channel.basic_recover()).await;
                recovered.and_then(|result| self.judge_call(result));
            }
            Command::Publish { exchange, queue, manner, message, .. } => {
                self.publish(desk, exchange_name(exchange), queue, manner, message).await;
            }
            Command::Feast { .. } => self.feast(desk).await,
            Command::Crowd { .. } => self.crowd(desk).await,
            Command::QosSize { .. } => self.limit_size(desk).await,
            Command::WaitForConfirms { .. } => self.wait_for_confirms(desk).await,
            Command::Consume { queue, kind, by, .. } => self.consume(desk, queue, kind, by).await,
            Command::Get { queue, no_ack, .. } => self.get(desk, queue, no_ack).await,
            Command::Tx { step, how, .. } => self.step(desk, step, how).await,
            Command::Listen { .. } => {
                let mut events = channel.events();
                let mut all = channel.connection().events();
                tried(futures_util::StreamExt::next(&mut events)).await;
                tried(futures_util::StreamExt::next(&mut all)).await;
            }
            _ => {}
        }
    }

    /// Opens a channel, after connecting if need be.
    async fn open(&self, slot: usize, unrecovered: bool) {
        let Some(connected) = self.connect().await else { return };
        let since = self.world.history.borrow().mark();
        connected.tally.perhaps("channels_opened", 1);
        let opening = connected.connection.open_channel();
        let Some(result) = self.perhaps("open_channel", opening).await else { return };
        match result {
            Ok(channel) => {
                let channel = if unrecovered { channel.unrecovered() } else { channel };
                self.world.history.borrow_mut().unname(self.number, channel.id().get());
                connected.tally.decide("channels_opened", 1, true);
                let desk = Desk::new(channel, unrecovered, since, &connected);
                self.judge_channels();
                let old = self.channels.borrow_mut()[slot].replace(Rc::new(desk));
                drop(old);
            }
            Err(CallError::Ended(error)) => self.judge(&error),
            Err(_) => {}
        }
    }

    /// The client's connection, which is opened if there is none. Another task may do so at the same time: one is enough.
    pub(crate) async fn connect(&self) -> Option<Connected> {
        for _ in 0..ATTEMPTS {
            if let Some(connected) = self.connected() {
                return Some(connected);
            }
            let now = self.world.clock.now();
            let (config, recovery) = (self.config(), self.recovery());
            let number = self.number;
            let patient = self.policy().recovery.as_ref().is_some_and(|own| own.retry_open);
            let made = match recovery {
                Some(recovery) if patient => {
                    Some(self.world.network.borrow_mut().begin(number, config, recovery, now))
                }
                recovery => self.world.network.borrow_mut().connect(number, config, recovery, now),
            };
            if let Some((connection, link)) = made {
                self.forget();
                self.compare_counters();
                let tally = Rc::new(super::tally::Tally::of(&connection));
                let connected = Connected { connection, link, shut: Rc::default(), tally };
                let old = self.connection.borrow_mut().replace(connected.clone());
                drop(old);
                match connected.connection.ready().await {
                    Ok(()) => return Some(connected),
                    Err(error) => self.judge_connection(&error),
                }
            }
            self.sleep(Duration::from_millis(500)).await;
        }
        None
    }

    async fn close(&self, slot: usize, how: Closing) {
        let Some(desk) = self.channels.borrow_mut()[slot].take() else { return };
        desk.closed.set(how != Closing::Drop);
        let closed = match how {
            Closing::Await => self.perhaps("channel.close", desk.channel.close()).await,
            Closing::Abandon => tried(desk.channel.close()).await,
            Closing::Drop => None,
        };
        closed.and_then(|result| self.judge_call(result));
    }

    async fn declare(&self, desk: &Rc<Desk>, queue: Name, by: By) {
        let channel = &desk.channel;
        let name = match queue {
            Name::ServerNamed | Name::Last => String::new(),
            queue => self.name(desk, queue),
        };
        let (begun, others) = desk.declarations.get();
        desk.declarations.set((begun + 1, others + 1));
        if by == By::Method {
            let declared =
                channel.queue_declare(&name, options(queue, self.world.script.delivery_limit));
            // A queue that another client has may never be free.
            let declared = self.perhaps("queue_declare", declared);
            let result = self.world.clock.within(LOCKED, declared).await.flatten();
            let (now, under_way) = desk.declarations.get();
            // An abandoned request may still be carried out.
            let Some(result) = result else { return };
            desk.declarations.set((now, under_way - 1));
            if let (Err(error), 0) = (&result, others + now - begun - 1) {
                self.judge_declaration(desk, &name, error);
            }
            let declared = self.judge_call(result);
            if declared.is_some() {
                self.world.history.borrow_mut().name(self.number, channel.id().get());
                if !desk.unrecovered {
                    self.declared.borrow_mut().insert(name.clone());
                }
            }
            if name.is_empty() {
                *desk.named.borrow_mut() = declared;
            }
            return;
        }
        let (durable, exclusive) = (is_durable(queue), is_exclusive(queue));
        let auto_delete = matches!(queue, Name::AutoDelete(_));
        let queue = ShortStr::truncated(&name);
        let no_wait = by == By::CallNoWait;
        let method =
            QueueDeclare { queue, durable, exclusive, auto_delete, no_wait, ..<_>::default() };
        if no_wait {
            desk.unanswered.set(true);
            if name.is_empty() {
                self.world.history.borrow_mut().blur(self.number, channel.id().get());
            }
            self.judge_call(channel.call_no_wait(method));
        } else {
            let declared = self.perhaps("call(QueueDeclare)", channel.call(method));
            let declared = self.world.clock.within(LOCKED, declared).await.flatten();
            declared.and_then(|result| self.judge_call(result));
        }
    }

    async fn delete_queue(&self, desk: &Rc<Desk>, queue: Name, by: By) {
        let name = self.name(desk, queue);
        if name.is_empty() {
            return;
        }
        self.world.ledger.borrow_mut().remove(&name);
        self.world.history.borrow_mut().leave(&name);
        let channel = &desk.channel;
        let method =
            |no_wait| QueueDelete { queue: ShortStr::truncated(&name), no_wait, ..<_>::default() };
        let deleted = match by {
            By::Method => {
                let reply = channel.queue_delete(&name);
                self.perhaps("queue_delete", reply).await.map(|result| result.map(drop))
            }
            By::Call => {
                let reply = channel.call(method(false));
                self.perhaps("call(QueueDelete)", reply).await.map(|result| result.map(drop))
            }
            By::CallNoWait => Some(channel.call_no_wait(method(true))),
        };
        deleted.and_then(|result| self.judge_call(result));
    }

    /// Begins, many times, to wait for something that does not happen, and drops the future each time.
    async fn watch(&self) {
        let Some(Connected { connection, .. }) = self.connected() else { return };
        let desk = self.desk(0);
        for _ in 0..5 {
            self.dropped("connection.closed", connection.closed()).await;
            self.dropped("connection.after", connection.after(Duration::from_millis(10))).await;
            if let Some(desk) = &desk {
                self.dropped("channel.closed", desk.channel.closed()).await;
            }
        }
    }

    /// Polls a future once with a waker of its own, and drops it.
    async fn dropped<T>(&self, what: &'static str, future: impl Future<Output = T>) {
        let flag = crate::executor::Flag::raised();
        let waker = std::task::Waker::from(flag.clone());
        let mut future = Box::pin(future);
        let _ready = future.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        drop((future, waker));
        self.world.leak(what, &flag);
    }

    fn on_close(&self, channel: Option<usize>) {
        let Some(Connected { connection, .. }) = self.connected() else { return };
        let called = self.called.clone();
        self.callbacks.set(self.callbacks.get() + 1);
        let panics = self.world.script.panics() && self.random(|rng| rng.u8(..3)) == 0;
        match channel.and_then(|slot| self.desk(slot)) {
            Some(desk) => {
                // It may use handles; one of the channel would keep that open.
                let own = connection.clone();
                desk.channel.on_close(move |_| {
                    let _open = (own.is_open(), own.health());
                    called.fetch_add(1, Ordering::Relaxed);
                    assert!(!panics, "a callback panics on purpose");
                });
            }
            None => {
                let own = connection.clone();
                connection.on_close(move |_| {
                    let _open = (own.is_open(), own.health());
                    called.fetch_add(1, Ordering::Relaxed);
                    assert!(!panics, "a callback panics on purpose");
                });
            }
        }
    }

    /// Has something called after recoveries that owns handles.
    fn on_recover(&self) {
        let Some(Connected { connection, .. }) = self.connected() else { return };
        let panics = self.world.script.panics() && self.random(|rng| rng.u8(..3)) == 0;
        let (own, owned) = (connection.clone(), self.owned.clone());
        connection.on_recover(move |_| {
            let (_open, _owned) = (own.health(), &owned);
            assert!(!panics, "a callback panics on purpose");
        });
    }

    async fn update_secret(&self) {
        let Some(Connected { connection, .. }) = self.connected() else { return };
        let updated = self.perhaps("update_secret", connection.update_secret("guest", "due")).await;
        updated.and_then(|result| self.judge_call(result));
    }

    async fn shut_down(&self, grace: Duration) {
        let Some(Connected { connection, shut, .. }) = self.connected() else { return };
        shut.stopped.set(true);
        shut.closed.set(true);
        if let Some(Err(error)) = self.perhaps("shutdown", connection.shutdown(grace)).await {
            self.judge_connection(&error);
        }
    }

    async fn close_connection(&self) {
        let Some(Connected { connection, shut, .. }) = self.connected() else { return };
        shut.closed.set(true);
        let closed = connection.close_with(ReplyCode::REPLY_SUCCESS, "enough");
        if let Some(Err(error)) = self.perhaps("connection.close", closed).await {
            self.judge_connection(&error);
        }
    }
}

/// The name of an exchange. One of them is never there.
pub(crate) const fn exchange_name(number: usize) -> &'static str {
    match number % 5 {
        0 => "",
        1 => "amq.direct",
        2 => "fan",
        3 => "fleeting",
        _ => "nowhere",
    }
}

pub(super) const fn is_durable(queue: Name) -> bool {
    matches!(queue, Name::Shared(_) | Name::Quorum | Name::Stream)
}

pub(super) const fn is_exclusive(queue: Name) -> bool {
    matches!(queue, Name::Exclusive | Name::Foreign | Name::ServerNamed | Name::Last)
}

fn options(queue: Name, limit: u32) -> QueueOptions {
    let options = QueueOptions::new()
        .durable(is_durable(queue))
        .exclusive(is_exclusive(queue))
        .auto_delete(matches!(queue, Name::AutoDelete(_)));
    match queue {
        Name::Stream => options.queue_type(QueueType::Stream),
        Name::Quorum => options.queue_type(QueueType::Quorum).delivery_limit(limit),
        _ => options,
    }
}

/// Declares a queue that everybody uses, on a transactional channel too.
pub(crate) fn declared(
    channel: &Channel,
    name: &str,
    queue: Name,
    limit: u32,
) -> amqp_client_core::Reply<amqp_client_core::Queue> {
    channel.queue_declare(name, options(queue, limit))
}
