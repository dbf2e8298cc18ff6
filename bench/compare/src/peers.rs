//! The drivers of all clients.

use std::path::PathBuf;

use crate::plan::{Scenario, Target};

/// A client, on one of its runtimes.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
    pub(crate) runtime: &'static str,
    /// True if it is this project's client, against which the others are compared.
    pub(crate) is_ours: bool,
}

/// All there are: the limit, ours, the others.
pub(crate) fn all() -> Vec<Peer> {
    let ours =
        |name, runtime| Peer { name, program: "release/amqp-bench-ours", runtime, is_ours: true };
    let other = |name, program, runtime| Peer { name, program, runtime, is_ours: false };
    let floor = |name, runtime| other(name, "release/amqp-bench-floors", runtime);
    vec![
        other("raw", "release/raw", ""),
        floor("floor-epoll", "epoll"),
        floor("floor-ct", "ct"),
        floor("floor-ct-driver", "ct-driver"),
        floor("floor-mt", "mt"),
        floor("floor-mt-driver", "mt-driver"),
        ours("proto", "proto"),
        ours("tokio-ct", "tokio-ct"),
        ours("tokio", "tokio"),
        ours("tokio-spawned", "tokio-spawned"),
        ours("smol", "smol"),
        ours("blocking", "blocking"),
        other("librabbitmq", "peers/librabbitmq", ""),
        other("amqprs-ct", "release/amqp-bench-amqprs", "ct"),
        other("amqprs", "release/amqp-bench-amqprs", ""),
        other("lapin-ct", "release/amqp-bench-lapin", "ct"),
        other("lapin", "release/amqp-bench-lapin", ""),
        other("amiquip", "release/amqp-bench-amiquip", ""),
        other("amqp091-go", "peers/amqp091-go", ""),
        other("aio-pika", "peers/aio-pika", ""),
        other("java", "peers/java-client", ""),
    ]
}

impl Peer {
    pub(crate) fn program(&self) -> PathBuf {
        PathBuf::from("target").join(self.program)
    }

    /// Returns whether it takes part. Clients that only repeat another's figures, or need more memory than there is, do not.
    pub(crate) fn takes_part(&self, target: Target, scenario: &Scenario) -> bool {
        // Drivers ignore parameters that they do not know.
        let has = |parameter| scenario.name.contains(parameter);
        if ["lag=", "receive-buffer=", "window="].into_iter().any(has) && !self.is_ours {
            return false;
        }
        let rust =
            self.is_ours || ["lapin", "amqprs"].iter().any(|name| self.name.starts_with(name));
        if has("connections=") && !rust {
            return false;
        }
        let many_connections = scenario.name == "connections" && scenario.count > Some(500);
        match target {
            Target::Tls => self.name == "raw" || self.is_ours && self.name != "proto",
            Target::SlowLink => self.is_ours || self.name.starts_with("lapin"),
            Target::Rabbitmq => !["tokio-spawned", "lapin-ct", "java"].contains(&self.name),
            _ if many_connections => self.is_ours || self.name == "librabbitmq",
            _ => true,
        }
    }

    /// Returns whether its instructions are counted: some runtimes are not themselves under valgrind, some are like others.
    pub(crate) fn is_profiled(&self) -> bool {
        !["tokio-spawned", "smol", "amqprs", "lapin", "amqp091-go", "aio-pika", "java"]
            .contains(&self.name)
    }

    pub(crate) fn is_built(&self) -> bool {
        let built = self.program().exists();
        if !built {
            eprintln!("{}: not built, so it is left out", self.name);
        }
        built
    }
}
