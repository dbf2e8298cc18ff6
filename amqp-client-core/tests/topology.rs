//! Topologies as values, and their requests.

mod harness;

use std::pin::pin;
use std::time::Duration;

use amqp_client_core::topology::{Problem, Topology};
use amqp_client_core::{
    BrokerVersion, Config, DeadLetterStrategy, DelayedRetry, ExchangeOptions, LeaderLocator,
    MasterLocator, Overflow, QueueOptions, QueueType,
};
use harness::ClientRig;

fn texts(topology: &Topology, version: Option<(u32, u32, u32)>) -> Vec<String> {
    let version = version.map(|(a, b, c)| BrokerVersion::rabbitmq(a, b, c));
    topology.check(version.as_ref()).iter().map(ToString::to_string).collect()
}

fn queue(options: QueueOptions) -> Topology {
    Topology::new().queue("q", options)
}

#[test]
fn a_thousand_entities_take_one_round_trip() {
    let mut rig = ClientRig::new(Config::default());
    let channel = rig.open_channel();
    let mut topology = Topology::new().exchange("x", "topic", ExchangeOptions::new());
    for number in 0..500 {
        let queue = format!("queue.{number}");
        topology = topology.queue(&queue, QueueOptions::new()).bind(&queue, "x", &queue);
    }
    assert_eq!(topology.len(), 1001);
    let mut applying = pin!(topology.apply(&channel));
    assert!(rig.poll(applying.as_mut()).is_none());
    rig.write(true);
    rig.answer_all();
    assert_eq!(rig.poll(applying.as_mut()), Some(Ok(())));
}

#[test]
fn references_to_nothing_are_found() {
    let options = QueueOptions::new().dead_letter_exchange("nowhere");
    let topology = Topology::new()
        .exchange("x", "topic", ExchangeOptions::new().alternate_exchange("void"))
        .queue("q", options)
        .bind("q", "amq.topic", "#")
        .bind("q", "y", "#")
        .bind("r", "x", "#")
        .bind("q", "", "q")
        .bind_exchange("z", "x", "#");
    let end = "in this topology; add it, or name it by";
    assert_eq!(texts(&topology, None), [
        format!("binding of 'q' to 'y' by '#': there is no exchange 'y' {end} existing_exchange"),
        format!("binding of 'r' to 'x' by '#': there is no queue 'r' {end} existing_queue"),
        "binding of 'q' to '' by 'q': the default exchange cannot be bound; it routes to each queue by the queue's name".to_owned(),
        format!("binding of 'z' to 'x' by '#': there is no exchange 'z' {end} existing_exchange"),
        "queue 'q': its messages are lost unless there is an exchange 'nowhere'; add it, or name it by existing_exchange".to_owned(),
        "exchange 'x': its messages are lost unless there is an exchange 'void'; add it, or name it by existing_exchange".to_owned(),
    ]);
    let existing = ["y", "z", "nowhere", "void"]
        .into_iter()
        .fold(Topology::new(), |topology, exchange| topology.existing_exchange(exchange));
    let rest = texts(&topology.and(existing.existing_queue("r")), None);
    assert_eq!(rest.len(), 1, "{rest:?}");
}

