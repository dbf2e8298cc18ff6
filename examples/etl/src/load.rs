//! The last stage: writes the results to the output.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use amqp_client_blocking::{Connection, Delivery, Wait as _};
use amqp_client_patterns::batch::Batching;
use indicatif::ProgressBar;

use crate::transform::REJECTED;
use crate::{Error, Event, ROWS};

/// Writes results until all are there, or until the consumer is stopped.
pub(crate) fn run(
    connection: &Connection,
    output: &mut Output,
    total: usize,
    events: &Sender<Event>,
    progress: &ProgressBar,
) -> Result<(), Error> {
    let rows = connection.open_channel().wait()?.queue(ROWS)?;
    let mut batches = Batching::on(&rows, 500, Duration::from_millis(50)).start().wait()?;
    while output.len() < total {
        let Some(batch) = batches.next().wait() else { return Ok(()) };
        let batch = batch?;
        output.append(&batch)?;
        batch.ack()?;
        progress.set_position(output.len() as u64);
    }
    // Nobody listens if the job was interrupted at the same time.
    let _ending = events.send(Event::Loaded);
    Ok(())
}

/// The files of the output: one for results, and one for rejected records with the reasons.
#[derive(Debug)]
pub struct Output {
    rows: Table,
    rejected: Table,
}

/// Returns the file of rejected records for this output.
#[must_use]
pub fn rejected(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".rejected");
    name.into()
}

impl Output {
    /// Opens the files, and reads which records they have.
    ///
    /// # Errors
    /// If a file cannot be read or written, or something else has written to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { rows: Table::open(path)?, rejected: Table::open(&rejected(path))? })
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.numbers.len() + self.rejected.numbers.len()
    }

    /// Returns whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the numbers of all records.
    pub(crate) fn numbers(&self) -> HashSet<usize> {
        self.rows.numbers.union(&self.rejected.numbers).copied().collect()
    }

    /// Adds the results in these messages, unless they are there. Returns when they are on the disk.
    fn append(&mut self, batch: &[Delivery]) -> Result<(), Error> {
        let (mut rows, mut rejected) = (Vec::new(), Vec::new());
        for delivery in batch {
            let properties = delivery.message_properties()?;
            let number = properties.message_id.as_ref().and_then(|id| id.parse().ok());
            let result = (number.ok_or("a message has no number")?, delivery.text()?.to_owned());
            match properties.kind.is_some_and(|kind| kind.as_bytes() == REJECTED.as_bytes()) {
                true => rejected.push(result),
                false => rows.push(result),
            }
        }
        self.rows.append(&rows)?;
        Ok(self.rejected.append(&rejected)?)
    }
}

/// A file of lines that begin with the number of a record.
#[derive(Debug)]
struct Table {
    file: File,
    numbers: HashSet<usize>,
}

impl Table {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A crash can leave half a line at the end.
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(end as u64)?;
        file.seek(SeekFrom::End(0))?;
        let number = |line: &str| line.split(',').next().and_then(|number| number.parse().ok());
        let foreign = || io::Error::new(io::ErrorKind::InvalidData, "not an output of this job");
        let numbers = text[..end].lines().map(|line| number(line).ok_or_else(foreign));
        Ok(Self { numbers: numbers.collect::<io::Result<_>>()?, file })
    }

    fn append(&mut self, results: &[(usize, String)]) -> io::Result<()> {
        let mut lines = String::new();
        for (number, result) in results {
            // A record comes again after a loss.
            if self.numbers.insert(*number) {
                lines += &format!("{number},{result}\n");
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()
    }
}
