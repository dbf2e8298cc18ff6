//! Options at their extremes, on a connection whose other end is driven by hand.

mod harness;

use std::time::{Duration, Instant};

use amqp_client_core::adapter::Driver;
use amqp_client_core::proto::{RawProperties, Route};
use amqp_client_core::{ClientConfig, Config, Limits, PublisherOptions, Settings};
use harness::ClientRig;

#[test]
fn a_connection_that_is_begun_with_a_setting_that_cannot_work_ends_and_names_it() {
    let config = Config::default().settings(Settings::default().delivery_budget(0));
    let now = Instant::now();
    let (connection, mut driver) = Driver::new(config, now);
    assert!(driver.turn(now, std::task::Waker::noop()).is_done());
    let mut rig = ClientRig::new(Config::default());
    let error = rig.run(connection.closed());
    assert!(error.to_string().contains("Settings::delivery_budget is 0; "), "{error}");
}

#[test]
fn messages_are_sent_one_by_one_where_none_may_wait_for_the_transport() {
    let limits = Limits::default().transmit_high_water(0);
    let settings = Settings::default().publish_timeout(Some(Duration::from_secs(1)));
    let config = Config::default().protocol(ClientConfig::default().limits(limits));
    let mut rig = ClientRig::new(config.settings(settings));
    let channel = rig.open_channel();
    // The other end confirms whatever comes.
    let options = PublisherOptions::new().window(0, 0).timeout(None);
    let publisher = channel.exchange("exchange").expect("short");
    let publisher = publisher.publisher(options).expect("it is open");
    let (route, none) = (Route::new("exchange", "key"), RawProperties::EMPTY);
    for size in [0, 1, 5000] {
        let body = vec![7; size];
        for _ in 0..3 {
            rig.run(channel.basic_publish(&route, &none, &body[..])).expect("it is sent");
        }
        let prepared = channel.prepare(&route, &none).expect("short");
        let bodies = std::iter::repeat_n(&body[..], 3);
        rig.run(channel.basic_publish_all(&prepared, bodies)).expect("they are sent");
    }
    for _ in 0..3 {
        let confirmation = rig.run(publisher.publish("key", "body")).expect("it is sent");
        rig.run(confirmation).expect("it is confirmed");
    }
}
