//! The methods that all errors of operations have.

/// Adds the methods that all errors of operations have to an error type. `contained => error` names the variants that contain another
/// error. `transient` names the other variants after which the operation may succeed later.
#[doc(hidden)]
#[macro_export]
macro_rules! __common_methods {
    (
        $error:ident $(<$param:ident>)? { $($contained:pat => $inner:expr),* $(,)? }
        $(transient $transient:pat)?
    ) => {
        $crate::__close_methods! { $error $(<$param>)? }

        #[allow(unreachable_patterns, reason = "some contain an error in each variant")]
        impl $(<$param>)? $error $(<$param>)? {
            /// Returns the reply code that explains the error: of the close of the channel or connection, for example.
            #[must_use]
            pub fn reply_code(&self) -> Option<$crate::ReplyCode> {
                match self {
                    $($contained => $inner.reply_code(),)*
                    _ => None,
                }
            }

            /// Returns the orderly close of the channel or connection, if that is the reason.
            #[must_use]
            pub fn as_close(&self) -> Option<&$crate::Close> {
                match self {
                    $($contained => $inner.as_close(),)*
                    _ => None,
                }
            }

            /// Returns whether the same operation may succeed later. If a channel or connection was closed, it needs a new one.
            #[must_use]
            pub fn is_transient(&self) -> bool {
                match self {
                    $($contained => $inner.is_transient(),)*
                    _ => false $(|| matches!(self, $transient))?,
                }
            }
        }
    };
}
pub(crate) use __common_methods as common_methods;

/// Adds the methods that return parts of the orderly close, to an error that has `as_close`.
#[doc(hidden)]
#[macro_export]
macro_rules! __close_methods {
    ($error:ident $(<$param:ident>)?) => {
        impl $(<$param>)? $error $(<$param>)? {
            /// Returns the text that the broker, or this client, sent with the reply code.
            #[must_use]
            pub fn reply_text(&self) -> Option<&$crate::ShortStr> {
                self.as_close().map(|close| &close.reply_text)
            }

            /// Returns the reason of the close in fields, if RabbitMQ's text is known; see
            /// [`Close::explanation`]($crate::Close::explanation).
            #[must_use]
            pub fn explanation(&self) -> Option<$crate::error::Explanation> {
                self.as_close()?.explanation()
            }

            /// Returns the number of the channel that was closed, if the error is the close of a channel.
            #[must_use]
            pub fn channel_id(&self) -> Option<$crate::ChannelId> {
                self.as_close()?.channel
            }
        }
    };
}
pub(crate) use __close_methods as close_methods;
