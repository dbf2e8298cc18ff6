//! Interceptors: what they see of publishes and deliveries, and that nothing they do harms a message.

mod harness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amqp_client_core::intercept::{
    HeaderError, Intercept, OutgoingMessage, Processing, PublishBatch, PublishOutcome, Published,
    Scope, Settled, Source,
};
use amqp_client_core::proto::{self, ClientConfig, Limits, RawProperties, Route};
use amqp_client_core::{
    Channel, Config, ConfirmError, ConsumeOptions, Consumer, OnLoss, OnPanic, Publisher,
    PublisherOptions,
};
use harness::ClientRig;

/// Writes down, in order, what it and its observers see.
#[derive(Clone, Default)]
struct Notes {
    name: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
    panics: bool,
}

impl Notes {
    fn note(&self, line: impl std::fmt::Display) {
        self.lines.lock().expect("no panic under it").push(format!("{}{line}", self.name));
        assert!(!self.panics, "an interceptor panics");
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("no panic under it"))
    }
}

impl Intercept for Notes {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        let key = String::from_utf8_lossy(message.routing_key()).into_owned();
        message.insert_header("x-seen", key.as_str()).expect("there is room");
        self.note(format_args!("publish {key} {}", message.body().len()));
        Some(Box::new(Noted(self.clone(), key)))
    }

    fn deliver(&self, delivery: &proto::Delivery, from: Source<'_>) -> Option<Box<dyn Processing>> {
        let Source::Consumer { queue, .. } = from else { return None };
        self.note(format_args!("deliver {} from {queue}", delivery.delivery_tag().get()));
        Some(Box::new(Noted(self.clone(), delivery.delivery_tag().get().to_string())))
    }
}

struct Noted(Notes, String);

impl Published for Noted {
    fn ended(self: Box<Self>, outcome: PublishOutcome<'_>) {
        let outcome = match outcome {
            PublishOutcome::Failed(ConfirmError::Unconfirmed(_)) => "unconfirmed".to_owned(),
            PublishOutcome::NotSent(_) => "not sent".to_owned(),
            outcome => format!("{outcome:?}").to_lowercase(),
        };
        self.0.note(format_args!("{} {outcome}", self.1));
    }
}

impl Processing for Noted {
    fn settled(self: Box<Self>, how: Settled) {
        self.0.note(format_args!("{} {how:?}", self.1));
    }

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Self(self.0.clone(), self.1.clone())))
    }
}

impl Scope for Noted {
    fn enter(&self, run: &mut dyn FnMut()) {
        self.0.note(format_args!("enter {}", self.1));
        run();
        self.0.note(format_args!("leave {}", self.1));
    }
}

fn rig(notes: &Notes) -> (ClientRig, Channel) {
    let mut rig = ClientRig::new(Config::default().intercept(notes.clone()));
    let channel = rig.open_channel();
    (rig, channel)
}

fn publisher(channel: &Channel, options: PublisherOptions) -> Publisher {
    channel.exchange("exchange").expect("short").publisher(options).expect("it is open")
}

/// A consumer with deliveries that it has not seen.
fn consuming(notes: &Notes, options: ConsumeOptions, count: u64) -> (ClientRig, Channel, Consumer) {
    let (mut rig, channel) = rig(notes);
    let consumer = rig.run(channel.basic_consume("queue", options)).expect("it starts");
    rig.peer.deliver(channel.id(), consumer.tag(), count, b"body");
    rig.answer_all();
    (rig, channel, consumer)
}

