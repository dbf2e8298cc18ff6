//! Records what the pictures of docs/observability show: the trace of an order, and two minutes of metrics. Not a test.
//!
//!     cargo test --release -p amqp-example-tracing --test record -- --ignored && docs/observability/draw

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use amqp_testkit::RabbitMq;
use common::{Collector, Error, Outcome, Program, attribute, hex, title};
use opentelemetry_proto::tonic::trace::v1::Span;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Time between two scrapes, and their number.
const INTERVAL: Duration = Duration::from_secs(2);
const SCRAPES: u32 = 60;
/// The scrape after which the broker is killed, and that after which it is started again.
const KILL: u32 = 32;
const RESTART: u32 = 36;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/observability/recorded"))
}

#[test]
#[ignore = "it writes files of the repository"]
fn record() -> Outcome {
    let broker = RabbitMq::start()?;
    let collector = Collector::start()?;
    let program = Program::start(&broker.amqp_uri(), &collector.endpoint)?;
    // Code that has not run yet takes longer than it does later.
    for _ in 0..100 {
        program.order_until_accepted("wine", &"1".repeat(32))?;
    }
    thread::sleep(INTERVAL);
    assert_eq!(program.order("wine", TRACE)?, 202);
    let spans = collector.wait_trace(TRACE, 13);
    fs::create_dir_all(folder())?;
    fs::write(folder().join("trace.json"), trace(&spans))?;

    broker.flush()?;
    let (stop, number) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..8 {
            let (program, stop, number) = (&program, &stop, &number);
            scope.spawn(move || load(program, client, stop, number));
        }
        // So that the first rate is that of the load.
        thread::sleep(10 * INTERVAL);
        let scraped = thread::scope(|faults| scrape(&program, &broker, faults));
        stop.store(true, Ordering::Relaxed);
        fs::write(folder().join("metrics.txt"), scraped?)?;
        Outcome::Ok(())
    })?;
    program.stop()
}

/// Orders again and again, with pauses. More clients are busy in the second quarter of a minute than in the first.
fn load(program: &Program, client: u64, stop: &AtomicBool, number: &AtomicU64) {
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let quarter = start.elapsed().as_secs() / 15;
        let busy = [3, 5, 8, 6][usize::try_from(quarter % 4).unwrap_or(0)];
        if client < busy {
            let order = number.fetch_add(1, Ordering::Relaxed);
            let item = if order % 20 == 0 { "wine" } else { "bread" };
            // During the outage, orders are refused.
            let _accepted = program.order(item, &format!("{:032x}", order + 1));
        }
        thread::sleep(Duration::from_millis(30));
    }
}

/// Returns the values of each series, one a line, and in the first line the seconds of the scrapes.
fn scrape<'scope>(
    program: &Program,
    broker: &'scope RabbitMq,
    faults: &'scope Scope<'scope, '_>,
) -> Result<String, Error> {
    let start = Instant::now();
    let mut times = Vec::new();
    let mut series = BTreeMap::<String, Vec<String>>::new();
    for number in 0..SCRAPES {
        thread::sleep((INTERVAL * number).saturating_sub(start.elapsed()));
        // Scrapes go on meanwhile.
        match number {
            KILL => drop(faults.spawn(|| broker.kill().expect("it runs"))),
            RESTART => drop(faults.spawn(|| broker.restart().expect("it starts again"))),
            _ => {}
        }
        times.push(format!("{:.3}", start.elapsed().as_secs_f64()));
        for line in program.metrics()?.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').ok_or("a line without a value")?;
            series.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    let mut text = format!("seconds {}\n", times.join(" "));
    for (name, values) in series {
        // Values that never change are recorded once.
        let changes = values.iter().any(|value| *value != values[0]);
        let values = if changes { values.join(" ") } else { values[0].clone() };
        writeln!(text, "{name} {values}")?;
    }
    Ok(text)
}

/// Returns spans in JSON, with microseconds since the first began.
fn trace(spans: &[Span]) -> String {
    let start = spans.first().map_or(0, |span| span.start_time_unix_nano);
    let micros = |nanos: u64| nanos.saturating_sub(start) / 1000;
    let lines = spans.iter().map(|span| {
        let links: Vec<_> = span.links.iter().map(|link| hex(&link.span_id)).collect();
        format!(
            "{{\"id\": {:?}, \"parent\": {:?}, \"title\": {:?}, \"kind\": {:?}, \"start\": {}, \"end\": {}, \
             \"error\": {:?}, \"links\": {links:?}}}",
            hex(&span.span_id),
            hex(&span.parent_span_id),
            title(span),
            format!("{:?}", span.kind()).to_lowercase(),
            micros(span.start_time_unix_nano),
            micros(span.end_time_unix_nano),
            attribute(&span.attributes, "error.type").unwrap_or_default(),
        )
    });
    format!("[\n{}\n]\n", lines.collect::<Vec<_>>().join(",\n"))
}