#[test]
fn names_that_cannot_be_are_found() {
    let long = "n".repeat(256);
    let topology = Topology::new()
        .exchange("", "topic", ExchangeOptions::new())
        .exchange("amq.mine", "topic", ExchangeOptions::new())
        .exchange("amq.topic", "topic", ExchangeOptions::new())
        .exchange("untyped", "", ExchangeOptions::new())
        .queue("amq.mine", QueueOptions::new())
        .queue("twice", QueueOptions::new())
        .queue("twice", QueueOptions::new().max_length(1))
        .queue("same", QueueOptions::new())
        .queue("same", QueueOptions::new())
        .queue(&long, QueueOptions::new())
        .queue("", QueueOptions::temporary());
    let transient = ExchangeOptions::new().durable(false);
    let predeclared = Topology::new()
        .exchange("amq.direct", "direct", ExchangeOptions::new())
        .exchange("amq.fanout", "topic", ExchangeOptions::new())
        .exchange("amq.match", "headers", transient);
    let end = "name it by existing_exchange, or choose another name";
    assert_eq!(
        texts(&predeclared, None),
        [("fanout", "fanout"), ("match", "headers")].map(|(name, kind)| format!(
            "exchange 'amq.{name}': each virtual host has it as a durable exchange of type {kind}; {end}"
        ))
    );
    let found = texts(&topology, None);
    assert!(found[0].contains("queue") && found[0].contains("255"), "{found:?}");
    assert_eq!(
        found[1..],
        [
            "exchange '': the broker reserves this name; choose another",
            "exchange 'amq.mine': the broker reserves this name; choose another",
            "exchange 'untyped': it has no type; choose one, such as direct or topic",
            "queue 'amq.mine': the broker reserves this name; choose another",
            "queue 'twice': it is declared twice, with different options; remove one",
            "queue '': it has no name, so nothing can refer to it; name it",
        ]
    );
    let bindings = Topology::new().bind("q", "amq.topic", &long).bind_exchange("x", &long, "key");
    let found = texts(&bindings, None);
    assert!(found[0].starts_with("binding of 'q' to 'amq.topic' by 'nnn"), "{found:?}");
    assert!(found[1].starts_with("binding of 'x' to 'nnn"), "{found:?}");
}

#[test]
fn declarations_that_are_the_same_for_a_broker_are_no_problem() {
    let second = Duration::from_secs(1);
    let parts = [
        QueueOptions::new().max_length(5).message_ttl(second),
        QueueOptions::new().message_ttl(second).max_length(5),
        QueueOptions::new().message_ttl(second).argument("x-max-length", 5_u8),
    ];
    let mut topology = Topology::new().existing_queue("q").existing_exchange("x");
    for options in parts.clone() {
        topology = topology.queue("q", options).exchange("x", "topic", ExchangeOptions::new());
    }
    let topology =
        topology.existing_queue("q").existing_exchange("x").existing_exchange("amq.fanout");
    assert_eq!(texts(&topology, None), [""; 0]);
    for other in [
        QueueOptions::new().max_length(5),
        QueueOptions::new().max_length(6).message_ttl(second),
        QueueOptions::new().max_length(5).expires(second),
        QueueOptions::new().max_length(5).message_ttl(second).auto_delete(true),
    ] {
        let twice = topology.clone().queue("q", other);
        assert_eq!(
            texts(&twice, None),
            ["queue 'q': it is declared twice, with different options; remove one"]
        );
    }
    let transient = ExchangeOptions::new().durable(false);
    assert_eq!(texts(&topology.clone().exchange("x", "topic", transient), None).len(), 1);
    assert_eq!(texts(&topology.exchange("x", "fanout", ExchangeOptions::new()), None).len(), 1);
}

#[test]
fn options_are_checked_by_version() {
    let second = Duration::from_secs(1);
    let quorum = || QueueOptions::new().queue_type(QueueType::Quorum);
    let classic = || QueueOptions::new().queue_type(QueueType::Classic);
    let (v3_10, v3_13, v4_0, v4_3) = ((3, 10, 8), (3, 13, 7), (4, 0, 5), (4, 3, 6));
    for (options, version, expected) in [
        (
            quorum().exclusive(true),
            None,
            "queue 'q' cannot be declared: a quorum queue cannot be exclusive; remove that, or use a classic queue",
        ),
        (
            quorum().delayed_retry(DelayedRetry::Failed, second, second),
            Some(v4_0),
            "queue 'q': x-delayed-retry-type has no effect before RabbitMQ 4.3.0",
        ),
        (quorum().delayed_retry(DelayedRetry::Failed, second, second), Some(v4_3), ""),
        (quorum().delayed_retry(DelayedRetry::Failed, second, second), None, ""),
        (
            classic().consumer_timeout(second),
            Some(v3_10),
            "queue 'q': x-consumer-timeout has no effect before RabbitMQ 3.12.0",
        ),
        (
            classic().consumer_timeout(second),
            Some(v4_3),
            "queue 'q' cannot be declared: a classic queue has no x-consumer-timeout; remove that, or use a quorum queue",
        ),
        (
            classic().leader_locator(LeaderLocator::Balanced),
            Some(v3_13),
            "queue 'q' cannot be declared: a classic queue has no x-queue-leader-locator; remove that, or use a quorum queue or a stream",
        ),
        (
            classic().master_locator(MasterLocator::MinMasters),
            Some(v4_0),
            "queue 'q': x-queue-master-locator is deprecated since RabbitMQ 4.0.0: use leader_locator",
        ),
        (
            classic().durable(false),
            Some(v4_3),
            "queue 'q': durable(false) is deprecated since RabbitMQ 3.13.0: RabbitMQ 4.3 refuses such queues by default; make it durable, or exclusive",
        ),
        (classic().durable(false), Some(v3_10), ""),
        (classic().durable(false).exclusive(true), Some(v4_3), ""),
        (
            quorum()
                .dead_letter_exchange("amq.fanout")
                .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce),
            None,
            "queue 'q': x-dead-letter-strategy has no effect: at-least-once needs x-overflow = reject-publish and a dead-letter exchange",
        ),
        (
            quorum().overflow(Overflow::RejectPublishDlx),
            None,
            "queue 'q': x-overflow has no effect: quorum queues have no reject-publish-dlx, and drop their oldest message",
        ),
    ] {
        let found = texts(&queue(options.clone()), version);
        assert_eq!(found.join("\n"), expected, "{options:?} {version:?}");
    }
}

