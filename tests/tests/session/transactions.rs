//! Transactions that meet a loss: nothing is committed by half, and nothing that was rolled back takes effect.

use amqp_client_core::proto::method::{
    BasicConsume, TxCommit, TxCommitOk, TxRollback, TxSelect, TxSelectOk,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelEvent, ChannelId, CommandError, Delivery, Misuse, ReplyCode};

use crate::world::{World, durable, short};

/// Another channel, whose consumers the broker refuses when it is to be restored, so that this takes longer than the others.
fn add_slow_channel(world: &mut World) {
    let id = world.open();
    let queue = world.queue(id, durable("slow"));
    for tag in ["slow", "too"] {
        world.consume(id, &queue, tag);
    }
}

/// Reconnects, and runs until that many messages were delivered, while not all is restored yet.
fn restore_until_delivered(world: &mut World, count: usize) -> Vec<Delivery> {
    let other = world.elsewhere(|other, id| {
        let consume = BasicConsume { queue: short("slow"), exclusive: true, ..<_>::default() };
        other.ask(id, consume).expect("it consumes");
        other.peer.expect("it is connected")
    });
    world.reconnect();
    let mut delivered = Vec::new();
    for _ in 0..100 {
        world.round();
        delivered.extend(world.deliveries().into_iter().map(|(_, delivery)| delivery));
        if delivered.len() == count {
            assert!(!world.session.is_open(), "it was to be met before all is restored");
            world.broker.handle_eof(other, world.now);
            return delivered;
        }
    }
    panic!("not delivered: {:?}", world.events);
}

fn transactional() -> (World, ChannelId) {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    world.queue(id, durable("queue"));
    let _: TxSelectOk = world.ask(id, TxSelect {}).expect("it is selected");
    (world, id)
}

/// A transactional consumer that has lost its connection, and that many messages unsettled.
fn consumer_without_connection(count: usize) -> (World, ChannelId) {
    let (mut world, id) = transactional();
    add_slow_channel(&mut world);
    for number in 0..count {
        world.elsewhere(|other, id| other.publish(id, "", "queue", &format!("{number}")));
    }
    world.consume(id, &short("queue"), "tag");
    world.cut();
    world.deliveries();
    (world, id)
}

fn ack_all(world: &mut World, id: ChannelId, delivered: &[Delivery]) {
    let mut channel = world.session.channel(id).expect("it is open");
    for delivery in delivered {
        channel.ack(delivery.delivery_tag()).expect("it was delivered");
    }
}

/// Closes the channel, and returns how many messages its queue has then.
fn left_behind(world: &mut World, id: ChannelId) -> u32 {
    world.session.channel(id).expect("it is open").close(ReplyCode::REPLY_SUCCESS, "done");
    world.run();
    let other = world.open();
    world.queue_count(other, "queue").0
}

#[test]
fn selecting_again_does_not_forget_what_is_lost() {
    let (mut world, id) = transactional();
    world.publish(id, "", "queue", "first half");
    let _: TxSelectOk = world.ask(id, TxSelect {}).expect("it is selected");
    world.cut();
    world.recover();
    world.publish(id, "", "queue", "second half");
    let commit = world.session.channel(id).expect("it is open").request(TxCommit {});
    assert_eq!(commit, Err(CommandError::Misuse(Misuse::TransactionLost)));
    let selected = world.send(id, TxSelect {});
    world.run();
    assert!(world.answer(selected).is_some());
    let _: TxCommitOk = world.ask(id, TxCommit {}).expect("there is nothing to commit");
    assert_eq!(world.queue_count(id, "queue").0, 0);
}

/// What is acknowledged on a channel that is being restored is sent at once: a commit from before must not come behind it.
#[test]
fn a_commit_that_waited_does_not_commit_later_acknowledgements() {
    let (mut world, id) = consumer_without_connection(20);
    let committed = world.send(id, TxCommit {});
    let delivered = restore_until_delivered(&mut world, 20);
    ack_all(&mut world, id, &delivered);
    world.run();
    assert!(world.session.is_open());
    assert!(world.answer(committed).is_some(), "{:?}", world.failure(committed));
    world.send(id, TxRollback {});
    world.run();
    assert_eq!(left_behind(&mut world, id), 20, "they were rolled back");
}

/// The same for a rollback: it undoes the acknowledgements ahead of it, and none behind it.
#[test]
fn a_rollback_during_a_recovery_undoes_no_later_acknowledgements() {
    let (mut world, id) = consumer_without_connection(2);
    let delivered = restore_until_delivered(&mut world, 2);
    world.send(id, TxRollback {});
    ack_all(&mut world, id, &delivered);
    let _: TxCommitOk = world.ask(id, TxCommit {}).expect("it is committed");
    assert_eq!(left_behind(&mut world, id), 0, "they were acknowledged behind the rollback");
}

/// What is acknowledged behind a selection belongs to its transaction, also while there is no connection.
#[test]
fn acknowledgements_behind_a_selection_that_waits_are_part_of_the_transaction() {
    let mut world = World::new(Recovery::default());
    let id = world.open();
    let queue = world.queue(id, durable("queue"));
    add_slow_channel(&mut world);
    world.publish(id, "", "queue", "m");
    world.consume(id, &queue, "tag");
    world.run();
    for selected_late in [false, true] {
        world.cut();
        world.deliveries();
        if !selected_late {
            world.send(id, TxSelect {});
            assert!(world.session.channel(id).expect("it is open").is_transactional());
        }
        let delivered = restore_until_delivered(&mut world, 1);
        let mut channel = world.session.channel(id).expect("it is open");
        if selected_late {
            channel.request(TxSelect {}).expect("it is sent");
        }
        channel.ack(delivered[0].delivery_tag()).expect("it was delivered");
        channel.request(TxRollback {}).expect("it is sent");
        world.run();
        assert!(world.session.is_open());
        // It waits for its acknowledgement again.
        let mut channel = world.session.channel(id).expect("it is open");
        assert_eq!(channel.unsettled(), 1);
        channel.nack(delivered[0].delivery_tag(), true).expect("it was rolled back");
        channel.request(TxCommit {}).expect("it is sent");
        world.run();
        assert!(world.channel_events().all(|event| !matches!(event, ChannelEvent::Closed(_))));
    }
}
