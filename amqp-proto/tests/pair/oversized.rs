use std::time::Duration;

use amqp_proto::method::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicDeliver, BasicGet,
    BasicGetOk, BasicRecover, BasicRecoverOk, BasicReject, Method, TxCommit, TxCommitOk,
    TxRollback, TxRollbackOk, TxSelect, TxSelectOk,
};
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, ConsumerId, DeliveryTag, FieldTable, GetReply, Limits,
    Misuse, Oversized, Properties, RawProperties, Reply, ReplyCode, ServerConfig, TimerReason,
    Unusable,
};

use crate::harness::{Pair, short};

const NONE: RawProperties = RawProperties::EMPTY;

/// The pause before a requeue.
const SECOND: Duration = Duration::from_secs(1);

/// A pair whose client takes bodies up to 1000 bytes, with a consumer, and that many messages delivered: the first two too
/// large, the second in several frames, the others small.
fn oversized(oversized: Oversized, deliveries: u64) -> (Pair, ChannelId, ConsumerId) {
    let limits = Limits::default().body_max(1000).oversized(oversized);
    let config = ClientConfig::default().limits(limits);
    let mut pair = Pair::opened(config, ServerConfig::default());
    let id = pair.open_channel();
    let consume = BasicConsume { consumer_tag: short("t"), ..BasicConsume::default() };
    let consumer = pair.call(id, consume, BasicConsumeOk { consumer_tag: short("t") }).into();
    pair.client_channel(id);
    pair.take_server();
    for delivery_tag in 1..=deliveries {
        let size = [1001, 300_000].get(usize::try_from(delivery_tag).expect("few") - 1);
        let deliver =
            BasicDeliver { consumer_tag: short("t"), delivery_tag, ..BasicDeliver::default() };
        let body = vec![0; *size.unwrap_or(&10)];
        pair.on_server(id).send_content(deliver, &NONE, body).expect("it is sent");
    }
    pair.drive();
    let events = pair.client_channel(id);
    assert_eq!(events.len() as u64, deliveries);
    for ((event, size), tag) in events.iter().zip([1001, 300_000]).zip(1..) {
        let delivery_tag = DeliveryTag::new(tag);
        let why = Unusable::BodyTooLarge { size, limit: 1000 };
        assert_eq!(*event, ChannelEvent::Unusable { consumer, delivery_tag, why });
    }
    let taken = events.iter().skip(2);
    assert!(taken.into_iter().all(|event| matches!(event, ChannelEvent::Delivery { .. })));
    (pair, id, consumer)
}

fn reject(delivery_tag: u64, requeue: bool) -> Method {
    BasicReject { delivery_tag, requeue }.into()
}

fn ack(delivery_tag: u64) -> Method {
    BasicAck { delivery_tag, multiple: false }.into()
}

#[test]
fn messages_that_are_too_large_are_requeued_or_rejected_on_request() {
    let (mut pair, id, _) = oversized(Oversized::Requeue, 3);
    pair.advance(SECOND);
    assert_eq!(pair.methods(id), [reject(1, true), reject(2, true)]);
    let (mut pair, id, _) = oversized(Oversized::Reject, 3);
    assert_eq!(pair.methods(id), [reject(1, false), reject(2, false)]);
    assert_eq!(pair.on_client(id).unsettled(), 1);
    pair.on_client(id).ack_up_to(DeliveryTag::new(3)).expect("it waits");
    pair.drive();
    assert_eq!(pair.methods(id), [ack(3)]);
}

#[test]
fn messages_that_are_too_large_are_held_and_no_multiple_means_them() {
    let (mut pair, id, _) = oversized(Oversized::default(), 6);
    assert_eq!(pair.methods(id), [], "they are neither lost nor sent again at once");
    assert_eq!(pair.on_client(id).unsettled(), 4);
    // One after the other is merged behind them no more than is exact.
    pair.on_client(id).ack(DeliveryTag::new(3)).expect("it waits");
    pair.on_client(id).ack_up_to(DeliveryTag::new(4)).expect("it waits");
    pair.drive();
    assert_eq!(pair.methods(id), [ack(3), ack(4)]);
    pair.on_client(id).nack_up_to(DeliveryTag::new(5), false).expect("it waits");
    pair.drive();
    assert_eq!(pair.methods(id), [reject(5, false)]);
    let again = pair.on_client(id).nack_up_to(DeliveryTag::new(5), false);
    assert_eq!(again, Err(Misuse::UnknownDelivery(5).into()), "only those that are held wait");
    // The application settles one, by its tag; 0 means all others there are.
    pair.on_client(id).reject(DeliveryTag::new(1), false).expect("it is held");
    pair.on_client(id).ack_up_to(DeliveryTag::new(0)).expect("one waits");
    pair.drive();
    assert_eq!(pair.methods(id), [reject(1, false), ack(6)]);
    assert_eq!(pair.on_client(id).unsettled(), 0);
    pair.on_client(id).ack(DeliveryTag::new(2)).expect("it is held");
    pair.drive();
    assert_eq!(pair.methods(id), [ack(2)]);
}

