use std::fmt::{self, Write as _};
use std::time::Duration;

use super::{Counters, DOCS, Histogram};

/// The counters of one or several connections in Prometheus' text format, for the reply to a scrape.
///
/// Counters are named `amqp_client_<name>_total`, and times `amqp_client_confirm_seconds`, `amqp_client_process_seconds` and
/// `amqp_client_request_seconds`. Labels tell the connections apart.
///
/// ```no_run
/// # use amqp_client_core as amqp_client_tokio;
/// # use amqp_client_tokio::Connection;
/// use amqp_client_tokio::PrometheusText;
///
/// # fn example(publishing: Connection, consuming: Connection) -> String {
/// // Content type: text/plain; version=0.0.4
/// PrometheusText::new()
///     .add(&[("connection", "publishing")], &publishing.counters())
///     .add(&[("connection", "consuming")], &consuming.counters())
///     .to_string()
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct PrometheusText {
    /// The labels of each connection, ready to be written, and its counters.
    connections: Vec<(String, Counters)>,
}

impl PrometheusText {
    /// Creates a text without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the counters of a connection or a channel. Give each a different set of labels: Prometheus refuses a text in which two
    /// lines have the same name and the same labels. Characters that are not allowed in the name of a label are replaced by `_`. Some
    /// names get the prefix `label_`: `le`, which Prometheus uses for buckets; names that begin with `__`; and names that are empty or
    /// were used before.
    pub fn add(mut self, labels: &[(&str, &str)], counters: &Counters) -> Self {
        let (mut text, mut names) = (String::new(), Vec::new());
        for (name, value) in labels {
            let name = label_name(name, &names);
            push_label(&name, value, &mut text);
            names.push(name);
        }
        self.connections.push((text, *counters));
        self
    }
}

/// Returns a name that Prometheus accepts and that differs from all in `before`.
fn label_name(name: &str, before: &[String]) -> String {
    let mut text = String::new();
    for (index, letter) in name.chars().enumerate() {
        let valid = letter == '_' || letter.is_ascii_alphabetic();
        text.push(if valid || index > 0 && letter.is_ascii_digit() { letter } else { '_' });
    }
    while text.is_empty() || text == "le" || text.starts_with("__") || before.contains(&text) {
        text.insert_str(0, "label_");
    }
    text
}

/// Appends `name="value",`.
fn push_label(name: &str, value: &str, text: &mut String) {
    text.push_str(name);
    text.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
    text.push_str("\",");
}

impl fmt::Display for PrometheusText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The format requires that all lines of a metric follow one another, so the outer loop goes over the metrics.
        for (index, (name, _)) in Counters::default().iter().enumerate() {
            begin(f, &format!("{name}_total"), name, "counter")?;
            for (labels, counters) in &self.connections {
                let value = counters.iter().nth(index).map_or(0, |(_, value)| value);
                line(f, &format!("{name}_total"), labels, value)?;
            }
        }
        let blocked = "blocked_seconds_total";
        begin(f, blocked, "blocked_time", "counter")?;
        for (labels, counters) in &self.connections {
            line(f, blocked, labels, counters.blocked_time.as_secs_f64())?;
        }
        self.histograms(f, ("confirm_seconds", "confirm_times"), |counters| {
            &counters.confirm_times
        })?;
        self.histograms(f, ("process_seconds", "process_times"), |counters| {
            &counters.process_times
        })?;
        self.histograms(f, ("request_seconds", "request_times"), |counters| &counters.request_times)
    }
}

impl PrometheusText {
    fn histograms(
        &self,
        f: &mut fmt::Formatter<'_>,
        (name, field): (&str, &str),
        times: impl Fn(&Counters) -> &Histogram,
    ) -> fmt::Result {
        begin(f, name, field, "histogram")?;
        for (labels, counters) in &self.connections {
            histogram(f, name, labels, times(counters))?;
        }
        Ok(())
    }
}

/// Begins a metric, with the first sentence of the docs of its field.
fn begin(f: &mut fmt::Formatter<'_>, name: &str, field: &str, kind: &str) -> fmt::Result {
    let docs = DOCS.iter().find(|(other, _)| *other == field).map_or("", |(_, docs)| docs);
    writeln!(f, "# HELP amqp_client_{name} {}", first_sentence(docs))?;
    writeln!(f, "# TYPE amqp_client_{name} {kind}")
}

/// Returns the first sentence of docs, without the marks of Markdown.
fn first_sentence(docs: &str) -> String {
    let sentence = docs.split_once(". ").map_or(docs, |(first, _)| first);
    let mut text = String::new();
    let mut rest = sentence.trim().trim_end_matches('.');
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        // `[shown](target)`
        let (shown, target) = link.split_once(']').unwrap_or((link, ""));
        text.push_str(shown);
        let behind = target.strip_prefix('(').and_then(|target| target.split_once(')'));
        rest = behind.map_or(target, |(_, behind)| behind);
    }
    text.push_str(rest);
    text.push('.');
    text.replace('`', "")
}

