use std::future::Future;

/// An async function that handles messages: see [the module](super).
///
/// It is implemented for all functions and closures with up to 8 arguments that return a future. The future must not borrow from
/// the closure, so a closure that captures something clones it for each call: `move |text: Text| { let db = db.clone(); async move
/// { .. } }`. [`State`](super::State) does the same for you.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not an async function of up to 8 arguments",
    note = "a handler is an `async fn`, or a closure that returns a future which borrows nothing from the closure"
)]
pub trait Handler<Args> {
    /// The result of the function.
    type Output;
    /// The future that the function returns.
    type Future: Future<Output = Self::Output>;

    /// Calls the function.
    fn call(&self, arguments: Args) -> Self::Future;
}

macro_rules! functions {
    ($(($($argument:ident $name:ident)*))*) => {$(
        impl<F, Fut, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut,
            Fut: Future,
        {
            type Output = Fut::Output;
            type Future = Fut;

            fn call(&self, ($($name,)*): ($($argument,)*)) -> Fut {
                self($($name),*)
            }
        }
    )*};
}

functions! {
    ()
    (A a)
    (A a B b)
    (A a B b C c)
    (A a B b C c D d)
    (A a B b C c D d E e)
    (A a B b C c D d E e G g)
    (A a B b C c D d E e G g H h)
    (A a B b C c D d E e G g H h I i)
}
