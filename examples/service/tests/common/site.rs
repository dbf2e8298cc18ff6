//! What tests share that kill a broker under a program.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;
use std::{fs, io};

use amqp_test_broker::Broker;
use amqp_testkit::RabbitMq;
use amqp_testkit::wait::wait_for;

/// Far longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Returns a folder of this name for a test, which is empty.
pub fn empty_folder(tests: &str, name: &str) -> io::Result<PathBuf> {
    let folder = Path::new(tests).join(name);
    let _missing = fs::remove_dir_all(&folder);
    fs::create_dir(&folder)?;
    Ok(folder)
}

/// Waits until a program has ended with code 0.
pub fn wait_for_success(program: &mut Child) -> io::Result<()> {
    let status = wait_for(LIMIT, "the program to end", || program.try_wait())?;
    match status.code() {
        Some(0) => Ok(()),
        _ => Err(io::Error::other(format!("the program ended with {status}"))),
    }
}

/// A broker that can be killed.
pub trait Site {
    fn uri(&self) -> String;
    /// Makes the queues that are declared so far survive kills.
    fn flush(&self) -> io::Result<()>;
    fn kill(&self) -> io::Result<()>;
    /// Starts it again. A broker that runs is stopped in good order before.
    fn restart(&self) -> io::Result<()>;
}

impl Site for RabbitMq {
    fn uri(&self) -> String {
        self.amqp_uri()
    }

    fn flush(&self) -> io::Result<()> {
        Self::flush(self)
    }

    fn kill(&self) -> io::Result<()> {
        Self::kill(self)
    }

    fn restart(&self) -> io::Result<()> {
        Self::restart(self)
    }
}

impl Site for Broker {
    fn uri(&self) -> String {
        Self::uri(self)
    }

    /// It forgets no durable queue.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// It has no process to kill. It cuts its connections as if it had been killed, and does not listen.
    fn kill(&self) -> io::Result<()> {
        Self::restart(self);
        self.stop();
        Ok(())
    }

    fn restart(&self) -> io::Result<()> {
        self.stop();
        self.start_again()
    }
}
