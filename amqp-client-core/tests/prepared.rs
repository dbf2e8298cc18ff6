//! Several messages at once, where the window and time end them.

mod harness;

use std::time::Duration;

use amqp_client_core::{Config, Gate, OnLoss, PublishError, PublisherOptions, Settings};
use harness::ClientRig;

#[test]
fn messages_above_the_window_wait_and_the_error_counts_the_sent_ones() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let second = Duration::from_secs(1);
    let options = PublisherOptions::new().window(3, usize::MAX).timeout(Some(second));
    let publisher = channel.default_exchange().publisher(options).expect("it is open");
    let prepared = publisher.prepare("queue").expect("short");

    // Confirms come, and the rest follows.
    let confirmations = rig.run(prepared.publish_all((0..20).map(|number| number.to_string())));
    rig.run(confirmations.expect("all are sent")).expect("all are confirmed");

    rig.silence();
    let mut publishing = Box::pin(prepared.publish_all(["1", "2", "3", "4", "5"]));
    assert!(rig.poll(publishing.as_mut()).is_none());
    rig.turn();
    rig.advance(second);
    let Some(Err(error)) = rig.poll(publishing.as_mut()) else { panic!("time is over") };
    let by = Gate::Window;
    assert_eq!(error.error, PublishError::TimedOut { gate: by, after: second });
    assert_eq!(error.sent.len(), 3);
    let seqs: Vec<_> = error.sent.filter_map(|sent| sent.seq()).map(|seq| seq.get()).collect();
    assert_eq!(seqs, [21, 22, 23]);
    let refused = prepared.try_publish("4").expect_err("it is full");
    assert_eq!((refused.error, refused.body), (PublishError::Gated(by), Some("4")));
}

#[test]
fn prepared_messages_are_kept_over_a_loss() {
    let settings = Settings::default().publish_timeout(None);
    let mut rig = ClientRig::new(Config::default().settings(settings));
    rig.recover();
    let channel = rig.open_channel();
    let options = PublisherOptions::new().on_loss(OnLoss::Keep);
    let publisher = channel.default_exchange().publisher(options).expect("it is open");
    let prepared = publisher.prepare("queue").expect("short");
    rig.silence();
    let confirmations = rig.run(prepared.publish_all(["1", "2", "3"])).expect("they are sent");
    rig.turn();
    rig.lose();
    rig.run(confirmations).expect("they are sent again, and confirmed");
}
