//! The broker that is measured against.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::plan::Target;

const NULL_BROKER: &str = "target/release/null-broker";
const PORT: u16 = 5791;
const TLS_PORT: u16 = 5792;
const SLOW_PORT: u16 = 5793;
/// 2 MiB.
const SLOW_BYTES_PER_SECOND: u32 = 2 * 1024 * 1024;

/// A broker, until it is dropped.
pub(crate) struct Broker {
    process: Option<Child>,
    pub(crate) url: String,
    /// The core that clients are to share with it.
    pub(crate) core: Option<&'static str>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It has nothing to lose.
            let _gone = process.kill().and_then(|()| process.wait());
        }
    }
}

/// Starts the broker that `target` needs. Returns `None` for RabbitMQ without an `AMQP_URL`.
pub(crate) fn start(target: Target) -> Outcome<Option<Broker>> {
    if target == Target::Rabbitmq {
        let broker = |url| Broker { process: None, url, core: None };
        return Ok(std::env::var("AMQP_URL").ok().map(broker));
    }
    let core = (target == Target::OneCore).then_some("0");
    let mut command = pinned(core, NULL_BROKER.into());
    command.arg(PORT.to_string());
    let mut url = format!("amqp://guest:guest@127.0.0.1:{PORT}/%2f");
    let mut port = PORT;
    if target == Target::Tls {
        let ca = std::env::temp_dir().join("null-broker-ca.pem");
        command.args(["tls", &TLS_PORT.to_string()]).arg(&ca);
        port = TLS_PORT;
        let ca = ca.display();
        url = format!("amqps://guest:guest@localhost:{TLS_PORT}/%2f?cacertfile={ca}");
    }
    if target == Target::SlowLink {
        command.args(["slow", &SLOW_PORT.to_string(), &SLOW_BYTES_PER_SECOND.to_string()]);
        port = SLOW_PORT;
        url = format!("amqp://guest:guest@127.0.0.1:{SLOW_PORT}/%2f");
    }
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let broker = Broker { process: Some(process), url, core };
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err(format!("{NULL_BROKER} does not listen on port {port}").into());
        }
        // A process does not report that it listens.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(broker))
}

/// A program on that core.
pub(crate) fn pinned(core: Option<&str>, program: PathBuf) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", core]).arg(program);
            command
        }
    }
}
