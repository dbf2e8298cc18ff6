//! Brokers that change: they refuse later what they accepted once.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsume, BasicQos, ChannelFlow, ConfirmSelect, Method, QueueBind, QueueDeclare, TxSelect,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, ConsumerId, Event, ReplyCode, ServerConfig, SessionEvent,
};

use crate::pair::{Pair, accept};
use crate::world::{durable, short};

fn consume(pair: &mut Pair, id: ChannelId, queue: &str, tag: &str) -> ConsumerId {
    let (queue, consumer_tag) = (short(queue), short(tag));
    let consume = BasicConsume { queue, consumer_tag, ..<_>::default() };
    pair.channel(id).request(consume).expect("it is sent").into()
}

/// Reconnects to a server that ends the connection over some requests, until it asks for none of them. Returns how often it
/// was asked for them.
fn recover_from(pair: &mut Pair, ends: impl Fn(&Method) -> bool) -> usize {
    for attempt in 0..10 {
        pair.reconnect(ServerConfig::default());
        let now = pair.now;
        let mut over = false;
        pair.run(|server: &mut Connection, id, method| {
            if over {
                return;
            }
            match ends(method) {
                true => {
                    over = true;
                    let cause = method.facts().id;
                    server.close_over(now, ReplyCode::NOT_ALLOWED, "no", cause);
                }
                false => accept(server, id, method),
            }
        });
        if !over {
            return attempt;
        }
        // The server disconnects.
        pair.session.handle_eof(pair.now);
    }
    panic!("it is asked for again and again");
}

#[test]
fn a_limit_and_a_pause_last_over_a_loss() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    let pause = ChannelFlow { active: false };
    let channel = &mut pair.session.channel(id).expect("it is open");
    channel.request(qos.clone()).expect("it is sent");
    channel.request(pause.clone()).expect("it is sent");
    pair.run(accept);
    pair.session.handle_eof(pair.now);
    pair.run(accept);
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert!(pair.session.is_open());
    assert_eq!(pair.asked, [qos.into(), pause.into()]);
}

#[test]
fn a_request_that_ends_the_connection_is_not_repeated_forever() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    pair.session.channel(id).expect("it is open").request(qos).expect("it is sent");
    pair.run(accept);
    pair.session.handle_eof(pair.now);
    pair.run(accept);
    // The broker was upgraded meanwhile.
    pair.reconnect(ServerConfig::default());
    let now = pair.now;
    pair.run(|server, _, method| {
        assert!(matches!(method, Method::BasicQos(_)));
        server.close_over(now, ReplyCode::NOT_IMPLEMENTED, "no such limits any more", (60, 10));
    });
    assert!(!pair.session.is_open() && pair.session.check().is_ok());
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert!(pair.session.is_open() && pair.asked.is_empty());
    let report = pair.events.iter().find_map(|event| match event {
        Event::Session(SessionEvent::Recovered(report)) => Some(report),
        _ => None,
    });
    let report = report.expect("it is recovered");
    let [(entity, error)] = report.failed.as_slice() else { panic!("{:?}", report.failed) };
    assert_eq!(*entity, Entity::Prefetch(id));
    assert!(format!("{error:?}").contains("no such limits any more"), "{error}");
}

#[test]
fn a_consumer_that_ends_the_connection_is_left_out_and_ends() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    let good = consume(&mut pair, id, "q", "good");
    let bad = consume(&mut pair, id, "q", "bad");
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    let is_bad = |method: &Method| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == short("bad"));
    assert_eq!(recover_from(&mut pair, is_bad), 1);
    assert!(pair.session.is_open());
    assert_eq!(pair.failed_consumers(), [bad], "not {good:?}");
    let [(entity, error)] = pair.report().failed.as_slice() else { panic!("{:?}", pair.events) };
    assert!(matches!(entity, Entity::Consumer { consumer, .. } if *consumer == bad), "{entity}");
    assert!(format!("{error:?}").contains("530 NOT_ALLOWED"), "{error}");
    // It is not tried with the next loss, either.
    pair.cut();
    assert_eq!(recover_from(&mut pair, is_bad), 0);
    assert_eq!(pair.report().consumers, 1);
}

#[test]
fn a_binding_that_ends_the_connection_does_not_end_the_consumers_of_its_queue() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    pair.channel(id).request(durable("q")).expect("it is sent");
    for key in ["good", "bad"] {
        let (exchange, routing_key) = (short("x"), short(key));
        let bind = QueueBind { queue: short("q"), exchange, routing_key, ..<_>::default() };
        pair.channel(id).request(bind).expect("it is sent");
    }
    consume(&mut pair, id, "q", "c");
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    let is_bad = |method: &Method| matches!(method, Method::QueueBind(bind) if bind.routing_key == short("bad"));
    assert_eq!(recover_from(&mut pair, is_bad), 1);
    assert_eq!(pair.failed_consumers(), []);
    let report = pair.report();
    assert_eq!((report.queues, report.consumers), (1, 1), "{report:?}");
}

#[test]
fn a_queue_that_ends_the_connection_is_left_out_with_all_that_belongs_to_it() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    for name in ["good", "bad"] {
        pair.channel(id).request(durable(name)).expect("it is sent");
        let bind = QueueBind { queue: short(name), exchange: short("x"), ..<_>::default() };
        pair.channel(id).request(bind).expect("it is sent");
    }
    let consumers = [consume(&mut pair, id, "good", "a"), consume(&mut pair, id, "bad", "b")];
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    let is_bad = |method: &Method| matches!(method, Method::QueueDeclare(QueueDeclare { queue, .. }) if *queue == short("bad"));
    assert_eq!(recover_from(&mut pair, is_bad), 1);
    assert_eq!(pair.failed_consumers(), [consumers[1]]);
    let report = pair.report();
    assert_eq!((report.queues, report.bindings, report.consumers), (1, 1, 1), "{report:?}");
    assert_eq!(report.failed.len(), 2, "the queue and its consumer: {report:?}");
}

