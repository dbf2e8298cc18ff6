//! Brokers that change: they refuse later what they accepted once.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsume, BasicQos, ChannelFlow, ConfirmSelect, Method, QueueBind, QueueDeclare, TxSelect,
};
use amqp_client_core::proto::session::{Entity, Recovery};
use amqp_client_core::proto::{
    ChannelEvent, ChannelId, Connection, ConsumerId, Event, ReplyCode, ServerConfig, SessionEvent,
};

use crate::rig::{Script, SessionRig, accept, durable, short};

fn consume(rig: &mut SessionRig<Script>, id: ChannelId, queue: &str, tag: &str) -> ConsumerId {
    let (queue, consumer_tag) = (short(queue), short(tag));
    let consume = BasicConsume { queue, consumer_tag, ..<_>::default() };
    rig.channel(id).request(consume).expect("it is sent").into()
}

/// Reconnects to a server that ends the connection over some requests, until it asks for none of them. Returns how often it
/// was asked for them.
pub(crate) fn recover_from(rig: &mut SessionRig<Script>, ends: impl Fn(&Method) -> bool) -> usize {
    recover_slowly_from(rig, ends, |_| false)
}

/// The first server replies to some requests only when others follow that it accepts.
fn recover_slowly_from(
    rig: &mut SessionRig<Script>,
    ends: impl Fn(&Method) -> bool,
    is_slow: impl Fn(&Method) -> bool,
) -> usize {
    for attempt in 0..10 {
        rig.reconnect_to(ServerConfig::default());
        let now = rig.now;
        let mut over = false;
        let mut slow = Vec::new();
        rig.run_with(|server: &mut Connection, id, method| {
            if over {
                return;
            }
            if ends(method) {
                over = true;
                let cause = method.facts().id;
                server.close_over(now, ReplyCode::NOT_ALLOWED, "no", cause);
            } else if attempt == 0 && is_slow(method) {
                slow.push((id, method.clone()));
            } else {
                accept(server, id, method);
                slow.drain(..).for_each(|(id, method)| accept(server, id, &method));
            }
        });
        if !over {
            return attempt;
        }
        // The server disconnects.
        rig.session.handle_eof(rig.now);
    }
    panic!("it is asked for again and again");
}

#[test]
fn a_limit_and_a_pause_last_over_a_loss() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    let pause = ChannelFlow { active: false };
    let channel = &mut rig.channel(id);
    channel.request(qos.clone()).expect("it is sent");
    channel.request(pause.clone()).expect("it is sent");
    rig.run();
    rig.session.handle_eof(rig.now);
    rig.run();
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    assert!(rig.session.is_open());
    assert_eq!(rig.peer.asked, [qos.into(), pause.into()]);
}

#[test]
fn a_request_that_ends_the_connection_is_not_repeated_forever() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.session.open_channel().expect("there is room");
    let qos = BasicQos { prefetch_count: 7, global: true, ..<_>::default() };
    rig.channel(id).request(qos).expect("it is sent");
    rig.run();
    rig.session.handle_eof(rig.now);
    rig.run();
    // The broker was upgraded meanwhile.
    rig.reconnect_to(ServerConfig::default());
    let now = rig.now;
    rig.run_with(|server, _, method| {
        assert!(matches!(method, Method::BasicQos(_)));
        server.close_over(now, ReplyCode::NOT_IMPLEMENTED, "no such limits any more", (60, 10));
    });
    assert!(!rig.session.is_open() && rig.session.check().is_ok());
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    assert!(rig.session.is_open() && rig.peer.asked.is_empty());
    let report = rig.events.iter().find_map(|event| match event {
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
    // Queues reply to the starts of their consumers, so the reply to the good one may be yet to come.
    for slow in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let id = rig.open();
        let good = consume(&mut rig, id, "q", "good");
        let bad = consume(&mut rig, id, "q", "bad");
        consume(&mut rig, id, "q", "last");
        rig.run();
        rig.cut();
        rig.events.clear();
        let has_tag = |method: &Method, tag| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == short(tag));
        let is_bad = |method: &Method| has_tag(method, "bad");
        let is_slow = |method: &Method| slow && has_tag(method, "good");
        // Several have no reply, and any of them may be the cause: one more connection finds it.
        assert_eq!(recover_slowly_from(&mut rig, is_bad, is_slow), 2);
        assert!(rig.session.is_open());
        assert_eq!(rig.failed_consumers(), [bad], "not {good:?}");
        let [(entity, error)] = rig.report().failed.as_slice() else { panic!("{:?}", rig.events) };
        assert!(
            matches!(entity, Entity::Consumer { consumer, .. } if *consumer == bad),
            "{entity}"
        );
        assert!(format!("{error:?}").contains("530 NOT_ALLOWED"), "{error}");
        // It is not tried with the next loss, either.
        rig.cut();
        assert_eq!(recover_from(&mut rig, is_bad), 0);
        assert_eq!(rig.report().consumers, 2);
    }
}

