//! Routes: they choose the handler of a message.

use std::convert::Infallible;
use std::fmt;
use std::future::Future as _;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use amqp_client_core::Delivery;
use futures_util::future::Either;

use crate::codec::BoxError;
use crate::handler::{Arguments, ByReference, Handler, IntoVerdict, Verdict};
use crate::history;

/// The handlers of a worker with the state `S`. [`Work::route`](super::Work::route) adds to them.
pub trait Routes<S> {
    /// A running handler.
    type Running;

    /// Calls the handler for a delivery. The delivery stays where it is, unless the handler takes it. Returns `None` if there is no
    /// handler for it.
    ///
    /// # Errors
    /// The reason why an argument of the handler could not be taken.
    fn start(
        &self,
        delivery: &mut Option<Delivery>,
        state: &S,
    ) -> Result<Option<Self::Running>, BoxError>;

    /// Polls a handler that this has called.
    fn poll(running: Pin<&mut Self::Running>, cx: &mut Context<'_>) -> Poll<Verdict>;
}

/// Handlers that leave the delivery to the worker: none of them takes the [`Delivery`].
#[diagnostic::on_unimplemented(
    message = "a handler for the messages of a group cannot take the `Delivery`",
    note = "the worker settles it, and tries again with the same delivery; take `amqp_client_core::proto::Delivery`, or parts of it"
)]
pub trait LeaveDelivery {}

impl LeaveDelivery for NoRoutes {}
impl<Before: LeaveDelivery, H, A> LeaveDelivery for Route<Before, H, A, ByReference> {}

/// No handlers yet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct NoRoutes;

/// A handler for some routing keys, after the handlers in `Before`.
pub struct Route<Before, H, A, M> {
    pub(super) before: Before,
    pub(super) pattern: Pattern,
    pub(super) handler: H,
    pub(super) arguments: PhantomData<fn(A, M)>,
}

impl<S> Routes<S> for NoRoutes {
    type Running = Infallible;

    fn start(&self, _: &mut Option<Delivery>, _: &S) -> Result<Option<Self::Running>, BoxError> {
        Ok(None)
    }

    fn poll(running: Pin<&mut Self::Running>, _: &mut Context<'_>) -> Poll<Verdict> {
        match *running {}
    }
}

impl<S, Before, H, A, M> Routes<S> for Route<Before, H, A, M>
where
    Before: Routes<S>,
    H: Handler<A>,
    H::Output: IntoVerdict,
    A: Arguments<S, M>,
{
    type Running = Either<Before::Running, H::Future>;

    fn start(
        &self,
        delivery: &mut Option<Delivery>,
        state: &S,
    ) -> Result<Option<Self::Running>, BoxError> {
        if let Some(running) = self.before.start(delivery, state)? {
            return Ok(Some(Either::Left(running)));
        }
        if !delivery.as_ref().is_some_and(|delivery| self.pattern.matches(delivery)) {
            return Ok(None);
        }
        Ok(Some(Either::Right(self.handler.call(A::take(delivery, state)?))))
    }

    fn poll(running: Pin<&mut Self::Running>, cx: &mut Context<'_>) -> Poll<Verdict> {
        match running.as_pin_mut() {
            Either::Left(before) => Before::poll(before, cx),
            Either::Right(handler) => handler.poll(cx).map(H::Output::into_verdict),
        }
    }
}

/// A pattern of routing keys, as in the binding of a topic exchange.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// `#`: every routing key.
    All,
    /// A routing key without wildcards.
    One(Box<[u8]>),
    /// The words between the dots.
    Words(Box<[Word]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    This(Box<[u8]>),
    /// `*`
    AnyOne,
    /// `#`
    AnyNumber,
}

