//! The job in this process, on the in-memory broker.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use amqp_example_etl::{Error, Event, Job, Output, generate, rejected, run};
use amqp_test_broker::Broker;
use amqp_testkit::wait_until;

type Outcome = Result<(), Error>;

/// Far longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

fn job(name: &str, broker: &Broker) -> Result<Job, Error> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _missing = fs::remove_dir_all(&folder);
    fs::create_dir(&folder)?;
    let (input, output) = (folder.join("input.csv"), folder.join("output.csv"));
    Ok(Job { broker: broker.uri().parse()?, input, output, transformers: 3 })
}

/// Runs a job to its end.
fn complete(job: &Job) -> Outcome {
    let (events, received) = channel();
    match run(job, events, received)? {
        true => Ok(()),
        false => Err("it was interrupted".into()),
    }
}

/// Returns the lines of a table by number.
fn table(path: &PathBuf) -> Result<BTreeMap<usize, String>, Error> {
    let text = fs::read_to_string(path)?;
    let mut table = BTreeMap::new();
    for line in text.lines() {
        let (number, line) = line.split_once(',').ok_or("no number")?;
        let twice = table.insert(number.parse()?, line.to_owned());
        assert!(twice.is_none(), "line {number} is there twice");
    }
    Ok(table)
}

#[test]
fn records_are_loaded_or_rejected() -> Outcome {
    let broker = Broker::start()?;
    let job = job("records", &broker)?;
    fs::write(&job.input, b"north,20\nsouth\neast,warm\n\xff,1\nwest,-40\r\n\n")?;
    complete(&job)?;
    let rows = [(1, "north,68.0".to_owned()), (5, "west,-40.0".to_owned())];
    assert_eq!(table(&job.output)?, rows.into());
    let rejected = table(&rejected(&job.output))?;
    assert_eq!(rejected[&2], "it has no comma");
    assert_eq!(rejected[&3], r#""warm": invalid float literal"#);
    assert!(rejected[&4].contains("utf-8"), "{rejected:?}");
    assert_eq!(rejected.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 6]);
    assert!(broker.queues().is_empty());
    wait_until(LIMIT, "both connections to be closed", || broker.connections().is_empty());
    // Nothing is left to do.
    complete(&job)
}

#[test]
fn an_interrupted_job_goes_on() -> Outcome {
    let broker = Broker::start()?;
    let job = job("interrupted", &broker)?;
    generate(&job.input, 5000)?;
    let (events, received) = channel();
    let interrupt = events.clone();
    let interrupted = thread::scope(|scope| {
        let running = scope.spawn(|| run(&job, events, received));
        wait_until(LIMIT, "records to be loaded", || {
            fs::metadata(&job.output).is_ok_and(|file| file.len() > 0)
        });
        let _ended = interrupt.send(Event::Interrupted);
        running.join()
    });
    interrupted.map_err(|_| "it panicked")??;
    // A crash leaves half a line.
    let text = fs::read_to_string(&job.output)?;
    fs::write(&job.output, text + "4999,half a l")?;
    complete(&job)?;
    assert_eq!((table(&job.output)?.len(), table(&rejected(&job.output))?.len()), (4950, 50));
    Ok(())
}

#[test]
fn a_job_that_waits_for_its_broker_can_be_interrupted() -> Outcome {
    let broker = Broker::start()?;
    broker.stop();
    let job = job("waiting", &broker)?;
    generate(&job.input, 10)?;
    let (events, received) = channel();
    events.send(Event::Interrupted)?;
    assert!(!run(&job, events, received)?);
    broker.start_again()?;
    complete(&job)
}

#[test]
fn an_empty_input_is_complete_at_once() -> Outcome {
    let broker = Broker::start()?;
    let job = job("empty", &broker)?;
    fs::write(&job.input, "")?;
    complete(&job)
}

#[test]
fn files_that_cannot_be_used_are_errors() -> Outcome {
    let broker = Broker::start()?;
    let job = job("files", &broker)?;
    complete(&job).expect_err("there is no input");
    generate(&job.input, 10)?;
    fs::write(&job.output, "important notes\n")?;
    complete(&job).expect_err("the output is something else");
    assert!(Output::open(&job.output).is_err());
    assert_eq!(fs::read_to_string(&job.output)?, "important notes\n");
    Ok(())
}

#[test]
fn refused_credentials_are_an_error() -> Outcome {
    let broker = Broker::start()?;
    broker.refuse_logins(true);
    let job = job("refused", &broker)?;
    generate(&job.input, 10)?;
    complete(&job).expect_err("the broker refuses the job");
    Ok(())
}
