//! Consumers whose deliveries are no longer wanted.

use amqp_client_core::proto::method::BasicConsume;
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelId, RequestId};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, short};

/// A session that has just asked for a consumer of a queue with three messages.
fn starting(tag: &str) -> (SessionRig<Broker>, ChannelId, RequestId) {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("q"));
    for body in ["1", "2", "3"] {
        rig.publish(id, "", "q", body);
    }
    rig.run();
    let consume = BasicConsume { queue: short("q"), consumer_tag: short(tag), ..<_>::default() };
    let start = rig.send(id, consume);
    (rig, id, start)
}

#[test]
fn a_consumer_that_is_discarded_before_it_has_started_gets_nothing() {
    for tag in ["", "c"] {
        for carried in 0..3 {
            let (mut rig, id, start) = starting(tag);
            (0..carried).for_each(|_| rig.carry());
            rig.channel(id).discard_consumer(start.into());
            rig.run();
            assert_eq!(rig.deliveries().len(), 0, "'{tag}' {carried}");
            assert_eq!(rig.queue_count(id, "q"), (3, 0), "'{tag}' {carried}");
            assert!(rig.answer(start).is_none(), "'{tag}' {carried}");
            // No request is outstanding, and nothing is left to restore.
            rig.cut();
            assert_eq!(rig.recover().consumers, 0, "'{tag}' {carried}");
            assert!(rig.failure(start).is_none(), "'{tag}' {carried}");
            assert_eq!(rig.queue_count(id, "q"), (3, 0), "'{tag}' {carried}");
        }
    }
}