/// Returns the cycles: the queues of each.
fn cycles(topology: &Topology) -> Vec<String> {
    let found = topology.check(None).into_iter().filter_map(|finding| match finding.problem {
        Problem::DeadLetterCycle(queues) => Some(queues),
        _ => None,
    });
    let names = |queues: Vec<_>| queues.iter().map(ToString::to_string).collect::<Vec<_>>();
    found.map(|queues| names(queues).join(" ")).collect()
}

#[test]
fn cycles_without_a_rejection_are_found() {
    let ttl = || QueueOptions::new().message_ttl(Duration::from_secs(1));
    let to = |exchange: &str, key: &str| {
        ttl().dead_letter_exchange(exchange).dead_letter_routing_key(key)
    };
    // Directly, by the default exchange.
    let direct = Topology::new().queue("a", to("", "b")).queue("b", to("", "a"));
    assert_eq!(cycles(&direct), ["a b"]);
    // A retry queue: its work queue dead-letters rejected messages only.
    let work = QueueOptions::new().dead_letter_exchange("").dead_letter_routing_key("retry");
    let retry = Topology::new().queue("work", work).queue("retry", to("", "work"));
    assert_eq!(cycles(&retry), <[&str; 0]>::default());
    // To itself, by its own name.
    let itself = ttl().dead_letter_exchange("");
    assert_eq!(cycles(&Topology::new().queue("a", itself)), ["a"]);
    // Through exchanges of each type that routes by keys, and one that is bound to another.
    for (kind, key, pattern, found) in [
        ("direct", "k", "k", true),
        ("direct", "k", "other", false),
        ("topic", "k.l", "*.l", true),
        ("topic", "k.l", "*.m", false),
        ("fanout", "k", "", true),
        ("headers", "k", "k", false),
        ("x-consistent-hash", "k", "1", false),
    ] {
        let topology = Topology::new()
            .exchange("first", "fanout", ExchangeOptions::new())
            .exchange("second", kind, ExchangeOptions::new())
            .queue("a", to("first", key))
            .bind_exchange("second", "first", "")
            .bind_exchange("first", "second", pattern)
            .bind("a", "second", pattern);
        assert_eq!(cycles(&topology).len(), usize::from(found), "{kind} {key} {pattern}");
    }
    // A full queue drops its oldest message, unless it refuses the new one.
    let full = QueueOptions::new().max_length(1).dead_letter_exchange("");
    assert_eq!(cycles(&Topology::new().queue("a", full.clone())), ["a"]);
    let refusing = full.overflow(Overflow::RejectPublish);
    assert_eq!(cycles(&Topology::new().queue("a", refusing)).len(), 0);
    // An entity that is also expected to exist is known nevertheless.
    let fanout = ttl().dead_letter_exchange("again");
    let expected = Topology::new()
        .queue("a", fanout)
        .exchange("again", "fanout", ExchangeOptions::new())
        .bind_exchange("amq.fanout", "again", "")
        .bind("a", "amq.fanout", "")
        .existing_exchange("again")
        .existing_exchange("amq.fanout")
        .existing_queue("a");
    assert_eq!(cycles(&expected), ["a"]);
    // Cycles without common queues are all found, also those behind others.
    let two = Topology::new()
        .queue("a", to("", "b"))
        .queue("b", to("again", ""))
        .queue("c", to("", "d"))
        .queue("d", to("", "c"))
        .exchange("again", "fanout", ExchangeOptions::new())
        .bind("a", "again", "")
        .bind("c", "again", "");
    assert_eq!(cycles(&two), ["a b", "c d"]);
    // Queues that all return their messages to all of them: each is in some cycle that is found, and in one only.
    let mut dense = Topology::new().exchange("again", "fanout", ExchangeOptions::new());
    for number in 0..300 {
        let queue = number.to_string();
        dense = dense.queue(&queue, ttl().dead_letter_exchange("again")).bind(&queue, "again", "");
    }
    let found = cycles(&dense);
    assert_eq!(found.join(" ").split(' ').count(), 300);
    // A way of many queues into a cycle, which is one.
    let mut long = Topology::new();
    for number in 0..5_000 {
        let next = if number == 4_999 { 4_998 } else { number + 1 };
        long = long.queue(number.to_string(), to("", &next.to_string()));
    }
    assert_eq!(cycles(&long), ["4998 4999"]);
}

