//! Plots in SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::plan::Target;
use crate::results::{Results, Row, Run};
use crate::{Outcome, peers};

const SIZE: (u32, u32) = (900, 520);

/// Clients that are in plots: fewer than there are, so that one sees something.
const SHOWN: [&str; 8] =
    ["raw", "tokio-ct", "tokio", "blocking", "librabbitmq", "amqprs", "lapin", "amqp091-go"];

/// Clients with slower round trips, in microseconds, are left out of the plot: it would show nothing else.
const SLOWEST: f64 = 100.0;

pub(crate) fn all(results: &Results, out: &Path) -> Outcome {
    for (name, title) in [("publish", "Publishing"), ("consume", "Consuming")] {
        let rows = |row: &&Row| row.target == Target::TwoCores && row.scenario == name;
        let cpu = Plot {
            title: &format!("{title}: CPU of the client by body size (null broker, two cores)"),
            x: "bytes in a body",
            y: "microseconds of CPU for each message",
            legend: SeriesLabelPosition::LowerRight,
        };
        let points = series(results, rows, |row| row.size as f64, Run::cpu);
        cpu.draw(&out.join(format!("{name}-cpu.svg")), &points)?;
        let rate = Plot {
            title: &format!("{title}: throughput by body size (null broker, two cores)"),
            y: "messages a second",
            legend: SeriesLabelPosition::LowerLeft,
            ..cpu
        };
        let points = series(results, rows, |row| row.size as f64, Run::rate);
        rate.draw(&out.join(format!("{name}-rate.svg")), &points)?;
    }
    round_trips(results, &out.join("round-trips.svg"))?;
    let latency = |title, of: fn(&Run) -> f64, file: &str| {
        let plot = Plot {
            title,
            x: "messages a second",
            y: "microseconds from when a message was due until it arrived",
            legend: SeriesLabelPosition::UpperLeft,
        };
        let rows = |row: &&Row| row.target == Target::TwoCores && row.scenario.starts_with("paced");
        plot.draw(&out.join(file), &series(results, rows, rate_of, of))
    };
    latency("Median latency by load (null broker, two cores)", |run| run.p50, "latency-p50.svg")?;
    latency(
        "99th percentile of latency by load (null broker, two cores)",
        |run| run.p99,
        "latency-p99.svg",
    )
}

/// The round trips in the plot, and the offset of each from its client's place.
const ROUND_TRIPS: [(&str, f64); 3] = [("rpc", -0.2), ("confirm-each", 0.0), ("declare", 0.2)];

/// Draws the median of each round trip of each client, with a line from the lower to the upper quartile of the runs.
fn round_trips(results: &Results, file: &Path) -> Outcome {
    let rows = |name: &'static str| {
        let wanted = move |row: &&Row| row.target == Target::OneCore && row.scenario == name;
        results.rows.iter().filter(wanted).filter(|row| SLOWEST > row.median(|run| run.p50))
    };
    let measured =
        |name: &str| ROUND_TRIPS.iter().any(|(trip, _)| rows(trip).any(|row| row.peer == name));
    let clients: Vec<_> =
        peers::all().iter().map(|peer| peer.name).filter(|name| measured(name)).collect();
    let place = |name: &str| clients.iter().position(|client| *client == name);
    let most = ROUND_TRIPS.iter().flat_map(|(name, _)| rows(name)).filter_map(|row| row.quartiles);
    let most = most.map(|quartiles| quartiles.p50[2]).fold(0.0, f64::max);
    if clients.is_empty() {
        return Ok(());
    }
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Round trips (null broker, one core for both)", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d(-0.5..clients.len() as f64 - 0.5, 0.0..most * 1.1)?;
    let name = |x: &f64| {
        let whole = (x - x.round()).abs() < 0.01;
        clients.get(x.round() as usize).filter(|_| whole).map_or("", |name| *name).to_owned()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(clients.len() * 2)
        .x_label_formatter(&name)
        .y_desc("microseconds, median and quartiles of the runs")
        .light_line_style(WHITE)
        .draw()?;
    for (index, (trip, offset)) in ROUND_TRIPS.into_iter().enumerate() {
        let style = Palette99::pick(index).stroke_width(2);
        let points = rows(trip).filter_map(|row| {
            let [lower, median, upper] = row.quartiles?.p50;
            Some((place(&row.peer)? as f64 + offset, lower, median, upper))
        });
        let points: Vec<_> = points.collect();
        let lines = points
            .iter()
            .map(|(x, lower, _, upper)| PathElement::new([(*x, *lower), (*x, *upper)], style));
        chart
            .draw_series(lines)?
            .label(trip)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let marks =
            points.iter().map(|(x, _, median, _)| Circle::new((*x, *median), 4, style.filled()));
        chart.draw_series(marks)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
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
    let mut series: Series = SHOWN.iter().map(|name| (*name, points(name))).collect();
    series.retain(|(_, points)| !points.is_empty());
    series
}

#[derive(Clone)]
struct Plot<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    legend: SeriesLabelPosition,
}

impl Plot<'_> {
    /// Draws lines on two logarithmic axes.
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
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(
                range(|point| point.0).log_scale(),
                range(|point| point.1).log_scale(),
            )?;
        chart.configure_mesh().x_desc(self.x).y_desc(self.y).light_line_style(WHITE).draw()?;
        for (name, points) in series {
            self.line(&mut chart, name, points, colour(name))?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(root.present()?)
    }

    fn line(
        &self,
        chart: &mut ChartContext<'_, SVGBackend<'_>, LogPlane>,
        name: &str,
        points: &[(f64, f64)],
        style: ShapeStyle,
    ) -> Outcome {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let marks = points.iter().map(|point| Circle::new(*point, 3, style.filled()));
        chart.draw_series(marks)?;
        Ok(())
    }
}

type LogPlane = Cartesian2d<LogCoord<f64>, LogCoord<f64>>;

/// Ours in strong lines, the limit in black, the others thin; each client in its own colour everywhere.
fn colour(name: &str) -> ShapeStyle {
    if name == "raw" {
        return BLACK.mix(0.6).stroke_width(2);
    }
    let index = SHOWN.iter().position(|shown| *shown == name).unwrap_or_default();
    let ours = peers::all().iter().any(|peer| peer.name == name && peer.is_ours);
    Palette99::pick(index).stroke_width(if ours { 4 } else { 2 })
}
