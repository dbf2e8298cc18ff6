//! Private temporary RabbitMQ nodes.
//!
//! A node has its own name, ports, cookie, port mapper and folder, so that any number of them run
//! side by side, as any user, next to a RabbitMQ of the system. Nothing of a node outlives the
//! process that started it, however that ends: a watchdog process sees to it.
//!
//! A start takes several seconds: start a node per suite and keep tests apart with virtual hosts
//! or names, except for those that break the node.
//!
//! ```no_run
//! use amqp_testkit::RabbitMq;
//!
//! # fn main() -> std::io::Result<()> {
//! let node = RabbitMq::builder().config_line("heartbeat = 10").start()?;
//! println!("{}", node.amqp_uri());
//! println!("{}", node.ctl(&["list_queues", "name", "messages"])?);
//! node.kill()?;
//! node.restart()?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod env;
mod home;
mod probe;
mod process;
mod tools;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

pub use self::builder::RabbitMqBuilder;
use self::env::Ports;
use self::home::Home;
use self::process::Group;
use self::tools::Tools;
use crate::net;
use crate::wait::wait_for;

/// The plugin with the HTTP API.
const MANAGEMENT: &str = "rabbitmq_management";

/// A running node may take this long to stop in good order, on a machine that is busy with others.
const STOP: Duration = Duration::from_secs(180);

/// A command of `rabbitmqctl` may take this long there: each starts a virtual machine.
const CTL: Duration = Duration::from_secs(180);

/// The port of a node that is gone is free after this time, unless someone else took it.
const RELEASE: Duration = Duration::from_secs(10);

/// After a SIGSTOP, the kernel needs some time to stop all threads.
const PAUSE: Duration = Duration::from_secs(10);

/// A private RabbitMQ node. Dropped, it is killed and everything of it removed.
///
/// All methods take `&self`, so that tests can share a node in a `static`; such a node ends shortly
/// after the process.
#[derive(Debug)]
pub struct RabbitMq {
    tools: Tools,
    name: String,
    ports: Ports,
    management: bool,
    deadline: Duration,
    /// None when the node is down.
    server: Mutex<Option<Group>>,
    /// Shared with the other nodes of its cluster.
    home: Arc<Home>,
}

impl RabbitMq {
    /// Checks whether nodes can be started here. The error says what to install if not.
    ///
    /// # Errors
    ///
    /// The explanation, when RabbitMQ isn't installed.
    pub fn available() -> Result<(), String> {
        Tools::find().map(drop)
    }

    /// Starts a node with RabbitMQ's own settings.
    ///
    /// # Errors
    ///
    /// As [`RabbitMqBuilder::start`].
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// A node to be configured.
    pub fn builder() -> RabbitMqBuilder {
        RabbitMqBuilder::new()
    }