#[test]
fn each_way_to_publish_is_seen_once_with_its_outcome() {
    let notes = Notes::default();
    let (mut rig, channel) = rig(&notes);
    let (none, body) = (RawProperties::EMPTY, b"body");
    rig.run(channel.basic_publish(&Route::new("e", "basic"), &none, body)).expect("queued");
    let prepared = channel.prepare(&Route::new("e", "ready"), &none).expect("short");
    rig.run(channel.basic_publish_prepared(&prepared, body)).expect("queued");
    rig.run(channel.basic_publish_all(&prepared, [body; 2])).expect("queued");
    let ready = ["publish ready 4", "ready queued"];
    let all = [["publish basic 4", "basic queued"], ready, ready, ready].concat();
    assert_eq!(notes.take(), all);

    // The server of this rig confirms everything, so it gets none of the above.
    let (mut rig, channel) = self::rig(&notes);
    let publisher = publisher(&channel, PublisherOptions::new());
    let first = rig.run(publisher.publish("first", body)).expect("queued");
    let second = publisher.try_publish("second", body).expect("queued");
    // An outcome that nobody waits for is reported as well.
    drop(second);
    assert_eq!(notes.take(), ["publish first 4", "publish second 4"]);
    rig.run(first).expect("confirmed");
    assert_eq!(notes.take(), ["first confirmed", "second confirmed"]);
    let prepared = publisher.prepare("ready").expect("short");
    let sent = rig.run(prepared.publish_all([body; 2])).expect("queued");
    rig.run(sent).expect("confirmed");
    let ready = ["publish ready 4", "publish ready 4", "ready confirmed", "ready confirmed"];
    assert_eq!(notes.take(), ready);
}

#[test]
fn publishes_that_fail_are_reported() {
    let notes = Notes::default();
    let (mut rig, channel) = rig(&notes);
    rig.recover();
    let publisher = publisher(&channel, PublisherOptions::new().window(1, 1000));
    rig.silence();
    let unconfirmed = rig.run(publisher.publish("lost", "body")).expect("queued");
    // The window is full: one publish is tried, one is given up while it waits.
    publisher.try_publish("tried", "body").map(drop).expect_err("it would wait");
    {
        let mut waiting = pin!(publisher.publish("dropped", "body"));
        assert!(rig.poll(waiting.as_mut()).is_none());
    }
    let seen = ["publish lost 4", "publish tried 4", "tried not sent", "publish dropped 4"];
    assert_eq!(notes.take(), seen);
    rig.lose();
    rig.turn();
    rig.run(unconfirmed).expect_err("it was lost");
    assert_eq!(notes.take(), ["lost unconfirmed"]);

    rig.run(channel.close()).expect("it closes");
    rig.run(publisher.publish("late", "body")).expect_err("it is closed");
    assert_eq!(notes.take(), ["publish late 4", "late not sent"]);
}

#[test]
fn a_kept_message_ends_when_it_is_confirmed_at_last() {
    let notes = Notes::default();
    let (mut rig, channel) = rig(&notes);
    rig.recover();
    rig.peer.record();
    let publisher = publisher(&channel, PublisherOptions::new().on_loss(OnLoss::Keep));
    rig.silence();
    let kept = rig.run(publisher.publish("kept", "body")).expect("queued");
    rig.turn();
    rig.lose();
    assert_eq!(notes.take(), ["publish kept 4"]);
    rig.run(kept).expect("it is published again");
    assert_eq!(notes.take(), ["kept confirmed"]);
}

