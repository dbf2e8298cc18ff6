//! Queues that the broker deletes with their last consumer: the session restores them as long as it has a consumer.

use amqp_client_core::proto::method::{
    Arguments as _, BasicCancel, BasicConsume, BasicConsumeOk, Method, QueueDeclare, QueueDelete,
};
use amqp_client_core::proto::session::{OnCancel, Recovery};
use amqp_client_core::proto::{ChannelId, ConsumerId, Limits, ReplyCode, ServerConfig};

use crate::harness::Broker;
use crate::rig::{Script, SessionRig, accept, short};

fn auto_delete(name: &str) -> QueueDeclare {
    QueueDeclare { queue: short(name), auto_delete: true, ..<_>::default() }
}

fn consume(tag: &str, no_wait: bool) -> BasicConsume {
    BasicConsume { queue: short("auto"), consumer_tag: short(tag), no_wait, ..<_>::default() }
}

/// Starts another consumer of the queue, and ends it.
fn come_and_go(rig: &mut SessionRig<Broker>, id: ChannelId) {
    rig.consume(id, &short("auto"), "brief");
    rig.ask(id, BasicCancel { consumer_tag: short("brief"), no_wait: false }).expect("it ends");
}

/// Loses the connection, and with it the queue, and expects both back.
fn expect_restored(rig: &mut SessionRig<Broker>, consumer: ConsumerId, case: &str) {
    rig.cut();
    let report = rig.recover();
    assert_eq!((report.queues, report.consumers), (1, 1), "{case}: {report:?}");
    let id = rig.open();
    rig.publish(id, "", "auto", "there");
    rig.run();
    assert_eq!(rig.texts(consumer), ["there"], "{case}");
}

#[test]
fn a_consumer_that_starts_before_its_queue_is_declared_counts() {
    for no_wait in [false, true] {
        for pipelined in [false, true] {
            let mut rig = SessionRig::new(Recovery::default());
            let (id, other) = (rig.open(), rig.open());
            rig.declare_elsewhere(auto_delete("auto"));
            let consumer: ConsumerId = rig.send(id, consume("runs", no_wait)).into();
            if !pipelined {
                rig.run();
            }
            rig.send(id, auto_delete("auto"));
            rig.run();
            come_and_go(&mut rig, other);
            expect_restored(&mut rig, consumer, &format!("{no_wait} {pipelined}"));
        }
    }
}

#[test]
fn a_consumer_that_starts_before_the_reply_to_its_declaration_counts() {
    for queue in ["auto", ""] {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        rig.send(id, auto_delete("auto"));
        let start = BasicConsume { queue: short(queue), ..consume("runs", true) };
        let consumer: ConsumerId = rig.send(id, start).into();
        rig.run();
        come_and_go(&mut rig, other);
        expect_restored(&mut rig, consumer, queue);
    }
}

#[test]
fn a_consumer_that_is_started_again_counts() {
    let mut rig = SessionRig::with(|recovery| recovery.on_cancel(OnCancel::Resubscribe));
    let (id, other) = (rig.open(), rig.open());
    let queue = rig.queue(id, auto_delete("auto"));
    let consumer = rig.consume(id, &queue, "runs");
    rig.send(other, QueueDelete { queue, ..<_>::default() });
    rig.send(other, auto_delete("auto"));
    rig.run();
    come_and_go(&mut rig, other);
    expect_restored(&mut rig, consumer, "");
}

/// The queue of that consumer was deleted, and another one declared with its name.
#[test]
fn the_late_end_of_a_consumer_leaves_the_next_queue_of_that_name_alone() {
    for consumed in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let (id, other) = (rig.open(), rig.open());
        rig.send(id, auto_delete("auto"));
        rig.send(other, consume("former", false));
        rig.run();
        rig.send(id, QueueDelete { queue: short("auto"), ..<_>::default() });
        rig.send(id, auto_delete("auto"));
        rig.run();
        if consumed {
            rig.send(id, consume("present", false));
            rig.run();
        }
        rig.say(other, BasicCancel { consumer_tag: short("former"), no_wait: true });
        assert_eq!(declared(&mut rig), 1, "{consumed}");
    }
}

/// The queue was declared again, and the broker has not had that consumer since.
#[test]
fn a_consumer_that_cannot_be_restored_leaves_its_queue_to_others() {
    for refused in [false, true] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let (id, other) = (rig.open(), rig.open());
        rig.send(id, auto_delete("auto"));
        rig.send(other, consume("refused", false));
        rig.run();
        rig.cut();
        let limits = Limits::default().channel_max(if refused { 2 } else { 1 });
        rig.reconnect_to(ServerConfig::default().limits(limits));
        rig.run_with(|server, id, method| match method {
            Method::BasicConsume(_) => {
                let cause = (BasicConsume::CLASS_ID, BasicConsume::METHOD_ID);
                let mut channel = server.channel(id).expect("it is open");
                channel.close_over(ReplyCode::ACCESS_REFUSED, "no", cause);
            }
            method => accept(server, id, method),
        });
        assert!(rig.session.is_open(), "{refused}: {:?}", rig.events);
        rig.send(id, consume("next", false));
        rig.run();
        assert_eq!(declared(&mut rig), 1, "{refused}");
    }
}

