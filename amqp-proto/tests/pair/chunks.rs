//! Bodies that are kept as the parts in which they arrive.

use amqp_proto::frame::{FRAME_MIN_SIZE, FRAME_OVERHEAD};
use amqp_proto::method::{BasicConsume, BasicConsumeOk, BasicDeliver, BasicGet, BasicGetOk};
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, Delivery, GetReply, Limits, RawProperties, Reply,
    ServerConfig,
};

use crate::harness::{Pair, short};

/// The size of a full body frame's payload.
const FULL: usize = FRAME_MIN_SIZE as usize - FRAME_OVERHEAD;

fn pair(chunks: bool) -> (Pair, ChannelId) {
    let limits = Limits::default().frame_max(FRAME_MIN_SIZE).body_chunks(chunks);
    let config = ClientConfig::default().limits(limits);
    let mut pair = Pair::opened(config, ServerConfig::default());
    let id = pair.open_channel();
    let consume = BasicConsume { consumer_tag: short("t"), ..BasicConsume::default() };
    pair.call(id, consume, BasicConsumeOk { consumer_tag: short("t") });
    pair.client_channel(id);
    pair.take_server();
    (pair, id)
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).expect("small")).collect()
}

fn delivered(pair: &mut Pair, id: ChannelId, body: Vec<u8>) -> Delivery {
    let deliver = BasicDeliver { consumer_tag: short("t"), delivery_tag: 1, ..<_>::default() };
    pair.on_server(id).send_content(deliver, &RawProperties::EMPTY, body).expect("it is sent");
    pair.drive();
    match &pair.client_channel(id)[..] {
        [ChannelEvent::Delivery { delivery, .. }] => delivery.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_is_the_list_of_its_frames() {
    for len in [0, 1, FULL - 1, FULL, FULL + 1, 2 * FULL, 3 * FULL + 7] {
        let (mut pair, id) = pair(true);
        let delivery = delivered(&mut pair, id, body(len));
        let expected: Vec<_> = body(len).chunks(FULL).map(<[u8]>::to_vec).collect();
        let chunks = delivery.body_chunks();
        assert_eq!(chunks, expected, "{len}");
        let size = delivery.size();
        assert!(size >= len + delivery.body_len().div_ceil(FULL), "{size}");
        assert_eq!((delivery.body_len(), delivery.body()), (len, &body(len)[..]));
        // The same memory each time, whether the body was put together or not, and the same size for those that count.
        let again = delivery.body_chunks();
        assert!(again.iter().zip(&chunks).all(|(one, other)| one.as_ptr() == other.as_ptr()));
        let whole = delivery.body_bytes();
        assert!(len == 0 || delivery.body().as_ptr() == whole.as_ptr());
        assert_eq!(delivery.size(), size);
        let mut copy = delivery.clone();
        copy.detach();
        assert_eq!((copy.body_chunks().concat(), &copy), (body(len), &delivery));
    }
}

#[test]
fn without_the_option_a_body_is_one_piece() {
    let (mut pair, id) = pair(false);
    let delivery = delivered(&mut pair, id, body(3 * FULL));
    let chunks = delivery.body_chunks();
    assert_eq!(chunks, [body(3 * FULL)]);
    assert_eq!(chunks[0].as_ptr(), delivery.body().as_ptr());
}

#[test]
fn a_message_that_was_fetched_has_parts_too() {
    let (mut pair, id) = pair(true);
    let request = pair.on_client(id).request(BasicGet::default()).expect("it is sent");
    pair.drive();
    pair.take_server();
    let got = BasicGetOk { delivery_tag: 1, ..BasicGetOk::default() };
    let sent = body(2 * FULL + 1);
    pair.on_server(id).send_content(got, &RawProperties::EMPTY, sent.clone()).expect("it is sent");
    pair.drive();
    match &pair.client_channel(id)[..] {
        [
            ChannelEvent::Reply {
                request: of,
                reply: Reply::Message(GetReply::Message { delivery, .. }),
            },
        ] => {
            assert_eq!((*of, delivery.body_chunks().len()), (request, 3));
            assert_eq!(delivery.body(), sent);
        }
        other => panic!("{other:?}"),
    }
}
