//! Declarations that are repeated after a loss, and those that are not.

use std::time::Duration;

use amqp_client_core::proto::method::{
    BasicConsume, ExchangeDeclare, ExchangeDelete, Method, QueueBind, QueueDeclare, QueueDelete,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{Limits, ReplyCode, ServerConfig};
use amqp_test_broker::Scope;

use crate::rig::{SessionRig, accept, durable, nameless, short};
use crate::scripted::recover_from;

fn direct(name: &str) -> ExchangeDeclare {
    ExchangeDeclare { exchange: short(name), kind: short("direct"), ..<_>::default() }
}

/// Without a reply, only the refusal shows that the broker has not done it.
#[test]
fn what_a_conditional_delete_leaves_is_declared_again() {
    for (in_use, held) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        rig.ask(other, direct("exchange")).expect("it is declared");
        let queue = rig.queue(other, durable("queue"));
        if in_use {
            rig.bind(other, &queue, "exchange", "key");
            rig.consume(other, &queue, "consumer");
        }
        if held {
            rig.cut();
        }
        let (delete, if_unused, no_wait) = (queue.clone(), true, true);
        rig.send(id, QueueDelete { queue: delete, if_unused, no_wait, ..<_>::default() });
        // The first refusal closes the channel.
        let exchange = short("exchange");
        rig.send(other, ExchangeDelete { exchange, if_unused, no_wait, ..<_>::default() });
        if held {
            rig.recover();
        }
        rig.run();
        rig.cut();
        let report = rig.recover();
        let left = usize::from(in_use);
        assert_eq!((report.queues, report.exchanges), (left, left), "{in_use} {held}");
    }
}

/// The application does not want the reply that names it.
#[test]
fn a_queue_without_a_name_and_a_reply_is_restored_and_belongs_to_its_channel() {
    for held in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        if held {
            rig.cut();
        }
        let declare = rig.send(id, QueueDeclare { no_wait: true, ..nameless() });
        let bind = QueueBind { exchange: short("amq.fanout"), no_wait: true, ..<_>::default() };
        rig.send(id, bind.clone());
        if held {
            rig.recover();
        }
        rig.run();
        assert!(rig.answer(declare).is_none());
        // On another channel, the empty name stands for no queue.
        rig.send(other, bind);
        rig.run();
        rig.cut();
        let report = rig.recover();
        assert_eq!((report.queues, report.bindings), (1, 1), "{held}: {report:?}");
        assert_eq!(report.renamed.len(), 1, "{held}: {report:?}");
    }
}

#[test]
fn what_was_only_looked_at_is_not_declared_again() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.elsewhere(|own, id| {
        own.ask(id, direct("theirs")).expect("it is declared");
        own.queue(id, durable("queue"));
    });
    let looks = ExchangeDeclare { passive: true, ..direct("theirs") };
    rig.ask(id, looks).expect("it is there");
    rig.queue_count(id, "queue");
    rig.cut();
    rig.elsewhere(|own, id| {
        own.ask(id, ExchangeDelete { exchange: short("theirs"), ..<_>::default() });
        own.ask(id, QueueDelete { queue: short("queue"), ..<_>::default() });
    });
    let report = rig.recover();
    assert_eq!((report.exchanges, report.queues, report.failed.len()), (0, 0, 0), "{report:?}");
}

/// The name is a routing key like any other for them.
#[test]
fn a_message_to_an_exchange_with_the_former_name_of_a_queue_as_its_key_keeps_that() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let former = rig.queue(id, nameless());
    let queue = rig.queue(id, durable("q"));
    rig.bind(id, &queue, "amq.direct", &former.to_string());
    rig.cut();
    rig.recover();
    assert_ne!(*rig.session.current_name(&former), former);
    rig.publish(id, "amq.direct", &former.to_string(), "m");
    rig.publish(id, "", &former.to_string(), "m");
    rig.run();
    assert_eq!(rig.queue_count(id, "q").0, 1);
    let name = rig.session.current_name(&former).to_string();
    assert_eq!(rig.queue_count(id, &name).0, 1);
}

#[test]
fn the_former_name_of_a_queue_leads_to_it_until_it_is_deleted() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let (kept, deleted) = (rig.queue(id, nameless()), rig.queue(id, nameless()));
    rig.cut();
    rig.recover();
    rig.ask(id, QueueDelete { queue: deleted.clone(), ..<_>::default() }).expect("it is there");
    assert_eq!(*rig.session.current_name(&deleted), deleted);
    assert_ne!(*rig.session.current_name(&kept), kept);
    rig.publish(id, "", &kept.to_string(), "m");
    rig.run();
    let name = rig.session.current_name(&kept).to_string();
    assert_eq!(rig.queue_count(id, &name).0, 1);
}

/// Each would cost a connection at each loss.
#[test]
fn a_declaration_that_costs_the_connection_is_not_repeated_after_the_next_loss() {
    for which in 0..2 {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let id = rig.open();
        for name in ["good", "bad"] {
            rig.send(id, direct(name));
        }
        rig.send(id, durable("q"));
        for (exchange, key) in [("good", "good"), ("good", "bad"), ("bad", "good")] {
            let (exchange, routing_key) = (short(exchange), short(key));
            rig.send(id, QueueBind { queue: short("q"), exchange, routing_key, ..<_>::default() });
        }
        rig.run();
        let is_bad = |method: &Method| match method {
            Method::ExchangeDeclare(declare) => which == 0 && declare.exchange == "bad",
            Method::QueueBind(bind) => {
                which == 1 && bind.exchange == "good" && bind.routing_key == "bad"
            }
            _ => false,
        };
        rig.cut();
        assert_eq!(recover_from(&mut rig, is_bad), 1, "{which}");
        rig.cut();
        assert_eq!(recover_from(&mut rig, is_bad), 0, "{which}");
        let asked =
            |kind: fn(&Method) -> bool| rig.peer.asked.iter().filter(|own| kind(own)).count();
        let exchanges = asked(|method| matches!(method, Method::ExchangeDeclare(_)));
        let bindings = asked(|method| matches!(method, Method::QueueBind(_)));
        assert_eq!((exchanges, bindings), if which == 0 { (1, 2) } else { (2, 2) });
    }
}