    /// Returns the address on which the node listens for AMQP. The node keeps the address over restarts.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.amqp).into()
    }

    /// The URI for a client: user and password `guest`, virtual host `/`.
    #[must_use]
    pub fn amqp_uri(&self) -> String {
        net::amqp_uri(self.addr())
    }

    /// The root of the HTTP API, with user and password, when the plugin `rabbitmq_management` is
    /// on.
    #[must_use]
    pub fn management_uri(&self) -> Option<String> {
        self.management.then(|| format!("http://guest:guest@{}", self.management_addr()))
    }

    /// The node's Erlang name.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("{}@localhost", self.name)
    }

    /// The folder of everything the node writes; gone when the node is dropped.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.root().join(&self.name)
    }

    /// The process of the node (its Erlang machine), when it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let ended = self.server().as_mut()?.exited().ok()?;
        if ended.is_some() {
            return None;
        }
        fs::read_to_string(self.data_dir().join("pid")).ok()?.trim().parse().ok()
    }

    /// Runs `rabbitmqctl --quiet ARGS` on the node and returns its output. It takes about a second of processor time: use the
    /// HTTP API for frequent calls.
    ///
    /// # Errors
    ///
    /// When the command fails, or takes longer than a minute (the node may be paused).
    pub fn ctl(&self, args: &[&str]) -> io::Result<String> {
        let mut command = Command::new(&self.tools.ctl);
        self.set_env(&mut command);
        command.arg("--quiet").args(args);
        process::run(command, CTL)
    }

    /// Writes to the disk what the node would write there later by itself. Call this between the declaration of a quorum queue and
    /// a [`kill`](Self::kill).
    ///
    /// RabbitMQ: a quorum queue is found again by a table of names that is written half a second to a second after the
    /// declaration. If the node is killed before, the queue begins anew, without the messages that were confirmed, and on
    /// RabbitMQ 3.10 it never has a leader again.
    ///
    /// # Errors
    ///
    /// When the command fails.
    pub fn flush(&self) -> io::Result<()> {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]).map(drop)
    }

    /// Kills the node (SIGKILL), as a crash of the machine would, and waits until it is gone. The
    /// data stays. Does nothing when the node is down.
    ///
    /// # Errors
    ///
    /// When the processes don't vanish.
    pub fn kill(&self) -> io::Result<()> {
        let Some(mut group) = self.server().take() else {
            return Ok(());
        };
        group.kill()?;
        self.wait_released()
    }

    /// Stops the node in good order and waits until it is gone. The data stays. Does nothing when
    /// the node is down.
    ///
    /// # Errors
    ///
    /// When the node doesn't stop within a minute; it is killed then.
    pub fn stop(&self) -> io::Result<()> {
        let Some(mut group) = self.server().take() else {
            return Ok(());
        };
        // A node that ended on its own can't be signalled, which is fine.
        let _ = group.signal(Signal::TERM);
        let _ = group.signal(Signal::CONT);
        wait_for(STOP, "the node to stop", || group.exited())?;
        self.wait_released()
    }

    /// Starts the node again with the same data on the same ports, and waits until it replies. A running node is stopped first.
    ///
    /// # Errors
    ///
    /// As [`RabbitMqBuilder::start`], and when someone else took the port meanwhile.
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.launch().map(drop)
    }

    /// Suspends all processes of the node (SIGSTOP): connections stay open, and nothing replies.
    ///
    /// # Errors
    ///
    /// When the node is down.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        let Some(pid) = self.pid() else { return Ok(()) };
        wait_for(PAUSE, "the node to pause", || {
            // Without /proc, this cannot be checked and need not be: the signal was sent.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                return Ok(Some(()));
            };
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T'));
            Ok((state == Some(true)).then_some(()))
        })
    }

    /// Lets a paused node go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When the node is down.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Returns the last lines of the node's log and of the output of its start.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let printed = self.server().as_ref().map(Group::output).unwrap_or_default();
        format!("{printed}\n{}", self.logged())
    }

    fn server(&self) -> MutexGuard<'_, Option<Group>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.server().as_ref() {
            Some(group) => group.signal(signal),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "the node is down")),
        }
    }

    /// The sockets of a killed process close shortly after it has ended.
    fn wait_released(&self) -> io::Result<()> {
        wait_for(RELEASE, "the node's port to be free", || {
            Ok(net::is_free(self.addr()).then_some(()))
        })
    }

    fn management_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.management).into()
    }

    fn set_env(&self, command: &mut Command) {
        let home = self.home.root();
        env::set(command, &self.name, home, self.home.epmd_port(), self.ports);
    }

    /// Starts the processes, waits until the node replies, and returns its greeting.
    fn launch(&self) -> io::Result<Vec<u8>> {
        let mark = self.home.mark(&self.name);
        let mut command = Group::command(&mark, &self.tools.server);
        self.set_env(&mut command);
        let mut group = Group::spawn(&mark, command)?;
        let greeting = self.wait_ready(&mut group)?;
        *self.server() = Some(group);
        Ok(greeting)
    }

    fn wait_ready(&self, group: &mut Group) -> io::Result<Vec<u8>> {
        let ready = wait_for(self.deadline, "the RabbitMQ node to reply", || {
            if let Some(status) = group.exited()? {
                return Err(io::Error::other(format!("the RabbitMQ node ended with {status}")));
            }
            if self.management && TcpStream::connect(self.management_addr()).is_err() {
                return Ok(None);
            }
            Ok(probe::greeting(self.addr()))
        });
        ready.map_err(|error| {
            let story = format!("{}\n{}", group.output(), self.logged());
            builder::start_error(&error, &story)
        })
    }

    /// The end of the node's log.
    fn logged(&self) -> String {
        let path = self.data_dir().join("log").join(format!("{}.log", self.node_name()));
        let text = fs::read(path).unwrap_or_default();
        let start = text.len().saturating_sub(4096);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(self.data_dir());
    }
}
