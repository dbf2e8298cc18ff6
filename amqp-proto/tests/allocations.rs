//! Once warm, the hot path allocates nothing: publishing, being confirmed, taking deliveries, acknowledging.

mod harness;

use amqp_proto::method::{BasicAck, BasicDeliver, ConfirmSelect};
use amqp_proto::{
    ChannelEvent, ChannelId, Event, FieldArray, FieldTable, Properties, RawProperties, Route,
};
use bytes::BytesMut;
use harness::{Pair, short};

const MESSAGES: usize = 10_000;
const BODY: [u8; 256] = [7; 256];

/// A pair with a channel that has a consumer.
fn consuming(no_ack: bool) -> (Pair, ChannelId) {
    let mut pair = Pair::open();
    let id = pair.open_consumer("t", no_ack);
    (pair, id)
}

fn publish(pair: &mut Pair, id: ChannelId, count: usize) {
    let route = Route::new("exchange", "routing.key");
    let mut channel = pair.on_client(id);
    for _ in 0..count {
        channel.publish(&route, &RawProperties::EMPTY, &BODY).expect("it is sent");
    }
}

/// Allocations of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn publishing_allocates_nothing() {
    let (mut pair, id) = consuming(true);
    let mut round = || {
        publish(&mut pair, id, 100);
        pair.discard_output();
    };
    round();
    assert_eq!(allocations(|| (0..MESSAGES / 100).for_each(|_| round())), 0);
}

#[test]
fn publishing_and_being_confirmed_allocates_nothing() {
    let (mut pair, id) = consuming(true);
    let select = ConfirmSelect { no_wait: true };
    pair.on_client(id).request(select).expect("it is sent");
    let mut confirms = Vec::new();
    for round in 1..=2 * MESSAGES as u64 / 100 {
        let ack = BasicAck { delivery_tag: round * 100, multiple: true };
        pair.on_server(id).send(ack).expect("it is sent");
        confirms.push(pair.server_output());
    }
    let mut confirms = confirms.into_iter();
    let mut input = BytesMut::new();
    let mut confirmed = 0;
    let mut round = || {
        publish(&mut pair, id, 100);
        pair.discard_output();
        input.reserve(64 * 1024);
        input.extend_from_slice(&confirms.next().expect("a confirm"));
        pair.client.handle_input(pair.now, &mut input).expect("it is understood");
        while let Some(event) = pair.client.poll_event() {
            let Event::Channel(_, ChannelEvent::Confirmed { publishes, ack: true }) = event else {
                panic!("{event:?}")
            };
            confirmed += publishes.end().get() - publishes.start().get() + 1;
        }
    };
    (0..10).for_each(|_| round());
    assert_eq!(allocations(|| (0..MESSAGES / 100).for_each(|_| round())), 0);
    assert_eq!(confirmed, 1000 + MESSAGES as u64);
}

/// Chunks of 100 deliveries each, as they come from the transport.
fn chunks(pair: &mut Pair, id: ChannelId, count: usize) -> Vec<bytes::Bytes> {
    let tag = short("t");
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    let mut last = 0;
    (0..count)
        .map(|_| {
            for _ in 0..100 {
                last += 1;
                let deliver = BasicDeliver {
                    consumer_tag: tag.clone(),
                    delivery_tag: last,
                    exchange: short("exchange"),
                    routing_key: short("routing.key"),
                    ..BasicDeliver::default()
                };
                pair.on_server(id).send_content(deliver, &properties, &BODY).expect("it is sent");
            }
            pair.server_output()
        })
        .collect()
}

fn take_deliveries(no_ack: bool) -> u64 {
    let (mut pair, id) = consuming(no_ack);
    let mut chunks = chunks(&mut pair, id, 10 + MESSAGES / 100).into_iter();
    let mut input = BytesMut::new();
    let mut taken = 0;
    let mut round = || {
        input.reserve(64 * 1024);
        input.extend_from_slice(&chunks.next().expect("deliveries"));
        pair.client.handle_input(pair.now, &mut input).expect("it is understood");
        while let Some(event) = pair.client.poll_event() {
            let Event::Channel(_, ChannelEvent::Delivery { delivery, .. }) = event else {
                panic!("{event:?}")
            };
            assert_eq!(delivery.body(), BODY);
            taken += 1;
            if !no_ack {
                pair.on_client(id).ack(delivery.delivery_tag()).expect("it waits");
            }
        }
        pair.discard_output();
    };
    (0..10).for_each(|_| round());
    let count = allocations(|| (0..MESSAGES / 100).for_each(|_| round()));
    assert_eq!(taken, 1000 + MESSAGES);
    count
}

#[test]
fn taking_deliveries_allocates_nothing() {
    assert_eq!(take_deliveries(true), 0);
}

#[test]
fn acknowledging_deliveries_allocates_nothing() {
    assert_eq!(take_deliveries(false), 0);
}

/// Sizes that a peer only announces cost nothing.
#[test]
fn a_size_that_is_announced_is_not_reserved() {
    let (mut pair, id) = consuming(true);
    let deliver =
        BasicDeliver { consumer_tag: short("t"), delivery_tag: 1, ..BasicDeliver::default() };
    pair.on_server(id).send_content(deliver, &RawProperties::EMPTY, &BODY).expect("it is sent");
    let mut bytes = pair.server_output().to_vec();
    // The body size stands 4 bytes into the content header's payload, behind the method's frame.
    let header = bytes.iter().position(|byte| *byte == 0xce).expect("a frame end") + 1;
    bytes[header + 7 + 4..][..8].copy_from_slice(&(100u64 << 20).to_be_bytes());
    let mut input = BytesMut::from(&bytes[..]);
    let info = allocation_counter::measure(|| {
        pair.client.handle_input(pair.now, &mut input).expect("the rest is still to come");
    });
    assert!(info.bytes_total < 64 * 1024, "{info:?}");
}

/// Copying the whole for each entry would take a thousand times as much.
#[test]
fn large_tables_and_arrays_take_memory_in_proportion_to_their_size() {
    const COUNT: i32 = 16_000;
    let bytes = |work: &mut dyn FnMut()| allocation_counter::measure(work).bytes_total;
    let entries = || (0..COUNT).map(|number| (format!("name-{number}"), number));
    let mut table = FieldTable::new();
    let allocated = bytes(&mut || table = FieldTable::from_entries(entries()).expect("fits"));
    assert_eq!(table.len(), 16_000);
    assert!(allocated < 32 * table.as_encoded().len() as u64, "{allocated}");
    let mut table = FieldTable::new();
    let allocated = bytes(&mut || table.extend(entries()).expect("fits"));
    assert!(allocated < 64 * table.as_encoded().len() as u64, "{allocated}");
    let mut array = FieldArray::new();
    let allocated = bytes(&mut || (0..COUNT).for_each(|number| array.push(number).expect("fits")));
    assert_eq!(array.len(), 16_000);
    assert!(allocated < 32 * array.as_encoded().len() as u64, "{allocated}");
    // A clone stays as it is.
    let before = array.clone();
    array.push(1).expect("fits");
    assert_eq!((before.len(), array.len()), (16_000, 16_001));
}
