use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelId, ConsumerId, ShortStr};

use crate::world::{World, durable, nameless, short};

struct Scene {
    id: ChannelId,
    consumers: Vec<ConsumerId>,
    named: ShortStr,
}

/// One of everything that is restored.
fn furnish(world: &mut World) -> Scene {
    let id = world.open();
    world.exchange(id, "exchange", "topic");
    let queue = world.queue(id, durable("queue"));
    world.bind(id, &queue, "exchange", "#");
    let named = world.queue(id, nameless());
    world.bind(id, &named, "exchange", "named");
    world.confirm(id);
    world.limit(id, 10);
    let consumers = vec![world.consume(id, &queue, "a"), world.consume(id, &named, "b")];
    let transacting = world.open();
    world.ask(transacting, amqp_client_core::proto::method::TxSelect {}).expect("it is selected");
    Scene { id, consumers, named }
}

#[test]
fn a_loss_at_any_step_of_a_recovery_is_another_loss() {
    let mut cuts = 0;
    for after in 1.. {
        let mut world = World::new(Recovery::default());
        let scene = furnish(&mut world);
        world.elsewhere(|other, id| {
            let queue = amqp_client_core::proto::method::QueueDelete {
                queue: short("queue"),
                ..<_>::default()
            };
            other.ask(id, queue);
        });
        world.cut();
        world.keep(scene.id, "queue", "kept");
        // The second time it is cut after so many rounds, the third time one earlier, and so on.
        let mut whole = false;
        for rounds in (1..=after).rev() {
            assert!(world.reconnect(), "{after} {rounds}: {:?}", world.events);
            world.cut_after = Some(world.rounds + rounds);
            world.run();
            whole |= world.cut_after.take().is_some();
            if world.session.is_open() {
                world.cut();
            }
            cuts += 1;
        }
        let report = world.recover();
        world.run();
        assert_eq!((report.exchanges, report.queues, report.bindings), (1, 2, 2), "{after}");
        assert_eq!((report.channels, report.consumers), (2, 2), "{after}");
        assert!(report.failed.is_empty(), "{report:?}");
        world.publish(scene.id, "exchange", "named", "routed");
        world.run();
        let to_first = world.deliveries();
        let bodies = |consumer| {
            let mine = to_first.iter().filter(|(found, _)| *found == consumer);
            mine.map(|(_, delivery)| delivery.body().to_vec()).collect::<Vec<_>>()
        };
        assert!(bodies(scene.consumers[0]).contains(&b"routed".to_vec()), "{after}");
        assert!(bodies(scene.consumers[0]).contains(&b"kept".to_vec()), "{after}");
        assert_eq!(bodies(scene.consumers[1]), [b"routed".to_vec()], "{after}");
        assert_ne!(*world.session.current_name(&scene.named), scene.named);
        assert_eq!(world.session.kept(), 0);
        assert_eq!(world.broker.take_violation(), None);
        if whole {
            break;
        }
        assert!(after < 50, "a recovery does not take so long");
    }
    assert!(cuts > 10, "{cuts}");
}
