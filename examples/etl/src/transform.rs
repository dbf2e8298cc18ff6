//! The second stage: transforms records in batches, and publishes the results.

use std::time::Duration;

use amqp_client_blocking::{Connection, Delivery, Message, Wait as _};
use amqp_client_patterns::batch::Batching;

use crate::{Error, RECORDS, ROWS, publisher};

/// The type of a message whose record is wrong. The body is the reason.
pub(crate) const REJECTED: &str = "rejected";

/// Transforms records until the consumer is stopped.
pub(crate) fn run(consuming: &Connection, publishing: &Connection) -> Result<(), Error> {
    let publisher = publisher(publishing)?;
    let records = consuming.open_channel().wait()?.queue(RECORDS)?;
    let mut batches = Batching::on(&records, 200, Duration::from_millis(20)).start().wait()?;
    while let Some(batch) = batches.next().wait() {
        let batch = batch?;
        let mut outstanding = Vec::with_capacity(batch.len());
        for record in &batch {
            outstanding.push(publisher.publish_message(ROWS, &row(record)?).wait()?);
        }
        for confirmation in outstanding {
            confirmation.wait()?;
        }
        // Now the results are safe.
        batch.ack()?;
    }
    Ok(())
}

/// Returns the result for a record, under the same number.
fn row(record: &Delivery) -> Result<Message, Error> {
    let properties = record.message_properties()?;
    let (properties, body) = match record.text().map_err(Error::from).and_then(fahrenheit) {
        Ok(row) => (properties, row),
        Err(reason) => (properties.kind(REJECTED), reason.to_string()),
    };
    Ok(Message::new(body).with(&properties)?)
}

/// Transforms `STATION,CELSIUS` to `STATION,FAHRENHEIT`.
fn fahrenheit(record: &str) -> Result<String, Error> {
    let (station, celsius) = record.trim_end().split_once(',').ok_or("it has no comma")?;
    let celsius: f64 = celsius.parse().map_err(|error| format!("{celsius:?}: {error}"))?;
    Ok(format!("{station},{:.1}", celsius * 1.8 + 32.0))
}
