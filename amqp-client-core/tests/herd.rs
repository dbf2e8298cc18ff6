//! Many tasks publish by one channel: as many are woken as there is room for, first come, first served.

mod harness;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use amqp_client_core::proto::ReplyCode;
use amqp_client_core::proto::method::{Arguments as _, BasicPublish, Method};
use amqp_client_core::{
    Channel, ChannelEvent, ClientConfig, Config, Gate, Limits, Message, MessageProperties, OnLoss,
    PublishError, Publisher, PublisherOptions, Recovery,
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use harness::ClientRig;

const TASKS: usize = 1000;
const WINDOW: usize = 10;

type Task = Pin<Box<dyn Future<Output = usize>>>;

/// Tasks that a runtime polls when they are woken, and how often it does.
struct Tasks {
    running: FuturesUnordered<Task>,
    polls: Rc<RefCell<usize>>,
    /// The numbers of the finished tasks, in order.
    done: Vec<usize>,
}

impl Tasks {
    fn new() -> Self {
        Self { running: FuturesUnordered::new(), polls: Rc::default(), done: Vec::new() }
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let number = self.running.len() + self.done.len();
        let (polls, mut future) = (self.polls.clone(), Box::pin(future));
        self.running.push(Box::pin(poll_fn(move |cx| {
            *polls.borrow_mut() += 1;
            future.as_mut().poll(cx).map(|()| number)
        })));
    }

    /// Polls those that are woken. Returns whether any is left.
    fn run(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // It yields now and then, to be polled again.
        for _ in 0..TASKS {
            match self.running.poll_next_unpin(&mut context) {
                Poll::Ready(Some(number)) => self.done.push(number),
                Poll::Ready(None) => return false,
                Poll::Pending => {}
            }
        }
        true
    }

    /// Polls per task.
    fn polls_each(&self) -> f64 {
        *self.polls.borrow() as f64 / self.done.len() as f64
    }

    /// Checks that each task was polled at first, for its turn and for its outcome at the most, and that none has overtaken another.
    fn assert_few_polls_in_order(&self) {
        assert!(self.polls_each() <= 3.0, "{} polls per message", self.polls_each());
        assert!(self.done.is_sorted(), "a task has overtaken another");
    }
}

fn rig() -> (ClientRig, Channel) {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    (rig, channel)
}

fn publisher(channel: &Channel, window: usize) -> Publisher {
    let options = PublisherOptions::new().window(window, usize::MAX).mandatory(false);
    channel.default_exchange().publisher(options).expect("it is open")
}

/// Returns tasks that send one message each, and wait for the confirm.
fn senders(publisher: &Publisher) -> Tasks {
    let mut tasks = Tasks::new();
    for _ in 0..TASKS {
        let publisher = publisher.clone();
        tasks.spawn(async move { publisher.send("q", "m").await.expect("it is confirmed") });
    }
    tasks
}

/// Returns a configuration with an outgoing buffer for a few small messages.
fn small_buffer() -> Config {
    let limits = Limits::default().transmit_high_water(2000);
    Config::default().protocol(ClientConfig::default().limits(limits))
}

/// Waits for its turn, then for the confirm: that is two wakes, and with the first poll three polls.
#[test]
fn a_confirm_wakes_as_many_publishers_as_there_is_room_for() {
    let (mut rig, channel) = rig();
    let publisher = publisher(&channel, WINDOW);
    let mut tasks = senders(&publisher);
    while tasks.run() {
        rig.turn();
    }
    tasks.assert_few_polls_in_order();
}

/// The same for the outgoing buffer, which takes a few large messages at a time.
#[test]
fn room_in_the_outgoing_buffer_wakes_as_many_publishers_as_it_is_enough_for() {
    let (mut rig, channel) = rig();
    let body = bytes::Bytes::from(vec![7; 100_000]);
    let mut tasks = Tasks::new();
    for _ in 0..TASKS {
        let (queue, body) = (channel.queue("q").expect("it is short"), body.clone());
        tasks.spawn(async move {
            let message = amqp_client_core::Message::new(body);
            queue.publish(&message).await.expect("it is sent");
        });
    }
    while tasks.run() {
        rig.write(false);
    }
    tasks.assert_few_polls_in_order();
}

/// Most of a small message is not its body.
#[test]
fn small_messages_that_wait_for_the_outgoing_buffer_count_as_a_whole() {
    let mut rig = ClientRig::new(small_buffer());
    let channel = rig.open_channel();
    let mut tasks = Tasks::new();
    for number in 0..TASKS {
        let queue = channel.queue("q").expect("it is short");
        let properties = MessageProperties::new().message_id(number.to_string());
        let message = Message::new(&b"m"[..]).with(&properties).expect("it is short");
        tasks.spawn(async move { queue.publish(&message).await.expect("it is sent") });
    }
    while tasks.run() {
        rig.write(false);
    }
    tasks.assert_few_polls_in_order();
}

/// The room belongs to the tasks that were woken for it, until they publish.
#[test]
fn a_task_that_did_not_wait_leaves_the_room_to_those_that_were_woken() {
    for on_loss in [OnLoss::Wait, OnLoss::Keep] {
        let mut rig = ClientRig::new(small_buffer());
        rig.recover_with(Recovery::default().keep_max(4000));
        let channel = rig.open_channel();
        let options = PublisherOptions::new().on_loss(on_loss).mandatory(false);
        let publisher = channel.default_exchange().publisher(options).expect("it is open");
        rig.turn();
        let mut confirmations = Vec::new();
        while let Ok(sent) = publisher.try_publish("q", vec![7; 500]) {
            confirmations.push(sent);
        }
        let mut waiting: Vec<_> =
            (0..WINDOW).map(|_| Box::pin(publisher.publish("q", "m"))).collect();
        for future in &mut waiting {
            assert!(rig.poll(future.as_mut()).is_none());
        }
        rig.turn();
        // There is room for the ten, or for this one and some of them.
        assert!(publisher.try_publish("q", vec![7; 1800]).is_err(), "{on_loss:?}");
        for future in &mut waiting {
            assert!(rig.poll(future.as_mut()).is_some(), "{on_loss:?}: it was called");
        }
        rig.turn();
        assert!(publisher.try_publish("q", vec![7; 1800]).is_ok(), "{on_loss:?}");
    }
}

/// A task that waits for both takes no turn in the outgoing buffer that it could not use.
#[test]
fn a_message_waits_for_its_window_before_it_waits_for_the_outgoing_buffer() {
    const FEW: usize = 100;
    for on_loss in [OnLoss::Wait, OnLoss::Keep] {
        let mut rig = ClientRig::new(small_buffer());
        rig.recover_with(Recovery::default().keep_max(4000));
        let channel = rig.open_channel();
        let options = PublisherOptions::new().on_loss(on_loss).mandatory(false);
        let exchange = channel.default_exchange();
        let filling = exchange.publisher(options.clone()).expect("it is open");
        let publisher = exchange.publisher(options.window(2, usize::MAX)).expect("it is open");
        rig.turn();
        let mut tasks = Tasks::new();
        for _ in 0..FEW {
            let (filling, publisher) = (filling.clone(), publisher.clone());
            tasks.spawn(async move {
                let _confirmed = filling.publish("q", vec![7; 500]).await.expect("it is sent");
                let _confirmed = publisher.publish("q", "m").await.expect("it is sent");
            });
        }
        let rounds = (0..2 * FEW).take_while(|_| tasks.run()).map(|_| rig.turn()).count();
        assert!(rounds < 2 * FEW, "{on_loss:?}: {} of {FEW} are done", tasks.done.len());
        // Each waits three times at the most: for the buffer, for the window, and for the buffer again.
        assert!(tasks.polls_each() <= 4.0, "{on_loss:?}: {} polls", tasks.polls_each());
    }
}

/// The memory that a kept message takes counts, not only its body.
#[test]
fn a_confirm_wakes_as_many_publishers_of_kept_messages_as_there_is_room_for() {
    let (mut rig, publisher) = keeping_little(PublisherOptions::new().mandatory(false));
    let mut tasks = senders(&publisher);
    while tasks.run() {
        rig.turn();
    }
    tasks.assert_few_polls_in_order();
}

/// Tasks that wait on another channel do not benefit.
#[test]
fn a_confirm_wakes_no_task_of_another_channel() {
    let (mut rig, channel) = rig();
    let other = rig.open_channel();
    let (busy, full) = (publisher(&channel, 1), publisher(&other, 1));
    // The server confirms messages of one channel only.
    let _unconfirmed = rig.run(full.publish("q", "m")).expect("it is sent");
    rig.write(false);
    let mut tasks = Tasks::new();
    for _ in 0..TASKS {
        let full = full.clone();
        tasks.spawn(async move { drop(full.publish("q", "m").await) });
    }
    assert!(tasks.run());
    let before = *tasks.polls.borrow();
    for _ in 0..10 {
        rig.run(busy.send("q", "m")).expect("it is confirmed");
        rig.run(busy.wait_for_confirms()).expect("they are confirmed");
        assert!(tasks.run());
    }
    assert_eq!(*tasks.polls.borrow(), before);
}

/// Windows of different sizes, and messages of different sizes, on one channel: all come through.
#[test]
fn publishers_with_different_windows_do_not_block_each_other_forever() {
    let (mut rig, channel) = rig();
    let options = |messages, bytes| PublisherOptions::new().window(messages, bytes);
    let publishers = [options(1, usize::MAX), options(3, 100), options(1000, 10), options(0, 0)]
        .map(|options| channel.default_exchange().publisher(options).expect("it is open"));
    let mut tasks = Tasks::new();
    for number in 0..TASKS {
        let publisher = publishers[number % publishers.len()].clone();
        let body = vec![7; number % 150];
        tasks.spawn(async move { publisher.send("q", body).await.expect("it is confirmed") });
    }
    while tasks.run() {
        rig.turn();
    }
    assert_eq!(tasks.done.len(), TASKS);
}

/// A task that was called and does not publish passes its turn on.
#[test]
fn a_turn_that_is_not_used_is_passed_on() {
    for dropped in [1, 5, WINDOW] {
        let (mut rig, channel) = rig();
        let publisher = publisher(&channel, WINDOW);
        let mut confirmations = Vec::new();
        for _ in 0..WINDOW {
            confirmations.push(rig.run(publisher.publish("q", "m")).expect("it is sent"));
        }
        let mut waiting: Vec<_> =
            (0..3 * WINDOW).map(|_| Box::pin(publisher.publish("q", "m"))).collect();
        for future in &mut waiting {
            assert!(rig.poll(future.as_mut()).is_none());
        }
        rig.turn();
        // There is room for ten. Some of those that were called for it go.
        waiting.drain(..dropped);
        for future in waiting.iter_mut().take(WINDOW) {
            assert!(rig.poll(future.as_mut()).is_some(), "it was called");
        }
        assert!(rig.poll(waiting[WINDOW].as_mut()).is_none());
    }
}

/// A publisher that keeps messages on a connection that keeps 1000 bytes of them.
fn keeping_little(options: PublisherOptions) -> (ClientRig, Publisher) {
    let mut rig = ClientRig::new(Config::default());
    rig.recover_with(Recovery::default().keep_max(1000));
    let channel = rig.open_channel();
    let options = options.on_loss(OnLoss::Keep);
    let publisher = channel.default_exchange().publisher(options).expect("it is open");
    (rig, publisher)
}

/// A message that was sent stays in the window until its confirm comes, but is kept no longer: there is room for another one.
#[test]
fn withdrawing_a_kept_message_lets_the_next_one_in() {
    let (_rig, publisher) = keeping_little(PublisherOptions::new());
    let kept = publisher.try_publish("q", vec![7; 900]).expect("it is kept");
    let mut tasks = Tasks::new();
    let waits = publisher.clone();
    tasks.spawn(async move { drop(waits.publish("q", vec![7; 900]).await) });
    assert!(tasks.run(), "as much is kept as may be");
    assert!(!kept.withdraw(), "it was sent");
    assert!(!tasks.run(), "there is room, but it was not woken");
}

/// The message is sent and unconfirmed, so its expiry is no event: its confirm may still come.
#[test]
fn a_kept_message_that_expires_lets_the_next_one_in() {
    for connected in [true, false] {
        let options = PublisherOptions::new().keep_for(Duration::from_secs(5));
        let (mut rig, publisher) = keeping_little(options);
        rig.silence();
        let _kept = publisher.try_publish("q", vec![7; 900]).expect("it is kept");
        if !connected {
            rig.lose();
            rig.silence();
        }
        rig.turn();
        let mut tasks = Tasks::new();
        let waits = publisher.clone();
        tasks.spawn(async move { drop(waits.publish("q", vec![7; 900]).await) });
        assert!(tasks.run(), "as much is kept as may be");
        rig.advance(Duration::from_secs(4));
        assert!(tasks.run(), "it was sent a short time ago");
        rig.advance(Duration::from_secs(1));
        assert!(!tasks.run(), "there is room, but it was not woken");
    }
}

/// The broker has closed the channel over one of several kept messages, which are sent again one by one. Other messages wait
/// until the broker has confirmed the last of them.
#[test]
fn a_publisher_behind_careful_messages_continues_when_all_are_confirmed() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover_with(Recovery::default().reopen_channels(true));
    let channel = rig.open_channel();
    let publisher = |on_loss| {
        let options = PublisherOptions::new().on_loss(on_loss);
        channel.default_exchange().publisher(options).expect("it is open")
    };
    let (keeps, waits) = (publisher(OnLoss::Keep), publisher(OnLoss::Wait));
    let mut kept = Vec::from([(); 2].map(|()| keeps.try_publish("q", "kept").expect("it is kept")));
    rig.write(true);
    let publish = (BasicPublish::CLASS_ID, BasicPublish::METHOD_ID);
    let mut events = channel.events();
    rig.peer.refuse(channel.id(), ReplyCode::PRECONDITION_FAILED, publish);
    // The channel is opened again, and the first message is sent again.
    let restored = (0..10).any(|_| {
        rig.answer_all();
        rig.write(true);
        matches!(rig.poll(pin!(events.next())), Some(Some(ChannelEvent::Restored)))
    });
    assert!(restored);
    kept.push(keeps.try_publish("q", "kept, too").expect("it is kept"));
    let error = waits.try_publish("q", "m").expect_err("it has to wait").error;
    assert_eq!(error, PublishError::Gated(Gate::Recovering));
    let mut tasks = Tasks::new();
    tasks.spawn(async move { waits.send("q", "m").await.expect("it is confirmed") });
    assert!(tasks.run());
    rig.turn();
    for confirmation in kept {
        rig.run(confirmation).expect("it is confirmed");
    }
    assert!(tasks.run(), "its confirm is yet to come");
    rig.turn();
    assert!(!tasks.run(), "it may publish, but it was not woken");
}

