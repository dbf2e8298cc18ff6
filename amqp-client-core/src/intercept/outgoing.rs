use std::fmt;

use amqp_proto::{
    __debug_shows_chain as debug_shows_chain, DecodeError, FieldError, FieldTable, RawProperties,
    Route, Value,
};
use thiserror::Error;

/// Number of bytes of a header frame without the properties: 8 that every frame has, and 12 for class, weight and size of the body.
const AROUND_PROPERTIES: usize = 8 + 12;

/// A message that is about to be published, for an [`Intercept`](super::Intercept).
pub struct OutgoingMessage<'a> {
    route: Route<'a>,
    properties: RawProperties,
    body: &'a [u8],
    /// The largest size of the encoded properties.
    properties_max: usize,
}

/// The reason why a header was not added to a message. The message is unchanged.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name or the value does not fit into a field table.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The message's own headers are malformed.
    #[error("the headers of the message are malformed")]
    Malformed(#[source] DecodeError),
    /// With the header, the properties would not fit into a frame, and the message could not be sent. Before the first connection,
    /// the size of frames is not known. Then the limit is that of the smallest frame that a broker may require, 4096 bytes.
    #[error("the properties would take {size} bytes, and a frame has room for {limit}")]
    NoRoom {
        /// Size of the properties with the header, in bytes.
        size: usize,
        /// The largest size that a frame can hold, in bytes.
        limit: usize,
    },
}

debug_shows_chain! { HeaderError }

impl<'a> OutgoingMessage<'a> {
    pub(crate) fn new(
        route: Route<'a>,
        properties: RawProperties,
        body: &'a [u8],
        frame_max: usize,
    ) -> Self {
        let properties_max = frame_max.saturating_sub(AROUND_PROPERTIES);
        Self { route, properties, body, properties_max }
    }

    /// Returns the exchange; empty for the default exchange.
    #[must_use]
    pub const fn exchange(&self) -> &'a [u8] {
        self.route.exchange()
    }

    /// Returns the routing key.
    #[must_use]
    pub const fn routing_key(&self) -> &'a [u8] {
        self.route.routing_key()
    }

    /// Returns whether the broker returns the message if it reaches no queue.
    #[must_use]
    pub const fn is_mandatory(&self) -> bool {
        self.route.is_mandatory()
    }

    /// Returns the body.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Returns the properties, with the headers that were added.
    #[must_use]
    pub const fn properties(&self) -> &RawProperties {
        &self.properties
    }

    /// Adds a header, or replaces the header of that name. The other headers are neither decoded nor changed.
    ///
    /// # Errors
    /// [`HeaderError`]. The message is then unchanged, and can be sent without the header.
    pub fn insert_header(
        &mut self,
        name: impl AsRef<[u8]>,
        value: impl Into<Value>,
    ) -> Result<(), HeaderError> {
        self.insert_headers(&FieldTable::new().with(name, value)?)
    }

    /// Adds headers, or replaces those of the same names. Copies the properties once, however many headers there are.
    ///
    /// # Errors
    /// [`HeaderError`]. The message is then unchanged, and can be sent without the headers.
    pub fn insert_headers(&mut self, headers: &FieldTable) -> Result<(), HeaderError> {
        let properties = self.properties.with_headers(headers).map_err(HeaderError::Malformed)?;
        let (size, limit) = (properties.as_encoded().len(), self.properties_max);
        if size > limit {
            return Err(HeaderError::NoRoom { size, limit });
        }
        self.properties = properties;
        Ok(())
    }

    pub(crate) fn into_properties(self) -> RawProperties {
        self.properties
    }
}

/// For log lines: where the message goes and how large it is, but neither body nor properties.
impl fmt::Debug for OutgoingMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingMessage")
            .field("route", &self.route)
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}
