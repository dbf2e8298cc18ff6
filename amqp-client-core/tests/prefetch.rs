//! The requests of a consumer with a prefetch limit of its own.

mod harness;

use std::pin::pin;

use amqp_client_core::proto::method::{BasicQos, Method};
use amqp_client_core::{Channel, Config, ConsumeOptions};
use harness::ClientRig;

/// Starts a consumer. Returns the prefetch limits that were sent in front of its start and behind it. One write and one read have to
/// be enough.
fn limits(rig: &mut ClientRig, channel: &Channel, options: ConsumeOptions) -> [Vec<u16>; 2] {
    rig.peer.methods.clear();
    let mut starting = pin!(channel.basic_consume("q", options));
    assert!(rig.poll(starting.as_mut()).is_none());
    rig.write(true);
    rig.answer_all();
    let consumer = rig.poll(starting).expect("one round trip").expect("it is started");
    // Its cancel belongs to the next one.
    let methods = std::mem::take(&mut rig.peer.methods);
    drop(consumer);
    rig.turn();
    let start = methods.iter().position(|method| matches!(method, Method::BasicConsume(_)));
    let (before, behind) = methods.split_at(start.expect("it was sent"));
    [before, behind].map(|methods| methods.iter().filter_map(limit).collect())
}

const NONE: [Vec<u16>; 2] = [Vec::new(), Vec::new()];

const fn limit(method: &Method) -> Option<u16> {
    match method {
        Method::BasicQos(BasicQos { prefetch_count, global: false, .. }) => Some(*prefetch_count),
        _ => None,
    }
}

#[test]
fn a_consumer_with_its_own_limit_starts_in_one_round_trip() {
    let mut rig = ClientRig::new(Config::default());
    rig.peer.record();
    let channel = rig.open_channel();
    let own = |limit| ConsumeOptions::new().prefetch(limit);
    assert_eq!(limits(&mut rig, &channel, ConsumeOptions::new()), NONE);
    assert_eq!(limits(&mut rig, &channel, own(7)), [[7], [0]]);
    rig.run(channel.basic_qos(5)).expect("it is accepted");
    assert_eq!(limits(&mut rig, &channel, own(7)), [[7], [5]]);
    assert_eq!(limits(&mut rig, &channel, own(0)), [[0], [5]]);
    // A limit that is that of the channel costs nothing.
    assert_eq!(limits(&mut rig, &channel, own(5)), NONE);
}
