//! The first connection in the background.

use std::sync::Arc;

use amqp_proto::session::Recovery;

use super::attempt::check_tls;
use super::reconnect::reconnect;
use super::{ConnectError, Runtime, Target, begin_unconnected};
use crate::Connection;
use crate::login::keep_fresh_from;

/// Returns a connection at once, and connects it in a task of its own, with the retries that [`Target::recovery`] configures. Until
/// then, the connection behaves as during an outage; see [recovery](crate::recovery#connecting-in-the-background).
///
/// # Errors
/// [`ConnectError`], if the target itself is invalid: a setting, the TLS configuration, or no endpoint. Everything else is reported
/// by the connection.
pub fn open_in_background<R: Runtime>(target: Target) -> Result<Connection, ConnectError> {
    target.config.settings.check()?;
    check_tls(&target)?;
    let recovery = target.recovery.clone().unwrap_or_else(|| try_each_once(&target));
    let (connection, reconnector) = begin_unconnected::<R>(&target, &recovery)?;
    connection.shared().lock().recovers_until_open = target.recovery.is_none();
    if let Some(source) = target.token_source.clone() {
        R::spawn(keep_fresh_from(&connection, source, None, R::timer()));
    }
    R::spawn(reconnect::<R>(reconnector, Arc::new(target)));
    Ok(connection)
}

/// Returns the policy for the first connection to a target without recovery.
fn try_each_once(target: &Target) -> Recovery {
    let nodes = u32::try_from(target.endpoints.len()).unwrap_or(u32::MAX);
    Recovery::default().attempts_max(Some(nodes))
}