#[test]
fn a_multiple_is_sent_as_one_again_when_nothing_is_held() {
    let (mut pair, id, _) = oversized(Oversized::default(), 6);
    pair.on_client(id).ack(DeliveryTag::new(1)).expect("it is held");
    pair.on_client(id).reject(DeliveryTag::new(2), false).expect("it is held");
    pair.drive();
    pair.take_server();
    assert_eq!(pair.on_client(id).unsettled(), 4);
    pair.on_client(id).ack_up_to(DeliveryTag::new(4)).expect("they wait");
    pair.drive();
    assert_eq!(pair.methods(id), [BasicAck { delivery_tag: 4, multiple: true }.into()]);
}

#[test]
fn held_deliveries_are_requeued_when_their_consumer_ends() {
    for (by_server, no_wait) in [(false, false), (false, true), (true, true)] {
        let (mut pair, id, _) = oversized(Oversized::Hold, 3);
        pair.on_client(id).ack(DeliveryTag::new(1)).expect("it is held");
        pair.drive();
        pair.take_server();
        let consumer_tag = short("t");
        if by_server {
            let cancel = BasicCancel { consumer_tag, no_wait: true };
            pair.on_server(id).send(cancel).expect("it is sent");
            pair.drive();
        } else {
            // If the reply was not requested, no event reports it.
            let cancel = BasicCancel { consumer_tag: consumer_tag.clone(), no_wait };
            pair.on_client(id).request(cancel).expect("it is sent");
            pair.drive();
            pair.answer(id, BasicCancelOk { consumer_tag });
            let events = pair.client_channel(id);
            let replied = events.iter().any(|event| matches!(event, ChannelEvent::Reply { .. }));
            assert_eq!(replied, !no_wait, "{events:?}");
        }
        // The delivery that the application has stays with it.
        let requeued = |method: &Method| match method {
            Method::BasicReject(reject) => reject.requeue && reject.delivery_tag == 2,
            Method::BasicNack(nack) => nack.requeue && !nack.multiple && nack.delivery_tag == 2,
            _ => false,
        };
        let methods: Vec<_> = pair.methods(id);
        assert_eq!(methods.iter().filter(|method| requeued(method)).count(), 1, "{methods:?}");
        let cancels = usize::from(!by_server);
        assert_eq!(methods.len(), 1 + cancels, "{methods:?}");
        assert_eq!(pair.on_client(id).unsettled(), 1);
    }
}

#[test]
fn a_get_holds_a_message_that_is_too_large() {
    let config = ClientConfig::default().limits(Limits::default().body_max(1000));
    let mut pair = Pair::opened(config, ServerConfig::default());
    let id = pair.open_channel();
    pair.on_client(id).request(BasicGet::default()).expect("it is sent");
    pair.drive();
    pair.take_server();
    let got = BasicGetOk { delivery_tag: 1, ..BasicGetOk::default() };
    pair.on_server(id).send_content(got, &NONE, vec![0; 1001]).expect("it is sent");
    pair.drive();
    let events = pair.client_channel(id);
    let [ChannelEvent::Reply { reply: Reply::Message(message), .. }] = &events[..] else {
        panic!("{events:?}")
    };
    let why = Unusable::BodyTooLarge { size: 1001, limit: 1000 };
    let delivery_tag = DeliveryTag::new(1);
    assert_eq!(*message, GetReply::Unusable { delivery_tag, why });
    assert_eq!(pair.methods(id), []);
    pair.on_client(id).reject(delivery_tag, true).expect("it is held");
}

