//! What measures, and what is measured against: drivers' arguments and report, the null broker, the raw limit.

pub mod broker;
pub mod job;
pub mod octets;
pub mod raw;
