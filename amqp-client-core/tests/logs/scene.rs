//! Connections whose lines a test reads.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use amqp_client_core::{ClientConfig, Config, Connection, Recovery};

use crate::harness::ClientRig;

/// Keeps the lines of all tests. Each test looks for those of its own connections, by their name.
pub(crate) struct Sink {
    lines: Mutex<Vec<String>>,
    /// Callbacks of tests for each line, with the name of the connection.
    acts: Mutex<Vec<(String, Act)>>,
}

type Act = std::sync::Arc<dyn Fn(&str) + Send + Sync>;

static SINK: Sink = Sink { lines: Mutex::new(Vec::new()), acts: Mutex::new(Vec::new()) };

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert_eq!(record.target(), "amqp_client");
        let line = format!("{} {}", record.level(), record.args());
        assert!(!line.contains("Pa55-w0rd"), "{line}");
        assert!(!line.contains('\n'), "{line}");
        lock(&SINK.lines).push(line.clone());
        let acts = lock(&SINK.acts).clone();
        acts.iter().filter(|(name, _)| line.contains(name)).for_each(|(_, act)| act(&line));
    }

    fn flush(&self) {}
}

/// The lines of all connections so far.
pub(crate) fn all_lines() -> Vec<String> {
    lock(&SINK.lines).clone()
}

/// The lines of the connection with that name, without what names it.
pub(crate) fn lines_of(name: &str) -> Vec<String> {
    let all = lock(&SINK.lines);
    let own = all.iter().filter(|line| line.contains(&format!("({name})")));
    own.map(|line| {
        let (level, text) = line.split_once(" connection ").expect("the line names the connection");
        let (number, text) = text.split_once(' ').expect("the line has a number");
        assert!(number.parse::<u64>().is_ok(), "{line}");
        let text = text.strip_prefix(&format!("({name})")).expect("its name follows");
        format!("{level}{}", text.strip_prefix(':').unwrap_or(text))
    })
    .collect()
}

/// A client rig whose connection has a name of its own.
pub(crate) struct Scene {
    rig: ClientRig,
    name: String,
    /// Number of lines that were compared.
    read: usize,
}

impl Deref for Scene {
    type Target = ClientRig;

    fn deref(&self) -> &ClientRig {
        &self.rig
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut ClientRig {
        &mut self.rig
    }
}

/// The recovery of the tests: its jitter is always the same.
pub(crate) fn recovery() -> Recovery {
    Recovery::default().seed(Some(7))
}

/// The login of the tests.
pub(crate) fn protocol() -> ClientConfig {
    ClientConfig::default().login("orders", "Pa55-w0rd")
}

/// Returns a name that no other connection has, and sees to it that there is a sink.
pub(crate) fn unique(name: &str) -> String {
    static ONCE: Once = Once::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    ONCE.call_once(|| {
        log::set_logger(&SINK).expect("there is no other");
        log::set_max_level(log::LevelFilter::Trace);
    });
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Scene {
    /// An open connection. Its first line was compared.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, Config::default().protocol(protocol()))
    }

    /// An open connection with that configuration. Its first line was compared.
    pub(crate) fn with(name: &str, config: Config) -> Self {
        let name = unique(name);
        let protocol = config.get_protocol().clone().connection_name(&name).expect("short");
        let rig = ClientRig::new(config.protocol(protocol));
        let mut scene = Self { rig, name, read: 0 };
        let lines = scene.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("INFO connected to node 0 in 0.0 s: "), "{lines:?}");
        scene
    }

    /// An open connection that recovers.
    pub(crate) fn recovering(name: &str, recovery: Recovery) -> Self {
        let mut scene = Self::new(name);
        scene.recover_with(recovery);
        scene
    }

    /// From now on, the sink does this with each line of this connection.
    pub(crate) fn act(&self, act: impl Fn(&str, &Connection) + Send + Sync + 'static) {
        let connection = self.connection.clone();
        let act = std::sync::Arc::new(move |line: &str| act(line, &connection));
        lock(&SINK.acts).push((format!("({})", self.name), act));
    }

    /// The lines since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let lines = lines_of(&self.name).split_off(self.read);
        self.read += lines.len();
        lines
    }

    /// Compares the lines since the last call.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[&str]) {
        assert_eq!(self.lines(), expected, "the lines of {}", self.name);
    }
}
