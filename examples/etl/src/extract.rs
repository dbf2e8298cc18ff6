//! The first stage: publishes the records of the input.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use amqp_client_blocking::{Connection, Message, MessageProperties, Wait as _};
use indicatif::ProgressBar;

use crate::{Error, RECORDS, publisher};

/// Number of confirms that are outstanding while the stage publishes. The window of the publisher is as large.
const WINDOW: usize = 1000;

/// Publishes the records whose numbers are not in `done`.
pub(crate) fn run(
    input: &Path,
    connection: &Connection,
    done: &HashSet<usize>,
    stopping: &AtomicBool,
    progress: &ProgressBar,
) -> Result<(), Error> {
    let publisher = publisher(connection)?;
    let mut outstanding = VecDeque::with_capacity(WINDOW);
    for (number, line) in (1..).zip(BufReader::new(File::open(input)?).split(b'\n')) {
        if stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        let line = line?;
        if done.contains(&number) {
            continue;
        }
        if outstanding.len() == WINDOW {
            if let Some(oldest) = outstanding.pop_front() {
                confirmed(oldest, progress)?;
            }
        }
        let properties = MessageProperties::new().message_id(number.to_string());
        let message = Message::new(line).with(&properties)?;
        outstanding.push_back(publisher.publish_message(RECORDS, &message).wait()?);
    }
    outstanding.into_iter().try_for_each(|confirmation| confirmed(confirmation, progress))
}

fn confirmed(
    confirmation: amqp_client_blocking::Confirmation,
    progress: &ProgressBar,
) -> Result<(), Error> {
    confirmation.wait()?;
    progress.inc(1);
    Ok(())
}
