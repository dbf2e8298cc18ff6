/// A name (exchange, queue, routing key, consumer tag...) is longer than the 255 bytes a short string holds.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {length} bytes long; AMQP allows at most 255")]
pub struct TooLong {
    /// Which name it is.
    pub what: &'static str,
    /// Its length in bytes.
    pub length: usize,
}

crate::error::debug_shows_chain! { TooLong }

/// The length octet of a short string, or which one is too long.
pub(crate) fn checked_short(what: &'static str, octets: &[u8]) -> Result<u8, TooLong> {
    let length = octets.len();
    u8::try_from(length).map_err(|_| TooLong { what, length })
}
