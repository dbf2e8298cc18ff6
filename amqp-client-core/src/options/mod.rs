//! Options of exchanges, queues, consumers and publishers.

mod check;
mod consume;
mod exchange;
mod known;
// By its path, because `error.rs` uses it, which this file uses.
pub(crate) mod problem;
mod publisher;
mod queue;
mod queue_values;
mod replicated;

pub(crate) use check::{check_consumer, check_queue};
pub use consume::{ConsumeOptions, StreamOffset};
pub use exchange::{ExchangeKind, ExchangeOptions};
pub use problem::{OptionError, OptionProblem};
pub(crate) use publisher::Window;
pub use publisher::{OnLoss, PublisherOptions};
pub use queue::QueueOptions;
pub use queue_values::{
    DeadLetterStrategy, DelayedRetry, LeaderLocator, MasterLocator, Overflow, QueueMode, QueueType,
};

use std::time::Duration;

use amqp_proto::{FieldError, FieldTable, LongStr, ShortStr, TooLong, Value};

use crate::error::CallError;

/// Adds methods for arguments that have no method of their own.
macro_rules! takes_arguments {
    ($options:ident) => {
        impl $options {
            /// Sets any other argument.
            pub fn argument(
                mut self,
                name: impl AsRef<[u8]>,
                value: impl Into<amqp_proto::Value>,
            ) -> Self {
                self.arguments.set(name, value);
                self
            }

            /// Sets any other arguments.
            pub fn arguments(mut self, arguments: &amqp_proto::FieldTable) -> Self {
                self.arguments.extend(arguments);
                self
            }
        }
    };
}
use takes_arguments;

/// A builder of arguments. The first argument that cannot be encoded is reported when the arguments are used, so that options can
/// be written as one expression.
#[derive(Debug, Clone, PartialEq, Default)]
struct Arguments {
    table: FieldTable,
    error: Option<CallError>,
}

impl Arguments {
    fn set(&mut self, name: impl AsRef<[u8]>, value: impl Into<Value>) {
        let name = name.as_ref();
        if let Err(error) = self.table.insert(name, value) {
            self.fail(&String::from_utf8_lossy(name), error);
        }
    }

    /// Notes that an argument cannot be encoded.
    fn fail(&mut self, name: &str, error: FieldError) {
        let name = name.to_owned();
        self.error.get_or_insert(CallError::Argument { name, error });
    }

    /// Sets a name, in the form in which the broker gave it.
    fn set_name(&mut self, name: &str, value: &[u8]) {
        self.set(name, Value::LongStr(LongStr::from(value.to_vec())));
    }

    /// Sets a time. Times are encoded as whole milliseconds, rounded up so that a short time does not become 0.
    fn set_time(&mut self, name: &str, time: Duration) {
        let milliseconds = time.as_nanos().div_ceil(1_000_000);
        self.set(name, i64::try_from(milliseconds).unwrap_or(i64::MAX));
    }

    fn extend(&mut self, table: &FieldTable) {
        for (name, value) in table {
            self.set(name, value);
        }
    }

    fn finish(self) -> Result<FieldTable, CallError> {
        self.error.map_or(Ok(self.table), Err)
    }
}

/// Encodes a time as RabbitMQ writes intervals: `90s`. Rounds up, and never to 0, which RabbitMQ refuses.
fn whole_seconds(time: Duration) -> String {
    // RabbitMQ computes in milliseconds of any size, so there is no upper limit.
    format!("{}s", time.as_nanos().div_ceil(1_000_000_000).max(1))
}

/// Converts a name or routing key to a short string. `what` names it in the error if it is too long.
pub(crate) fn name(what: &'static str, bytes: impl AsRef<[u8]>) -> Result<ShortStr, TooLong> {
    ShortStr::named(what, bytes)
}

#[cfg(test)]
mod tests;
