//! Sessions and the broker in memory, in virtual time: what a client has comes back after a loss, wherever that hits.

mod closing;
mod cuts;
mod embedding;
mod extremes;
mod failures;
mod messages;
mod mistakes;
mod neighbours;
mod order;
mod outages;
mod pair;
mod pausing;
mod refused;
mod returned;
mod scripted;
mod secrets;
mod smaller;
mod streams;
mod topology;
mod transactions;
mod turns;
mod withdrawn;
mod world;