#[test]
fn pictures_have_all_nodes_and_are_escaped() {
    let topology = Topology::new()
        .exchange("a \"b\"", "topic", ExchangeOptions::new().alternate_exchange("lost"))
        .queue("q", QueueOptions::new().queue_type(QueueType::Stream))
        .queue("r", QueueOptions::new().dead_letter_exchange("").dead_letter_routing_key("q"))
        .bind("q", "a \"b\"", "#");
    assert_eq!(
        topology.to_mermaid(),
        "flowchart LR\n    n0([\"a #34;b#34; (topic)\"])\n    n1[\"q (stream)\"]\n    n2[\"r\"]\n    \
         n3([\"lost\"])\n    n0 -->|\"#35;\"| n1\n    n2 -.->|\"q\"| n1\n    n0 -.->|\"unrouted\"| n3\n",
    );
    assert_eq!(
        topology.to_dot(),
        "digraph topology {\n    rankdir=LR;\n    n0 [label=\"a \\\"b\\\" (topic)\", shape=ellipse];\n    \
         n1 [label=\"q (stream)\", shape=box];\n    n2 [label=\"r\", shape=box];\n    \
         n3 [label=\"lost\", shape=ellipse];\n    n0 -> n1 [label=\"#\"];\n    \
         n2 -> n1 [label=\"q\", style=dotted];\n    n0 -> n3 [label=\"unrouted\", style=dotted];\n}\n",
    );
    assert_eq!(Topology::new().to_mermaid(), "flowchart LR\n");
}

