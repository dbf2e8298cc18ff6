//! The results of measurements.

use serde::{Deserialize, Serialize};

use crate::plan::{Kind, Target};

/// All of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) profiles: Vec<Profile>,
}

/// The machine of the measurements.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) system: String,
    pub(crate) versions: Vec<String>,
}

/// One client in one scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) target: Target,
    pub(crate) scenario: String,
    pub(crate) size: usize,
    pub(crate) kind: Kind,
    pub(crate) peer: String,
    pub(crate) runs: Vec<Run>,
    /// Of the runs of a round trip: the lower quartile, the median and the upper quartile.
    #[serde(default)]
    pub(crate) quartiles: Option<Quartiles>,
}

/// The spread of a row's runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Quartiles {
    /// Of the median latency, in microseconds.
    pub(crate) p50: [f64; 3],
    /// Of the processor time of an operation, in microseconds.
    pub(crate) cpu: [f64; 3],
}

/// A driver's report of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) count: u64,
    /// Seconds.
    pub(crate) wall: f64,
    pub(crate) user: f64,
    pub(crate) sys: f64,
    /// Context switches.
    pub(crate) switches: i64,
    pub(crate) rss_kib: u64,
    pub(crate) peak_kib: u64,
    pub(crate) threads: u64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Polls of tasks, if the driver counts them.
    #[serde(default)]
    pub(crate) polls: u64,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.wall
    }

    /// Microseconds of processor time for each message.
    pub(crate) fn cpu(&self) -> f64 {
        (self.user + self.sys) * 1e6 / self.count as f64
    }

    pub(crate) fn switches_each(&self) -> f64 {
        self.switches as f64 / self.count as f64
    }

    pub(crate) fn polls_each(&self) -> f64 {
        self.polls as f64 / self.count as f64
    }
}

impl Row {
    pub(crate) fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let [_, median, _] = self.quartiles_of(of);
        median
    }

    /// Returns the lower quartile, the median and the upper quartile of the runs.
    pub(crate) fn quartiles_of(&self, of: impl Fn(&Run) -> f64) -> [f64; 3] {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        [0.25, 0.5, 0.75].map(|share| quantile(&values, share))
    }
}

/// Interpolates between the two values that are next to that share of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = sorted.len().saturating_sub(1) as f64 * share;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(0.0);
    let (below, above) = (value(position.floor()), value(position.ceil()));
    below + (above - below) * position.fract()
}

/// The costs of a message that hardly vary from run to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) scenario: String,
    pub(crate) size: usize,
    pub(crate) peer: String,
    pub(crate) instructions: Option<f64>,
    pub(crate) allocations: Option<f64>,
    pub(crate) system_calls: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!(
            [0.25, 0.5, 0.75].map(|share| quantile(&[1.0, 2.0, 4.0], share)),
            [1.5, 2.0, 3.0]
        );
        assert_eq!(quantile(&[3.0, 5.0], 0.5), 4.0);
        assert_eq!([0.25, 0.75].map(|share| quantile(&[7.0], share)), [7.0, 7.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
