//! Counts the allocations of a piece of code.
//!
//! The feature `alloc` installs a counting global allocator. It counts per thread: allocations of
//! other threads are not included, so tests can run in parallel. Code that works on several threads
//! has to be measured on each.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The heap operations of the measured code. Growing a block counts as one allocation and one free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allocations {
    /// Blocks allocated.
    pub count: u64,
    /// Bytes allocated, all blocks together.
    pub bytes: u64,
    /// The most bytes held at one time, beyond those held at the start.
    pub peak_bytes: u64,
    /// Blocks allocated and not freed, less those that existed before and were freed.
    pub kept_count: i64,
    /// Bytes allocated and not freed, less those that existed before and were freed.
    pub kept_bytes: i64,
}

/// Runs `code` and counts the allocations this thread makes meanwhile.
///
/// The result of `code` is kept alive, and so counts as kept. Calls can be nested.
pub fn allocations<T>(code: impl FnOnce() -> T) -> (T, Allocations) {
    let mut result = None;
    // A panic must not pass through the counter: it would count into the wrong call from then on.
    let info = allocation_counter::measure(|| {
        result = Some(catch_unwind(AssertUnwindSafe(code)));
    });
    let counted = Allocations {
        count: info.count_total,
        bytes: info.bytes_total,
        peak_bytes: info.bytes_max,
        kept_count: info.count_current,
        kept_bytes: info.bytes_current,
    };
    match result {
        Some(Ok(value)) => (value, counted),
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("the counter runs what it is given"),
    }
}

/// Runs `code` without counting its allocations, inside of [`allocations`].
pub fn uncounted<T>(code: impl FnOnce() -> T) -> T {
    let mut result = None;
    allocation_counter::opt_out(|| {
        result = Some(catch_unwind(AssertUnwindSafe(code)));
    });
    match result {
        Some(Ok(value)) => value,
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("the counter runs what it is given"),
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::thread;

    use super::*;

    #[test]
    fn code_that_does_not_allocate_counts_nothing() {
        let (sum, counted) = allocations(|| black_box([1_u64; 64]).iter().sum::<u64>());
        assert_eq!(sum, 64);
        assert_eq!(counted, Allocations::default());
    }

    #[test]
    fn allocations_and_bytes_are_counted_and_kept_memory_shows() {
        let (kept, counted) = allocations(|| {
            drop(black_box(Vec::<u8>::with_capacity(1_000)));
            black_box(Vec::<u8>::with_capacity(500))
        });
        assert_eq!(kept.capacity(), 500);
        assert_eq!(counted.count, 2);
        assert_eq!(counted.bytes, 1_500);
        assert_eq!(counted.peak_bytes, 1_000);
        assert_eq!((counted.kept_count, counted.kept_bytes), (1, 500));
    }

    #[test]
    fn freeing_earlier_memory_counts_as_negative() {
        let before = black_box(vec![0_u8; 300]);
        let ((), counted) = allocations(|| drop(before));
        assert_eq!((counted.count, counted.kept_count, counted.kept_bytes), (0, -1, -300));
    }

    #[test]
    fn other_threads_do_not_count() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (done, finished) = std::sync::mpsc::channel::<usize>();
        let other = thread::spawn(move || {
            wait.recv().unwrap();
            done.send(black_box(vec![1_u8; 100_000]).len()).unwrap();
        });
        // The channels' own blocks are small; the other thread's block is not.
        let (len, counted) = allocations(|| {
            go.send(()).unwrap();
            finished.recv().unwrap()
        });
        other.join().unwrap();
        assert_eq!(len, 100_000);
        assert!(counted.bytes < 50_000, "{counted:?}");
    }

    #[test]
    fn a_panic_passes_and_leaves_the_counter_in_order() {
        let ((), outer) = allocations(|| {
            let caught = catch_unwind(|| allocations(|| -> () { resume_unwind(Box::new(7_i32)) }));
            assert_eq!(caught.unwrap_err().downcast_ref(), Some(&7_i32));
            let ((), inner) = allocations(|| drop(black_box(Box::new(1_u64))));
            assert_eq!((inner.count, inner.bytes), (1, 8));
        });
        assert!(outer.count >= 1);
        assert_eq!(outer.kept_bytes, 0);
    }

    #[test]
    fn uncounted_code_does_not_count() {
        let (text, counted) = allocations(|| uncounted(|| black_box(String::from("quiet"))));
        assert_eq!(text, "quiet");
        assert_eq!(counted.count, 0);
    }
}