#[cfg(feature = "definitions")]
#[test]
fn definitions_are_written_and_read() -> Result<(), Box<dyn std::error::Error>> {
    use amqp_client_core::{FieldArray, FieldTable, Value};

    let nested = FieldTable::new().with("deep", FieldArray::from_values([1_i64, 2])?)?;
    let headers = FieldTable::new()
        .with("flag", true)?
        .with("nested", nested)?
        .with("ratio", 0.5)?
        .with("x-match", "all")?;
    let topology = Topology::new()
        .exchange("x", "headers", ExchangeOptions::new().alternate_exchange("amq.fanout"))
        .exchange("y", "topic", ExchangeOptions::new().durable(false).internal(true))
        .queue("q", QueueOptions::new().delivery_limit(5).queue_type(QueueType::Quorum))
        .bind_with("q", "x", "", headers)
        .bind_exchange("y", "x", "#");
    let written = topology.to_definitions("/")?;
    assert_eq!(Topology::from_definitions(&written, "/")?, topology);
    assert!(Topology::from_definitions(&written, "other")?.is_empty());
    let unnamed = topology.clone().queue("", QueueOptions::new()).bind("", "y", "#");
    assert_eq!(Topology::from_definitions(&unnamed.to_definitions("/")?, "/")?, topology);
    // A queue of somebody else gets its binding nevertheless.
    let theirs = Topology::new().existing_queue("theirs").bind("theirs", "amq.topic", "#");
    let expected = Topology::new().bind("theirs", "amq.topic", "#");
    assert_eq!(Topology::from_definitions(&theirs.to_definitions("/")?, "/")?, expected);
    // A byte order mark.
    assert_eq!(Topology::from_definitions(&format!("\u{feff}{written}"), "/")?, topology);
    // Arguments that definitions do not have are left out.
    let own = topology
        .clone()
        .queue("own", QueueOptions::temporary())
        .bind("own", "y", "#")
        .existing_exchange("theirs");
    assert_eq!(Topology::from_definitions(&own.to_definitions("/")?, "/")?, topology);
    // Values that JSON does not have.
    let bytes = QueueOptions::new().argument("x-what", vec![1_u8, 200]);
    let error = queue(bytes).to_definitions("/").expect_err("bytes");
    assert_eq!(error.to_string(), "queue 'q': x-what has no form in JSON");
    let error = queue(QueueOptions::new().argument("x-nan", f64::NAN)).to_definitions("/");
    assert_eq!(error.expect_err("not a number").to_string(), "queue 'q' cannot be declared");
    assert!(Topology::new().queue([200], QueueOptions::new()).to_definitions("/").is_err());
    // Files that contain no topology.
    for (json, expected) in [
        ("", "the definitions are not JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "definitions: the root is not an object"),
        ("{\"queues\":{}}", "definitions: queues is not a list"),
        ("{\"queues\":[7]}", "queues[0]: the entry is not an object"),
        ("{\"queues\":[{}]}", "queues[0]: name is not a text"),
        (
            "{\"queues\":[{\"name\":\"q\",\"durable\":1}]}",
            "queues[0]: durable is not true or false",
        ),
        // It must not be taken for an entry of another virtual host.
        ("{\"queues\":[{\"name\":\"q\",\"vhost\":null}]}", "queues[0]: vhost is not a text"),
        (
            "{\"queues\":[{\"name\":\"q\",\"arguments\":{\"x\":18446744073709551615}}]}",
            "queues[0]: argument x is not a value of a field table",
        ),
        (
            "{\"queues\":[{\"name\":\"q\",\"arguments\":7}]}",
            "queues[0]: arguments is not an object",
        ),
        (
            "{\"bindings\":[{\"source\":\"x\",\"destination\":\"q\",\"routing_key\":\"\",\"destination_type\":\"?\"}]}",
            "bindings[0]: destination_type is not queue or exchange",
        ),
    ] {
        let error = Topology::from_definitions(json, "/").expect_err(json);
        assert_eq!(error.to_string(), expected);
    }
    let long = format!("{{\"queues\":[{{\"name\":\"{}\"}}]}}", "n".repeat(256));
    let error = Topology::from_definitions(&long, "/").expect_err("a long name");
    assert_eq!(error.to_string(), "queues[0]: name is not at most 255 bytes long");
    let deep = format!(
        "{{\"queues\":[{{\"name\":\"q\",\"arguments\":{{\"a\":{}1{}}}}}]}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    let error = Topology::from_definitions(&deep, "/").expect_err("too deep");
    assert_eq!(error.to_string(), "queues[0]: argument a is not a value of a field table");
    // Numbers that are no 64-bit integers, and an empty list where an object should be: as old exports have them.
    let odd =
        r#"{"queues":[{"name":"q","arguments":[]},{"name":"r","arguments":{"x":1e300,"y":null}}]}"#;
    let read = Topology::from_definitions(odd, "/")?;
    let arguments = FieldTable::new().with("x", 1e300)?.with("y", Value::Void)?;
    let expected = QueueOptions::new().durable(false).arguments(&arguments);
    assert_eq!(
        read,
        Topology::new().queue("q", QueueOptions::new().durable(false)).queue("r", expected)
    );
    Ok(())
}
