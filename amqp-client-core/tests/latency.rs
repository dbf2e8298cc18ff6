//! A request beside a stream of large messages waits for what is already queued, not for the stream.

mod harness;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use amqp_client_core::{Config, OnLoss, PublisherOptions, QueueOptions};
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