/// The server delivers a message that is too large.
fn deliver_large(pair: &mut Pair, id: ChannelId, delivery_tag: u64, properties: &Properties) {
    let deliver =
        BasicDeliver { consumer_tag: short("t"), delivery_tag, ..BasicDeliver::default() };
    pair.on_server(id).send_content(deliver, properties, vec![0; 1001]).expect("it is sent");
    pair.drive();
}

/// Returns which deliveries are requeued, by whatever method.
fn requeued(pair: &mut Pair, id: ChannelId) -> Vec<u64> {
    let tag = |method| match method {
        Method::BasicReject(reject) if reject.requeue => Some(reject.delivery_tag),
        Method::BasicNack(nack) if nack.requeue && !nack.multiple => Some(nack.delivery_tag),
        _ => None,
    };
    pair.methods(id).into_iter().filter_map(tag).collect()
}

#[test]
fn a_message_that_is_redelivered_at_once_is_requeued_once_a_second() {
    let (mut pair, id, _) = oversized(Oversized::Requeue, 2);
    let due = pair.client.poll_timeout();
    assert_eq!(due, Some((pair.now + SECOND, TimerReason::Requeue)));
    // One that comes in the meantime does not prolong the pause.
    pair.advance(SECOND / 2);
    deliver_large(&mut pair, id, 3, &Properties::default());
    pair.advance(SECOND / 2);
    let mut delivered = 3;
    for second in 1..=10 {
        let expected: Vec<_> = (delivered - 2..=delivered).map(|tag| reject(tag, true)).collect();
        assert_eq!(pair.methods(id), expected, "after {second} s");
        for _ in 0..3 {
            delivered += 1;
            deliver_large(&mut pair, id, delivered, &Properties::default());
        }
        pair.advance(SECOND - Duration::from_millis(1));
        assert_eq!(pair.methods(id), [], "after {second} s");
        pair.advance(Duration::from_millis(1));
    }
}

#[test]
fn held_deliveries_that_the_application_settles_are_not_requeued() {
    let (mut pair, id, _) = oversized(Oversized::Requeue, 3);
    pair.on_client(id).ack(DeliveryTag::new(1)).expect("it is held");
    pair.on_client(id).ack_up_to(DeliveryTag::new(3)).expect("one is not held");
    pair.advance(SECOND);
    assert_eq!(pair.methods(id), [ack(1), ack(3), reject(2, true)]);
    assert_eq!(pair.client.poll_timeout().map(|(_, reason)| reason), Some(TimerReason::Heartbeat));
}

#[test]
fn nothing_is_requeued_on_a_closing_channel() {
    for whole in [false, true] {
        let (mut pair, id, _) = oversized(Oversized::Requeue, 2);
        if whole {
            pair.client.close(pair.now, ReplyCode::REPLY_SUCCESS, "");
        } else {
            pair.on_client(id).close(ReplyCode::REPLY_SUCCESS, "");
        }
        // The server has not received it yet.
        pair.now += SECOND;
        pair.client.handle_timeout(pair.now);
        pair.drive();
        assert_eq!(pair.methods(id), []);
    }
}

/// A stream takes nothing back: RabbitMQ closes the connection then.
#[test]
fn a_message_of_a_stream_that_is_too_large_is_acknowledged() {
    let headers = FieldTable::new().with("x-stream-offset", 7_i64).expect("fits");
    let of_stream = Properties { headers: Some(headers), ..Properties::default() };
    for option in [Oversized::Hold, Oversized::Requeue, Oversized::Reject] {
        let (mut pair, id, _) = oversized(option, 0);
        deliver_large(&mut pair, id, 1, &of_stream);
        assert!(matches!(pair.client_channel(id)[..], [ChannelEvent::Unusable { .. }]));
        pair.advance(SECOND);
        if option == Oversized::Hold {
            assert_eq!(pair.methods(id), []);
            let consumer_tag = short("t");
            pair.answer(id, BasicCancel { consumer_tag, no_wait: true });
        }
        assert_eq!(pair.methods(id), [ack(1)], "{option:?}");
    }
}

