//! Messages of one key are handled one after another.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use amqp_client_core::Delivery;

use super::source::Taken;

/// Computes the key of a message, as a hash.
pub(super) type KeyOf = dyn Fn(&Delivery) -> u64 + Send + Sync;

/// The keys whose messages are being handled, and the deliveries that wait for them.
pub(super) struct Order<D: Taken> {
    key_of: Box<KeyOf>,
    busy: HashMap<u64, VecDeque<D>>,
    /// Number of deliveries that wait.
    waiting: usize,
}

impl<D: Taken> Order<D> {
    pub(super) fn new(key_of: Box<KeyOf>) -> Self {
        Self { key_of, busy: HashMap::new(), waiting: 0 }
    }

    /// Returns the key of a delivery, or the panic of the function that computes it.
    pub(super) fn key_of(&self, delivery: &D) -> std::thread::Result<u64> {
        let of_user = || catch_unwind(AssertUnwindSafe(|| (self.key_of)(delivery.delivery())));
        delivery.key().map_or_else(of_user, Ok)
    }

    /// Returns a delivery that may be handled now. Keeps one that has to wait for its key.
    pub(super) fn enter(&mut self, key: u64, delivery: D) -> Option<D> {
        match self.busy.entry(key) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                Some(delivery)
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(delivery);
                self.waiting += 1;
                None
            }
        }
    }

    /// Frees a key, and returns the next delivery that waited for it. Then the key is busy again.
    pub(super) fn leave(&mut self, key: u64) -> Option<D> {
        let waiting = self.busy.get_mut(&key)?;
        while let Some(delivery) = waiting.pop_front() {
            self.waiting -= 1;
            // The broker has requeued a stale delivery, and delivers it again.
            if !delivery.delivery().is_stale() {
                return Some(delivery);
            }
        }
        self.busy.remove(&key);
        None
    }

    /// Drops the deliveries that wait and that the broker has requeued: it delivers them again.
    pub(super) fn drop_stale(&mut self) {
        for waiting in self.busy.values_mut() {
            waiting.retain(|delivery| !delivery.delivery().is_stale());
        }
        self.waiting = self.busy.values().map(VecDeque::len).sum();
    }

    /// Returns the number of deliveries that wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Drops the deliveries that wait, which requeues them.
    pub(super) fn clear(&mut self) {
        drop(self.take_all());
    }

    /// Takes the deliveries that wait, in the order in which they came, and frees all keys.
    pub(super) fn take_all(&mut self) -> Vec<D> {
        let mut waiting: Vec<_> = self.busy.drain().flat_map(|(_, waiting)| waiting).collect();
        waiting.sort_by_key(|delivery| delivery.delivery().delivery_tag());
        self.waiting = 0;
        waiting
    }
}

impl<D: Taken> Drop for Order<D> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<D: Taken> fmt::Debug for Order<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("busy", &self.busy.len()).finish_non_exhaustive()
    }
}
