use core::fmt;

/// The reason why a connection or channel was closed, or a message returned, as a number (spec 1.2).
///
/// Any number can come from a peer; the known ones are constants.
///
/// ```
/// # use amqp_proto::ReplyCode;
/// assert_eq!(ReplyCode::NOT_FOUND.to_string(), "404 NOT_FOUND");
/// assert!(!ReplyCode::NOT_FOUND.is_hard());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(pub u16);

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $(, $hard:ident)?;)*) => {
        impl ReplyCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// Returns the name in the specification, if there is one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// Returns whether this code closes the whole connection (a hard error), not only the channel.
            #[must_use]
            pub const fn is_hard(self) -> bool {
                match self.0 {
                    $($($code => { let $hard = true; $hard })?)*
                    _ => false,
                }
            }
        }
    };
}

reply_codes! {
    /// No error.
    REPLY_SUCCESS = 200;
    /// The message is larger than the peer accepts at present.
    CONTENT_TOO_LARGE = 311;
    /// The message reached no queue (RabbitMQ, in `basic.return`).
    NO_ROUTE = 312;
    /// No consumer could take an immediate message at once.
    NO_CONSUMERS = 313;
    /// The broker was made to close the connection: its node shuts down, or an operator closed it.
    CONNECTION_FORCED = 320, hard;
    /// The virtual host is unknown.
    INVALID_PATH = 402, hard;
    /// The user may not do this.
    ACCESS_REFUSED = 403;
    /// The queue, exchange or binding does not exist.
    NOT_FOUND = 404;
    /// Another connection uses the entity exclusively.
    RESOURCE_LOCKED = 405;
    /// The request contradicts what exists.
    PRECONDITION_FAILED = 406;
    /// A frame could not be read.
    FRAME_ERROR = 501, hard;
    /// A frame contains illegal values.
    SYNTAX_ERROR = 502, hard;
    /// A method arrived at the wrong time.
    COMMAND_INVALID = 503, hard;
    /// A channel was used that is not open.
    CHANNEL_ERROR = 504, hard;
    /// A frame arrived at the wrong time.
    UNEXPECTED_FRAME = 505, hard;
    /// The peer is short of resources.
    RESOURCE_ERROR = 506, hard;
    /// The peer must not do this.
    NOT_ALLOWED = 530, hard;
    /// The peer does not support this.
    NOT_IMPLEMENTED = 540, hard;
    /// The peer failed.
    INTERNAL_ERROR = 541, hard;
}

impl ReplyCode {
    /// Returns whether the same request may succeed later: the cause is the state of the peer rather than the request.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::CONTENT_TOO_LARGE
                | Self::NO_CONSUMERS
                | Self::CONNECTION_FORCED
                | Self::RESOURCE_LOCKED
                | Self::RESOURCE_ERROR
                | Self::INTERNAL_ERROR
        )
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => self.0.fmt(f),
        }
    }
}
