//! Transactions that meet a loss: nothing is committed by half, and nothing that was rolled back takes effect.

use amqp_client_core::proto::method::{
    BasicConsume, TxCommit, TxCommitOk, TxRollback, TxSelect, TxSelectOk,
};
use amqp_client_core::proto::session::Recovery;
use amqp_client_core::proto::{ChannelEvent, ChannelId, CommandError, Delivery, Misuse, ReplyCode};

use crate::harness::Broker;
use crate::rig::{SessionRig, durable, short};

/// Another channel, whose consumers the broker refuses when it is to be restored, so that this takes longer than the others.
fn add_slow_channel(rig: &mut SessionRig<Broker>) {
    let id = rig.open();
    let queue = rig.queue(id, durable("slow"));
    for tag in ["slow", "too"] {
        rig.consume(id, &queue, tag);
    }
}

/// Reconnects, and runs until that many messages were delivered, while not all is restored yet.
fn restore_until_delivered(rig: &mut SessionRig<Broker>, count: usize) -> Vec<Delivery> {
    let other = rig.elsewhere(|other, id| {
        let consume = BasicConsume { queue: short("slow"), exclusive: true, ..<_>::default() };
        other.ask(id, consume).expect("it consumes");
        other.peer.client.expect("it is connected")
    });
    rig.reconnect();
    let mut delivered = Vec::new();
    for _ in 0..100 {
        rig.round();
        delivered.extend(rig.deliveries().into_iter().map(|(_, delivery)| delivery));
        if delivered.len() == count {
            assert!(!rig.session.is_open(), "it was to be met before all is restored");
            rig.peer.engine.handle_eof(other, rig.now);
            return delivered;
        }
    }
    panic!("not delivered: {:?}", rig.events);
}

fn transactional() -> (SessionRig<Broker>, ChannelId) {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    rig.queue(id, durable("queue"));
    let _: TxSelectOk = rig.ask(id, TxSelect {}).expect("it is selected");
    (rig, id)
}

/// A transactional consumer that has lost its connection, and that many messages unsettled.
fn consumer_without_connection(count: usize) -> (SessionRig<Broker>, ChannelId) {
    let (mut rig, id) = transactional();
    add_slow_channel(&mut rig);
    for number in 0..count {
        rig.elsewhere(|other, id| other.publish(id, "", "queue", &format!("{number}")));
    }
    rig.consume(id, &short("queue"), "tag");
    rig.cut();
    rig.deliveries();
    (rig, id)
}

fn ack_all(rig: &mut SessionRig<Broker>, id: ChannelId, delivered: &[Delivery]) {
    let mut channel = rig.channel(id);
    for delivery in delivered {
        channel.ack(delivery.delivery_tag()).expect("it was delivered");
    }
}

/// Closes the channel, and returns how many messages its queue has then.
fn left_behind(rig: &mut SessionRig<Broker>, id: ChannelId) -> u32 {
    rig.channel(id).close(ReplyCode::REPLY_SUCCESS, "done");
    rig.run();
    let other = rig.open();
    rig.queue_count(other, "queue").0
}

#[test]
fn selecting_again_does_not_forget_what_is_lost() {
    let (mut rig, id) = transactional();
    rig.publish(id, "", "queue", "first half");
    let _: TxSelectOk = rig.ask(id, TxSelect {}).expect("it is selected");
    rig.cut();
    rig.recover();
    rig.publish(id, "", "queue", "second half");
    let commit = rig.channel(id).request(TxCommit {});
    assert_eq!(commit, Err(CommandError::Misuse(Misuse::TransactionLost)));
    let selected = rig.send(id, TxSelect {});
    rig.run();
    assert!(rig.answer(selected).is_some());
    let _: TxCommitOk = rig.ask(id, TxCommit {}).expect("there is nothing to commit");
    assert_eq!(rig.queue_count(id, "queue").0, 0);
}

/// Acknowledgements on a channel that is being restored are sent at once: a commit from before must not follow them.
#[test]
fn a_commit_that_waited_does_not_commit_later_acknowledgements() {
    let (mut rig, id) = consumer_without_connection(20);
    let committed = rig.send(id, TxCommit {});
    let delivered = restore_until_delivered(&mut rig, 20);
    ack_all(&mut rig, id, &delivered);
    rig.run();
    assert!(rig.session.is_open());
    assert!(rig.answer(committed).is_some(), "{:?}", rig.failure(committed));
    rig.send(id, TxRollback {});
    rig.run();
    assert_eq!(left_behind(&mut rig, id), 20, "they were rolled back");
}

/// The same for a rollback: it undoes the acknowledgements ahead of it, and none behind it.
#[test]
fn a_rollback_during_a_recovery_undoes_no_later_acknowledgements() {
    let (mut rig, id) = consumer_without_connection(2);
    let delivered = restore_until_delivered(&mut rig, 2);
    rig.send(id, TxRollback {});
    ack_all(&mut rig, id, &delivered);
    let _: TxCommitOk = rig.ask(id, TxCommit {}).expect("it is committed");
    assert_eq!(left_behind(&mut rig, id), 0, "they were acknowledged behind the rollback");
}

/// Acknowledgements after `tx.select` belong to its transaction, also while there is no connection.
#[test]
fn acknowledgements_behind_a_selection_that_waits_are_part_of_the_transaction() {
    let mut rig = SessionRig::new(Recovery::default());
    let id = rig.open();
    let queue = rig.queue(id, durable("queue"));
    add_slow_channel(&mut rig);
    rig.publish(id, "", "queue", "m");
    rig.consume(id, &queue, "tag");
    rig.run();
    for selected_late in [false, true] {
        rig.cut();
        rig.deliveries();
        if !selected_late {
            rig.send(id, TxSelect {});
            assert!(rig.channel(id).is_transactional());
        }
        let delivered = restore_until_delivered(&mut rig, 1);
        let mut channel = rig.channel(id);
        if selected_late {
            channel.request(TxSelect {}).expect("it is sent");
        }
        channel.ack(delivered[0].delivery_tag()).expect("it was delivered");
        channel.request(TxRollback {}).expect("it is sent");
        rig.run();
        assert!(rig.session.is_open());
        // It waits for its acknowledgement again.
        let mut channel = rig.channel(id);
        assert_eq!(channel.unsettled(), 1);
        channel.nack(delivered[0].delivery_tag(), true).expect("it was rolled back");
        channel.request(TxCommit {}).expect("it is sent");
        rig.run();
        assert!(rig.channel_events().all(|event| !matches!(event, ChannelEvent::Closed(_))));
    }
}

/// The application knows that the request has failed. If the channel was transactional all the same, nobody would commit on it.
#[test]
fn a_channel_is_not_restored_as_transactional_if_the_selection_failed() {
    for held in [false, true] {
        let mut rig = SessionRig::new(Recovery::default());
        let id = rig.open();
        rig.queue(id, durable("queue"));
        if held {
            rig.cut();
        }
        let select = rig.send(id, TxSelect {});
        if held {
            // The restored channel is transactional. Then the request itself is sent.
            rig.reconnect();
            while !rig.session.is_open() {
                rig.round();
            }
        }
        rig.cut();
        rig.recover();
        assert!(rig.failure(select).is_some(), "{held}");
        assert!(!rig.channel(id).is_transactional(), "{held}");
        rig.publish(id, "", "queue", "visible");
        rig.run();
        let other = rig.open();
        assert_eq!(rig.queue_count(other, "queue").0, 1, "{held}");
    }
}
