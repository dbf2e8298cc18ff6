//! Plots in SVG.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::plan::Target;
use crate::results::{Results, Row, Run};
use crate::{Outcome, peers};

const SIZE: (u32, u32) = (900, 520);

/// The width of the legend, to the right of the lines.
const LEGEND: u32 = 140;

/// Clients that are in plots, with their colours: ours in greens and blues, the limit in grey. They are fewer than there are, so
/// that one sees something.
const SHOWN: [(&str, RGBColor); 12] = [
    ("raw", RGBColor(120, 120, 120)),
    ("tokio-ct", RGBColor(0, 130, 60)),
    ("tokio", RGBColor(110, 190, 60)),
    ("tokio-spawned", RGBColor(0, 160, 150)),
    ("smol", RGBColor(110, 170, 240)),
    ("blocking", RGBColor(0, 80, 190)),
    ("librabbitmq", RGBColor(220, 110, 0)),
    ("amqprs", RGBColor(140, 40, 170)),
    ("lapin", RGBColor(210, 30, 40)),
    ("amiquip", RGBColor(150, 90, 50)),
    ("amqp091-go", RGBColor(235, 90, 180)),
    ("java", RGBColor(190, 160, 20)),
];

/// Clients with slower round trips, in microseconds, are left out of the plot: it would show nothing else.
const SLOWEST: f64 = 100.0;

pub(crate) fn all(results: &Results, out: &Path) -> Outcome {
    latency(results, out, "Median latency by load", |run| run.p50, "latency-p50.svg")?;
    latency(results, out, "99th percentile of latency by load", |run| run.p99, "latency-p99.svg")?;
    for (name, title) in [("publish", "Publishing"), ("consume", "Consuming")] {
        let rows = |row: &&Row| row.target == Target::TwoCores && row.scenario == name;
        let rate = Plot {
            title: &format!("{title}: messages per second by size of their bodies"),
            x: Axis { name: "size of a body", text: bytes, step: 16.0 },
            y: Axis { name: "messages per second", text: number, step: 10.0 },
        };
        let points = series(results, rows, |row| row.size as f64, Run::rate);
        rate.draw(&out.join(format!("{name}-rate.svg")), &points)?;
        let cpu = Plot {
            title: &format!("{title}: processor time of the client by size of the bodies"),
            y: Axis { name: "processor time per message", text: micros, step: 10.0 },
            ..rate
        };
        let points = series(results, rows, |row| row.size as f64, Run::cpu);
        cpu.draw(&out.join(format!("{name}-cpu.svg")), &points)?;
    }
    round_trips(results, &out.join("round-trips.svg"))
}

fn latency(results: &Results, out: &Path, title: &str, of: fn(&Run) -> f64, file: &str) -> Outcome {
    let plot = Plot {
        title,
        x: Axis { name: "load, messages per second", text: number, step: 10.0 },
        y: Axis { name: "from when a message was due until it arrived", text: micros, step: 10.0 },
    };
    // With further parameters, it is another scenario.
    let is_plain = |name: &str| name.starts_with("paced/") && name.matches('/').count() == 1;
    let rows = |row: &&Row| row.target == Target::TwoCores && is_plain(&row.scenario);
    plot.draw(&out.join(file), &series(results, rows, rate_of, of))
}

/// Returns a size with its unit.
fn bytes(size: f64) -> String {
    match size {
        large if large >= 1048576.0 => format!("{} MiB", large / 1048576.0),
        large if large >= 1024.0 => format!("{} KiB", large / 1024.0),
        small => format!("{small} B"),
    }
}

/// Returns a number in thousands or millions.
fn number(number: f64) -> String {
    match number {
        large if large >= 1e6 => format!("{} M", large / 1e6),
        large if large >= 1e3 => format!("{} k", large / 1e3),
        small => format!("{small}"),
    }
}

