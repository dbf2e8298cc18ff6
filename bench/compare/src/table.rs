//! Tables in markdown: a line for each scenario, a column for each client.

use std::fmt::Write as _;

use crate::peers;
use crate::plan::{Kind, TARGETS, Target};
use crate::results::{Profile, Results, Row, Run};

pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::new();
    let machine = &results.machine;
    let _infallible = writeln!(
        out,
        "{} ({} cores), {}. {}.\n",
        machine.processor,
        machine.cores,
        machine.system,
        machine.versions.join(", ")
    );
    for target in TARGETS {
        let of =
            |kind| results.rows.iter().filter(move |row| row.target == target && row.kind == kind);
        let flows: Vec<_> = of(Kind::Flow).collect();
        section(
            &mut out,
            &format!("{target}: microseconds of CPU for each message"),
            &flows,
            |row| rounded(row.median(|run| run.cpu())),
        );
        section(&mut out, &format!("{target}: messages a second"), &flows, |row| {
            rate(row.median(|run| run.rate()))
        });
        section(&mut out, &format!("{target}: context switches for each message"), &flows, |row| {
            rounded(row.median(|run| run.switches_each()))
        });
        let polled: Vec<_> =
            flows.iter().copied().filter(|row| row.median(Run::polls_each) > 0.0).collect();
        section(&mut out, &format!("{target}: polls of tasks for each message"), &polled, |row| {
            rounded(row.median(Run::polls_each))
        });
        section(&mut out, &format!("{target}: peak memory in MiB"), &flows, |row| {
            rounded(row.median(|run| run.peak_kib as f64) / 1024.0)
        });
        let latencies: Vec<_> = of(Kind::Latency).collect();
        section(
            &mut out,
            &format!("{target}: microseconds, p50 (quartiles of the runs) / p99 / p99.9"),
            &latencies,
            |row| {
                let [p50, p99, p999] = [
                    row.median(|run| run.p50),
                    row.median(|run| run.p99),
                    row.median(|run| run.p999),
                ];
                let quartiles = row.quartiles.map(|quartiles| spread(quartiles.p50));
                let quartiles = quartiles.unwrap_or_default();
                format!("{}{quartiles} / {} / {}", rounded(p50), rounded(p99), rounded(p999))
            },
        );
        section(
            &mut out,
            &format!("{target}: microseconds of CPU for each operation (quartiles of the runs)"),
            &latencies,
            |row| {
                let quartiles = row.quartiles.map(|quartiles| spread(quartiles.cpu));
                format!("{}{}", rounded(row.median(Run::cpu)), quartiles.unwrap_or_default())
            },
        );
        let resources: Vec<_> = of(Kind::Resource).collect();
        section(&mut out, &format!("{target}: resident MiB (threads)"), &resources, |row| {
            let mib = row.median(|run| run.rss_kib as f64) / 1024.0;
            format!("{} ({:.0})", rounded(mib), row.median(|run| run.threads as f64))
        });
        section(
            &mut out,
            &format!("{target}: microseconds of CPU to make each"),
            &resources,
            |row| rounded(row.median(|run| run.cpu())),
        );
    }
    let tls = |row: &&Row| row.target == Target::Tls && row.kind == Kind::Flow;
    let tls: Vec<_> = results.rows.iter().filter(tls).collect();
    let title = "null broker, two cores: microseconds of CPU that TLS adds to each message";
    section(&mut out, title, &tls, |row| {
        let same = |plain: &&Row| {
            plain.target == Target::TwoCores
                && (&plain.scenario, plain.size, &plain.peer)
                    == (&row.scenario, row.size, &row.peer)
        };
        let plain = results.rows.iter().find(same);
        plain.map_or_else(String::new, |plain| {
            rounded(row.median(Run::cpu) - plain.median(Run::cpu))
        })
    });
    let profiles: Vec<_> = results.profiles.iter().collect();
    profile(&mut out, "instructions for each message", &profiles, |profile| profile.instructions);
    profile(&mut out, "allocations for each message", &profiles, |profile| profile.allocations);
    profile(&mut out, "system calls for a thousand messages", &profiles, |profile| {
        profile.system_calls.map(|calls| calls * 1000.0)
    });
    out
}

/// The figures of one client in one scenario.
trait Cell {
    fn line(&self) -> String;
    fn peer(&self) -> &str;
}

impl Cell for Row {
    fn line(&self) -> String {
        match self.kind {
            Kind::Resource => {
                let count = self.runs.first().map_or(0, |run| run.count);
                format!("{} × {count}", self.scenario)
            }
            _ => title(&self.scenario, self.size),
        }
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

impl Cell for Profile {
    fn line(&self) -> String {
        title(&self.scenario, self.size)
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

fn title(scenario: &str, size: usize) -> String {
    match size {
        0 => scenario.to_owned(),
        size if size >= 1024 * 1024 => format!("{scenario} {} MiB", size / 1024 / 1024),
        size if size >= 1024 => format!("{scenario} {} KiB", size / 1024),
        size => format!("{scenario} {size} B"),
    }
}

fn section(out: &mut String, title: &str, rows: &[&Row], text: impl Fn(&Row) -> String) {
    matrix(out, title, rows, |row| Some(text(row)));
}

fn profile(
    out: &mut String,
    title: &str,
    rows: &[&Profile],
    number: impl Fn(&Profile) -> Option<f64>,
) {
    let rows: Vec<_> = rows.iter().copied().filter(|row| number(row).is_some()).collect();
    matrix(out, title, &rows, |row| number(row).map(rounded));
}

fn matrix<C: Cell>(
    out: &mut String,
    title: &str,
    cells: &[&C],
    text: impl Fn(&C) -> Option<String>,
) {
    if cells.is_empty() {
        return;
    }
    let columns: Vec<_> = peers::all()
        .into_iter()
        .map(|peer| peer.name)
        .filter(|name| cells.iter().any(|cell| cell.peer() == *name))
        .collect();
    let mut lines: Vec<String> = Vec::new();
    for cell in cells {
        let line = cell.line();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let _infallible = writeln!(out, "### {title}\n\n| | {} |", columns.join(" | "));
    let _infallible = writeln!(out, "|---|{}", "---:|".repeat(columns.len()));
    for line in lines {
        let _infallible = write!(out, "| {line} |");
        for column in &columns {
            let cell = cells.iter().find(|cell| cell.line() == line && cell.peer() == *column);
            let text = cell.and_then(|cell| text(cell)).unwrap_or_default();
            let _infallible = write!(out, " {text} |");
        }
        out.push('\n');
    }
    out.push('\n');
}

/// Lower and upper quartile, to put after a median.
fn spread([lower, _, upper]: [f64; 3]) -> String {
    format!(" ({}–{})", rounded(lower), rounded(upper))
}

/// Three digits that count.
fn rounded(number: f64) -> String {
    match number.abs() {
        small if small < 0.0005 => "0".to_owned(),
        small if small < 1.0 => format!("{number:.3}"),
        small if small < 10.0 => format!("{number:.2}"),
        small if small < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

fn rate(number: f64) -> String {
    match number {
        many if many >= 1e6 => format!("{:.2} M", many / 1e6),
        many if many >= 1e4 => format!("{:.0} k", many / 1e3),
        many if many >= 1e3 => format!("{:.1} k", many / 1e3),
        few => format!("{few:.0}"),
    }
}
