//! Faults under load: publishers with confirms and consumers with acknowledgements run throughout, while nodes are killed and
//! frozen and connections are cut. Or workers with retries and parking, and calls. A ledger records the outcome of each message; at the end, no confirmed message may be missing.

mod clients;
mod faults;
mod ledger;
mod patterns;
mod run;
mod site;
mod table;
mod traffic;
mod watch;
#[path = "../../simulation/src/witness.rs"]
mod witness;

pub use faults::Fault;
pub use run::{Plan, Workload, run};
pub use table::Table;

/// Errors of the suite itself, or of the clients.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
