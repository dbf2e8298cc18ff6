//! All arguments of a handler, taken from one delivery.

use amqp_client_core::Delivery;

use super::Extract;
use crate::codec::BoxError;

/// The arguments of a handler, as a tuple. Implemented for tuples of up to 8 types that implement [`Extract`], and whose last may be
/// the [`Delivery`] itself.
///
/// `M` says how the last one is taken. The compiler infers it.
pub trait Arguments<S, M>: Sized {
    /// Takes the arguments from a delivery. The delivery stays where it is, unless it is one of the arguments.
    ///
    /// # Errors
    /// The reason why an argument cannot be taken: that of the first one, if there are several. The delivery stays where it is.
    fn take(delivery: &mut Option<Delivery>, state: &S) -> Result<Self, BoxError>;
}

/// The last argument of a handler: a type that implements [`Extract`], or the [`Delivery`].
pub trait ExtractLast<S, M>: Sized {
    /// Takes the argument from a delivery, or the delivery itself.
    ///
    /// # Errors
    /// The reason why it cannot be taken.
    fn extract_last(delivery: &mut Option<Delivery>, state: &S) -> Result<Self, BoxError>;
}

/// Marks arguments that leave the delivery where it is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ByReference;

/// Marks the delivery as an argument.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ByValue;

/// The reason why nothing can be taken: another handler has taken the delivery.
const TAKEN: &str = "the delivery was taken before";

impl<S, T: Extract<S>> ExtractLast<S, ByReference> for T {
    fn extract_last(delivery: &mut Option<Delivery>, state: &S) -> Result<Self, BoxError> {
        T::extract(delivery.as_ref().ok_or(TAKEN)?, state)
    }
}

impl<S> ExtractLast<S, ByValue> for Delivery {
    fn extract_last(delivery: &mut Option<Delivery>, _: &S) -> Result<Self, BoxError> {
        Ok(delivery.take().ok_or(TAKEN)?)
    }
}

impl<S> Arguments<S, ByReference> for () {
    fn take(_: &mut Option<Delivery>, _: &S) -> Result<Self, BoxError> {
        Ok(())
    }
}

macro_rules! arguments {
    ($(($($argument:ident)*) $last:ident;)*) => {$(
        impl<S, M, $($argument,)* $last> Arguments<S, M> for ($($argument,)* $last,)
        where
            $($argument: Extract<S>,)*
            $last: ExtractLast<S, M>,
        {
            fn take(delivery: &mut Option<Delivery>, state: &S) -> Result<Self, BoxError> {
                // A tuple is made from left to right, so the delivery is taken last.
                Ok((
                    $($argument::extract(delivery.as_ref().ok_or(TAKEN)?, state)?,)*
                    $last::extract_last(delivery, state)?,
                ))
            }
        }
    )*};
}

arguments! {
    () A; (A) B; (A B) C; (A B C) D; (A B C D) E; (A B C D E) F; (A B C D E F) G; (A B C D E F G) H;
}
