//! Publishes numbered messages with many keys, all the time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amqp_client_core::PublisherOptions;
use amqp_client_patterns::partitions::{PartitionPublisher, Partitions};
use amqp_client_tokio::Connection;
use tokio::task::JoinHandle;

use crate::Error;
use crate::crew::Book;
use crate::ledger::{Entry, Message};
use crate::oracle::partition_of;

/// The number of keys of the steady traffic.
const KEYS: u32 = 60;

/// The time between two of its messages.
const PAUSE: Duration = Duration::from_millis(8);

pub(crate) struct Traffic {
    sender: Arc<Sender>,
    steady: JoinHandle<Result<(), Error>>,
}

struct Sender {
    publisher: PartitionPublisher,
    book: Book,
    /// The next number of each key. A probe and the traffic have different keys, so none is published by two tasks.
    next: Mutex<HashMap<String, u64>>,
    stopped: AtomicBool,
}

impl Traffic {
    pub(crate) async fn start(
        connection: &Connection,
        partitions: &Partitions,
        book: &Book,
    ) -> Result<Self, Error> {
        let options = PublisherOptions::new().window(200, 1 << 20);
        let sender = Arc::new(Sender {
            publisher: partitions.publisher(connection, options).await?,
            book: book.clone(),
            next: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let steady = tokio::spawn(sender.clone().send_steadily());
        Ok(Self { sender, steady })
    }

    /// Publishes a message to each partition.
    pub(crate) async fn probe(&self) -> Result<Vec<Message>, Error> {
        let count = self.sender.publisher.partitions().count();
        let mut sent = Vec::new();
        for partition in 0..count {
            sent.push(self.sender.send(&probe_key(partition, count)).await?);
        }
        Ok(sent)
    }

    /// Publishes nothing more, and waits for the confirms.
    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        self.sender.stopped.store(true, Ordering::Relaxed);
        (&mut self.steady).await??;
        Ok(self.sender.publisher.wait_for_confirms().await?)
    }
}

impl Sender {
    async fn send_steadily(self: Arc<Self>) -> Result<(), Error> {
        while !self.stopped.load(Ordering::Relaxed) {
            self.send(&format!("k{}", fastrand::u32(..KEYS))).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn send(&self, key: &str) -> Result<Message, Error> {
        let number = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let next = next.entry(key.to_owned()).or_default();
            *next += 1;
            *next
        };
        let message = Message { key: key.to_owned(), number };
        self.book.write(Entry::Published(message.clone()));
        let confirmation = self.publisher.publish(key, number.to_string()).await?;
        let (book, confirmed) = (self.book.clone(), message.clone());
        tokio::spawn(async move {
            match confirmation.await {
                Ok(()) => book.write(Entry::Confirmed(confirmed)),
                // It may have arrived, or not.
                Err(error) => eprintln!("{confirmed:?}: {error}"),
            }
        });
        Ok(message)
    }
}

/// The key by which a partition is probed.
fn probe_key(partition: u32, partitions: u32) -> String {
    let mut keys = (0_u32..).map(|key| format!("probe{key}"));
    keys.find(|key| partition_of(key, partitions) == partition).unwrap_or_default()
}
