//! Channels by their numbers, which clients choose.

use amqp_client_core::proto::method::{ChannelOpen, Method};
use amqp_testkit::PeerConnection;

use crate::brokers;
use crate::script::client::{addr_of, open_channel, opened};
use crate::script::{receive, send};

/// Returns why the broker closes the connection.
fn refusal(peer: &mut PeerConnection) -> String {
    match receive(peer) {
        Method::ConnectionClose(close) => {
            let text = close.reply_text.to_string();
            // RabbitMQ puts the name of the code in front of every text.
            let text = text.split_once(" - ").map_or(&*text, |(_, text)| text);
            format!("{} {text} ({}, {})", close.reply_code, close.class_id, close.method_id)
        }
        other => panic!("{other:?}"),
    }
}

/// The limit is how many there are, and not the highest number.
#[test]
fn both_brokers_count_open_channels() {
    let (_, rabbitmq, memory) = brokers();
    let said = [rabbitmq, &memory.uri()].map(|uri| {
        let mut peer = opened(addr_of(uri), 3);
        for number in [65_535, 2_048, 1] {
            open_channel(&mut peer, number);
        }
        send(&mut peer, 2, ChannelOpen::default());
        refusal(&mut peer)
    });
    assert_eq!(said[1], said[0]);
    assert!(said[0].starts_with("530 "), "{}", said[0]);
}
