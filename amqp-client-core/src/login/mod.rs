//! Authentication: mechanisms that `amqp-proto` does not have, and tokens that expire.

#[cfg(feature = "cram-md5")]
mod cram_md5;
mod token;

#[cfg(feature = "cram-md5")]
pub use cram_md5::CramMd5;
pub use token::{Token, TokenError, TokenSource, keep_fresh};
pub(crate) use token::{ask, keep_fresh_from};

use std::sync::Arc;

use amqp_proto::Mechanism;
use amqp_proto::uri::Password;

/// Returns the mechanism with that name, if this module has it.
#[cfg_attr(not(feature = "cram-md5"), allow(unused_variables, reason = "there is none"))]
pub(crate) fn mechanism(
    name: &str,
    username: &str,
    password: &Password,
) -> Option<Arc<dyn Mechanism>> {
    match name {
        #[cfg(feature = "cram-md5")]
        "CRAM-MD5" => Some(Arc::new(CramMd5::new(username, password.expose()))),
        _ => None,
    }
}
