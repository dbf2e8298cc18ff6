//! Once warm, the hot path allocates nothing: publishing, being confirmed, taking deliveries, acknowledging.

use std::sync::Arc;
use std::time::Instant;

use amqp_proto::method::{BasicAck, BasicConsume, BasicConsumeOk, BasicDeliver, ConfirmSelect};
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, Event, FieldArray, FieldTable, Properties,
    RawProperties, Route, ServerConfig, ServerEvent, ShortStr,
};
use bytes::{Buf as _, BytesMut};

const MESSAGES: usize = 10_000;
const BODY: [u8; 256] = [7; 256];

/// Both ends, a channel with a consumer, and the read buffers that a driver would have.
struct Ends {
    client: Connection,
    server: Connection,
    to_client: BytesMut,
    to_server: BytesMut,
    channel: ChannelId,
    now: Instant,
}

impl Ends {
    fn new(no_ack: bool) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs some time to start from")]
        let now = Instant::now();
        let mut client = Connection::client(Arc::new(ClientConfig::default()), now);
        let mut server = Connection::server(Arc::new(ServerConfig::default()), now);
        let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
        while !client.is_open() {
            carry(&mut client, &mut server, &mut to_server, now);
            while let Some(event) = server.poll_event() {
                match event {
                    Event::Server(ServerEvent::Login { .. }) => server.accept_login(),
                    Event::Server(ServerEvent::Open { .. }) => server.accept_open(),
                    _ => Ok(()),
                }
                .expect("it is waiting");
            }
            carry(&mut server, &mut client, &mut to_client, now);
        }
        let channel = client.open_channel().expect("there is room");
        let mut ends = Self { client, server, to_client, to_server, channel, now };
        let tag = ShortStr::try_from("t").expect("short");
        let consume = BasicConsume { consumer_tag: tag.clone(), no_ack, ..BasicConsume::default() };
        ends.client.channel(channel).expect("open").request(consume).expect("it is sent");
        ends.up();
        let consuming = BasicConsumeOk { consumer_tag: tag };
        ends.server.channel(channel).expect("open").send(consuming).expect("it is sent");
        ends.down();
        while ends.client.poll_event().is_some() {}
        ends
    }

    fn up(&mut self) {
        carry(&mut self.client, &mut self.server, &mut self.to_server, self.now);
        while self.server.poll_event().is_some() {}
    }

    fn down(&mut self) {
        carry(&mut self.server, &mut self.client, &mut self.to_client, self.now);
    }

    /// Discards the client's output.
    fn discard(&mut self) {
        while let Some(transmit) = self.client.poll_transmit(self.now) {
            transmit.advance(transmit.remaining());
        }
    }

    fn publish(&mut self, count: usize) {
        let route = Route::new("exchange", "routing.key");
        let mut channel = self.client.channel(self.channel).expect("open");
        for _ in 0..count {
            channel.publish(&route, &RawProperties::EMPTY, &BODY).expect("it is sent");
        }
    }
}

fn carry(from: &mut Connection, to: &mut Connection, buffer: &mut BytesMut, now: Instant) {
    while let Some(transmit) = from.poll_transmit(now) {
        buffer.reserve(64 * 1024);
        let count = transmit.chunk().len().min(64 * 1024);
        buffer.extend_from_slice(&transmit.chunk()[..count]);
        transmit.advance(count);
        to.handle_input(now, buffer).expect("the ends understand each other");
    }
}

/// Allocations of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn publishing_allocates_nothing() {
    let mut ends = Ends::new(true);
    let mut round = || {
        ends.publish(100);
        ends.discard();
    };
    round();
    assert_eq!(allocations(|| (0..MESSAGES / 100).for_each(|_| round())), 0);
}

