//! Configuring and starting a node.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::env::{self, Ports};
use super::home::Home;
use super::tools::Tools;
use super::{MANAGEMENT, RabbitMq, probe};
use crate::net;

/// The time that a start may take by default, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// Number of attempts to start when other programs take the ports in between.
const TRIES: usize = 4;

/// The messages of the programs when a port is in use.
const TAKEN: [&str; 3] = ["eaddrinuse", "already in use", "in use by another"];

/// A node to be started, see [`RabbitMq::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing runs until start()"]
pub struct RabbitMqBuilder {
    plugins: Vec<String>,
    lines: Vec<String>,
    deadline: Duration,
    cluster: Option<(Arc<Home>, String)>,
}

impl RabbitMqBuilder {
    pub(super) fn new() -> Self {
        Self { plugins: Vec::new(), lines: Vec::new(), deadline: DEADLINE, cluster: None }
    }

    /// Turns a plugin on, say `rabbitmq_management`.
    pub fn plugin(mut self, name: impl Into<String>) -> Self {
        self.plugins.push(name.into());
        self
    }

    /// Adds a line to `rabbitmq.conf`, say `heartbeat = 10`. A line wins over the kit's own, but
    /// leave `cluster_name` alone: by it the kit knows its node.
    pub fn config_line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Sets how long the node may take until it replies. The default is a minute.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the new node a member of the cluster of `node`, which must be running.
    pub fn join(mut self, node: &RabbitMq) -> Self {
        self.cluster = Some((Arc::clone(&node.home), node.node_name()));
        self
    }

    /// Starts the node and waits until it replies to a protocol header.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if RabbitMQ is not installed, with instructions;
    /// [`io::ErrorKind::TimedOut`] after the deadline; or another error. The message ends with the
    /// node's last output.
    pub fn start(self) -> io::Result<RabbitMq> {
        let tools =
            Tools::find().map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let mut tries = 1;
        loop {
            match self.try_start(&tools) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(&self, tools: &Tools) -> io::Result<RabbitMq> {
        let node = self.prepare(tools)?;
        let greeting = node.launch()?;
        if !probe::is_from(&greeting, &node.name) {
            let message = format!("another server replies at {}", node.addr());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        if let Some((_, member)) = &self.cluster {
            node.ctl(&["stop_app"])?;
            node.ctl(&["join_cluster", member])?;
            node.ctl(&["start_app"])?;
        }
        Ok(node)
    }

    /// Picks ports and writes the files.
    fn prepare(&self, tools: &Tools) -> io::Result<RabbitMq> {
        let home = match &self.cluster {
            Some((home, _)) => Arc::clone(home),
            None => Arc::new(Home::create(tools)?),
        };
        let [amqp, distribution, management] = net::free_ports()?;
        let node = RabbitMq {
            tools: tools.clone(),
            name: format!("testkit-{:08x}", net::random() >> 32),
            ports: Ports { amqp, distribution, management },
            management: self.plugins.iter().any(|name| name == MANAGEMENT),
            deadline: self.deadline,
            server: Mutex::new(None),
            home,
        };
        let folder = node.data_dir();
        fs::create_dir(&folder)?;
        fs::create_dir(folder.join("log"))?;
        fs::create_dir(folder.join("data"))?;
        let config = env::config(node.ports, node.management, &self.lines);
        fs::write(folder.join("rabbitmq.conf"), config)?;
        fs::write(folder.join("enabled_plugins"), env::plugins(&self.plugins))?;
        Ok(node)
    }
}

/// The error of a start that failed, with the node's own words. A port that is taken has its own
/// kind: another try, with other ports, is worth it.
pub(super) fn start_error(error: &io::Error, story: &str) -> io::Error {
    let taken = TAKEN.iter().any(|sign| story.contains(sign));
    let kind = if taken { io::ErrorKind::AddrInUse } else { error.kind() };
    io::Error::new(kind, format!("{error}\n{}", story.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_distinguished_from_other_failures() {
        let ended = io::Error::other("the RabbitMQ node ended with 1");
        let story = "{could_not_start_listener,\"127.0.0.1\",5672,eaddrinuse}";
        assert_eq!(start_error(&ended, story).kind(), io::ErrorKind::AddrInUse);
        let story = "could not bind to distribution port 2222, it is in use by another node";
        assert_eq!(start_error(&ended, story).kind(), io::ErrorKind::AddrInUse);
        let error = start_error(&ended, "no space left on device");
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert!(error.to_string().ends_with("with 1\nno space left on device"));
    }
}