/// Returns microseconds with their unit.
fn micros(time: f64) -> String {
    match time {
        long if long >= 1e6 => format!("{} s", long / 1e6),
        long if long >= 1e3 => format!("{} ms", long / 1e3),
        short if short >= 1.0 => format!("{short} µs"),
        shorter => format!("{:.0} ns", shorter * 1e3),
    }
}

/// The round trips in the plot, the offset of each from its client's place, and its colour.
const ROUND_TRIPS: [(&str, f64, RGBColor); 3] = [
    ("rpc", -0.22, RGBColor(0, 80, 190)),
    ("confirm-each", 0.0, RGBColor(210, 30, 40)),
    ("declare", 0.22, RGBColor(0, 130, 60)),
];

/// Draws the median of each round trip of each client, with a line from the lower to the upper quartile of the runs.
fn round_trips(results: &Results, file: &Path) -> Outcome {
    let rows = |name: &'static str| {
        let wanted = move |row: &&Row| row.target == Target::OneCore && row.scenario == name;
        results.rows.iter().filter(wanted).filter(|row| SLOWEST > row.median(|run| run.p50))
    };
    let measured =
        |name: &str| ROUND_TRIPS.iter().any(|(trip, ..)| rows(trip).any(|row| row.peer == name));
    let clients: Vec<_> =
        peers::all().iter().map(|peer| peer.name).filter(|name| measured(name)).collect();
    let place = |name: &str| clients.iter().position(|client| *client == name);
    let most = ROUND_TRIPS.iter().flat_map(|(name, ..)| rows(name)).filter_map(|row| row.quartiles);
    let most = most.map(|quartiles| quartiles.p50[2]).fold(0.0, f64::max);
    // Results of earlier versions have no quartiles.
    if most == 0.0 {
        return Ok(());
    }
    // A line for each client, the first one on top.
    let height = 110 + 26 * clients.len() as u32;
    let root = SVGBackend::new(file, (SIZE.0, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let last = 0.5 - clients.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("Round trips (null broker, one core for both)", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(120)
        .build_cartesian_2d(0.0..most * 1.1, last..0.5)?;
    let name = |y: &f64| {
        let whole = (y - y.round()).abs() < 0.01 && *y < 0.5;
        clients.get(-y.round() as usize).filter(|_| whole).map_or("", |name| *name).to_owned()
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(clients.len() * 2)
        .y_label_formatter(&name)
        .x_label_formatter(&|time| format!("{time} µs"))
        .x_desc("median of the runs, and a line from the lower to the upper quartile")
        .axis_desc_style(("sans-serif", 14))
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .draw()?;
    for (trip, offset, colour) in ROUND_TRIPS {
        let style = colour.stroke_width(2);
        let points = rows(trip).filter_map(|row| {
            let [lower, median, upper] = row.quartiles?.p50;
            Some((-(place(&row.peer)? as f64) - offset, lower, median, upper))
        });
        let points: Vec<_> = points.collect();
        let lines = points
            .iter()
            .map(|(y, lower, _, upper)| PathElement::new([(*lower, *y), (*upper, *y)], style));
        chart
            .draw_series(lines)?
            .label(trip)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let marks =
            points.iter().map(|(y, _, median, _)| Circle::new((*median, *y), 3, style.filled()));
        chart.draw_series(marks)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(root.present()?)
}

/// The load of a paced scenario.
fn rate_of(row: &Row) -> f64 {
    row.scenario.split_once("rate=").and_then(|(_, rate)| rate.parse().ok()).unwrap_or(1.0)
}

type Series = Vec<(&'static str, Vec<(f64, f64)>)>;

/// The points of each client that is shown.
fn series(
    results: &Results,
    wanted: impl Fn(&&Row) -> bool,
    x: impl Fn(&Row) -> f64,
    y: impl Fn(&Run) -> f64,
) -> Series {
    let rows: Vec<_> = results.rows.iter().filter(wanted).collect();
    let points = |name: &str| {
        let own = rows.iter().filter(|row| row.peer == name);
        let mut points: Vec<_> = own.map(|row| (x(row), row.median(&y))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let mut series: Series = SHOWN.iter().map(|(name, _)| (*name, points(name))).collect();
    series.retain(|(_, points)| !points.is_empty());
    series
}

/// A logarithmic axis.
#[derive(Clone, Copy)]
struct Axis<'a> {
    name: &'a str,
    /// Writes a value with its unit.
    text: fn(f64) -> String,
    /// The factor from one line of the grid to the next.
    step: f64,
}

impl Axis<'_> {
    /// Returns the values with lines, which are powers of the step.
    fn lines(&self, range: &Range<f64>) -> Vec<f64> {
        let power = |value: f64| value.ln() / self.step.ln();
        let powers = power(range.start).ceil() as i32..=power(range.end).floor() as i32;
        powers.map(|power| self.step.powi(power)).collect()
    }
}

#[derive(Clone, Copy)]
struct Plot<'a> {
    title: &'a str,
    x: Axis<'a>,
    y: Axis<'a>,
}

impl Plot<'_> {
    /// Draws lines on two logarithmic axes, measured with the null broker on two cores, and the legend beside them.
    fn draw(&self, file: &Path, series: &Series) -> Outcome {
        let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
        let range = |of: fn((f64, f64)) -> f64| {
            let least = points().map(of).fold(f64::INFINITY, f64::min);
            let most = points().map(of).fold(0.0, f64::max);
            (least.max(1e-3) * 0.7)..(most * 1.4)
        };
        if points().next().is_none() {
            return Ok(());
        }
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (left, right) = root.split_horizontally(SIZE.0 - LEGEND);
        let (x, y) = (range(|point| point.0), range(|point| point.1));
        let (x_lines, y_lines) = (self.x.lines(&x), self.y.lines(&y));
        let mut chart = ChartBuilder::on(&left)
            .caption(format!("{} (null broker, two cores)", self.title), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(78)
            .build_cartesian_2d(
                x.log_scale().with_key_points(x_lines),
                y.log_scale().with_key_points(y_lines),
            )?;
        chart
            .configure_mesh()
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .x_label_formatter(&|value| (self.x.text)(*value))
            .y_label_formatter(&|value| (self.y.text)(*value))
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .draw()?;
        for (name, points) in series {
            chart.draw_series(LineSeries::new(points.iter().copied(), style(name)))?;
            let marks = points.iter().map(|point| Circle::new(*point, 3, style(name).filled()));
            chart.draw_series(marks)?;
        }
        legend(&right, series)?;
        Ok(root.present()?)
    }
}

/// Lists the clients, about in the order of their lines.
fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, series: &Series) -> Outcome {
    let height = |points: &[(f64, f64)]| {
        points.iter().map(|point| point.1.ln()).sum::<f64>() / points.len() as f64
    };
    let mut sorted: Vec<_> = series.iter().collect();
    sorted.sort_by(|one, other| height(&other.1).total_cmp(&height(&one.1)));
    for (place, (name, _)) in (0..).zip(sorted) {
        let y = 60 + 24 * place;
        area.draw(&PathElement::new([(4, y), (26, y)], style(name)))?;
        area.draw(&Circle::new((15, y), 3, style(name).filled()))?;
        area.draw(&Text::new(*name, (32, y - 7), ("sans-serif", 14)))?;
    }
    Ok(())
}

/// Ours in strong lines, the others thin; each client in its own colour everywhere.
fn style(name: &str) -> ShapeStyle {
    let colour = SHOWN.iter().find(|(shown, _)| *shown == name).map_or(BLACK, |(_, own)| *own);
    let ours = peers::all().iter().any(|peer| peer.name == name && peer.is_ours);
    colour.stroke_width(if ours { 4 } else { 2 })
}