#[test]
fn a_limit_that_ends_the_connection_is_left_out_although_consumers_before_it_have_no_reply() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    for prefetch_count in [1, 2] {
        let qos = BasicQos { prefetch_count, ..<_>::default() };
        rig.channel(id).request(qos).expect("it is sent");
        consume(&mut rig, id, "q", &format!("{prefetch_count}"));
    }
    rig.run();
    rig.cut();
    rig.events.clear();
    let is_bad =
        |method: &Method| matches!(method, Method::BasicQos(BasicQos { prefetch_count: 2, .. }));
    let is_slow = |method: &Method| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == short("1"));
    assert_eq!(recover_slowly_from(&mut rig, is_bad, is_slow), 1);
    let report = rig.report();
    assert_eq!((report.consumers, report.failed.len()), (2, 1), "{report:?}");
    assert_eq!(rig.failed_consumers(), []);
}

#[test]
fn a_binding_that_ends_the_connection_does_not_end_the_consumers_of_its_queue() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    rig.channel(id).request(durable("q")).expect("it is sent");
    for key in ["good", "bad"] {
        let (exchange, routing_key) = (short("x"), short(key));
        let bind = QueueBind { queue: short("q"), exchange, routing_key, ..<_>::default() };
        rig.channel(id).request(bind).expect("it is sent");
    }
    consume(&mut rig, id, "q", "c");
    rig.run();
    rig.cut();
    rig.events.clear();
    let is_bad = |method: &Method| matches!(method, Method::QueueBind(bind) if bind.routing_key == short("bad"));
    assert_eq!(recover_from(&mut rig, is_bad), 1);
    assert_eq!(rig.failed_consumers(), []);
    let report = rig.report();
    assert_eq!((report.queues, report.consumers), (1, 1), "{report:?}");
}

#[test]
fn a_queue_that_ends_the_connection_is_left_out_with_all_that_belongs_to_it() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    for name in ["good", "bad"] {
        rig.channel(id).request(durable(name)).expect("it is sent");
        let bind = QueueBind { queue: short(name), exchange: short("x"), ..<_>::default() };
        rig.channel(id).request(bind).expect("it is sent");
    }
    let consumers = [consume(&mut rig, id, "good", "a"), consume(&mut rig, id, "bad", "b")];
    rig.run();
    rig.cut();
    rig.events.clear();
    let is_bad = |method: &Method| matches!(method, Method::QueueDeclare(QueueDeclare { queue, .. }) if *queue == short("bad"));
    assert_eq!(recover_from(&mut rig, is_bad), 1);
    assert_eq!(rig.failed_consumers(), [consumers[1]]);
    let report = rig.report();
    assert_eq!((report.queues, report.bindings, report.consumers), (1, 1, 1), "{report:?}");
    assert_eq!(report.failed.len(), 2, "the queue and its consumer: {report:?}");
}