#[test]
fn each_way_to_settle_is_reported() {
    let notes = Notes::default();
    let (mut rig, channel, mut consumer) = consuming(&notes, ConsumeOptions::new(), 13);
    let mut check = |settle: &mut dyn FnMut(amqp_client_core::Delivery), how: &str| {
        let delivery = consumer.try_next().expect("it was delivered");
        let tag = delivery.delivery_tag().get();
        assert_eq!(notes.take(), [format!("deliver {tag} from queue")]);
        settle(delivery);
        assert_eq!(notes.take(), [format!("{tag} {how}")]);
    };
    check(&mut |delivery| delivery.ack().expect("it waits"), "Acked");
    check(&mut |delivery| delivery.nack(true).expect("it waits"), "Nacked { requeue: true }");
    check(&mut |delivery| delivery.reject(false).expect("it waits"), "Rejected { requeue: false }");
    check(&mut |delivery| drop(delivery), "Dropped");
    check(&mut |delivery| drop(delivery.into_message()), "Detached");
    let panics = |delivery| {
        let _delivery: amqp_client_core::Delivery = delivery;
        panic!("a handler panics");
    };
    check(
        &mut |delivery| drop(catch_unwind(AssertUnwindSafe(|| panics(delivery)))),
        "Panicked { requeue: true }",
    );
    let by_tag = channel.clone();
    check(
        &mut |delivery| {
            by_tag.basic_ack(delivery.delivery_tag()).expect("it waits");
        },
        "Elsewhere",
    );
    let held = consumer.try_next().expect("it was delivered");
    consumer.try_next().expect("it was delivered").ack_up_to().expect("they wait");
    drop(held);
    let both = ["deliver 8 from queue", "deliver 9 from queue", "9 Acked", "8 Elsewhere"];
    assert_eq!(notes.take(), both);
    // The second acknowledgement is an error, and has no effect.
    let delivery = consumer.try_next().expect("it was delivered");
    channel.basic_nack(delivery.delivery_tag(), false).expect("it waits");
    delivery.ack().expect_err("it was settled");
    assert_eq!(notes.take(), ["deliver 10 from queue", "10 Elsewhere"]);

    rig.recover();
    let stale = [consumer.try_next(), consumer.try_next()].map(|next| next.expect("delivered"));
    rig.lose();
    let [acked, dropped] = stale;
    acked.ack().expect("it is stale");
    drop(dropped);
    assert_eq!(notes.take()[2..], ["11 Stale", "12 Stale"]);
}

#[test]
fn deliveries_of_a_closed_channel_and_without_acknowledgement_are_reported() {
    let notes = Notes::default();
    let (mut rig, channel, mut consumer) = consuming(&notes, ConsumeOptions::new(), 2);
    let [acked, dropped] =
        [consumer.try_next(), consumer.try_next()].map(|next| next.expect("it was delivered"));
    rig.run(channel.close()).expect("it closes");
    acked.ack().expect_err("it is closed");
    drop(dropped);
    assert_eq!(notes.take()[2..], ["1 ChannelClosed", "2 ChannelClosed"]);

    let no_ack = ConsumeOptions::new().no_ack(true);
    let (_rig, _channel, mut consumer) = consuming(&notes, no_ack, 2);
    consumer.try_next().expect("it was delivered").ack().expect("it does nothing");
    drop(consumer.try_next().expect("it was delivered"));
    let lines = notes.take();
    assert_eq!([&lines[1], &lines[3]], ["1 Unneeded", "2 Unneeded"]);
}

#[test]
fn handlers_run_in_the_scope_of_their_delivery() {
    let notes = Notes::default();
    let (mut rig, _channel, consumer) = consuming(&notes, ConsumeOptions::new(), 2);
    let inner = notes.clone();
    let consumer = consumer.on_panic(OnPanic::Reject);
    let mut handling = pin!(consumer.for_each_concurrent(1, move |delivery| {
        let notes = inner.clone();
        async move {
            notes.note("handler");
            assert!(delivery.delivery_tag().get() != 2, "a handler panics");
            delivery.ack().expect("it waits");
        }
    }));
    assert!(rig.poll(handling.as_mut()).is_none());
    rig.turn();
    assert!(rig.poll(handling.as_mut()).is_none());
    let first =
        ["deliver 1 from queue", "enter 1", "leave 1", "enter 1", "handler", "1 Acked", "leave 1"];
    let second = ["deliver 2 from queue", "enter 2", "leave 2", "enter 2", "handler"];
    // The panic is the handler's, so the scope is left before it propagates.
    let panicked = ["2 Panicked { requeue: false }", "leave 2"];
    assert_eq!(notes.take(), [&first[..], &second, &panicked].concat());
}

