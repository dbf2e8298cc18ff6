use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use amqp_client_core::{ConnectionEvent, ConnectionEvents};
use amqp_client_tokio::Connection;

/// The events of the connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    node: Arc<AtomicUsize>,
    losses: Arc<AtomicU64>,
    /// The recent events.
    last: Arc<Mutex<Vec<String>>>,
}

/// Number of recent events that are kept.
const RECENT: usize = 40;

impl Watch {
    /// Watches two connections. The node is that of the first one.
    pub(crate) fn start(first: &Connection, second: &Connection) -> Self {
        let watch = Self::default();
        tokio::spawn(watch.clone().follow(first.events()));
        let other = Self { node: Arc::default(), ..watch.clone() };
        tokio::spawn(other.follow(second.events()));
        watch
    }

    async fn follow(self, mut events: ConnectionEvents) {
        while let Some(event) = events.next().await {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == RECENT {
                last.remove(0);
            }
            last.push(format!("{event:?}"));
            drop(last);
            match event {
                ConnectionEvent::Lost { .. } => drop(self.losses.fetch_add(1, Ordering::Relaxed)),
                ConnectionEvent::Recovered(report) => {
                    self.node.store(report.node, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }

    /// The node that the first connection leads to.
    pub(crate) fn node(&self) -> usize {
        self.node.load(Ordering::Relaxed)
    }

    /// Returns how many connections were lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Returns the recent events, one in a line.
    pub(crate) fn recent(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
