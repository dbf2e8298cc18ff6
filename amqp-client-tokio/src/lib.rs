//! Tokio client.
