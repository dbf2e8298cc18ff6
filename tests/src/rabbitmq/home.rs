//! The folder of one or more nodes, their port mapper, and the watchdog that removes all of it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::Group;
use super::tools::Tools;
use crate::net::{self, random};
use crate::wait::wait_for;

/// The time that the port mapper may take to listen.
const EPMD_START: Duration = Duration::from_secs(20);

/// Waits for the end of its input, which the owner holds and which ends with the owner, however
/// that dies. Moves the folder away first: whatever is about to start notices and doesn't (see
/// `LAUNCH`). A killed process can finish a write, so that removing needs more than one try.
const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
while read -r line; do :; done
[ -d "$1" ] || exit 0
mv "$1" "$1.gone" || exit 1
for mark in "$1.gone"/*.group; do
    if [ -f "$mark" ] && read -r group <"$mark"; then kill -KILL "-$group"; fi
done
for try in 1 2 3 4 5 6 7 8; do
    rm -rf "$1.gone" && exit 0
    sleep 0.25
done
"#;

/// Everything that nodes share. Removed with the last of them.
#[derive(Debug)]
pub(super) struct Home {
    root: PathBuf,
    epmd_port: u16,
    /// Taken when dropped, before the watchdog.
    epmd: Option<Group>,
    watchdog: Child,
}

impl Home {
    /// Makes the folder, with a watchdog on it and a port mapper in it.
    pub(super) fn create(tools: &Tools) -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("amqp-testkit-{:016x}", random()));
        DirBuilder::new().mode(0o700).create(&root)?;
        let watchdog = match watch(&root) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                let _ = fs::remove_dir_all(&root);
                return Err(error);
            }
        };
        let [epmd_port] = net::free_ports()?;
        // From here on the drop cleans up.
        let mut home = Self { root, epmd_port, epmd: None, watchdog };
        home.write_cookie()?;
        home.start_epmd(tools)?;
        Ok(home)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn epmd_port(&self) -> u16 {
        self.epmd_port
    }

    /// Returns where the number of a process group is written; the watchdog looks for the ending.
    pub(super) fn mark(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.group"))
    }

    fn write_cookie(&self) -> io::Result<()> {
        let path = self.root.join(".erlang.cookie");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        write!(file, "{:016X}{:016X}", random(), random())
    }

    fn start_epmd(&mut self, tools: &Tools) -> io::Result<()> {
        let mark = self.mark("epmd");
        let mut command = Group::command(&mark, &tools.epmd);
        command
            .args(["-address", "127.0.0.1", "-port", &self.epmd_port.to_string()])
            .current_dir(&self.root);
        super::env::clear(&mut command);
        let epmd = self.epmd.insert(Group::spawn(&mark, command)?);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, self.epmd_port));
        wait_for(EPMD_START, "epmd to listen", || {
            if let Some(status) = epmd.exited()? {
                let message = format!("epmd ended with {status}: {}", epmd.output());
                // Nothing else makes it end.
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            Ok(TcpStream::connect(addr).ok())
        })?;
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.epmd = None;
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        // The watchdog has done it, unless someone killed it.
        if self.root.exists() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Starts a watchdog over the folder.
fn watch(root: &Path) -> io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", WATCHDOG, "watchdog"])
        .arg(root)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn the_watchdog_kills_the_groups_and_removes_the_folder() {
        let root = std::env::temp_dir().join(format!("testkit-watch-{:x}", random()));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("data"), "x").unwrap();
        let mut watchdog = watch(&root).unwrap();
        let mark = root.join("sleeper.group");
        let mut command = Group::command(&mark, Path::new("/bin/sh"));
        command.args(["-c", "echo up; sleep 600 & wait"]);
        let mut group = Group::spawn(&mark, command).unwrap();
        wait_until(LIMIT, "the group to start", || group.output() == "up\n");

        drop(watchdog.stdin.take());
        assert!(watchdog.wait().unwrap().success());
        let status = wait_for(LIMIT, "the group to end", || group.exited()).unwrap();
        assert!(!status.success());
        assert!(!root.exists());
        assert!(!root.with_extension("gone").exists());
    }

    #[test]
    fn the_watchdog_survives_the_signals_of_a_terminal() {
        let root = std::env::temp_dir().join(format!("testkit-watch-{:x}", random()));
        let mut watchdog = watch(&root).unwrap();
        // It reads its input only after the signals are blocked.
        watchdog.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        fs::create_dir(&root).unwrap();
        let pid = rustix::process::Pid::from_child(&watchdog);
        wait_until(LIMIT, "the watchdog to ignore SIGTERM", || ignores_term(&watchdog));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(watchdog.try_wait().unwrap().is_none());
        drop(watchdog.stdin.take());
        assert!(watchdog.wait().unwrap().success());
        assert!(!root.exists());
    }

    /// Returns whether bit 14 of the mask of ignored signals is set; true where there's no /proc to ask.
    fn ignores_term(child: &Child) -> bool {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) else {
            return true;
        };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & (1 << 14) != 0)
    }
}
