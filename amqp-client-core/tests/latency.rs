//! A request beside a stream of large messages waits for what is already queued, not for the stream.

mod harness;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use amqp_client_core::{Channel, Config, OnLoss, PublisherOptions, QueueOptions};
use bytes::Bytes;
use harness::ClientRig;

const MESSAGE: usize = 1024 * 1024;
const MESSAGES: usize = 1024;

/// Bytes that may be ahead of a request: those queued for the transport, the message that was taken last, and some frames.
const AHEAD: u64 = 256 * 1024 + MESSAGE as u64 + 4 * 1024;

#[test]
fn a_request_beside_a_gigabyte_gets_its_reply_in_time() {
    for on_loss in [OnLoss::Wait, OnLoss::Keep] {
        let mut rig = ClientRig::new(Config::default());
        let connection = rig.connection.clone();
        let (streaming, asking) = (connection.open_channel(), connection.open_channel());
        let streaming = rig.run(streaming).expect("a channel");
        let asking = rig.run(asking).expect("a channel");
        let options = PublisherOptions::new().on_loss(on_loss);
        let publisher = streaming.default_exchange().publisher(options).expect("a publisher");
        let body = Bytes::from(vec![0; MESSAGE]);
        let mut stream = pin!(async {
            for _ in 0..MESSAGES {
                drop(publisher.publish("queue", body.clone()).await.expect("it is sent"));
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        let mut longest = 0;
        while stream.as_mut().poll(&mut context).is_pending() {
            let before = rig.written;
            let mut asked = pin!(asking.queue_declare("queue", QueueOptions::new()));
            while asked.as_mut().poll(&mut context).is_pending() {
                // The stream goes on all the while.
                let _streaming = stream.as_mut().poll(&mut context).is_ready();
                rig.write(true);
                rig.answer_all();
            }
            longest = longest.max(rig.written - before);
        }
        assert!(rig.written > (MESSAGE * (MESSAGES - 2)) as u64, "{}", rig.written);
        assert!(longest <= AHEAD, "{longest} bytes were written before the answer came");
    }
}

/// The link is slow: the transport accepts little at a time.
#[test]
fn a_request_beside_a_large_body_waits_for_one_frame() {
    const FRAME: u64 = 128 * 1024;
    const STEP: usize = 4 * 1024;
    let mut rig = ClientRig::new(Config::default());
    let connection = rig.connection.clone();
    let channels =
        [connection.open_channel(), connection.open_channel(), connection.open_channel()];
    let [streaming, asking, other] = channels.map(|channel| rig.run(channel).expect("a channel"));
    let publisher = streaming.default_exchange().publisher(PublisherOptions::new());
    let body = Bytes::from(vec![0; 30 * MESSAGE]);
    let mut context = Context::from_waker(Waker::noop());
    let first = rig.run(publisher.expect("a publisher").publish("queue", body));
    rig.room = MESSAGE;
    rig.write(true);
    for _ in 0..10 {
        let before = rig.written;
        let mut asked = pin!(asking.queue_declare("queue", QueueOptions::new()));
        // A small message of a third channel does not wait for the body either.
        let small = other.default_exchange().publisher(PublisherOptions::new());
        let small = small.expect("a publisher");
        let mut sent = pin!(small.send("queue", "small"));
        let (mut replied, mut confirmed) = (false, false);
        while !replied || !confirmed {
            replied = replied || asked.as_mut().poll(&mut context).is_ready();
            confirmed = confirmed || sent.as_mut().poll(&mut context).is_ready();
            rig.room = STEP;
            rig.write(true);
            rig.answer_all();
            assert!(rig.written - before <= FRAME + 2 * STEP as u64, "neither waits for the body");
        }
    }
    assert!(rig.written < 4 * MESSAGE as u64, "the body is not written yet");
    rig.room = usize::MAX;
    rig.write(true);
    assert!(rig.written > 30 * MESSAGE as u64, "all of it is written in the end");
    drop(first);
}

/// However long the body takes, the client holds little more than it.
#[test]
fn the_number_of_overtaking_messages_is_bounded() {
    let mut rig = ClientRig::new(Config::default());
    let channels: Vec<_> = (0..20).map(|_| rig.open_channel()).collect();
    let publisher = |channel: &Channel| {
        let options = PublisherOptions::new().window(usize::MAX, usize::MAX);
        channel.default_exchange().publisher(options).expect("a publisher")
    };
    let body = Bytes::from(vec![0; 30 * MESSAGE]);
    let streaming = publisher(&channels[0]);
    let _nobody_waits = streaming.try_publish("queue", body).expect("there is room");
    let mut overtaking = 0;
    for channel in &channels[1..] {
        // The transport accepts almost nothing.
        rig.room = 1;
        rig.write(true);
        while publisher(channel).try_publish("queue", vec![0; 1000]).is_ok() {
            overtaking += 1;
        }
    }
    assert!(overtaking > 100, "some do overtake");
    assert!(overtaking < 2 * 256, "{overtaking} KiB, more than twice what may be queued");
}
