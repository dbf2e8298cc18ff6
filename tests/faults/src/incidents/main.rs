//! Writes the log of incidents of a small service on a real RabbitMQ, one file for each: to see whether the log alone tells what
//! happened.
//!
//! `./tests/with-rabbitmq cargo run -p amqp-faults --features incidents --bin incidents -- FOLDER [NAME...]`
//!
//! The files are numbered in the order of the incidents, or of the names. They contain nothing but the client's own lines. Each
//! incident has its own node and takes about a minute.

mod faults;
mod service;
mod sink;

use std::error::Error;
use std::path::PathBuf;

use crate::faults::INCIDENTS;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the folder for the logs is missing")?);
    let names: Vec<_> = arguments.map(|name| name.to_string_lossy().into_owned()).collect();
    std::fs::create_dir_all(&folder)?;
    let all = INCIDENTS.iter().map(|incident| incident.name.to_owned());
    let names = if names.is_empty() { all.collect() } else { names };
    for (number, name) in (1..).zip(&names) {
        let found = INCIDENTS.iter().find(|incident| incident.name == *name);
        let incident = found.ok_or_else(|| format!("there is no incident {name}"))?;
        sink::write_to(&folder.join(format!("{number:02}.log")))?;
        incident.run()?;
        println!("{number:02} {name}: {}", incident.what);
    }
    Ok(())
}