#[test]
fn bindings_of_unnamed_queues_come_back_when_another_queue_is_refused() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let mut names = Vec::new();
    for key in ["", "one"] {
        let queue = rig.queue(id, nameless());
        rig.bind(id, &queue, "amq.topic", key);
        names.push(queue);
    }
    rig.cut();
    rig.peer.engine.refuse_next((50, 10), 1, Scope::Channel);
    let report = rig.recover();
    assert_eq!((report.queues, report.bindings, report.failed.len()), (1, 1, 1), "{report:?}");
    rig.publish(id, "amq.topic", "one", "m");
    rig.publish(id, "amq.topic", "", "m");
    rig.run();
    let counts = names.iter().filter_map(|name| {
        let now = rig.session.current_name(name).clone();
        (now != *name).then_some(now)
    });
    let restored: Vec<_> = counts.collect();
    assert_eq!(restored.len(), 1);
    assert_eq!(rig.queue_count(id, &restored[0].to_string()).0, 1);
}

/// They are sent behind the declaration of their queue, and mean the queue that was declared last. What the broker ignored is sent
/// again on another channel, which has declared none.
#[test]
fn bindings_of_an_unnamed_queue_come_back_when_the_first_of_them_is_refused() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, nameless());
    rig.bind(id, &queue, "amq.direct", "refused");
    rig.bind(id, &queue, "amq.topic", "key");
    // Bound by its own name.
    rig.ask(id, QueueBind { exchange: short("amq.match"), ..<_>::default() }).expect("it is bound");
    rig.ask(id, QueueBind { exchange: short("amq.topic"), ..<_>::default() }).expect("it is bound");
    rig.cut();
    rig.peer.engine.refuse_next((50, 20), 1, Scope::Channel);
    let report = rig.recover();
    assert_eq!((report.queues, report.bindings, report.failed.len()), (1, 3, 1), "{report:?}");
    let name = rig.session.current_name(&queue).to_string();
    for (key, count) in [("key", 1), (name.as_str(), 2), ("", 2)] {
        rig.publish(id, "amq.topic", key, "m");
        rig.run();
        assert_eq!(rig.queue_count(id, &name).0, count, "'{key}'");
    }
}

/// A node that allows fewer channels than the one before.
#[test]
fn a_channel_without_a_number_on_the_next_node_ends() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let (first, second) = (rig.open(), rig.open());
    rig.cut();
    rig.events.clear();
    rig.reconnect_to(ServerConfig::default().limits(Limits::default().channel_max(1)));
    rig.run();
    assert!(rig.session.is_open());
    assert!(rig.session.channel(first).is_ok() && rig.session.channel(second).is_err());
    let [(_, error)] = &rig.report().failed[..] else { panic!("{:?}", rig.events) };
    assert_eq!(error.reply_code(), Some(ReplyCode::NOT_ALLOWED));
}

/// One request at a time, to find out which one costs the connection.
#[test]
fn channels_that_are_restored_one_after_the_other_all_come_back() {
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    for number in 0..4 {
        let id = rig.open();
        for tag in ["a", "b"] {
            let (queue, consumer_tag) = (short("q"), short(&format!("{tag}{number}")));
            rig.send(id, BasicConsume { queue, consumer_tag, ..<_>::default() });
        }
    }
    rig.run();
    rig.cut();
    let is_bad = |method: &Method| matches!(method, Method::BasicConsume(consume) if consume.consumer_tag == "b1");
    assert!(recover_from(&mut rig, is_bad) <= 2);
    assert!(rig.session.is_open(), "{:?}", rig.events);
    assert_eq!(rig.report().consumers, 7);
}

/// The server closes it for a reason of its own, while nothing was asked on it.
#[test]
fn a_channel_that_is_closed_for_no_request_of_its_restore_ends_or_is_reopened() {
    for reopens in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default().reopen_channels(reopens));
        rig.run();
        let id = rig.open();
        rig.send(id, durable("q"));
        rig.run();
        rig.cut();
        rig.events.clear();
        rig.reconnect_to(ServerConfig::default());
        let mut late = None;
        for _ in 0..2 {
            rig.run_with(|_, id, method| late = Some((id, method.clone())));
            let mut channel = rig.peer.server.channel(id).expect("it is open");
            channel.close_over(ReplyCode::INTERNAL_ERROR, "no", (0, 0));
        }
        rig.run();
        let (declaring, declare) = late.expect("the queue is declared");
        accept(&mut rig.peer.server, declaring, &declare);
        rig.run();
        rig.pass(Duration::from_secs(10));
        assert!(rig.session.is_open(), "{reopens}: {:?}", rig.events);
        assert_eq!(rig.session.channel(id).is_ok(), reopens);
        assert_eq!(rig.report().failed.len(), usize::from(!reopens));
    }
}
