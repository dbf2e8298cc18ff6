//! The typed options, the tables of what RabbitMQ knows, and the names in RabbitMQ's documentation agree.

use std::collections::BTreeSet;
use std::time::Duration;

use amqp_proto::method::{BasicConsume, QueueDeclare};
use amqp_proto::{FieldTable, Timestamp, Value};

use super::known::{OF_CONSUMERS, OF_QUEUES};
use super::*;
use crate::broker_version::BrokerVersion;

type Outcome = Result<(), CallError>;

/// The arguments of queues that RabbitMQ's documentation names, from 3.10 to 4.3, and the page with each.
const DOCUMENTED_OF_QUEUES: &[(&str, &str)] = &[
    ("x-queue-type", "queues"),
    ("x-message-ttl", "ttl"),
    ("x-expires", "ttl"),
    ("x-max-length", "maxlength"),
    ("x-max-length-bytes", "maxlength"),
    ("x-overflow", "maxlength"),
    ("x-dead-letter-exchange", "dlx"),
    ("x-dead-letter-routing-key", "dlx"),
    ("x-dead-letter-strategy", "quorum-queues"),
    ("x-max-priority", "priority"),
    ("x-single-active-consumer", "consumers"),
    ("x-consumer-timeout", "consumers"),
    ("x-consumer-disconnected-timeout", "quorum-queues"),
    ("x-queue-leader-locator", "clustering"),
    ("x-queue-master-locator", "clustering"),
    ("x-queue-mode", "lazy-queues"),
    ("x-queue-version", "classic-queues"),
    ("x-delivery-limit", "quorum-queues"),
    ("x-quorum-initial-group-size", "quorum-queues"),
    ("x-quorum-target-group-size", "quorum-queues"),
    ("x-delayed-retry-type", "quorum-queues"),
    ("x-delayed-retry-min", "quorum-queues"),
    ("x-delayed-retry-max", "quorum-queues"),
    ("x-max-in-memory-length", "quorum-queues"),
    ("x-max-in-memory-bytes", "quorum-queues"),
    ("x-max-age", "streams"),
    ("x-stream-max-segment-size-bytes", "streams"),
    ("x-stream-filter-size-bytes", "streams"),
    ("x-initial-cluster-size", "streams"),
];

/// The arguments of consumers that RabbitMQ's documentation names.
const DOCUMENTED_OF_CONSUMERS: &[(&str, &str)] = &[
    ("x-priority", "consumer-priority"),
    ("x-consumer-timeout", "quorum-queues"),
    ("x-cancel-on-ha-failover", "ha"),
    ("x-stream-offset", "streams"),
    ("x-stream-filter", "stream-filtering"),
    ("x-stream-match-unfiltered", "stream-filtering"),
];

/// All options of queues.
fn every_option() -> QueueOptions {
    let second = Duration::from_secs(1);
    QueueOptions::new()
        .queue_type(QueueType::Quorum)
        .message_ttl(second)
        .expires(second)
        .max_length(1)
        .max_length_bytes(1)
        .overflow(Overflow::DropHead)
        .dead_letter_exchange("dead")
        .dead_letter_routing_key("key")
        .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce)
        .max_priority(5)
        .single_active_consumer()
        .consumer_timeout(second)
        .consumer_disconnected_timeout(second)
        .leader_locator(LeaderLocator::Balanced)
        .master_locator(MasterLocator::MinMasters)
        .queue_mode(QueueMode::Lazy)
        .queue_version(2)
        .delivery_limit(7)
        .quorum_initial_group_size(3)
        .quorum_target_group_size(5)
        .delayed_retry(DelayedRetry::Failed, second, 2 * second)
        .max_in_memory_length(1)
        .max_in_memory_bytes(1)
        .max_age(second)
        .stream_max_segment_size(1_000)
        .stream_filter_size(16)
        .initial_cluster_size(3)
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn names_in(table: &FieldTable) -> BTreeSet<String> {
    table.iter().map(|(name, _)| name.to_string()).collect()
}

fn declare(queue: &str, options: QueueOptions) -> Result<QueueDeclare, CallError> {
    options.into_method(queue.as_bytes())
}

fn consume(options: ConsumeOptions) -> Result<BasicConsume, CallError> {
    options.into_method(b"q", "tag")
}

#[test]
fn each_documented_argument_of_queues_is_an_option() -> Outcome {
    let documented = names(DOCUMENTED_OF_QUEUES.iter().map(|(name, _)| *name));
    assert_eq!(names_in(&declare("q", every_option())?.arguments), documented);
    assert_eq!(names(OF_QUEUES.iter().map(|known| known.name)), documented);
    Ok(())
}