#[test]
fn several_interceptors_are_nested() {
    let lines = Arc::default();
    let [outer, inner] =
        ["outer: ", "inner: "].map(|name| Notes { name, lines: Arc::clone(&lines), panics: false });
    let config = Config::default().intercept(outer.clone()).intercept(inner);
    let mut rig = ClientRig::new(config);
    let channel = rig.open_channel();
    let publisher = publisher(&channel, PublisherOptions::new());
    rig.run(publisher.send("key", "body")).expect("confirmed");
    let publish = ["outer: publish key 4", "inner: publish key 4"];
    let ended = ["inner: key confirmed", "outer: key confirmed"];
    assert_eq!(outer.take(), [publish, ended].concat());

    let mut consumer =
        rig.run(channel.basic_consume("queue", ConsumeOptions::new())).expect("starts");
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    rig.answer_all();
    let delivery = consumer.try_next().expect("it was delivered");
    delivery.scope().run(|| outer.note("handler"));
    delivery.ack().expect("it waits");
    let deliver = ["outer: deliver 1 from queue", "inner: deliver 1 from queue"];
    let run =
        ["outer: enter 1", "inner: enter 1", "outer: handler", "inner: leave 1", "outer: leave 1"];
    let settled = ["inner: 1 Acked", "outer: 1 Acked"];
    assert_eq!(outer.take(), [&deliver[..], &run, &settled].concat());
}

#[test]
fn an_interceptor_that_panics_harms_no_message() {
    let notes = Notes { panics: true, ..Notes::default() };
    let (mut rig, channel, mut consumer) = consuming(&notes, ConsumeOptions::new(), 2);
    let publisher = publisher(&channel, PublisherOptions::new());
    rig.run(publisher.send("key", "body")).expect("confirmed");
    let delivery = consumer.try_next().expect("it was delivered");
    assert_eq!(delivery.scope().run(|| 7), 7);
    delivery.ack().expect("it waits");
    let delivery = consumer.try_next().expect("it was delivered");
    assert_eq!(rig.run(delivery.scope().wrap(async { 8 })), 8);
    drop(delivery);
    assert!(rig.connection.is_open());
}

/// Observes deliveries, and panics when it is asked for their scope.
struct NoScope;

impl Intercept for NoScope {
    fn deliver(&self, _: &proto::Delivery, _: Source<'_>) -> Option<Box<dyn Processing>> {
        Some(Box::new(Self))
    }
}

impl Processing for NoScope {
    fn settled(self: Box<Self>, _: Settled) {}

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        panic!("it has no scope")
    }
}

#[test]
fn a_panic_in_one_scope_leaves_the_scope_of_the_other() {
    let notes = Notes::default();
    let one_first = Config::default().intercept(NoScope).intercept(notes.clone());
    let one_last = Config::default().intercept(notes.clone()).intercept(NoScope);
    for config in [one_first, one_last] {
        let mut rig = ClientRig::new(config);
        let channel = rig.open_channel();
        let options = ConsumeOptions::new();
        let mut consumer = rig.run(channel.basic_consume("queue", options)).expect("it starts");
        rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
        rig.answer_all();
        let delivery = consumer.try_next().expect("it was delivered");
        delivery.scope().run(|| notes.note("handler"));
        delivery.ack().expect("it waits");
        let lines = ["deliver 1 from queue", "enter 1", "handler", "leave 1", "1 Acked"];
        assert_eq!(notes.take(), lines);
    }
}

/// Has a scope that panics when it is entered.
struct PanicsInScope;

impl Intercept for PanicsInScope {
    fn deliver(&self, _: &proto::Delivery, _: Source<'_>) -> Option<Box<dyn Processing>> {
        Some(Box::new(Self))
    }
}

impl Processing for PanicsInScope {
    fn settled(self: Box<Self>, _: Settled) {}

    fn scope(&self) -> Option<Arc<dyn Scope>> {
        Some(Arc::new(Self))
    }
}

