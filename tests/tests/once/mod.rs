//! Connections that are not recovered, for tests of how they end.

use amqp_client_core::{ConnectError, Target};
use amqp_client_tokio::{Connection, connect_target};

pub(crate) async fn open(uri: &str) -> Result<Connection, ConnectError> {
    connect_target(uri.parse::<Target>()?.without_recovery()).await
}
