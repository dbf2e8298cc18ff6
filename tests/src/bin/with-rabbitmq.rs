//! Runs a command with a temporary RabbitMQ node.
//!
//! `with-rabbitmq COMMAND [ARGUMENT...]` starts a private node, runs the command with `AMQP_URL`
//! pointing to it, stops the node, and exits as the command did: with its code, or with 128 and the
//! number of the signal that killed it. With `AMQP_URL` already set it just becomes the command.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, exit};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use amqp_testkit::RabbitMq;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process, waitid};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

const URL: &str = "AMQP_URL";

/// The exit code of a shell for a command that it cannot run.
const NOT_RUN: u8 = 127;

/// The command's process, while it runs.
type Running = Arc<Mutex<Option<Pid>>>;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: with-rabbitmq COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(&program);
    command.args(args);
    if env::var_os(URL).is_some_and(|url| !url.is_empty()) {
        return not_run(&program, &command.exec());
    }
    with_node(&program, command).unwrap_or_else(|error| {
        eprintln!("with-rabbitmq: {error}");
        ExitCode::FAILURE
    })
}

fn not_run(program: &OsString, error: &io::Error) -> ExitCode {
    eprintln!("with-rabbitmq: {}: {error}", program.to_string_lossy());
    ExitCode::from(NOT_RUN)
}

/// Runs the command with a node, which ends with this function.
fn with_node(program: &OsString, mut command: Command) -> io::Result<ExitCode> {
    let running = Running::default();
    pass_signals_on(Arc::clone(&running))?;
    let node = RabbitMq::start()?;
    command.env(URL, node.amqp_uri());
    // Locked until the number is there: a signal in between must not end us without the command.
    let mut pid = lock(&running);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_run(program, &error)),
    };
    let id = Pid::from_child(&child);
    *pid = Some(id);
    drop(pid);
    // First only check: as long as the process exists, no other process has its number.
    while waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).is_err() {}
    *lock(&running) = None;
    let status = child.wait()?;
    Ok(ExitCode::from(code(status)))
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, Option<Pid>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Sees to it that a signal ends the command, and not us before it.
fn pass_signals_on(running: Running) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    thread::spawn(move || {
        for number in &mut signals {
            let pid = lock(&running);
            match (*pid, Signal::from_named_raw(number)) {
                (Some(_), Some(signal)) if from_terminal(signal) => {}
                (Some(pid), Some(signal)) => drop(kill_process(pid, signal)),
                // No command yet, or no more: the watchdog of the node does the rest.
                _ => exit(128 + number),
            }
        }
    });
    Ok(())
}

/// Returns whether the terminal has sent this signal to the command, too: it does so for keys, to all of
/// its foreground group. Passed on, Ctrl-C would look like two.
fn from_terminal(signal: Signal) -> bool {
    let key = matches!(signal, Signal::INT | Signal::QUIT);
    let foreground = File::open("/dev/tty").ok().and_then(|tty| tcgetpgrp(tty).ok());
    key && foreground == Some(getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(SIGTERM)), 143);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
