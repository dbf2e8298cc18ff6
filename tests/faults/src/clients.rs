use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::ledger::{Ledger, Totals};
use crate::site::Site;
use crate::watch::Watch;

/// A workload: clients that work while faults are injected.
pub(crate) trait Clients: Sized {
    async fn start(site: &Site, ledger: &Arc<Ledger>, seed: u64) -> Result<Self, Error>;

    fn watch(&self) -> &Watch;

    /// A fault begins, or everything has recovered from it.
    fn fault(&self) {}

    /// Describes the state of everything, for the error of a run that hangs.
    fn status(&self, probe: u64) -> String;

    /// Publishes a probe, again and again, until it has passed everywhere.
    async fn probe(&self, probe: u64) -> Result<(), Error>;

    /// Publishes nothing new, waits until all that was confirmed has arrived, and closes.
    async fn finish(self) -> Result<Ending, Error>;
}

/// The state at the end.
pub(crate) struct Ending {
    pub(crate) totals: Totals,
    /// The resources that were left.
    pub(crate) pending: usize,
}

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The time that confirmed messages may take to arrive once all faults have ended.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(120);

pub(crate) const GRACE: Duration = Duration::from_secs(30);
