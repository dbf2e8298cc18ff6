//! Orders, and where they are shipped.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use amqp_client_patterns::handler::Verdict;
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

/// An order, as clients send it and as it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "it belongs to the program")]
pub struct Order {
    /// Chosen by the client. If the client gets no reply, or 503, it sends the order again with the same id.
    pub id: OrderId,
    /// The item.
    pub item: String,
    /// The number of pieces.
    pub pieces: u32,
}

/// The id of an order: 1 to 64 ASCII letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId(String);

impl OrderId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for OrderId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        match (1..=64).contains(&id.len()) && id.bytes().all(allowed) {
            true => Ok(Self(id)),
            false => Err(format!("{id:?} is not 1 to 64 letters, digits and hyphens")),
        }
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.0
    }
}

/// Ships orders. In a real service, this is a database, or another service.
pub trait Warehouse: Send + Sync + 'static {
    /// Ships an order. Returns when this is recorded safely.
    ///
    /// The same order can come again, since a message is delivered again after a loss. So shipping an order twice must have the
    /// effect of shipping it once.
    ///
    /// # Errors
    /// [`Verdict::Refuse`] for an order that can never be shipped, and [`Verdict::Retry`] for one that can be shipped later.
    fn ship(&self, order: &Order) -> impl Future<Output = Result<(), Verdict>> + Send;
}

/// A warehouse that records each shipped order in a file, `ITEM/ID.json`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Number of files begun, for their names.
    begun: AtomicU64,
}

/// The items on sale.
pub const ITEMS: [&str; 3] = ["bread", "fish", "wine"];

impl Folder {
    /// Creates a warehouse in this folder, which is created with the first order.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, begun: AtomicU64::new(0) }
    }
}

impl Warehouse for Folder {
    async fn ship(&self, order: &Order) -> Result<(), Verdict> {
        let Order { id, item, .. } = order;
        if !ITEMS.contains(&&**item) {
            return Err(Verdict::refuse(format!("there is no {item:?}; order one of {ITEMS:?}")));
        }
        let folder = self.path.join(item);
        fs::create_dir_all(&folder).await?;
        // A file appears under its name when it is complete, so a crash leaves no half order.
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let begun = folder.join(format!("{}.{number}.new", id.as_str()));
        let mut file = fs::File::create(&begun).await?;
        file.write_all(&serde_json::to_vec(order)?).await?;
        file.sync_all().await?;
        fs::rename(&begun, folder.join(format!("{}.json", id.as_str()))).await?;
        Ok(())
    }
}