#[test]
fn each_documented_argument_of_consumers_is_an_option() -> Outcome {
    let options = ConsumeOptions::new()
        .priority(1)
        .consumer_timeout(Duration::from_secs(1))
        .cancel_on_ha_failover()
        .stream_offset(StreamOffset::First)
        .stream_filter(["one"])
        .stream_match_unfiltered();
    let documented = names(DOCUMENTED_OF_CONSUMERS.iter().map(|(name, _)| *name));
    assert_eq!(names_in(&consume(options)?.arguments), documented);
    assert_eq!(names(OF_CONSUMERS.iter().map(|known| known.name)), documented);
    Ok(())
}

#[test]
fn options_are_encoded_as_rabbitmq_reads_them() -> Outcome {
    let arguments = declare("q", every_option())?.arguments;
    for (name, expected) in [
        ("x-queue-type", Value::from("quorum")),
        ("x-dead-letter-strategy", "at-least-once".into()),
        ("x-queue-leader-locator", "balanced".into()),
        ("x-queue-master-locator", "min-masters".into()),
        ("x-delayed-retry-type", "failed".into()),
        ("x-delayed-retry-min", 1_000_i64.into()),
        ("x-delayed-retry-max", 2_000_i64.into()),
        ("x-max-age", "1s".into()),
        ("x-consumer-timeout", 1_000_i64.into()),
        ("x-stream-filter-size-bytes", 16.into()),
    ] {
        assert_eq!(arguments.get(name), Some(expected), "{name}");
    }
    let arguments = declare("q", QueueOptions::new().no_delivery_limit())?.arguments;
    assert_eq!(arguments.get("x-delivery-limit").and_then(|limit| limit.as_i64()), Some(-1));
    Ok(())
}

#[test]
fn extreme_times_are_encoded() -> Outcome {
    for (time, age, milliseconds) in [
        (Duration::ZERO, "1s".to_owned(), 0),
        (Duration::from_nanos(1), "1s".to_owned(), 1),
        (Duration::from_millis(1_001), "2s".to_owned(), 1_001),
        (Duration::MAX, format!("{}s", u128::from(u64::MAX) + 1), i64::MAX),
    ] {
        let options = QueueOptions::new().max_age(time).message_ttl(time);
        let arguments = declare("q", options)?.arguments;
        assert_eq!(arguments.get("x-max-age"), Some(Value::from(age.as_str())));
        assert_eq!(arguments.get("x-message-ttl"), Some(Value::from(milliseconds)));
        let options = ConsumeOptions::new().stream_offset(StreamOffset::Interval(time));
        let arguments = consume(options)?.arguments;
        assert_eq!(arguments.get("x-stream-offset"), Some(Value::from(age.as_str())));
    }
    let options = ConsumeOptions::new().stream_offset(StreamOffset::Timestamp(Timestamp(7)));
    let arguments = consume(options)?.arguments;
    assert_eq!(arguments.get("x-stream-offset"), Some(Value::from(Timestamp(7))));
    Ok(())
}