impl Scope for PanicsInScope {
    fn enter(&self, _: &mut dyn FnMut()) {
        panic!("it panics before the handler")
    }
}

#[test]
fn a_scope_that_panics_when_it_is_entered_leaves_the_scope_of_the_other() {
    let notes = Notes::default();
    let outer = Config::default().intercept(PanicsInScope).intercept(notes.clone());
    let inner = Config::default().intercept(notes.clone()).intercept(PanicsInScope);
    for config in [outer, inner] {
        let mut rig = ClientRig::new(config);
        let channel = rig.open_channel();
        let mut consumer = rig.consume(&channel);
        rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
        rig.answer_all();
        let delivery = consumer.try_next().expect("it was delivered");
        notes.take();
        delivery.scope().run(|| notes.note("handler"));
        assert_eq!(notes.take(), ["enter 1", "handler", "leave 1"]);
        // A panic of the handler still reaches its caller.
        let scope = delivery.scope();
        let panicked = catch_unwind(AssertUnwindSafe(|| scope.run(|| panic!("the handler"))));
        panicked.expect_err("it propagates");
        assert_eq!(notes.take(), ["enter 1", "leave 1"]);
        delivery.ack().expect("it waits");
    }
}

/// Fills the headers of each message.
struct Fills(Arc<Mutex<Vec<Result<(), HeaderError>>>>);

impl Intercept for Fills {
    fn publish(&self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        for size in [16, 4000, 4096, 1 << 20] {
            let added = message.insert_header("x-large", vec![b'x'; size]);
            self.0.lock().expect("no panic under it").push(added);
        }
        None
    }
}

#[test]
fn headers_that_do_not_fit_leave_the_message_as_it_is() {
    let results = Arc::default();
    let limits = Limits::default().frame_max(4096);
    let config = Config::default().protocol(ClientConfig::default().limits(limits));
    let mut rig = ClientRig::new(config.intercept(Fills(Arc::clone(&results))));
    let channel = rig.open_channel();
    let publisher = publisher(&channel, PublisherOptions::new());
    rig.run(publisher.send("key", "body")).expect("confirmed");
    let results = std::mem::take(&mut *results.lock().expect("no panic under it"));
    let fits: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(fits, [true, true, false, false]);
    assert!(matches!(&results[2], Err(HeaderError::NoRoom { limit: 4076, size }) if *size > 4096));
}

/// Sees batches as a whole.
struct Batches(Notes);

impl Intercept for Batches {
    fn publish_all(&self, to: &OutgoingMessage<'_>) -> Option<Box<dyn PublishBatch>> {
        self.0.note(format_args!("batch of {}", String::from_utf8_lossy(to.body())));
        Some(Box::new(Batch(self.0.clone())))
    }
}

struct Batch(Notes);

impl PublishBatch for Batch {
    fn publish(&mut self, message: &mut OutgoingMessage<'_>) -> Option<Box<dyn Published>> {
        self.0.note(format_args!("message {}", String::from_utf8_lossy(message.body())));
        None
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.0.note("end of batch");
    }
}

#[test]
fn a_batch_is_seen_as_a_whole() {
    let notes = Notes::default();
    let each = Notes { name: "each: ", ..notes.clone() };
    let config = Config::default().intercept(Batches(notes.clone())).intercept(each);
    let mut rig = ClientRig::new(config);
    let channel = rig.open_channel();
    let prepared = publisher(&channel, PublisherOptions::new()).prepare("key").expect("short");
    let sent = rig.run(prepared.publish_all(["a", "b"])).expect("queued");
    let seen =
        ["batch of a", "message a", "each: publish key 1", "message b", "each: publish key 1"];
    assert_eq!(notes.take(), [&seen[..], &["end of batch"]].concat());
    rig.run(sent).expect("confirmed");
    assert_eq!(notes.take(), ["each: key confirmed"; 2]);
    rig.advance(Duration::ZERO);
}
