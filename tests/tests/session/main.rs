//! Sessions and the in-memory broker, in virtual time: a client's state is restored after a loss, at whatever step it occurs.

#[path = "../harness/mod.rs"]
mod harness;

mod auto_delete;
mod closing;
mod cuts;
mod declarations;
mod discarded;
mod embedding;
mod extremes;
mod failures;
mod messages;
mod mistakes;
mod neighbours;
mod order;
mod outages;
mod pausing;
mod refused;
mod returned;
mod rig;
mod scripted;
mod secrets;
mod smaller;
mod streams;
mod topology;
mod transactions;
mod turns;
mod withdrawn;
