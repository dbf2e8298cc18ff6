//! The program, while its broker is killed and started again, and the program itself is killed: each record is loaded once, or
//! rejected once with its reason, and SIGTERM ends the program with code 0.

#![cfg(unix)]

#[path = "../../service/tests/common/site.rs"]
mod site;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use amqp_client_blocking::{Wait as _, connect};
use amqp_example_etl::{Error, generate, rejected};
use amqp_test_broker::Broker;
use amqp_testkit::{RabbitMq, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use site::{Site, empty_folder, wait_for_success};

type Outcome = Result<(), Error>;

/// Far longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Enough that the kills come in the middle of the work.
const RECORDS: usize = 30_000;

/// The program. It is killed when this is dropped.
struct Program(Child);

impl Program {
    fn start(uri: &str, input: &Path, output: &Path) -> Result<Self, Error> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etl"));
        Ok(Self(command.env("AMQP_URL", uri).args([input, output]).spawn()?))
    }

    /// Waits until the program has ended with code 0.
    fn wait(mut self) -> Outcome {
        Ok(wait_for_success(&mut self.0)?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn nothing_is_lost_when_rabbitmq_is_killed() -> Outcome {
    nothing_is_lost("rabbitmq", &RabbitMq::start()?)
}

#[test]
fn nothing_is_lost_when_the_in_memory_broker_is_killed() -> Outcome {
    nothing_is_lost("in-memory", &Broker::start()?)
}

fn nothing_is_lost(name: &str, site: &dyn Site) -> Outcome {
    let folder = empty_folder(env!("CARGO_TARGET_TMPDIR"), &format!("etl-{name}"))?;
    let (input, output) = (folder.join("input.csv"), folder.join("output.csv"));
    generate(&input, RECORDS)?;
    let wait_loaded = |share: usize| {
        wait_until(LIMIT, "records to be loaded", || {
            fs::read(&output).is_ok_and(|text| {
                text.iter().filter(|byte| **byte == b'\n').count() > RECORDS * share / 100
            })
        });
    };

    // Two kills of the broker in quick succession.
    let program = Program::start(&site.uri(), &input, &output)?;
    wait_loaded(0);
    site.kill()?;
    site.restart()?;
    site.kill()?;
    site.restart()?;
    // The program is killed. The next one goes on.
    wait_loaded(30);
    drop(program);
    let program = Program::start(&site.uri(), &input, &output)?;
    // The program is stopped, and the broker killed meanwhile. The next program starts before its broker.
    wait_loaded(60);
    // If the program has ended, there is nothing to stop.
    let _ended = kill_process(Pid::from_child(&program.0), Signal::TERM);
    site.kill()?;
    program.wait()?;
    let program = Program::start(&site.uri(), &input, &output)?;
    site.restart()?;
    program.wait()?;

    let (rows, rejected) = (numbers(&output, "station ")?, numbers(&rejected(&output), r#""": "#)?);
    assert_eq!(rejected, (1..=RECORDS).filter(|number| number % 100 == 0).collect());
    assert_eq!(rows, (1..=RECORDS).filter(|number| number % 100 != 0).collect());
    let connection = connect(&site.uri())?;
    for queue in ["etl.records", "etl.rows"] {
        let channel = connection.open_channel().wait()?;
        assert!(channel.queue_declare_passive(queue).wait().is_err(), "{queue} is still there");
    }
    Ok(connection.close().wait()?)
}

/// Returns the numbers of a table, all of whose lines begin with this. None is there twice.
fn numbers(path: &Path, start: &str) -> Result<BTreeSet<usize>, Error> {
    let mut numbers = BTreeSet::new();
    for line in fs::read_to_string(path)?.lines() {
        let (number, result) = line.split_once(',').ok_or("no number")?;
        assert!(result.starts_with(start), "{line}");
        assert!(numbers.insert(number.parse()?), "line {number} is there twice");
    }
    Ok(numbers)
}
