//! Faults under load: publishers with confirms and consumers with acknowledgements run throughout, while nodes are killed and
//! frozen and connections cut. A ledger knows of each message what was said of it; at the end nothing that was confirmed is
//! missing.

mod faults;
mod ledger;
mod run;
mod site;
mod table;
mod traffic;

pub use faults::Fault;
pub use run::{Plan, run};
pub use table::Table;

/// What can go wrong with the suite itself, or with what it watches.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
