//! The members, as processes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::Error;
use crate::ledger::{Entry, Line, Message};
use crate::oracle::Kind;

/// The ledger while it is written.
#[derive(Clone)]
pub(crate) struct Book(Arc<Mutex<Pages>>);

struct Pages {
    file: BufWriter<File>,
    /// Who processed a message first.
    processed: HashMap<Message, String>,
    /// The messages that are confirmed and not processed.
    missing: i64,
    joined: HashSet<String>,
}

impl Book {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let (processed, joined) = (HashMap::new(), HashSet::new());
        Ok(Self(Arc::new(Mutex::new(Pages { file, processed, missing: 0, joined }))))
    }

    pub(crate) fn write(&self, entry: Entry) {
        self.add(&Line::now(entry));
    }

    fn add(&self, line: &Line) {
        let mut pages = self.lock();
        match &line.entry {
            Entry::Processed { member, message, .. } => {
                let before = pages.processed.insert(message.clone(), member.clone());
                pages.missing -= i64::from(before.is_none());
            }
            Entry::Confirmed(_) => pages.missing += 1,
            Entry::Joined { member } => drop(pages.joined.insert(member.clone())),
            _ => {}
        }
        let _full = writeln!(pages.file, "{line}");
    }

    /// Returns who processed a message last.
    pub(crate) fn processed(&self, message: &Message) -> Option<String> {
        self.lock().processed.get(message).cloned()
    }

    /// Returns how many messages are confirmed, and not processed. A message can be processed before its confirm arrives.
    pub(crate) fn missing(&self) -> i64 {
        self.lock().missing
    }

    pub(crate) fn has_joined(&self, member: &str) -> bool {
        self.lock().joined.contains(member)
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.lock().file.flush()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The members that are there.
pub(crate) struct Crew {
    book: Book,
    nodes: Vec<SocketAddr>,
    partitions: u32,
    chance: fastrand::Rng,
    members: Vec<Running>,
    /// The number of members so far.
    count: usize,
}

struct Running {
    name: String,
    kind: Kind,
    process: Child,
    reader: thread::JoinHandle<()>,
}

impl Crew {
    pub(crate) fn new(book: &Book, nodes: Vec<SocketAddr>, partitions: u32, seed: u64) -> Self {
        let chance = fastrand::Rng::with_seed(seed);
        Self { book: book.clone(), nodes, partitions, chance, members: Vec::new(), count: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn members(&self) -> Vec<(String, Kind)> {
        self.members.iter().map(|it| (it.name.clone(), it.kind.clone())).collect()
    }

    /// Starts one more member: in the next slot, or with a name of its own.
    pub(crate) fn start(&mut self, slots: bool) -> Result<(), Error> {
        self.count += 1;
        let kind = match slots {
            true => Kind::Slot(u16::try_from(self.members.len())?),
            false => Kind::Named { weight: self.chance.u16(1..=2) },
        };
        self.launch(format!("m{}", self.count), kind)
    }

    fn launch(&mut self, name: String, kind: Kind) -> Result<(), Error> {
        self.book.write(Entry::Started { member: name.clone(), kind: kind.clone() });
        let mut nodes = self.nodes.clone();
        self.chance.shuffle(&mut nodes);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["member", "--name", &name, "--partitions", &self.partitions.to_string()]);
        match &kind {
            Kind::Named { weight } => command.args(["--weight", &weight.to_string()]),
            Kind::Slot(slot) => command.args(["--slot", &slot.to_string()]),
        };
        for node in &nodes {
            command.args(["--node", &node.to_string()]);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or("the process has no output")?;
        let book = self.book.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match line.parse() {
                    Ok(line) => book.add(&line),
                    // The last line of a process that was killed may be incomplete: it was not acknowledged.
                    Err(error) => eprintln!("{error}"),
                }
            }
        });
        self.members.push(Running { name, kind, process, reader });
        Ok(())
    }

    /// A member that may go: any, or the one in the last slot.
    fn choose(&mut self) -> usize {
        match self.members.last().map(|last| &last.kind) {
            Some(Kind::Slot(_)) => self.members.len() - 1,
            _ => self.chance.usize(..self.members.len()),
        }
    }

    /// Lets a member leave, and waits for it.
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        let chosen = self.choose();
        self.dismiss(chosen)
    }

    fn dismiss(&mut self, chosen: usize) -> Result<(), Error> {
        let mut member = self.members.remove(chosen);
        self.book.write(Entry::Gone { member: member.name.clone() });
        drop(member.process.stdin.take());
        let status = member.process.wait()?;
        let _read = member.reader.join();
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", member.name).into()) }
    }

    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        let chosen = self.choose();
        let mut member = self.members.remove(chosen);
        self.book.write(Entry::Gone { member: member.name.clone() });
        member.process.kill()?;
        member.process.wait()?;
        let _read = member.reader.join();
        Ok(())
    }

    /// Stops a member in the middle of whatever it does.
    pub(crate) fn freeze(&mut self) -> Result<u32, Error> {
        let process = self.members[self.chance.usize(..self.members.len())].process.id();
        signal("STOP", process)?;
        Ok(process)
    }

    /// Each member leaves, and joins again with its name: what an operator would do.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        for (name, kind) in self.members() {
            self.dismiss(0)?;
            self.launch(name, kind)?;
        }
        Ok(())
    }

    pub(crate) fn leave_all(&mut self) -> Result<(), Error> {
        while !self.members.is_empty() {
            self.dismiss(0)?;
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _gone = member.process.kill();
            let _gone = member.process.wait();
        }
    }
}

pub(crate) fn signal(name: &str, process: u32) -> Result<(), Error> {
    let status = Command::new("kill").args([format!("-{name}"), process.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -{name}: {status}").into()) }
}
