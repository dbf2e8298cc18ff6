//! Kept messages that are returned.

use amqp_client_core::proto::method::BasicReturn;
use amqp_client_core::proto::method::ConfirmSelect;
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelEvent, PublishSeq, RawProperties, Route, ServerConfig};

use crate::pair::{Pair, accept};
use crate::world::{World, durable, short};

/// Returns the outcomes of mandatory messages: numbers of returned ones, and of confirmed ones.
fn verdicts<'a>(events: impl Iterator<Item = &'a ChannelEvent>) -> Vec<(&'static str, u64)> {
    let mut verdicts = Vec::new();
    for event in events {
        let (name, seqs) = match event {
            ChannelEvent::Returned { publish, .. } => {
                let seq = publish.expect("it is one of them");
                ("returned", seq..=seq)
            }
            ChannelEvent::Confirmed { publishes, .. } => ("confirmed", publishes.clone()),
            ChannelEvent::Unconfirmed { publishes, .. } => ("unconfirmed", publishes.clone()),
            _ => continue,
        };
        let seqs = seqs.start().get()..=seqs.end().get();
        verdicts.extend(seqs.map(|seq| (name, seq)));
    }
    verdicts
}

/// Its outcome is known, so it is not sent again: a queue that exists by then would get a message that was reported as returned.
#[test]
fn messages_returned_before_the_loss_are_not_sent_again() {
    let mut pair = Pair::new(Recovery::default());
    pair.run(accept);
    let id = pair.open();
    pair.channel(id).request(ConfirmSelect { no_wait: true }).expect("it is sent");
    let route = Route::queue("k").mandatory();
    let keep = |pair: &mut Pair, body: &'static str| -> PublishSeq {
        pair.channel(id).publish_kept(&route, &RawProperties::EMPTY, body).expect("it is kept")
    };
    let first = keep(&mut pair, "first");
    keep(&mut pair, "second");
    pair.run(accept);
    let returned = BasicReturn { routing_key: short("k"), ..BasicReturn::default() };
    let mut server = pair.server.channel(id).expect("it is open");
    server.send_content(returned, &RawProperties::EMPTY, "first").expect("it is sent");
    pair.run(accept);
    pair.cut();
    assert_eq!(verdicts(pair.channel_events()), [("returned", 1), ("unconfirmed", 1)]);
    assert!(!pair.channel(id).withdraw(first));
    pair.reconnect(ServerConfig::default());
    pair.run(accept);
    assert_eq!(pair.published, ["second"]);
}

/// The queue is not declared again, because this session did not declare it, and does not exist when the connection is restored.
#[test]
fn messages_unroutable_after_the_recovery_are_returned() {
    let mut world = World::new(Recovery::default());
    let (id, other) = (world.open(), world.open());
    world.queue(id, durable("stays"));
    world.confirm(id);
    world.send(other, ConfirmSelect { no_wait: true });
    world.run();
    world.cut();
    let mut keep = |queue| {
        let route = Route::queue(queue).mandatory();
        let channel = &mut world.session.channel(id).expect("it is open");
        channel.publish_kept(&route, &RawProperties::EMPTY, "equal").expect("it is kept").get()
    };
    let kept = [keep("stays"), keep("gone"), keep("gone"), keep("stays")];
    world.events.clear();
    world.recover();
    let verdicts = verdicts(world.channel_events());
    let of = |name| {
        let mut seqs: Vec<_> =
            verdicts.iter().filter(|(own, _)| *own == name).map(|(_, seq)| *seq).collect();
        seqs.sort_unstable();
        seqs
    };
    assert_eq!((of("returned"), of("confirmed")), (vec![kept[1], kept[2]], kept.to_vec()));
    assert_eq!(world.session.kept(), 0);
}
