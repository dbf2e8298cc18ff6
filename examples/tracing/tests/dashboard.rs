//! The dashboard and the alerts ask for metrics that there are.

mod common;

use std::collections::BTreeSet;

use amqp_test_broker::Broker;
use common::{Outcome, Program};

const FILES: [(&str, &str); 3] = [
    ("dashboard.json", include_str!("../../../docs/observability/dashboard.json")),
    ("alerts.yaml", include_str!("../../../docs/observability/alerts.yaml")),
    ("README.md", include_str!("../../../docs/observability/README.md")),
];

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_in_name(letter));
    words.filter(|word| word.starts_with("amqp_client_")).collect()
}

#[test]
fn all_metrics_exist() -> Outcome {
    let broker = Broker::start()?;
    // Nothing listens there: the program works without a collector.
    let program = Program::start(&broker.uri(), "http://127.0.0.1:9")?;
    program.order_until_accepted("bread", "0af7651916cd43dd8448eb211c80319c")?;
    let page = program.metrics()?;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let exist: BTreeSet<_> = lines.filter_map(|line| line.split(['{', ' ']).next()).collect();
    assert!(exist.len() > 20, "{page}");
    for (file, text) in FILES {
        let asked = names(text);
        assert!(asked.len() > 5, "{file} asks for {asked:?}");
        let missing: Vec<_> = asked.difference(&exist).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}, which does not exist");
    }
    program.stop()
}