fn histogram(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    labels: &str,
    times: &Histogram,
) -> fmt::Result {
    // Each bucket includes the shorter ones.
    let mut below = 0;
    for (bound, count) in times.buckets() {
        below += count;
        let mut labels = labels.to_owned();
        match bound {
            Duration::MAX => labels.push_str("le=\"+Inf\","),
            bound => write!(labels, "le=\"{}\",", bound.as_secs_f64())?,
        }
        line(f, &format!("{name}_bucket"), &labels, below)?;
    }
    line(f, &format!("{name}_sum"), labels, times.sum().as_secs_f64())?;
    line(f, &format!("{name}_count"), labels, times.count())
}

fn line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    labels: &str,
    value: impl fmt::Display,
) -> fmt::Result {
    let labels = labels.trim_end_matches(',');
    if labels.is_empty() {
        return writeln!(f, "amqp_client_{name} {value}");
    }
    writeln!(f, "amqp_client_{name}{{{labels}}} {value}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_metric_has_one_type_and_its_lines_together() {
        let mut first = Counters { published: 7, ..Counters::default() };
        first.confirm_times.record(Duration::from_micros(3), 5);
        first.blocked_time = Duration::from_millis(1500);
        let second = Counters { published: 9, ..Counters::default() };
        let text = PrometheusText::new()
            .add(&[("connection", "a\"b\\c\nd")], &first)
            .add(&[("connection", "e"), ("1-é", "f")], &second)
            .to_string();
        let expected = [
            "# TYPE amqp_client_published_total counter",
            r#"amqp_client_published_total{connection="a\"b\\c\nd"} 7"#,
            r#"amqp_client_published_total{connection="e",label____="f"} 9"#,
            r#"amqp_client_blocked_seconds_total{connection="a\"b\\c\nd"} 1.5"#,
            r#"amqp_client_confirm_seconds_bucket{connection="e",label____="f",le="0.000001"} 0"#,
            r#"amqp_client_confirm_seconds_bucket{connection="a\"b\\c\nd",le="0.000002"} 0"#,
            r#"amqp_client_confirm_seconds_bucket{connection="a\"b\\c\nd",le="0.000004"} 5"#,
            r#"amqp_client_confirm_seconds_bucket{connection="a\"b\\c\nd",le="+Inf"} 5"#,
            r#"amqp_client_confirm_seconds_sum{connection="a\"b\\c\nd"} 0.000015"#,
            r#"amqp_client_confirm_seconds_count{connection="a\"b\\c\nd"} 5"#,
        ];
        for line in expected {
            assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line}\n{text}");
        }
        // No line comes twice, and no metric is begun twice.
        let lines: BTreeSet<_> = text.lines().collect();
        assert_eq!(lines.len(), text.lines().count());
        let names = text.lines().map(|line| line.split(['{', ' ']).next().unwrap_or_default());
        let mut runs: Vec<_> = names.filter(|name| name.starts_with("amqp")).collect();
        runs.dedup();
        let counted: Vec<_> = runs.iter().filter(|name| name.ends_with("_total")).collect();
        assert_eq!(counted.len(), counted.iter().collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn each_metric_has_one_sentence_of_help() {
        let text = PrometheusText::new().add(&[], &Counters::default()).to_string();
        let lines: Vec<_> = text.lines().collect();
        let mut metrics = 0;
        for pair in lines.windows(2) {
            let Some(metric) = pair[1].strip_prefix("# TYPE ") else { continue };
            let (name, _) = metric.split_once(' ').expect("a type follows");
            let help = pair[0].strip_prefix(&format!("# HELP {name} ")).expect("help precedes");
            assert!(help.len() > 10 && help.ends_with('.'), "{help}");
            assert!(!help.contains(['[', ']', '`', '\\']) && !help.contains(". "), "{help}");
            metrics += 1;
        }
        // The time for which the broker blocked publishing, and three histograms.
        assert_eq!(metrics, Counters::default().iter().count() + 4);
        let failed = "# HELP amqp_client_publish_failed_total Publishes that failed with a PublishError: the message was not \
                      sent.";
        assert!(lines.contains(&failed), "{text}");
    }

    #[test]
    fn labels_that_prometheus_refuses_get_another_name() {
        let labels =
            [("le", "1"), ("", "2"), ("a-b", "3"), ("a_b", "4"), ("a.b", "5"), ("__name__", "6")];
        let text = PrometheusText::new().add(&labels, &Counters::default()).to_string();
        let expected = r#"label_le="1",label_="2",a_b="3",label_a_b="4",label_label_a_b="5",label___name__="6""#;
        assert!(text.contains(&format!("\namqp_client_acked_total{{{expected}}} 0\n")), "{text}");
    }

    #[test]
    fn without_labels_there_are_no_braces() {
        let text = PrometheusText::new().add(&[], &Counters::default()).to_string();
        assert!(text.contains("\namqp_client_acked_total 0\n"), "{text}");
        assert!(text.contains("\namqp_client_request_seconds_bucket{le=\"+Inf\"} 0\n"), "{text}");
    }
}