#[test]
fn of_several_channels_the_right_consumer_is_left_out() {
    for bad in 0..3 {
        let mut pair = Pair::new(Recovery::default());
        pair.run(accept);
        let mut consumers = Vec::new();
        for number in 0..3 {
            let id = pair.open();
            let qos = BasicQos { prefetch_count: 1, ..<_>::default() };
            pair.channel(id).request(qos).expect("it is sent");
            consumers.push(consume(&mut pair, id, "q", &format!("{number}")));
        }
        pair.run(accept);
        pair.cut();
        pair.events.clear();
        let tag = short(&format!("{bad}"));
        let is_bad = |method: &Method| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == tag);
        assert!(recover_from(&mut pair, is_bad) <= 2);
        assert_eq!(pair.failed_consumers(), [consumers[bad]]);
        assert_eq!(pair.report().consumers, 2);
    }
}

#[test]
fn a_limit_that_the_broker_refuses_is_left_out_and_its_consumers_go_on() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    for prefetch_count in [1, 2] {
        let qos = BasicQos { prefetch_count, ..<_>::default() };
        pair.channel(id).request(qos).expect("it is sent");
        consume(&mut pair, id, "q", &format!("{prefetch_count}"));
    }
    pair.run(accept);
    pair.cut();
    pair.events.clear();
    pair.reconnect(ServerConfig::default());
    let mut refused = 0;
    pair.run(|server, id, method| match method {
        Method::BasicQos(_) => {
            refused += 1;
            assert!(refused < 10, "it is asked for again and again");
            let channel = &mut server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::ACCESS_REFUSED, "no", method.facts().id);
        }
        other => accept(server, id, other),
    });
    assert!(pair.session.is_open());
    let report = pair.report();
    assert_eq!((report.consumers, report.failed.len()), (2, 1), "{report:?}");
    assert_eq!(pair.failed_consumers(), []);
}

/// Nobody waits for its reply, so it counts as declared until the broker ends the next connection for it as well.
#[test]
fn a_declaration_without_reply_that_costs_the_connection_is_declared_once_more_and_then_forgotten()
{
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.session.open_channel().expect("there is room");
    for name in ["guilty", "innocent"] {
        let declare = QueueDeclare { no_wait: true, ..durable(name) };
        pair.channel(id).request(declare).expect("it is sent");
    }
    pair.run(accept);
    let guilty = |method: &Method| matches!(method, Method::QueueDeclare(declare) if declare.queue == "guilty");
    for costs in [1, 0, 0] {
        pair.session.handle_eof(pair.now);
        pair.run(accept);
        assert_eq!(recover_from(&mut pair, guilty), costs);
        let failed = &pair.report().failed;
        assert_eq!(failed.len(), costs, "{failed:?}");
        assert!(
            failed
                .iter()
                .all(|(entity, _)| matches!(entity, Entity::Queue(name) if *name == "guilty")),
            "{failed:?}"
        );
        assert_eq!(pair.report().queues, 1);
    }
}

/// What was acknowledged in a transaction must not be acknowledged without one: the channel ends.
#[test]
fn channels_whose_mode_is_refused_end_and_the_others_go_on() {
    let refusals = [(false, false), (false, true), (true, false), (true, true)];
    for (confirms, ends_connection) in refusals {
        for reopens in [false, true] {
            let mut recovery = Recovery::default();
            recovery.reopen_channels = reopens;
            let mut pair = Pair::new(recovery);
            pair.run(accept);
            let (first, other, last) = (pair.open(), pair.open(), pair.open());
            for id in [first, last] {
                let mut channel = pair.channel(id);
                match confirms {
                    true => channel.request(ConfirmSelect { no_wait: false }),
                    false => channel.request(TxSelect {}),
                }
                .expect("it is sent");
            }
            let consumer = consume(&mut pair, other, "q", "c");
            pair.run(accept);
            pair.cut();
            pair.events.clear();
            let selects =
                |method: &Method| matches!(method, Method::TxSelect(_) | Method::ConfirmSelect(_));
            if ends_connection {
                assert_eq!(recover_from(&mut pair, selects), 1);
            } else {
                pair.reconnect(ServerConfig::default());
                let mut refused = 0;
                pair.run(|server, id, method| match selects(method) {
                    true => {
                        refused += 1;
                        assert!(refused < 10, "it is asked for again and again");
                        let channel = &mut server.channel(id).expect("it is open");
                        channel.close_over(ReplyCode::ACCESS_REFUSED, "no", method.facts().id);
                    }
                    false => accept(server, id, method),
                });
                assert!(refused > 0);
            }
            assert!(pair.session.is_open());
            assert_eq!((pair.failed_consumers(), pair.report().channels), (vec![], 1));
            let failed = pair.report().failed.iter().map(|(entity, _)| entity.clone());
            assert_eq!(failed.collect::<Vec<_>>(), [first, last].map(Entity::Channel));
            for id in [first, last] {
                let closed = |event: &&Event| matches!(event, Event::Channel(own, ChannelEvent::Closed(_)) if *own == id);
                assert_eq!(pair.events.iter().filter(closed).count(), 1);
                assert!(pair.session.channel(id).is_err(), "{consumer:?} goes on");
            }
            pair.pass(Duration::from_secs(60));
            // Not with the next loss, either.
            pair.cut();
            assert_eq!(recover_from(&mut pair, selects), 0);
        }
    }
}