/// Loses the connection. Returns how many queues are declared again.
fn declared(rig: &mut SessionRig<Script>) -> usize {
    rig.cut();
    rig.reconnect_to(ServerConfig::default());
    rig.run_with(accept);
    assert!(rig.session.is_open());
    rig.peer.asked.iter().filter(|method| matches!(method, Method::QueueDeclare(_))).count()
}

/// Its end is known while the next consumer has no reply yet.
#[test]
fn a_consumer_that_is_starting_when_another_one_ends_counts() {
    for way in 0..4 {
        let mut rig = SessionRig::new(Recovery::default());
        let (id, other) = (rig.open(), rig.open());
        rig.queue(id, auto_delete("auto"));
        let brief = rig.send(id, consume("brief", false));
        if way == 3 {
            rig.run();
        }
        let consumer: ConsumerId = rig.send(other, consume("runs", false)).into();
        let mut channel = rig.channel(id);
        match way {
            0 | 3 => {
                let cancel = BasicCancel { consumer_tag: short("brief"), no_wait: false };
                channel.request(cancel).expect("it is sent");
            }
            1 => channel.discard_consumer(brief.into()),
            _ => channel.abandon(brief),
        }
        rig.run();
        expect_restored(&mut rig, consumer, &way.to_string());
    }
}

#[test]
fn a_queue_whose_only_consumer_ends_while_it_starts_is_not_restored() {
    for (way, tag) in [(0, "c"), (1, "c"), (1, ""), (2, "c"), (2, "")] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, auto_delete("auto"));
        let starts = rig.send(id, consume(tag, false));
        let mut channel = rig.channel(id);
        match way {
            0 => {
                let cancel = BasicCancel { consumer_tag: short(tag), no_wait: false };
                channel.request(cancel).expect("it is sent");
            }
            1 => channel.discard_consumer(starts.into()),
            _ => channel.abandon(starts),
        }
        rig.run();
        rig.cut();
        assert_eq!(rig.recover().queues, 0, "{way} '{tag}'");
    }
}

/// Also if the application does not wait for the refusal.
#[test]
fn a_queue_whose_only_consumer_is_refused_is_restored() {
    for (way, reopens) in [(0, true), (0, false), (1, true), (1, false), (2, true), (2, false)] {
        for tag in ["refused", ""] {
            let mut rig = SessionRig::with(|recovery| recovery.reopen_channels(reopens));
            let (id, other) = (rig.open(), rig.open());
            rig.queue(id, auto_delete("auto"));
            rig.elsewhere(|own, id| own.consume(id, &short("auto"), "c"));
            let exclusive = BasicConsume { exclusive: true, ..consume(tag, false) };
            let exclusive = rig.send(other, exclusive);
            let mut channel = rig.channel(other);
            match way {
                0 => {}
                1 => channel.discard_consumer(exclusive.into()),
                _ => channel.abandon(exclusive),
            }
            rig.run();
            assert_eq!(rig.failure(exclusive).is_some(), way == 0 && reopens);
            assert!(rig.answer(exclusive).is_none());
            rig.cut();
            assert_eq!(rig.recover().queues, 1, "{way} {reopens} '{tag}'");
        }
    }
}

/// The broker may never have had a consumer whose restart it has not answered, so the queue is still there.
#[test]
fn a_consumer_that_is_dropped_while_it_is_restored_leaves_its_queue_until_it_has_started() {
    for (ending, queues) in [("its start", 0), ("a close", 1), ("a loss", 1)] {
        let mut rig = SessionRig::scripted(Recovery::default());
        rig.run();
        let (id, other) = (rig.open(), rig.open());
        rig.send(id, auto_delete("auto"));
        let consumer: ConsumerId = rig.send(id, consume("dropped", false)).into();
        rig.run();
        rig.cut();
        rig.reconnect_to(ServerConfig::default());
        rig.run_with(|server, id, method| match method {
            Method::BasicConsume(_) => {}
            method => accept(server, id, method),
        });
        rig.channel(id).discard_consumer(consumer);
        match ending {
            "its start" => rig.say(id, BasicConsumeOk { consumer_tag: short("dropped") }),
            "a close" => rig.refuse(id, ReplyCode::INTERNAL_ERROR, "it has crashed", (0, 0)),
            _ => {
                rig.cut();
                rig.reconnect_to(ServerConfig::default());
            }
        }
        rig.run_with(accept);
        if queues > 0 {
            rig.send(other, consume("next", false));
            rig.run();
        }
        assert_eq!(declared(&mut rig), queues, "{ending}: {:?}", rig.events);
    }
}