#[test]
fn publishing_and_being_confirmed_allocates_nothing() {
    let mut ends = Ends::new(true);
    let channel = ends.channel;
    let select = ConfirmSelect { no_wait: true };
    ends.client.channel(channel).expect("open").request(select).expect("it is sent");
    let mut confirms = Vec::new();
    for round in 1..=2 * MESSAGES as u64 / 100 {
        let ack = BasicAck { delivery_tag: round * 100, multiple: true };
        ends.server.channel(channel).expect("open").send(ack).expect("it is sent");
        let octets = ends.server.poll_transmit(ends.now).expect("a confirm");
        confirms.push(octets.copy_to_bytes(octets.remaining()));
    }
    let mut confirms = confirms.into_iter();
    let mut input = BytesMut::new();
    let mut confirmed = 0;
    let mut round = || {
        ends.publish(100);
        ends.discard();
        input.reserve(64 * 1024);
        input.extend_from_slice(&confirms.next().expect("a confirm"));
        ends.client.handle_input(ends.now, &mut input).expect("it is understood");
        while let Some(event) = ends.client.poll_event() {
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
fn chunks(ends: &mut Ends, count: usize) -> Vec<bytes::Bytes> {
    let tag = ShortStr::try_from("t").expect("short");
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    let mut last = 0;
    (0..count)
        .map(|_| {
            for _ in 0..100 {
                last += 1;
                let deliver = BasicDeliver {
                    consumer_tag: tag.clone(),
                    delivery_tag: last,
                    exchange: ShortStr::try_from("exchange").expect("short"),
                    routing_key: ShortStr::try_from("routing.key").expect("short"),
                    ..BasicDeliver::default()
                };
                let mut channel = ends.server.channel(ends.channel).expect("open");
                channel.send_content(deliver, &properties, &BODY).expect("it is sent");
            }
            let octets = ends.server.poll_transmit(ends.now).expect("deliveries");
            octets.copy_to_bytes(octets.remaining())
        })
        .collect()
}

fn take_deliveries(no_ack: bool) -> u64 {
    let mut ends = Ends::new(no_ack);
    let mut chunks = chunks(&mut ends, 10 + MESSAGES / 100).into_iter();
    let mut input = BytesMut::new();
    let mut taken = 0;
    let mut round = || {
        input.reserve(64 * 1024);
        input.extend_from_slice(&chunks.next().expect("deliveries"));
        ends.client.handle_input(ends.now, &mut input).expect("it is understood");
        while let Some(event) = ends.client.poll_event() {
            let Event::Channel(id, ChannelEvent::Delivery { delivery, .. }) = event else {
                panic!("{event:?}")
            };
            assert_eq!(delivery.body(), BODY);
            taken += 1;
            if !no_ack {
                let mut channel = ends.client.channel(id).expect("open");
                channel.ack(delivery.delivery_tag()).expect("it waits");
            }
        }
        ends.discard();
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

/// What a peer only announces costs nothing.
#[test]
fn a_size_that_is_announced_is_not_reserved() {
    let mut ends = Ends::new(true);
    let deliver = BasicDeliver {
        consumer_tag: ShortStr::try_from("t").expect("short"),
        delivery_tag: 1,
        ..BasicDeliver::default()
    };
    let mut channel = ends.server.channel(ends.channel).expect("open");
    channel.send_content(deliver, &RawProperties::EMPTY, &BODY).expect("it is sent");
    let octets = ends.server.poll_transmit(ends.now).expect("a delivery");
    let mut octets = octets.copy_to_bytes(octets.remaining()).to_vec();
    // The body size stands 4 bytes into the content header's payload, behind the method's frame.
    let header = octets.iter().position(|octet| *octet == 0xce).expect("a frame end") + 1;
    octets[header + 7 + 4..][..8].copy_from_slice(&(100u64 << 20).to_be_bytes());
    let mut input = BytesMut::from(&octets[..]);
    let info = allocation_counter::measure(|| {
        ends.client.handle_input(ends.now, &mut input).expect("the rest is still to come");
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
