//! Kept messages that are returned.

use amqp_client_core::proto::method::BasicReturn;
use amqp_client_core::proto::method::ConfirmSelect;
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelEvent, PublishSeq, RawProperties, Route, ServerConfig};

use crate::rig::{Script, SessionRig, durable, short};

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
    let mut rig = SessionRig::scripted(Recovery::default());
    rig.run();
    let id = rig.open();
    rig.channel(id).request(ConfirmSelect { no_wait: true }).expect("it is sent");
    let route = Route::queue("k").mandatory();
    let keep = |rig: &mut SessionRig<Script>, body: &'static str| -> PublishSeq {
        rig.channel(id).publish_kept(&route, &RawProperties::EMPTY, body).expect("it is kept")
    };
    let first = keep(&mut rig, "first");
    keep(&mut rig, "second");
    rig.run();
    let returned = BasicReturn { routing_key: short("k"), ..BasicReturn::default() };
    let mut server = rig.peer.server.channel(id).expect("it is open");
    server.send_content(returned, &RawProperties::EMPTY, "first").expect("it is sent");
    rig.run();
    rig.cut();
    assert_eq!(verdicts(rig.channel_events()), [("returned", 1), ("unconfirmed", 1)]);
    assert!(!rig.channel(id).withdraw(first));
    rig.reconnect_to(ServerConfig::default());
    rig.run();
    assert_eq!(rig.peer.published, ["second"]);
}

/// The queue is not declared again, because this session did not declare it, and does not exist when the connection is restored.
#[test]
fn messages_unroutable_after_the_recovery_are_returned() {
    let mut rig = SessionRig::new(Recovery::default());
    let (id, other) = (rig.open(), rig.open());
    rig.queue(id, durable("stays"));
    rig.confirm(id);
    rig.send(other, ConfirmSelect { no_wait: true });
    rig.run();
    rig.cut();
    let mut keep = |queue| {
        let route = Route::queue(queue).mandatory();
        let channel = &mut rig.channel(id);
        channel.publish_kept(&route, &RawProperties::EMPTY, "equal").expect("it is kept").get()
    };
    let kept = [keep("stays"), keep("gone"), keep("gone"), keep("stays")];
    rig.events.clear();
    rig.recover();
    let verdicts = verdicts(rig.channel_events());
    let of = |name| {
        let mut seqs: Vec<_> =
            verdicts.iter().filter(|(own, _)| *own == name).map(|(_, seq)| *seq).collect();
        seqs.sort_unstable();
        seqs
    };
    assert_eq!((of("returned"), of("confirmed")), (vec![kept[1], kept[2]], kept.to_vec()));
    assert_eq!(rig.session.kept(), 0);
}
