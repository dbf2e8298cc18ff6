//! Connecting to the first of several addresses that accepts: Happy Eyeballs (RFC 8305).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream as _};

use crate::driver::Timer;

/// The time before the next address is tried in parallel (section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address that accepts. Each address is tried a little after the one before, or at once when the one before has
/// failed. The first connection is used, and the other attempts are dropped.
pub(crate) async fn connect_any<S, F>(
    addrs: Vec<SocketAddr>,
    mut timer: impl Timer,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut left = interleaved(addrs);
    let mut attempts = std::pin::pin!(FuturesUnordered::new());
    let mut next_at = timer.now();
    let mut last_error = None;
    poll_fn(|cx| {
        loop {
            match attempts.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(stream))) => return Poll::Ready(Ok(stream)),
                Poll::Ready(Some(Err(error))) => {
                    last_error = Some(error);
                    next_at = timer.now();
                    continue;
                }
                Poll::Ready(None) if left.is_empty() => {
                    let none =
                        || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
                    return Poll::Ready(Err(last_error.take().unwrap_or_else(none)));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if left.is_empty() || timer.poll_until(cx, next_at).is_pending() {
                return Poll::Pending;
            }
            if let Some(addr) = left.pop_front() {
                attempts.as_mut().get_mut().push(connect(addr));
                next_at = timer.now() + HEAD_START;
            }
        }
    })
    .await
}

/// Orders the addresses so that IPv6 and IPv4 alternate, beginning with the family of the first address (section 4). If one family does
/// not work, this costs only one delay.
fn interleaved(addrs: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let v6_first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ones, mut others): (VecDeque<_>, VecDeque<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv6() == v6_first);
    let mut all = VecDeque::with_capacity(ones.len() + others.len());
    while !ones.is_empty() || !others.is_empty() {
        all.extend(ones.pop_front());
        all.extend(others.pop_front());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Waker};
    use std::time::Instant;

    use super::*;
    use crate::driver::tests::Clock;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// The result of an attempt: after so many milliseconds, it connects or fails.
    type Fate = (&'static str, u64, bool);

    /// Returns which address was connected to, after how many milliseconds, and when each was tried.
    fn race(fates: &'static [Fate]) -> (Option<SocketAddr>, u128, Vec<(SocketAddr, u128)>) {
        let start = Instant::now();
        let now = Rc::new(Cell::new(start));
        let tried = Rc::new(RefCell::new(Vec::new()));
        let addrs = fates.iter().map(|(text, ..)| addr(text)).collect();
        let (clock, log) = (now.clone(), tried.clone());
        let mut race = pin!(connect_any(addrs, Clock(now.clone()), move |own| {
            let begun = clock.get();
            log.borrow_mut().push((own, (begun - start).as_millis()));
            let fate = fates.iter().find(|(text, ..)| addr(text) == own);
            let (_, after, connects) = *fate.expect("it was asked for");
            let clock = clock.clone();
            poll_fn(move |_| {
                if clock.get() < begun + MILLISECOND * u32::try_from(after).expect("it fits") {
                    return Poll::Pending;
                }
                Poll::Ready(match connects {
                    true => Ok(own),
                    false => Err(io::ErrorKind::ConnectionRefused.into()),
                })
            })
        }));
        loop {
            if let Poll::Ready(result) = race.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                let lasted = (now.get() - start).as_millis();
                return (result.ok(), lasted, tried.borrow().clone());
            }
            now.set(now.get() + MILLISECOND);
        }
    }

    #[test]
    fn families_take_turns() {
        let addrs = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1"];
        let order = interleaved(addrs.iter().map(|text| addr(text)).collect());
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"];
        assert_eq!(Vec::from(order), expected.map(addr));
        assert!(interleaved(Vec::new()).is_empty());
    }

    #[test]
    fn one_that_fails_makes_way_at_once() {
        let (won, lasted, tried) = race(&[("[::1]:1", 0, false), ("1.1.1.1:1", 0, true)]);
        assert_eq!(won, Some(addr("1.1.1.1:1")));
        assert_eq!((lasted, tried.len()), (0, 2));
    }

    #[test]
    fn one_that_is_silent_has_a_head_start_and_no_more() {
        let fates = &[("[::1]:1", 60_000, true), ("1.1.1.1:1", 60_000, true), ("[::2]:1", 0, true)];
        let (won, lasted, tried) = race(fates);
        assert_eq!(won, Some(addr("[::2]:1")));
        assert_eq!(lasted, 500);
        let expected = [("[::1]:1", 0), ("1.1.1.1:1", 250), ("[::2]:1", 500)];
        assert_eq!(tried, expected.map(|(text, at)| (addr(text), at)));
    }

    #[test]
    fn nothing_to_connect_to_is_an_error() {
        assert_eq!(race(&[]).0, None);
        assert_eq!(race(&[("[::1]:1", 0, false)]).0, None);
    }
}