/// Returns the text of the error, or `""`.
fn checked(queue: &str, options: &QueueOptions, version: Option<BrokerVersion>) -> String {
    let method = declare(queue, options.clone()).expect("it can be encoded");
    match check_queue(&method, version.as_ref()) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn options_that_no_version_accepts_are_refused() {
    let of = |kind| QueueOptions::new().queue_type(kind);
    let quorum = || of(QueueType::Quorum);
    let stream = || of(QueueType::Stream);
    let long = Duration::from_secs(50 * 24 * 60 * 60);
    for (options, expected) in [
        (
            quorum().exclusive(true),
            "a quorum queue cannot be exclusive; remove that, or use a classic queue",
        ),
        (
            quorum().auto_delete(true),
            "a quorum queue cannot be auto-delete; remove that, or use a classic queue",
        ),
        (
            quorum().durable(false),
            "a quorum queue cannot be transient; remove that, or use a classic queue",
        ),
        (
            stream().exclusive(true),
            "a stream cannot be exclusive; remove that, or use a classic queue",
        ),
        (
            quorum().max_priority(5),
            "a quorum queue has no x-max-priority; remove that, or use a classic queue",
        ),
        (
            stream().message_ttl(Duration::ZERO),
            "a stream has no x-message-ttl; remove that, or use a classic queue or a quorum queue",
        ),
        (
            of(QueueType::Classic).delivery_limit(3),
            "a classic queue has no x-delivery-limit; remove that, or use a quorum queue",
        ),
        // A queue without a type has the default type of its virtual host. An exclusive one can only be classic.
        (
            QueueOptions::new().exclusive(true).delivery_limit(3),
            "a classic queue has no x-delivery-limit; remove that, or use a quorum queue",
        ),
        (
            QueueOptions::new().dead_letter_routing_key("key"),
            "x-dead-letter-routing-key needs x-dead-letter-exchange; set both, or none",
        ),
        (
            QueueOptions::new().message_ttl(long),
            "x-message-ttl is 4320000000; it must be from 0 to 4294967295",
        ),
        (
            QueueOptions::new().expires(Duration::ZERO),
            "x-expires is 0; it must be from 1 to 4294967295",
        ),
        (
            quorum().quorum_initial_group_size(0),
            "x-quorum-initial-group-size is 0; it must be from 1 to 9223372036854775807",
        ),
    ] {
        let expected = format!("queue 'q' cannot be declared: {expected}");
        for version in [None, Some((3, 10, 8)), Some((3, 13, 7)), Some((4, 0, 5)), Some((4, 3, 6))]
        {
            let version = version.map(|(a, b, c)| BrokerVersion::rabbitmq(a, b, c));
            assert_eq!(checked("q", &options, version), expected);
        }
        // Nothing is known of these.
        let other =
            FieldTable::new().with("product", "LavinMQ").and_then(|t| t.with("version", "2.1"));
        let other = BrokerVersion::from_properties(&other.expect("short names"));
        for version in [BrokerVersion::rabbitmq(4, 4, 0), BrokerVersion::rabbitmq(3, 9, 0)] {
            assert_eq!(checked("q", &options, Some(version)), "");
        }
        assert!(other.is_some());
        assert_eq!(checked("q", &options, other), "");
    }
    let unnamed =
        "queue '' cannot be declared: a stream needs a name; name it, or use a classic queue";
    assert_eq!(checked("", &stream(), None), unnamed);
    assert_eq!(checked("", &of(QueueType::Classic), None), "");
}

#[test]
fn options_that_some_version_accepts_depend_on_the_version() {
    let classic = || QueueOptions::new().queue_type(QueueType::Classic);
    let stream = QueueOptions::new().queue_type(QueueType::Stream);
    let retry = classic().delayed_retry(DelayedRetry::All, Duration::ZERO, Duration::ZERO);
    let locator = classic().leader_locator(LeaderLocator::Balanced);
    let timeout = classic().consumer_timeout(Duration::ZERO);
    let filter = classic().stream_filter_size(16);
    let untyped = QueueOptions::new().delivery_limit(3);
    for (options, refused, accepted) in [
        (retry, vec![(4, 3, 0)], vec![(3, 10, 8), (4, 2, 9)]),
        (locator, vec![(3, 10, 0), (3, 13, 7)], vec![(4, 0, 0), (4, 3, 5)]),
        (timeout, vec![(4, 3, 2)], vec![(3, 12, 0), (4, 3, 1)]),
        (filter, vec![(4, 2, 7), (4, 3, 1)], vec![(4, 2, 6), (4, 3, 0)]),
        // A virtual host can have another default type since 3.11.
        (untyped, vec![(3, 10, 8)], vec![(3, 11, 0), (4, 3, 0)]),
        (stream, vec![], vec![(3, 10, 0), (4, 3, 0)]),
    ] {
        for (a, b, c) in refused {
            let text = checked("q", &options, Some(BrokerVersion::rabbitmq(a, b, c)));
            assert_ne!(text, "", "{options:?} {:?}", (a, b, c));
        }
        for (a, b, c) in accepted {
            assert_eq!(checked("q", &options, Some(BrokerVersion::rabbitmq(a, b, c))), "");
        }
        assert_eq!(checked("q", &options, None), "", "not all versions refuse it");
    }
}

#[test]
fn types_and_values_that_are_not_known_are_left_to_the_broker() {
    for options in [
        QueueOptions::new().argument("x-queue-type", "jms").exclusive(true),
        QueueOptions::new().argument("x-queue-type", 7).exclusive(true),
        QueueOptions::new().argument("x-max-priority", "five"),
        QueueOptions::new().argument("x-something", true),
    ] {
        assert_eq!(checked("q", &options, None), "");
    }
}

#[test]
fn options_of_consumers_that_no_queue_accepts_are_refused() -> Outcome {
    let stream = || ConsumeOptions::new().stream_offset(StreamOffset::First);
    for (options, expected) in [
        (stream(), ""),
        (stream().no_ack(true), "no queue has both x-stream-offset and no_ack; remove one of them"),
        (
            stream().priority(3),
            "no queue has both x-stream-offset and x-priority; remove one of them",
        ),
        (ConsumeOptions::new().priority(3).no_ack(true), ""),
        // 3.13 ignores this for other queues.
        (ConsumeOptions::new().stream_filter(["a"]).priority(3), ""),
    ] {
        let text = match check_consumer(&consume(options)?, None) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        let start = "consumer of queue 'q' cannot be started: ";
        assert_eq!(text.strip_prefix(start).unwrap_or(&text), expected);
    }
    Ok(())
}