/// The next channel has the number of one that is closed, and counts its messages from 1, too.
#[test]
fn withdrawing_on_a_closed_channel_withdraws_nothing_of_the_next() {
    let mut rig = ClientRig::new(Config::default());
    rig.recover_with(Recovery::default());
    let publisher = |channel: &Channel| {
        let options = PublisherOptions::new().on_loss(OnLoss::Keep);
        channel.default_exchange().publisher(options).expect("it is open")
    };
    let closed = rig.open_channel();
    let before = publisher(&closed).try_publish("q", "before").expect("it is sent");
    rig.turn();
    rig.run(closed.close()).expect("it is closed");
    let channel = rig.open_channel();
    assert_eq!(channel.id(), closed.id());
    rig.lose();
    let kept = publisher(&channel).try_publish("q", "kept").expect("it is kept");
    assert_eq!(kept.seq(), before.seq());
    assert!(!before.withdraw(), "its channel is over");
    assert!(kept.withdraw(), "it is there still, and was never sent");
}

/// The time for each depends little on how many there are: they leave from the front, from the back, and from anywhere.
#[test]
fn many_consumers_are_started_and_dropped() {
    const CONSUMERS: usize = 10_000;
    let orders: [fn(usize) -> usize; 3] =
        [|at| at, |at| CONSUMERS - 1 - at, |at| at * 7919 % CONSUMERS];
    for order in orders {
        let protocol = ClientConfig::default().heartbeat(Duration::ZERO);
        let mut rig = ClientRig::new(Config::default().protocol(protocol));
        let channel = rig.open_channel();
        let mut consumers: Vec<_> = (0..CONSUMERS).map(|_| Some(rig.consume(&channel))).collect();
        rig.peer.record();
        for number in 0..CONSUMERS - 1 {
            consumers[order(number)] = None;
        }
        rig.turn();
        let cancels =
            rig.peer.methods.iter().filter(|method| matches!(method, Method::BasicCancel(_)));
        assert_eq!(cancels.count(), CONSUMERS - 1);
        // The remaining one and a new one get their deliveries.
        let last = consumers[order(CONSUMERS - 1)].take().expect("it was not dropped");
        for mut consumer in [last, rig.consume(&channel)] {
            rig.peer.deliver(channel.id(), consumer.tag(), 1, b"m");
            rig.turn();
            assert!(consumer.try_next().is_some());
        }
    }
}

/// The message that failed may be the one of any of them.
#[test]
fn all_that_wait_for_confirms_at_once_hear_of_a_failure() {
    let (mut rig, channel) = rig();
    rig.recover();
    let publisher = publisher(&channel, 100);
    let _unconfirmed = rig.run(publisher.publish("q", "m")).expect("it is sent");
    let mut first = pin!(publisher.wait_for_confirms());
    assert!(rig.poll(first.as_mut()).is_none());
    let _unconfirmed = rig.run(publisher.publish("q", "m")).expect("it is sent");
    let (mut second, mut abandoned) =
        (pin!(publisher.wait_for_confirms()), Box::pin(publisher.wait_for_confirms()));
    assert!(rig.poll(second.as_mut()).is_none() && rig.poll(abandoned.as_mut()).is_none());
    drop(abandoned);
    rig.lose();
    rig.turn();
    let lost =
        rig.poll(first.as_mut()).expect("nothing is outstanding").expect_err("they are lost");
    // A call that begins now is about later messages.
    assert_eq!(rig.run(publisher.wait_for_confirms()), Ok(()));
    assert_eq!(rig.run(second), Err(lost));
    assert_eq!(rig.run(publisher.wait_for_confirms()), Ok(()));
}
