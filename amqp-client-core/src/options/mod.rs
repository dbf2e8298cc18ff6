//! What exchanges, queues, consumers and publishers can be told when they are made.

mod consume;
mod exchange;
mod publisher;
mod queue;

pub use consume::{ConsumeOptions, StreamOffset};
pub use exchange::{ExchangeKind, ExchangeOptions};
pub(crate) use publisher::Window;
pub use publisher::{OnLoss, PublisherOptions};
pub use queue::{Overflow, QueueOptions, QueueType};

use std::time::Duration;

use amqp_proto::{FieldTable, Value};

use crate::error::CallError;

/// Options that take arguments which have no method of their own.
macro_rules! takes_arguments {
    ($options:ident) => {
        impl $options {
            /// Any other argument.
            pub fn argument(mut self, name: &str, value: impl Into<amqp_proto::Value>) -> Self {
                self.arguments.set(name, value);
                self
            }

            /// Any other arguments.
            pub fn arguments(mut self, arguments: &amqp_proto::FieldTable) -> Self {
                self.arguments.extend(arguments);
                self
            }
        }
    };
}
use takes_arguments;

/// Arguments being put together. The first that cannot be encoded is told when they are used, so that options read as one
/// expression.
#[derive(Debug, Clone, PartialEq, Default)]
struct Arguments {
    table: FieldTable,
    error: Option<CallError>,
}

impl Arguments {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        if let Err(error) = self.table.insert(name, value) {
            self.error.get_or_insert_with(|| CallError::Argument { name: name.to_owned(), error });
        }
    }

    /// Times travel as whole milliseconds, rounded up so that a short one does not become none.
    fn set_time(&mut self, name: &str, time: Duration) {
        let milliseconds = time.as_nanos().div_ceil(1_000_000);
        self.set(name, i64::try_from(milliseconds).unwrap_or(i64::MAX));
    }

    fn extend(&mut self, table: &FieldTable) {
        for (name, value) in table {
            self.set(&name.to_string(), value);
        }
    }

    fn finish(self) -> Result<FieldTable, CallError> {
        self.error.map_or(Ok(self.table), Err)
    }
}
