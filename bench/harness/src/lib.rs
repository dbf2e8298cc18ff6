//! The parts that drivers share: arguments and report, the null broker, the raw limit.

pub mod broker;
pub mod floor;
pub mod job;
mod link;
pub mod raw;
pub mod wire;
