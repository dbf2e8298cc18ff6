//! The lines of the log as events of `tracing`: their fields, and once each.

#![cfg(feature = "tracing")]

mod harness;

use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use amqp_client_core::{ClientConfig, Config, Connection};
use harness::ClientRig;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static EVENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn events() -> MutexGuard<'static, Vec<String>> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps events as lines: the level, the target and the fields.
struct Keeper;

/// The fields of an event, in order.
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "amqp_client"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        events().push(format!("{} {}{}", metadata.level(), metadata.target(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(feature = "log")]
mod facade {
    use super::{Mutex, PoisonError};

    pub(super) struct Sink(pub(super) Mutex<Vec<String>>);

    pub(super) static SINK: Sink = Sink(Mutex::new(Vec::new()));

    impl log::Log for Sink {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(format!("{} {} {}", record.level(), record.target(), record.args()));
        }

        fn flush(&self) {}
    }
}

/// The one test of this program: it counts all lines.
#[test]
fn an_event_has_the_connection_and_the_channel_as_fields() {
    #[cfg(feature = "log")]
    {
        log::set_logger(&facade::SINK).expect("there is no other");
        log::set_max_level(log::LevelFilter::Trace);
    }
    tracing::subscriber::set_global_default(Keeper).expect("there is no other");
    let config = ClientConfig::default().login("orders", "Pa55-w0rd").connection_name("orders");
    let mut rig = ClientRig::new(Config::default().protocol(config.expect("short")));
    let channel = rig.open_channel();
    let _consumer = rig.consume(&channel);
    let connection: Connection = rig.connection.clone();
    rig.run(connection.close()).expect("it is closed");
    let connected = "connected to node 0 in 0.0 s: unknown broker, no TLS, user 'orders', virtual host '/', heartbeat 60s, frame_max \
                     131072, channel_max 2047";
    assert_eq!(
        *events(),
        [
            format!("INFO amqp_client message={connected} connection=\"connection 1 (orders)\""),
            "DEBUG amqp_client message=consumer 'ctag-1.1' of queue 'q' starts, no prefetch limit connection=\"connection 1 (orders)\" channel=1"
                .to_owned(),
            "INFO amqp_client message=closed by the application; pending: 1 consumer connection=\"connection 1 (orders)\"".to_owned(),
        ]
    );
    #[cfg(feature = "log")]
    {
        let lines = facade::SINK.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            *lines,
            [
                format!("INFO amqp_client connection 1 (orders): {connected}"),
                "DEBUG amqp_client connection 1 (orders), channel 1: consumer 'ctag-1.1' of queue 'q' starts, no prefetch limit".to_owned(),
                "INFO amqp_client connection 1 (orders): closed by the application; pending: 1 consumer".to_owned(),
            ]
        );
    }
}