#[test]
fn of_several_channels_the_right_consumer_is_left_out() {
    for bad in 0..3 {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let mut consumers = Vec::new();
        for number in 0..3 {
            let id = rig.open();
            let qos = BasicQos { prefetch_count: 1, ..<_>::default() };
            rig.channel(id).request(qos).expect("it is sent");
            consumers.push(consume(&mut rig, id, "q", &format!("{number}")));
        }
        rig.run();
        rig.cut();
        rig.events.clear();
        let tag = short(&format!("{bad}"));
        let is_bad = |method: &Method| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == tag);
        assert!(recover_from(&mut rig, is_bad) <= 2);
        assert_eq!(rig.failed_consumers(), [consumers[bad]]);
        assert_eq!(rig.report().consumers, 2);
    }
}

#[test]
fn a_limit_that_the_broker_refuses_is_left_out_and_its_consumers_go_on() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    for prefetch_count in [1, 2] {
        let qos = BasicQos { prefetch_count, ..<_>::default() };
        rig.channel(id).request(qos).expect("it is sent");
        consume(&mut rig, id, "q", &format!("{prefetch_count}"));
    }
    rig.run();
    rig.cut();
    rig.events.clear();
    rig.reconnect_to(ServerConfig::default());
    let mut refused = 0;
    rig.run_with(|server, id, method| match method {
        Method::BasicQos(_) => {
            refused += 1;
            assert!(refused < 10, "it is asked for again and again");
            let channel = &mut server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::ACCESS_REFUSED, "no", method.facts().id);
        }
        other => accept(server, id, other),
    });
    assert!(rig.session.is_open());
    let report = rig.report();
    assert_eq!((report.consumers, report.failed.len()), (2, 1), "{report:?}");
    assert_eq!(rig.failed_consumers(), []);
}

/// Nobody waits for its reply, so it counts as declared until the broker ends the next connection for it as well.
#[test]
fn a_declaration_without_reply_that_costs_the_connection_is_declared_once_more_and_then_forgotten()
{
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.session.open_channel().expect("there is room");
    for name in ["guilty", "innocent"] {
        let declare = QueueDeclare { no_wait: true, ..durable(name) };
        rig.channel(id).request(declare).expect("it is sent");
    }
    rig.run();
    let guilty = |method: &Method| matches!(method, Method::QueueDeclare(declare) if declare.queue == "guilty");
    for costs in [1, 0, 0] {
        rig.session.handle_eof(rig.now);
        rig.run();
        assert_eq!(recover_from(&mut rig, guilty), costs);
        let failed = &rig.report().failed;
        assert_eq!(failed.len(), costs, "{failed:?}");
        assert!(
            failed
                .iter()
                .all(|(entity, _)| matches!(entity, Entity::Queue(name) if *name == "guilty")),
            "{failed:?}"
        );
        assert_eq!(rig.report().queues, 1);
    }
}

