use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use amqp_client_blocking::{
    Connection, ConsumeOptions, Message, QueueOptions, Target, Wait as _, connect_target,
};

use crate::Outcome;
use crate::script::client::addr_of;

/// The program. It is killed with this.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) uri: String,
    answers: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_by(&mut Command::new(env!("CARGO_BIN_EXE_amqp-test-broker")))
    }

    pub(crate) fn start_by(command: &mut Command) -> io::Result<Self> {
        let command = command.arg("127.0.0.1:0").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut uri = String::new();
        let mut answers = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        answers.read_line(&mut uri)?;
        Ok(Self { child, uri: uri.trim().to_owned(), answers })
    }

    /// Sends it a command; returns its reply.
    pub(crate) fn ask(&mut self, command: &str) -> io::Result<String> {
        let mut input = self.child.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    pub(crate) fn connect(&self, name: &str) -> Result<Connection, Box<dyn std::error::Error>> {
        let target = format!("{}?name={name}", self.uri).parse::<Target>()?;
        Ok(connect_target(target.without_recovery())?)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        addr_of(&self.uri)
    }

    /// Returns the resident memory of the program, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("");
        let kilobytes = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        Ok(kilobytes.ok_or(io::ErrorKind::NotFound)? * 1024)
    }

    /// Somebody else can work with it.
    pub(crate) fn assert_serves(&self, after: &str) {
        let served = || -> Outcome {
            let target = self.uri.parse::<Target>()?.without_recovery();
            let connection = connect_target(target)?;
            let channel = connection.open_channel().wait()?;
            let options = QueueOptions::new().exclusive(true);
            let queue = channel.queue_declare("", options).wait()?;
            queue.publish(&Message::new("m")).wait()?;
            let mut consumer = queue.consume(ConsumeOptions::new()).wait()?;
            let delivery = consumer.next().wait().ok_or("cancelled")??;
            assert_eq!(delivery.body(), b"m");
            delivery.ack()?;
            Ok(connection.close().wait()?)
        };
        served().unwrap_or_else(|error| panic!("after {after}: {error}"));
    }

    /// It runs to the end, and has complained of nothing.
    pub(crate) fn finish(mut self) -> Outcome {
        self.assert_serves("all");
        assert_eq!(self.child.try_wait()?, None);
        self.child.kill()?;
        let mut complaints = String::new();
        let errors = self.child.stderr.take().ok_or("it was taken")?;
        BufReader::new(errors).read_to_string(&mut complaints)?;
        assert_eq!(complaints, "");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be dead already.
        let _dead = self.child.kill().and_then(|()| self.child.wait());
    }
}
