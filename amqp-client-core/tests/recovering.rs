//! Redelivery that the application requests (`basic.recover`).

mod harness;

use std::sync::{Arc, Mutex};

use amqp_client_core::intercept::{Intercept, Processing, Settled, Source};
use amqp_client_core::proto;
use amqp_client_core::proto::method::BasicRecoverOk;
use amqp_client_core::{Config, ConsumeOptions};
use harness::ClientRig;

/// Writes down how each delivery was settled.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<(u64, Settled)>>>);

impl Notes {
    fn take(&self) -> Vec<(u64, Settled)> {
        std::mem::take(&mut *self.0.lock().expect("no panic under it"))
    }
}

impl Intercept for Notes {
    fn deliver(&self, delivery: &proto::Delivery, _: Source<'_>) -> Option<Box<dyn Processing>> {
        Some(Box::new(Noted(self.clone(), delivery.delivery_tag().get())))
    }
}

struct Noted(Notes, u64);

impl Processing for Noted {
    fn settled(self: Box<Self>, how: Settled) {
        self.0.0.lock().expect("no panic under it").push((self.1, how));
    }
}

#[test]
fn deliveries_that_are_requested_again_are_stale_at_once_and_not_taken() {
    let notes = Notes::default();
    let mut rig = ClientRig::new(Config::default().intercept(notes.clone()));
    let channel = rig.open_channel();
    let mut consumer = rig.consume(&channel);
    let options = ConsumeOptions::new().no_ack(true);
    let mut unacknowledged = rig.run(channel.basic_consume("q", options)).expect("it starts");
    rig.peer.deliver(channel.id(), consumer.tag(), 2, b"body");
    rig.answer_all();
    let held = [consumer.try_next(), consumer.try_next()].map(|next| next.expect("delivered"));
    rig.peer.deliver(channel.id(), unacknowledged.tag(), 2, b"body");
    rig.peer.deliver(channel.id(), consumer.tag(), 3, b"body");
    rig.answer_all();

    let reply = channel.basic_recover();
    let [acked, dropped] = held;
    assert!(acked.is_stale() && dropped.is_stale(), "they are stale before the driver's turn");
    acked.ack().expect("it is stale");
    drop(dropped);
    assert_eq!(notes.take(), [(1, Settled::Stale), (2, Settled::Stale)]);
    assert!(consumer.try_next().is_none(), "what waited is delivered again");

    // Before the broker handles the request, it sends one more. It requeues that one, too.
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    rig.answer_all();
    assert!(consumer.try_next().is_none(), "it is delivered again");
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"body");
    rig.peer.send(channel.id(), BasicRecoverOk {});
    rig.run(reply).expect("the broker has requeued them");
    let bytes = rig.connection.health().delivered_bytes;
    rig.peer.deliver(channel.id(), consumer.tag(), 1, b"again");
    rig.answer_all();
    let again = consumer.try_next().expect("it was delivered again");
    assert_eq!(again.body(), b"again");
    assert!(!again.is_stale());
    again.ack().expect("it waits");
    assert_eq!(notes.take(), [(10, Settled::Acked)]);

    // Deliveries without acknowledgement are not requeued.
    let kept: Vec<_> = std::iter::from_fn(|| unacknowledged.try_next()).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|delivery| !delivery.is_stale()));

    assert_eq!(bytes, kept.iter().map(|delivery| delivery.size()).sum::<usize>());
    assert_eq!(channel.counters().stale, 1, "one was settled");
}
