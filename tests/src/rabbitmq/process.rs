//! Process groups that end as a whole.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::wait_for;

/// The time that processes may take to end after SIGKILL.
const DEATH: Duration = Duration::from_secs(20);

/// Number of bytes of the output that are kept.
const TAIL: usize = 16 * 1024;

/// Writes the group's number into a file before the program starts, so that the watchdog knows
/// about every program that runs. A watchdog at work has moved the folder away: then the file can't
/// be written, or isn't there any more, and the program must not start.
const LAUNCH: &str = r#"
mark=$1
shift
echo "$$" >"$mark" || exit 1
[ -e "$mark" ] || exit 1
exec "$@" 2>&1
"#;

/// A program and all that it starts, in a process group of its own, where the Ctrl-C of a terminal
/// doesn't reach it.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
    id: Pid,
    mark: PathBuf,
    /// Finished when nobody holds the output any more, that is, when all processes are gone.
    follower: JoinHandle<()>,
    output: Arc<Mutex<Vec<u8>>>,
    over: bool,
}

impl Group {
    /// The command for [`spawn`](Self::spawn), to be completed with arguments and environment.
    pub(super) fn command(mark: &Path, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", LAUNCH, "launch"]).arg(mark).arg(program);
        command
    }

    /// Starts the group. Its number is in the file `mark` for as long as it runs.
    pub(super) fn spawn(mark: &Path, mut command: Command) -> io::Result<Self> {
        let mut leader = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let follower = follow(leader.stdout.take(), Arc::clone(&output));
        let id = Pid::from_child(&leader);
        Ok(Self { leader, id, mark: mark.to_owned(), follower, output, over: false })
    }

    /// Signals every process of the group.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.id, signal)?)
    }

    /// The exit status of the leader, once it has ended. Processes that it left behind are killed.
    pub(super) fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.leader.try_wait()?;
        if status.is_some() {
            self.kill()?;
        }
        Ok(status)
    }

    /// Kills every process of the group and waits until all are gone.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        if self.over {
            return Ok(());
        }
        self.over = true;
        // No such group: all are gone already.
        let _ = self.signal(Signal::KILL);
        self.leader.wait()?;
        let result = self.wait_gone();
        // Not before: an owner that dies right now leaves the rest to the watchdog.
        let _ = fs::remove_file(&self.mark);
        result
    }

    fn wait_gone(&self) -> io::Result<()> {
        wait_for(DEATH, "killed processes to vanish", || {
            Ok(self.follower.is_finished().then_some(()))
        })
    }

    /// Returns the last output of the processes.
    pub(super) fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Collects the output on a thread, until its last holder is gone.
fn follow(source: Option<impl Read + Send + 'static>, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let Some(mut source) = source else { return };
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = source.read(&mut chunk) {
            let mut output = into.lock().unwrap_or_else(PoisonError::into_inner);
            output.extend_from_slice(&chunk[..n]);
            let excess = output.len().saturating_sub(TAIL);
            output.drain(..excess);
        }
    })
}

/// Runs a program to its end and returns its output; kills it, and fails, after `limit`.
pub(super) fn run(mut command: Command, limit: Duration) -> io::Result<String> {
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = wait_for(limit, "a command to end", || child.try_wait());
    if ended.is_err() {
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        child.wait()?;
    }
    let text = |thread: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match ended {
        Ok(status) if status.success() => Ok(stdout),
        Ok(status) => Err(failure(io::ErrorKind::Other, &status, &command, &stdout, &stderr)),
        Err(error) => Err(failure(error.kind(), &error, &command, &stdout, &stderr)),
    }
}

fn collect(source: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut source) = source {
            let _ = source.read_to_end(&mut all);
        }
        all
    })
}

fn failure(
    kind: io::ErrorKind,
    reason: &dyn std::fmt::Display,
    command: &Command,
    stdout: &str,
    stderr: &str,
) -> io::Error {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let program = command.get_program().to_string_lossy();
    let message = format!("{program} {}: {reason}\n{stdout}{stderr}", args.join(" "));
    io::Error::new(kind, message)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;
    use crate::net::random;
    use crate::wait::wait_until;

    const LIMIT: Duration = Duration::from_secs(20);

    fn mark() -> PathBuf {
        env::temp_dir().join(format!("testkit-mark-{:x}.group", random()))
    }

    fn shell(mark: &Path, script: &str) -> Group {
        let mut command = Group::command(mark, Path::new("/bin/sh"));
        command.args(["-c", script]);
        Group::spawn(mark, command).unwrap()
    }

    #[test]
    fn the_mark_holds_the_number_of_the_group_while_it_runs() {
        let mark = mark();
        let mut group = shell(&mark, "echo up; cat /dev/zero >/dev/null");
        wait_until(LIMIT, "the shell to start", || group.output() == "up\n");
        let number: i32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        assert_eq!(Pid::from_raw(number), Some(group.id));
        assert!(group.exited().unwrap().is_none());
        group.kill().unwrap();
        assert!(!mark.exists());
    }

    #[test]
    fn kill_ends_the_children_of_the_leader_too() {
        let mark = mark();
        let mut group = shell(&mark, "sleep 600 & echo up; wait");
        wait_until(LIMIT, "the shell to start", || group.output() == "up\n");
        // The child holds the output: this returns when it's gone, too, or fails.
        group.kill().unwrap();
    }

    #[test]
    fn a_leader_that_ends_takes_the_rest_along() {
        let mark = mark();
        let mut group = shell(&mark, "sleep 600 & exit 3");
        let status = wait_for(LIMIT, "the shell to end", || group.exited()).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(!mark.exists());
    }

    #[test]
    fn nothing_starts_without_the_folder() {
        let mark = env::temp_dir().join("testkit-no-such-folder").join("x.group");
        let mut group = shell(&mark, "echo up");
        let status = wait_for(LIMIT, "the shell to end", || group.exited()).unwrap();
        assert!(!status.success());
        assert!(!group.output().contains("up"));
    }

    #[test]
    fn only_the_tail_of_the_output_is_kept() {
        let mut group = shell(&mark(), "yes | head -c 100000; echo last");
        wait_for(LIMIT, "the shell to end", || group.exited()).unwrap();
        let output = group.output();
        assert_eq!(output.len(), TAIL);
        assert!(output.ends_with("y\nlast\n"));
    }

    #[test]
    fn run_returns_the_output_or_the_whole_story() {
        let sh = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        assert_eq!(run(sh("echo fine; echo noise >&2"), LIMIT).unwrap(), "fine\n");
        let error = run(sh("echo out; echo err >&2; exit 4"), LIMIT).unwrap_err().to_string();
        assert!(error.contains("out\nerr\n") && error.contains('4'), "{error}");
        let error = run(sh("sleep 600"), Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
