//! Returned messages of which several equal ones are outstanding.

use amqp_proto::method::{BasicAck, BasicReturn, ChannelClose, ConfirmSelect};
use amqp_proto::{ChannelEvent, ChannelId, RawProperties, Route};

use crate::harness::{Pair, short};

const NONE: RawProperties = RawProperties::EMPTY;

/// Publishes a mandatory message that many times, and returns `returns` of them.
fn equal(publishes: u64, returns: usize) -> (Pair, ChannelId) {
    let (mut pair, id) = Pair::with_channel();
    pair.on_client(id).request(ConfirmSelect { no_wait: true }).expect("it is sent");
    let route = Route::queue("k").mandatory();
    for _ in 0..publishes {
        pair.on_client(id).publish(&route, &NONE, "equal").expect("it is sent");
    }
    pair.drive();
    pair.take_server();
    (0..returns).for_each(|_| give_back(&mut pair, id, "equal"));
    pair.drive();
    (pair, id)
}

fn give_back(pair: &mut Pair, id: ChannelId, body: &'static str) {
    let method = BasicReturn { routing_key: short("k"), ..BasicReturn::default() };
    pair.on_server(id).send_content(method, &NONE, body).expect("it is sent");
}

/// Returns what the client receives: numbers of returned publishes, and of confirmed ones.
fn verdicts(pair: &mut Pair, id: ChannelId) -> Vec<(&'static str, u64)> {
    let mut verdicts = Vec::new();
    for event in pair.client_channel(id) {
        match event {
            ChannelEvent::Returned { publish, returned } => {
                assert_eq!(returned.body, "equal");
                verdicts.push(("returned", publish.map_or(0, |seq| seq.get())));
            }
            ChannelEvent::Confirmed { publishes, ack } => {
                assert!(ack);
                let seqs = publishes.start().get()..=publishes.end().get();
                verdicts.extend(seqs.map(|seq| ("confirmed", seq)));
            }
            ChannelEvent::Closed(_) => verdicts.push(("closed", 0)),
            event => panic!("{event:?}"),
        }
    }
    verdicts
}

/// The broker returns a message before it confirms that message, and may confirm others before and after. If the older of two
/// equal messages waits for the disk while the younger is returned, the younger one is not safe.
#[test]
fn of_equal_messages_the_one_confirmed_next_was_returned() {
    let (mut pair, id) = equal(3, 1);
    assert_eq!(verdicts(&mut pair, id), [], "it may be any of the three");
    pair.answer(id, BasicAck { delivery_tag: 2, multiple: false });
    assert_eq!(verdicts(&mut pair, id), [("returned", 2), ("confirmed", 2)]);
    pair.answer(id, BasicAck { delivery_tag: 3, multiple: true });
    assert_eq!(verdicts(&mut pair, id), [("confirmed", 1), ("confirmed", 3)]);
    // Once only one is left, it is known at once. A message that is returned more often than it was published matches none.
    let (mut pair, id) = equal(2, 1);
    pair.answer(id, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(verdicts(&mut pair, id), [("returned", 1), ("confirmed", 1)]);
    give_back(&mut pair, id, "equal");
    give_back(&mut pair, id, "equal");
    pair.drive();
    assert_eq!(verdicts(&mut pair, id), [("returned", 2), ("returned", 0)]);
}

#[test]
fn returns_of_equal_messages_are_as_many_as_there_are() {
    let (mut pair, id) = equal(3, 4);
    assert_eq!(verdicts(&mut pair, id), [("returned", 0)], "the fourth is of none of them");
    pair.answer(id, BasicAck { delivery_tag: 0, multiple: true });
    let mut heard = verdicts(&mut pair, id);
    heard.sort_unstable();
    let each = |name| (1..=3).map(move |seq| (name, seq));
    assert_eq!(heard, each("confirmed").chain(each("returned")).collect::<Vec<_>>());
    // One that is published while a return waits may be it, too.
    let (mut pair, id) = equal(2, 1);
    let route = Route::queue("k").mandatory();
    pair.on_client(id).publish(&route, &NONE, "equal").expect("it is sent");
    pair.drive();
    give_back(&mut pair, id, "equal");
    pair.answer(id, BasicAck { delivery_tag: 3, multiple: false });
    assert_eq!(verdicts(&mut pair, id), [("returned", 3), ("confirmed", 3)]);
    pair.answer(id, BasicAck { delivery_tag: 2, multiple: true });
    let heard = verdicts(&mut pair, id);
    assert_eq!(heard, [("returned", 1), ("confirmed", 1), ("confirmed", 2)]);
}

#[test]
fn at_the_close_the_oldest_of_equal_messages_counts_as_returned() {
    let (mut pair, id) = equal(3, 2);
    pair.answer(id, ChannelClose { reply_code: 404, ..ChannelClose::default() });
    assert_eq!(verdicts(&mut pair, id), [("returned", 1), ("returned", 2), ("closed", 0)]);
    let (mut pair, id) = equal(3, 1);
    pair.client.handle_eof(pair.now);
    pair.drive();
    assert_eq!(verdicts(&mut pair, id), [("returned", 1), ("closed", 0)]);
}
