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
}

impl Row {
    pub(crate) fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => values[odd / 2],
            even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
        }
    }
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
