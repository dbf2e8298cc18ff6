//! Nodes with smaller limits than the one before: what does not fit any more is reported, and nothing else is lost.

use amqp_client_core::proto::method::{
    BasicAck, BasicConsume, BasicNack, ConfirmSelect, QueueDeclare,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, FieldTable, Limits, Misuse, Properties, PublishError,
    RawProperties, ReplyCode, Route, ServerConfig,
};

use crate::rig::{Script, SessionRig, short};

/// Headers that fit into a frame of the default size, but not into the smallest there is.
fn big() -> FieldTable {
    FieldTable::new().with("big", "x".repeat(5000).as_str()).expect("it fits")
}

fn smaller() -> ServerConfig {
    ServerConfig::default().limits(Limits::default().frame_max(4096))
}

fn confirming(rig: &mut SessionRig<Script>) -> ChannelId {
    rig.run();
    let id = rig.open();
    rig.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    rig.run();
    id
}

#[test]
fn a_kept_message_that_does_not_fit_is_given_up_and_confirms_stay_correct() {
    let mut rig = SessionRig::scripted(Recovery::default());
    let id = confirming(&mut rig);
    let route = Route::queue("q");
    let headers = RawProperties::from(&Properties { headers: Some(big()), ..<_>::default() });
    let small = RawProperties::EMPTY;
    let long = "y".repeat(10_000);
    let keep = |rig: &mut SessionRig<Script>, properties: &RawProperties, body: &str| {
        rig.channel(id).publish_kept(&route, properties, body.to_owned()).expect("it is kept").get()
    };
    let sent = [
        keep(&mut rig, &small, "a"),
        keep(&mut rig, &headers, "too big"),
        keep(&mut rig, &small, &long),
        keep(&mut rig, &headers, "too big as well"),
        keep(&mut rig, &small, "b"),
    ];
    rig.run();
    rig.cut();
    let waiting = [keep(&mut rig, &headers, "never sent"), keep(&mut rig, &small, "c")];
    rig.events.clear();
    rig.reconnect_to(smaller());
    rig.run();
    assert!(rig.session.is_open());
    // A body takes as many frames as it needs.
    assert_eq!(rig.peer.published, ["a", &long, "b", "c"]);
    assert_eq!(rig.report().republished, 3);
    let given_up = rig.given_up();
    assert_eq!(
        given_up.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(),
        [sent[1], sent[3], waiting[0]]
    );
    for (_, error) in given_up {
        assert!(
            matches!(error, PublishError::PropertiesTooLarge { frame_max: 4096, .. }),
            "{error}"
        );
    }
    // The broker confirms the messages that it got, by its own numbers.
    let next = rig.channel(id).publish(&route, &small, "d").expect("it is sent");
    let next = next.expect("it is numbered").get();
    rig.run();
    rig.say(id, BasicAck { delivery_tag: 2, multiple: false });
    assert_eq!(rig.confirmed(), [sent[2]]);
    rig.say(id, BasicNack { delivery_tag: 3, ..<_>::default() });
    assert_eq!(rig.confirmed(), [sent[2]]);
    rig.say(id, BasicAck { delivery_tag: 5, multiple: true });
    assert_eq!(rig.confirmed(), [sent[2], sent[0], waiting[1], next]);
    assert_eq!(rig.session.kept(), 0);
}

#[test]
fn a_mark_that_does_not_fit_is_left_out() {
    let mut rig = SessionRig::scripted(Recovery::default());
    let id = confirming(&mut rig);
    // It fits into the smaller frame exactly, as long as nothing is added.
    let mut text = 4000;
    let properties = loop {
        let headers = FieldTable::new().with("x", "y".repeat(text).as_str()).expect("it fits");
        let found = RawProperties::from(&Properties { headers: Some(headers), ..<_>::default() });
        // The frame's overhead of 8 bytes, class, weight and body size.
        if found.as_encoded().len() + 8 + 12 == 4096 {
            break found;
        }
        text += 1;
    };
    let kept = rig.channel(id).publish_kept(&Route::queue("q"), &properties, "body");
    let kept = kept.expect("it is kept").get();
    rig.cut();
    rig.reconnect_to(smaller());
    rig.run();
    assert_eq!(
        (rig.peer.published.as_slice(), rig.report().republished),
        (&["body".to_owned()][..], 1)
    );
    rig.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(rig.confirmed(), [kept]);
}