/// The consumer of held messages ends in a transaction that is rolled back. The application never had those messages, so no
/// `multiple` covers them, and they are requeued all the same.
#[test]
fn a_rollback_does_not_hand_held_deliveries_to_the_application() {
    for option in [Oversized::Hold, Oversized::Requeue] {
        let (mut pair, id, _) = oversized(option, 4);
        pair.call(id, TxSelect {}, TxSelectOk {});
        pair.on_client(id).ack(DeliveryTag::new(3)).expect("it waits");
        let consumer_tag = short("t");
        let cancel = BasicCancel { consumer_tag: consumer_tag.clone(), no_wait: false };
        pair.call(id, cancel, BasicCancelOk { consumer_tag });
        assert_eq!(requeued(&mut pair, id), [1, 2], "{option:?}");
        pair.call(id, TxRollback {}, TxRollbackOk {});
        pair.answer(id, TxCommitOk {});
        assert_eq!(requeued(&mut pair, id), [1, 2], "{option:?}");
        pair.on_client(id).ack_up_to(DeliveryTag::new(0)).expect("two are the application's");
        pair.drive();
        let ack = BasicAck { delivery_tag: 4, multiple: true };
        assert_eq!(pair.methods(id), [ack.into()], "{option:?}");
        pair.advance(3 * SECOND);
        assert_eq!(pair.methods(id), [], "{option:?}");
        let due = pair.client.poll_timeout().map(|(_, reason)| reason);
        assert_eq!(due, Some(TimerReason::Heartbeat), "{option:?}");
    }
}

/// The pause ends in a transaction of the application's.
#[test]
fn a_requeue_in_a_transaction_does_not_depend_on_its_outcome() {
    for rolled_back in [false, true] {
        let (mut pair, id, _) = oversized(Oversized::Requeue, 3);
        pair.call(id, TxSelect {}, TxSelectOk {});
        pair.on_client(id).ack(DeliveryTag::new(3)).expect("it waits");
        pair.advance(SECOND);
        assert_eq!(requeued(&mut pair, id), [1, 2]);
        let again = if rolled_back {
            pair.call(id, TxRollback {}, TxRollbackOk {});
            pair.answer(id, TxCommitOk {});
            vec![1, 2]
        } else {
            pair.call(id, TxCommit {}, TxCommitOk {});
            vec![]
        };
        pair.advance(3 * SECOND);
        assert_eq!(requeued(&mut pair, id), again);
        let due = pair.client.poll_timeout().map(|(_, reason)| reason);
        assert_eq!(due, Some(TimerReason::Heartbeat));
    }
}

#[test]
fn held_deliveries_stay_held_after_a_rollback() {
    let (mut pair, id, _) = oversized(Oversized::Hold, 3);
    pair.call(id, TxSelect {}, TxSelectOk {});
    pair.on_client(id).reject(DeliveryTag::new(1), false).expect("it is held");
    // Others come in the meantime.
    for tag in 4..100 {
        deliver_large(&mut pair, id, tag, &Properties::default());
    }
    pair.call(id, TxRollback {}, TxRollbackOk {});
    pair.take_server();
    pair.on_client(id).ack_up_to(DeliveryTag::new(0)).expect("one is not held");
    pair.drive();
    assert_eq!(pair.methods(id), [ack(3)]);
    let consumer_tag = short("t");
    let cancel = BasicCancel { consumer_tag: consumer_tag.clone(), no_wait: false };
    pair.call(id, cancel, BasicCancelOk { consumer_tag });
    let expected: Vec<_> = (1..100).filter(|tag| *tag != 3).collect();
    assert_eq!(requeued(&mut pair, id), expected);
}

#[test]
fn a_recover_requeues_held_deliveries() {
    for option in [Oversized::Hold, Oversized::Requeue] {
        let (mut pair, id, _) = oversized(option, 3);
        pair.on_client(id).request(BasicRecover { requeue: true }).expect("it is sent");
        // In transit when the broker receives the recover: it comes again, with another tag.
        deliver_large(&mut pair, id, 4, &Properties::default());
        pair.answer(id, BasicRecoverOk {});
        pair.take_server();
        deliver_large(&mut pair, id, 5, &Properties::default());
        pair.advance(2 * SECOND);
        let expected = if option == Oversized::Hold { vec![] } else { vec![5] };
        assert_eq!(requeued(&mut pair, id), expected, "{option:?}");
        let consumer_tag = short("t");
        let cancel = BasicCancel { consumer_tag: consumer_tag.clone(), no_wait: false };
        pair.call(id, cancel, BasicCancelOk { consumer_tag });
        let expected = if option == Oversized::Hold { vec![5] } else { vec![] };
        assert_eq!(requeued(&mut pair, id), expected, "{option:?}");
    }
}
