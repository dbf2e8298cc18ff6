//! The machine of the measurements, and the versions of the clients.

use std::fs;
use std::process::Command;

use crate::results::Machine;

pub(crate) fn describe() -> Machine {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let release = release.unwrap_or("an unknown system").trim_matches('"');
    let mut versions = vec![said("rustc", &["--version"])];
    versions.extend(["lapin", "amqprs", "amiquip"].map(locked));
    versions.extend(
        [
            "librabbitmq4",
            "golang-github-rabbitmq-amqp091-go-dev",
            "librabbitmq-client-java",
            "rabbitmq-server",
        ]
        .map(|package| said("dpkg-query", &["-W", "-f", "${Package} ${Version}", package])),
    );
    versions.retain(|version| !version.is_empty());
    Machine {
        processor: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        system: format!("{release}, Linux {}", kernel.trim()),
        versions,
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    done.map_or_else(
        |_| String::new(),
        |done| String::from_utf8_lossy(&done.stdout).trim().to_owned(),
    )
}

/// The version of a crate, as locked.
fn locked(name: &str) -> String {
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let entry =
        lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    version.map_or_else(String::new, |version| format!("{name} {version}"))
}
