//! A job on threads that extracts records from a file, transforms them, and loads the results into another file: an example to
//! copy.
//!
//! ```text
//! INPUT -> extract -> queue etl.records -> transform, on several threads -> queue etl.rows -> load -> OUTPUT, OUTPUT.rejected
//! ```
//!
//! It loses no record, whatever fails:
//!
//! - **The broker restarts.** Messages that were not confirmed are kept, and published again. Deliveries that were not acknowledged
//!   come again. So a record may be transformed twice, but it is loaded once: the output has its number.
//! - **The job is interrupted**, by Ctrl-C, SIGTERM, or a crash. Run it again: it goes on with the records that are not in the output.
//! - **A record is wrong.** It is in `OUTPUT.rejected`, with the reason.
//!
//! Each stage acknowledges a message only when its result is safe: confirmed by the broker, or written to the disk.

mod extract;
mod load;
mod transform;

pub use load::{Output, rejected};

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use amqp_client_blocking::error::chain;
use amqp_client_blocking::{
    Connection, OnLoss, Publisher, PublisherOptions, QueueOptions, Target, Wait as _,
    connect_target,
};
use indicatif::{MultiProgress, ProgressBar};

/// Any error, for logs.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The queue of records, as they are in the input.
const RECORDS: &str = "etl.records";
/// The queue of transformed and rejected records.
const ROWS: &str = "etl.rows";

/// The time that each connection has to finish what has begun, when the job ends.
const GRACE: Duration = Duration::from_secs(5);

/// The pause between attempts to reach a broker that is not there yet.
const PAUSE: Duration = Duration::from_secs(1);

/// A job.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it belongs to the program")]
pub struct Job {
    /// The broker.
    pub broker: Target,
    /// The file of records, one per line.
    pub input: PathBuf,
    /// The file of results. Rejected records are in a file of the same name and `.rejected`.
    pub output: PathBuf,
    /// Number of threads that transform.
    pub transformers: usize,
}

/// The reasons for which a job ends.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it belongs to the program")]
pub enum Event {
    /// All records are in the output.
    Loaded,
    /// The user wants to stop.
    Interrupted,
    /// A stage cannot go on.
    Failed(Error),
}

/// Runs a job until all records are loaded, or until it is interrupted: send [`Event::Interrupted`] to do that. Waits for the
/// broker, if it is not there yet. Returns whether all records are loaded.
///
/// # Errors
/// If a file cannot be read or written, or the broker refuses the job. The job can be run again.
pub fn run(job: &Job, events: Sender<Event>, received: Receiver<Event>) -> Result<bool, Error> {
    let mut output = Output::open(&job.output).map_err(|error| about(&job.output, &error))?;
    let input = File::open(&job.input).map_err(|error| about(&job.input, &error))?;
    let total = BufReader::new(input).split(b'\n').count();
    let Some(publishing) = connect(&job.broker, "extract", &received)? else { return Ok(false) };
    let Some(consuming) = connect(&job.broker, "load", &received)? else { return Ok(false) };
    prepare(&publishing)?;

    let (bars, done) = (Bars::new(total, &output), output.numbers());
    let (done, stopping, bars) = (&done, &AtomicBool::new(false), &bars);
    let (publishing, consuming) = (&publishing, &consuming);
    thread::scope(|scope| {
        let stage = |run: Box<dyn FnOnce() -> Result<(), Error> + Send>| {
            let events = events.clone();
            scope.spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(run));
                if let Err(error) = result.unwrap_or_else(|_| Err("a stage panicked".into())) {
                    // When the job is ending, nobody listens.
                    let _ending = events.send(Event::Failed(error));
                }
            });
        };
        for _ in 0..job.transformers.max(1) {
            stage(Box::new(|| transform::run(consuming, publishing)));
        }
        stage(Box::new(|| extract::run(&job.input, publishing, done, stopping, &bars.published)));
        stage(Box::new(|| load::run(consuming, &mut output, total, &events, &bars.loaded)));

        let event = received.recv()?;
        stopping.store(true, Ordering::Relaxed);
        // This ends the stages that consume, after the batches that they have.
        shut_down(consuming);
        let ended = match event {
            Event::Loaded => clean_up(publishing).map(|()| true),
            Event::Interrupted => Ok(false),
            Event::Failed(error) => Err(error),
        };
        shut_down(publishing);
        ended
    })
}

/// Returns an error that names the file.
fn about(path: &Path, error: &io::Error) -> Error {
    format!("{}: {error}", path.display()).into()
}

/// Connects, and tries that again while the broker is not there. Returns `None` if the job is interrupted meanwhile.
fn connect(
    target: &Target,
    name: &str,
    received: &Receiver<Event>,
) -> Result<Option<Connection>, Error> {
    // A message is confirmed after an outage, however long that takes.
    let settings = target.get_config().get_settings().confirm_timeout(None);
    let target = target.clone().settings(settings).connection_name(format!("etl, {name}"))?;
    loop {
        match connect_target(target.clone()) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) if !error.is_about_the_node() => return Err(error.into()),
            Err(error) => eprintln!("etl: {}", chain(&error)),
        }
        match received.recv_timeout(PAUSE) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(None),
        }
    }
}

/// Declares the queues. What an earlier run left in them is in the input, too.
fn prepare(connection: &Connection) -> Result<(), Error> {
    let channel = connection.open_channel().wait()?;
    for name in [RECORDS, ROWS] {
        channel.queue_declare(name, QueueOptions::new()).wait()?.purge().wait()?;
    }
    Ok(())
}

/// Deletes the queues. They may still hold second copies of records that are loaded.
fn clean_up(connection: &Connection) -> Result<(), Error> {
    let channel = connection.open_channel().wait()?;
    for name in [RECORDS, ROWS] {
        channel.queue_delete(name).wait()?;
    }
    Ok(())
}

fn shut_down(connection: &Connection) {
    if let Err(error) = connection.shutdown(GRACE).wait() {
        eprintln!("etl: {}", chain(&error));
    }
}

/// Creates a publisher whose messages survive a loss: they are kept until they are confirmed.
fn publisher(connection: &Connection) -> Result<Publisher, Error> {
    let channel = connection.open_channel().wait()?;
    let options = PublisherOptions::new().on_loss(OnLoss::Keep).timeout(None);
    Ok(channel.default_exchange().publisher(options)?)
}

/// The progress bars. They are hidden where there is no terminal.
struct Bars {
    published: ProgressBar,
    loaded: ProgressBar,
}

impl Bars {
    fn new(total: usize, output: &Output) -> Self {
        let (all, total) = (MultiProgress::new(), total as u64);
        let [published, loaded] = [(); 2].map(|()| all.add(ProgressBar::new(total)));
        published.set_position(output.len() as u64);
        loaded.set_position(output.len() as u64);
        Self { published, loaded }
    }
}

/// Writes a file of `count` records, for those who have none.
///
/// # Errors
/// If the file cannot be written.
pub fn generate(path: &Path, count: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..count {
        // One record in a hundred has no temperature.
        let celsius = if number % 100 == 99 { String::new() } else { format!("{}.5", number % 40) };
        writeln!(file, "station {},{celsius}", number % 7)?;
    }
    file.flush()
}
