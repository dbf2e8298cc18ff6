use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelId, ConsumerId, ShortStr};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, nameless, short};

struct Scene {
    id: ChannelId,
    consumers: Vec<ConsumerId>,
    named: ShortStr,
}

/// One of everything that is restored.
fn furnish(rig: &mut SessionRig<Broker>) -> Scene {
    let id = rig.open();
    rig.exchange(id, "exchange", "topic");
    let queue = rig.queue(id, durable("queue"));
    rig.bind(id, &queue, "exchange", "#");
    let named = rig.queue(id, nameless());
    rig.bind(id, &named, "exchange", "named");
    rig.confirm(id);
    rig.limit(id, 10);
    let consumers = vec![rig.consume(id, &queue, "a"), rig.consume(id, &named, "b")];
    let transacting = rig.open();
    rig.ask(transacting, amqp_client_core::proto::method::TxSelect {}).expect("it is selected");
    Scene { id, consumers, named }
}

#[test]
fn a_loss_at_any_step_of_a_recovery_is_another_loss() {
    let mut cuts = 0;
    for after in 1.. {
        let mut rig = SessionRig::new(Recovery::default());
        let scene = furnish(&mut rig);
        rig.elsewhere(|other, id| {
            let queue = amqp_client_core::proto::method::QueueDelete {
                queue: short("queue"),
                ..<_>::default()
            };
            other.ask(id, queue);
        });
        rig.cut();
        rig.keep(scene.id, "queue", "kept");
        // The second time it is cut after so many rounds, the third time one earlier, and so on.
        let mut whole = false;
        for rounds in (1..=after).rev() {
            assert!(rig.reconnect(), "{after} {rounds}: {:?}", rig.events);
            rig.cut_after = Some(rig.rounds + rounds);
            rig.run();
            whole |= rig.cut_after.take().is_some();
            if rig.session.is_open() {
                rig.cut();
            }
            cuts += 1;
        }
        let report = rig.recover();
        rig.run();
        assert_eq!((report.exchanges, report.queues, report.bindings), (1, 2, 2), "{after}");
        assert_eq!((report.channels, report.consumers), (2, 2), "{after}");
        assert!(report.failed.is_empty(), "{report:?}");
        rig.publish(scene.id, "exchange", "named", "routed");
        rig.run();
        let to_first = rig.deliveries();
        let bodies = |consumer| {
            let mine = to_first.iter().filter(|(found, _)| *found == consumer);
            mine.map(|(_, delivery)| delivery.body().to_vec()).collect::<Vec<_>>()
        };
        assert!(bodies(scene.consumers[0]).contains(&b"routed".to_vec()), "{after}");
        assert!(bodies(scene.consumers[0]).contains(&b"kept".to_vec()), "{after}");
        assert_eq!(bodies(scene.consumers[1]), [b"routed".to_vec()], "{after}");
        assert_ne!(*rig.session.current_name(&scene.named), scene.named);
        assert_eq!(rig.session.kept(), 0);
        assert_eq!(rig.peer.engine.take_violation(), None);
        if whole {
            break;
        }
        assert!(after < 50, "a recovery does not take so long");
    }
    assert!(cuts > 10, "{cuts}");
}
