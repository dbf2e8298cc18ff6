//! Nodes with smaller limits than the one before: what does not fit any more is reported, and nothing else is lost.

use amqp_client_core::proto::method::{
    BasicAck, BasicConsume, BasicNack, ConfirmSelect, QueueDeclare,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, CommandError, FieldTable, Misuse, Properties, PublishError,
    RawProperties, ReplyCode, Route, ServerConfig,
};

use crate::pair::{Pair, accept};
use crate::world::short;

/// Headers that fit into a frame of the default size, but not into the smallest there is.
fn big() -> FieldTable {
    FieldTable::new().with("big", "x".repeat(5000).as_str()).expect("it fits")
}

fn smaller() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.limits.frame_max = 4096;
    config
}

fn confirming(pair: &mut Pair) -> ChannelId {
    pair.run(accept);
    let id = pair.open();
    pair.channel(id).request(ConfirmSelect { no_wait: false }).expect("it is sent");
    pair.run(accept);
    id
}

#[test]
fn a_kept_message_that_does_not_fit_is_given_up_and_confirms_stay_correct() {
    let mut pair = Pair::new(Recovery::default());
    let id = confirming(&mut pair);
    let route = Route::queue("q");
    let headers = RawProperties::from(&Properties { headers: Some(big()), ..<_>::default() });
    let small = RawProperties::EMPTY;
    let long = "y".repeat(10_000);
    let keep = |pair: &mut Pair, properties: &RawProperties, body: &str| {
        pair.channel(id)
            .publish_kept(&route, properties, body.to_owned())
            .expect("it is kept")
            .get()
    };
    let sent = [
        keep(&mut pair, &small, "a"),
        keep(&mut pair, &headers, "too big"),
        keep(&mut pair, &small, &long),
        keep(&mut pair, &headers, "too big as well"),
        keep(&mut pair, &small, "b"),
    ];
    pair.run(accept);
    pair.cut();
    let waiting = [keep(&mut pair, &headers, "never sent"), keep(&mut pair, &small, "c")];
    pair.events.clear();
    pair.reconnect(smaller());
    pair.run(accept);
    assert!(pair.session.is_open());
    // A body takes as many frames as it needs.
    assert_eq!(pair.published, ["a", &long, "b", "c"]);
    assert_eq!(pair.report().republished, 3);
    let given_up = pair.given_up();
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
    let next = pair.channel(id).publish(&route, &small, "d").expect("it is sent");
    let next = next.expect("it is numbered").get();
    pair.run(accept);
    pair.say(id, BasicAck { delivery_tag: 2, multiple: false });
    assert_eq!(pair.confirmed(), [sent[2]]);
    pair.say(id, BasicNack { delivery_tag: 3, ..<_>::default() });
    assert_eq!(pair.confirmed(), [sent[2]]);
    pair.say(id, BasicAck { delivery_tag: 5, multiple: true });
    assert_eq!(pair.confirmed(), [sent[2], sent[0], waiting[1], next]);
    assert_eq!(pair.session.kept(), 0);
}

#[test]
fn a_mark_that_does_not_fit_is_left_out() {
    let mut pair = Pair::new(Recovery::default());
    let id = confirming(&mut pair);
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
    let kept = pair.channel(id).publish_kept(&Route::queue("q"), &properties, "body");
    let kept = kept.expect("it is kept").get();
    pair.cut();
    pair.reconnect(smaller());
    pair.run(accept);
    assert_eq!(
        (pair.published.as_slice(), pair.report().republished),
        (&["body".to_owned()][..], 1)
    );
    pair.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(pair.confirmed(), [kept]);
}

#[test]
fn a_consumer_and_a_queue_that_do_not_fit_are_reported() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    for (queue, arguments) in [("small", FieldTable::new()), ("big", big())] {
        let declare = QueueDeclare { queue: short(queue), arguments, ..<_>::default() };
        pair.channel(id).request(declare).expect("it is sent");
    }
    let mut consume = |queue: &str, tag: &str, arguments| {
        let (queue, consumer_tag) = (short(queue), short(tag));
        let consume = BasicConsume { queue, consumer_tag, arguments, ..<_>::default() };
        pair.channel(id).request(consume).expect("it is sent").into()
    };
    let too_big = consume("small", "a", big());
    let running = consume("small", "b", FieldTable::new());
    let without_queue = consume("big", "c", FieldTable::new());
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    pair.reconnect(smaller());
    pair.run(accept);
    assert!(pair.session.is_open());
    let mut failed = pair.failed_consumers();
    failed.sort();
    assert_eq!(failed, [too_big, without_queue], "{running:?} goes on");
    let report = pair.report();
    assert_eq!((report.queues, report.consumers, report.failed.len()), (1, 1, 3), "{report:?}");
    let (_, error) = &report.failed[0];
    assert_eq!(report.failed[0].0, Entity::Queue(short("big")));
    assert_eq!(error.reply_code(), Some(ReplyCode::NOT_ALLOWED));
    assert!(error.to_string().contains("queue.declare needs a frame of"), "{error}");
    // Nothing of that is left over: the next node may allow more.
    pair.cut();
    pair.events.clear();
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    let consumes = pair.asked.iter().filter(|method| method.facts().name == "basic.consume");
    assert_eq!((pair.failed_consumers().len(), consumes.count()), (0, 1));
}

#[test]
fn requests_that_waited_and_do_not_fit_fail() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    pair.cut();
    let mut ask = |no_wait: bool| {
        let tag = short(if no_wait { "a" } else { "b" });
        let consume = BasicConsume {
            queue: short("q"),
            consumer_tag: tag,
            no_wait,
            arguments: big(),
            ..<_>::default()
        };
        pair.channel(id).request(consume).expect("it waits")
    };
    let (unanswered, answered) = (ask(true), ask(false));
    let declare = QueueDeclare { queue: short("q"), ..<_>::default() };
    let behind = pair.channel(id).request(declare).expect("it waits");
    pair.events.clear();
    pair.reconnect(smaller());
    pair.run(accept);
    let failed: Vec<_> = pair
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
    assert_eq!(pair.failed_consumers(), [unanswered.into()]);
    let answered = pair
        .channel_events()
        .any(|event| matches!(event, ChannelEvent::Reply { request, .. } if *request == behind));
    assert!(answered, "{:?}", pair.events);
}

#[test]
fn a_connection_that_is_lost_as_soon_as_it_is_open_ends_no_channel() {
    let mut pair = Pair::new(Recovery::default());
    let id = confirming(&mut pair);
    let kept = pair.channel(id).publish_kept(&Route::queue("q"), &RawProperties::EMPTY, "body");
    let kept = kept.expect("it is kept").get();
    pair.cut();
    pair.reconnect(ServerConfig::default());
    // `open-ok` and `close` come at once.
    pair.close_when_open = true;
    pair.run(accept);
    assert!(!pair.session.is_open() && pair.session.check().is_ok());
    let closed = pair.channel_events().any(|event| matches!(event, ChannelEvent::Closed(_)));
    assert!(!closed, "{:?}", pair.events);
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    pair.say(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(pair.confirmed(), [kept]);
}