impl Pattern {
    pub(super) fn new(pattern: &[u8]) -> Self {
        let words: Box<[Word]> = pattern
            .split(|byte| *byte == b'.')
            .map(|word| match word {
                b"*" => Word::AnyOne,
                b"#" => Word::AnyNumber,
                word => Word::This(word.into()),
            })
            .collect();
        match *words {
            [Word::AnyNumber] => Self::All,
            _ if words.iter().all(|word| matches!(word, Word::This(_))) => {
                Self::One(pattern.into())
            }
            _ => Self::Words(words),
        }
    }

    fn matches(&self, delivery: &Delivery) -> bool {
        match self {
            Self::All => true,
            Self::One(key) => **key == *history::routing_key(delivery).as_bytes(),
            Self::Words(words) => matches(words, history::routing_key(delivery).as_bytes()),
        }
    }
}

/// Returns whether the words of a routing key match. Goes back to the last `#` only, so it takes at most the product of both
/// lengths.
fn matches(words: &[Word], key: &[u8]) -> bool {
    // An empty routing key has no words.
    let key: Vec<&[u8]> = match key.is_empty() {
        true => Vec::new(),
        false => key.split(|byte| *byte == b'.').collect(),
    };
    let (mut word, mut at) = (0, 0);
    // The last `#`, and the first word of the key that it does not stand for.
    let mut last: Option<(usize, usize)> = None;
    loop {
        match (words.get(word), key.get(at)) {
            (None, None) => return true,
            (Some(Word::AnyNumber), _) => {
                last = Some((word, at));
                word += 1;
                continue;
            }
            (Some(Word::AnyOne), Some(_)) => {
                (word, at) = (word + 1, at + 1);
                continue;
            }
            (Some(Word::This(this)), Some(found)) if **this == **found => {
                (word, at) = (word + 1, at + 1);
                continue;
            }
            _ => {}
        }
        match last {
            // Lets the last `#` stand for one word more.
            Some((wildcard, from)) if from < key.len() => {
                last = Some((wildcard, from + 1));
                (word, at) = (wildcard + 1, from + 1);
            }
            _ => return false,
        }
    }
}

impl<Before: fmt::Debug, H, A, M> fmt::Debug for Route<Before, H, A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("before", &self.before)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(pattern: &str, key: &str) -> bool {
        match Pattern::new(pattern.as_bytes()) {
            Pattern::All => true,
            Pattern::One(one) => *one == *key.as_bytes(),
            Pattern::Words(words) => matches(&words, key.as_bytes()),
        }
    }

    #[test]
    fn patterns_are_those_of_topic_exchanges() {
        let yes = [
            ("#", ""),
            ("#", "a.b"),
            ("a", "a"),
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("*", "a"),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "c"),
            ("#.c", "a.b.c"),
            ("a.#.c", "a.c"),
            ("a.#.c", "a.c.b.c"),
            ("#.b.#", "a.b.c"),
            ("*.#", "a"),
            ("#.#", ""),
            ("", ""),
            ("a..b", "a..b"),
            ("a.*.b", "a..b"),
            ("#.a.#.a", "a.a"),
            ("#.*.a", "b.a"),
        ];
        for (pattern, key) in yes {
            assert!(matched(pattern, key), "{pattern} matches {key}");
        }
        let no = [
            ("a", "b"),
            ("a", ""),
            ("*", ""),
            ("*", "a.b"),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("a.#", "b"),
            ("#.c", "c.b"),
            ("a.#.c", "a"),
            ("a.#.c", "a.b"),
            ("*.#.*", "a"),
            ("#.a.#.a", "a"),
            ("a", "a."),
            ("a*", "ab"),
            ("#.b", "ab"),
        ];
        for (pattern, key) in no {
            assert!(!matched(pattern, key), "{pattern} does not match {key}");
        }
    }

    /// Takes the product of the lengths, and not two to the power of one of them.
    #[test]
    fn many_wildcards_are_not_slow() {
        let pattern = "#.a.".repeat(60) + "b";
        let key = "a.".repeat(120) + "c";
        assert!(!matched(&pattern, &key));
        assert!(matched(&pattern, &("a.".repeat(120) + "b")));
    }
}