#[test]
fn a_consumer_and_a_queue_that_do_not_fit_are_reported() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    for (queue, arguments) in [("small", FieldTable::new()), ("big", big())] {
        let declare = QueueDeclare { queue: short(queue), arguments, ..<_>::default() };
        rig.channel(id).request(declare).expect("it is sent");
    }
    let mut consume = |queue: &str, tag: &str, arguments| {
        let (queue, consumer_tag) = (short(queue), short(tag));
        let consume = BasicConsume { queue, consumer_tag, arguments, ..<_>::default() };
        rig.channel(id).request(consume).expect("it is sent").into()
    };
    let too_big = consume("small", "a", big());
    let running = consume("small", "b", FieldTable::new());
    let without_queue = consume("big", "c", FieldTable::new());
    rig.run();
    rig.cut();
    rig.events.clear();
    rig.reconnect_to(smaller());
    rig.run();
    assert!(rig.session.is_open());
    let mut failed = rig.failed_consumers();
    failed.sort();
    assert_eq!(failed, [too_big, without_queue], "{running:?} goes on");
    let report = rig.report();
    assert_eq!((report.queues, report.consumers, report.failed.len()), (1, 1, 3), "{report:?}");
    let (_, error) = &report.failed[0];
    assert_eq!(report.failed[0].0, Entity::Queue(short("big")));
    assert_eq!(error.reply_code(), Some(ReplyCode::NOT_ALLOWED));
    assert!(error.to_string().contains("queue.declare needs a frame of"), "{error}");
    // Nothing of that is left over: the next node may allow more.
    rig.cut();
    rig.events.clear();
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    let consumes = rig.peer.asked.iter().filter(|method| method.facts().name == "basic.consume");
    assert_eq!((rig.failed_consumers().len(), consumes.count()), (0, 1));
}

#[test]
fn requests_that_waited_and_do_not_fit_fail() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    rig.cut();
    let mut ask = |no_wait: bool| {
        let tag = short(if no_wait { "a" } else { "b" });
        let consume = BasicConsume {
            queue: short("q"),
            consumer_tag: tag,
            no_wait,
            arguments: big(),
            ..<_>::default()
        };
        rig.channel(id).request(consume).expect("it waits")
    };
    let (unanswered, answered) = (ask(true), ask(false));
    let declare = QueueDeclare { queue: short("q"), ..<_>::default() };
    let behind = rig.channel(id).request(declare).expect("it waits");
    rig.events.clear();
    rig.reconnect_to(smaller());
    rig.run();
    let failed: Vec<_> = rig
        .channel_events()
        .filter_map(|event| match event {
            ChannelEvent::Failed {
                request,
                error: CommandError::Misuse(Misuse::TooLarge { .. }),
            } => Some(*request),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [unanswered, answered]);
    assert_eq!(rig.failed_consumers(), [unanswered.into()]);
    let answered = rig
        .channel_events()
        .any(|event| matches!(event, ChannelEvent::Reply { request, .. } if *request == behind));
    assert!(answered, "{:?}", rig.events);
}

#[test]
fn a_connection_that_is_lost_as_soon_as_it_is_open_ends_no_channel() {
    let mut rig = SessionRig::scripted(Recovery::default());
    let id = confirming(&mut rig);
    let kept = rig.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, "body");
    let kept = kept.expect("it is kept").get();
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    // `open-ok` and `close` come at once.
    rig.peer.close_when_open = true;
    rig.run();
    assert!(!rig.session.is_open() && rig.session.check().is_ok());
    let closed = rig.channel_events().any(|event| matches!(event, ChannelEvent::Closed(_)));
    assert!(!closed, "{:?}", rig.events);
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    rig.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(rig.confirmed(), [kept]);
}