/// Deliveries acknowledged in a transaction must not be acknowledged outside of one: the channel ends.
#[test]
fn channels_whose_mode_is_refused_end_and_the_others_go_on() {
    let refusals = [(false, false), (false, true), (true, false), (true, true)];
    for (confirms, ends_connection) in refusals {
        for reopens in [false, true] {
            let recovery = Recovery::default().reopen_channels(reopens);
            let mut rig = SessionRig::scripted(recovery);
            rig.run();
            let (first, other, last) = (rig.open(), rig.open(), rig.open());
            for id in [first, last] {
                let mut channel = rig.channel(id);
                match confirms {
                    true => channel.request(ConfirmSelect { no_wait: false }),
                    false => channel.request(TxSelect {}),
                }
                .expect("it is sent");
            }
            let consumer = consume(&mut rig, other, "q", "c");
            rig.run();
            rig.cut();
            rig.events.clear();
            let selects =
                |method: &Method| matches!(method, Method::TxSelect(_) | Method::ConfirmSelect(_));
            if ends_connection {
                assert_eq!(recover_from(&mut rig, selects), 1);
            } else {
                rig.reconnect_to(ServerConfig::default());
                let mut refused = 0;
                rig.run_with(|server, id, method| match selects(method) {
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
            assert!(rig.session.is_open());
            assert_eq!((rig.failed_consumers(), rig.report().channels), (vec![], 1));
            let failed = rig.report().failed.iter().map(|(entity, _)| entity.clone());
            assert_eq!(failed.collect::<Vec<_>>(), [first, last].map(Entity::Channel));
            for id in [first, last] {
                let closed = |event: &&Event| matches!(event, Event::Channel(own, ChannelEvent::Closed(_)) if *own == id);
                assert_eq!(rig.events.iter().filter(closed).count(), 1);
                assert!(rig.session.channel(id).is_err(), "{consumer:?} goes on");
            }
            rig.pass(Duration::from_secs(60));
            // Not with the next loss, either.
            rig.cut();
            assert_eq!(recover_from(&mut rig, selects), 0);
        }
    }
}

/// Queues reply to `basic.consume`, and so a reply may come after those to later requests.
#[test]
fn a_consumer_of_the_queue_declared_last_stays_with_it() {
    for no_wait in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let id = rig.session.open_channel().expect("there is room");
        let mut channel = rig.channel(id);
        channel.request(durable("first")).expect("it is sent");
        let consumer_tag = short("tag");
        let consume = BasicConsume { consumer_tag, no_wait, ..<_>::default() };
        channel.request(consume).expect("it is sent");
        channel.request(durable("second")).expect("it is sent");
        let mut late = None;
        rig.run_with(|server, id, method| match method {
            Method::BasicConsume(_) => late = Some(method.clone()),
            Method::QueueDeclare(declare) if declare.queue == "second" => {
                accept(server, id, method);
                if let Some(late) = late.take().filter(|_| !no_wait) {
                    accept(server, id, &late);
                }
            }
            method => accept(server, id, method),
        });
        rig.cut();
        rig.reconnect_to(ServerConfig::default());
        rig.run();
        let started = rig.peer.asked.iter().filter_map(|method| match method {
            Method::BasicConsume(consume) => Some(consume.queue.clone()),
            _ => None,
        });
        assert_eq!(started.collect::<Vec<_>>(), ["first"], "{no_wait}");
    }
}

#[test]
fn a_consumer_of_an_unnamed_queue_gets_its_name_with_the_reply() {
    for no_wait in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let id = rig.session.open_channel().expect("there is room");
        let mut channel = rig.channel(id);
        for tag in ["one", "two"] {
            channel.request(durable("")).expect("it is sent");
            let consumer_tag = short(tag);
            let consume = BasicConsume { consumer_tag, no_wait, ..<_>::default() };
            channel.request(consume).expect("it is sent");
        }
        let mut late = Vec::new();
        let mut names = ["first", "second", "third", "fourth"].into_iter();
        let mut name = |declare: &QueueDeclare| -> Method {
            assert!(declare.queue.is_empty());
            let queue = short(names.next().expect("each is declared twice"));
            QueueDeclare { queue, ..declare.clone() }.into()
        };
        rig.run_with(|server, id, method| match method {
            Method::BasicConsume(consume) if consume.no_wait => {}
            Method::BasicConsume(_) => late.push(method.clone()),
            Method::QueueDeclare(declare) => accept(server, id, &name(declare)),
            method => accept(server, id, method),
        });
        for consume in late {
            accept(&mut rig.peer.server, id, &consume);
        }
        rig.run();
        rig.cut();
        rig.reconnect_to(ServerConfig::default());
        rig.run_with(|server, id, method| match method {
            Method::QueueDeclare(declare) => accept(server, id, &name(declare)),
            method => accept(server, id, method),
        });
        let started = rig.peer.asked.iter().filter_map(|method| match method {
            Method::BasicConsume(consume) => Some(consume.queue.clone()),
            _ => None,
        });
        assert_eq!(started.collect::<Vec<_>>(), ["third", "fourth"], "{no_wait}");
    }
}
