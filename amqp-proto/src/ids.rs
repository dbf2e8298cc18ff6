//! Numbers with a meaning.

use core::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($type:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) $type);

        impl $name {
            /// Returns the number.
            #[must_use]
            pub const fn get(self) -> $type {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// The number of a channel on its connection.
    ///
    /// A number can be reused, but only after the `Closed` event of the earlier channel was polled.
    ///
    /// ```
    /// # use amqp_proto::{ChannelError, ChannelId};
    /// # fn example(error: &ChannelError) {
    /// if let Some(channel) = error.channel_id() {
    ///     println!("channel {channel} was closed");
    /// }
    /// # }
    /// ```
    ChannelId(u16);
    /// The number of a request, unique on its connection.
    RequestId(u64);
    /// The number of a consumer, which is the number of the request that started it.
    ConsumerId(u64);
    /// Counts the publishes of a channel since confirms were selected, from 1.
    PublishSeq(u64);
    /// The broker's number of a delivery on its channel.
    ///
    /// ```
    /// # use amqp_proto::DeliveryTag;
    /// let tag = DeliveryTag::new(7);
    /// assert_eq!(tag.get(), 7);
    /// ```
    DeliveryTag(u64);
}

impl DeliveryTag {
    /// Creates a tag from a number, for example from a stored one.
    #[must_use]
    pub const fn new(tag: u64) -> Self {
        Self(tag)
    }
}

impl From<RequestId> for ConsumerId {
    fn from(request: RequestId) -> Self {
        Self(request.0)
    }
}
