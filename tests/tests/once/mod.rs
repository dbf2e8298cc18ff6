//! Connections that do not come back, for tests of how they end.

use amqp_client_core::{ConnectError, Target};
use amqp_client_tokio::Connection;

pub(crate) async fn open(uri: &str) -> Result<Connection, ConnectError> {
    Connection::open_target(uri.parse::<Target>()?.without_recovery()).await
}
