use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use amqp_proto::{ChannelId, ClientConfig};

use super::{Counted, Level};
use crate::panics::contained;

/// The largest number of lines that wait while the sink blocks. Further lines are counted and dropped, so that a sink that hangs does
/// not fill the memory.
const WAITING_MAX: usize = 1000;

/// Numbers the connections of the process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// The log of one connection. Clones write to the same.
#[derive(Clone, Default)]
pub(crate) struct Log(Option<Arc<Connection>>);

struct Connection {
    /// The number of the connection, and its name if it has one.
    label: String,
    began: OnceLock<Instant>,
    /// Lines wait, and no thread is writing them.
    due: AtomicBool,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Line>,
    /// Number of lines that were dropped because too many waited.
    left_out: u64,
    /// Number of lines that the sink caused while it wrote one. If they were written, a sink that causes a line for each line would
    /// never return.
    caused: u64,
    /// The thread that is writing lines. Other threads leave their lines to it, so that the lines stay in order.
    writer: Option<ThreadId>,
}

struct Line {
    level: Level,
    channel: Option<ChannelId>,
    text: String,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let label = match config.get_connection_name() {
            Some(name) => format!("connection {number} ({})", name.escape_debug()),
            None => format!("connection {number}"),
        };
        let (began, due, lines) = (OnceLock::new(), AtomicBool::new(false), Mutex::default());
        Self(Some(Arc::new(Connection { label, began, due, lines })))
    }

    /// Connecting has begun. Only the first call counts.
    pub(crate) fn begin(&self, now: Instant) {
        if let Some(connection) = &self.0 {
            let _earlier = connection.began.set(now);
        }
    }

    /// Returns when connecting began.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.0.as_ref()?.began.get().copied()
    }

    /// Returns whether a facade is built in.
    pub(crate) const fn is_built(&self) -> bool {
        self.0.is_some()
    }

    /// Returns whether lines wait for [`write`](Self::write).
    pub(crate) fn is_due(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| connection.due.load(Ordering::Relaxed))
    }

    /// Queues a line. Calls `text` at once, or not at all if no sink wants the level. `text` must not call user code.
    pub(crate) fn line(
        &self,
        level: Level,
        channel: Option<ChannelId>,
        text: impl FnOnce() -> String,
    ) {
        let Some(connection) = &self.0 else { return };
        if !wants(level) {
            return;
        }
        if connection.is_caused_by_sink() {
            return;
        }
        let line = Line { level, channel, text: text() };
        let mut lines = connection.lines();
        if lines.waiting.len() < WAITING_MAX {
            lines.waiting.push_back(line);
        } else {
            lines.left_out += 1;
        }
        connection.due.store(true, Ordering::Relaxed);
    }

    /// Writes the queued lines in order, or leaves them to the thread that is writing. Not for use under a lock.
    pub(crate) fn write(&self) {
        let Some(connection) = &self.0 else { return };
        if !connection.begin_writing() {
            return;
        }
        let mut reported = false;
        // Other threads may queue lines as fast as this one writes them. So the loop ends after some lines, and the driver's next turn
        // writes the rest.
        for _ in 0..WAITING_MAX {
            let Some(line) = connection.next(&mut reported) else { return };
            contained(|| line.write(&connection.label));
        }
        let mut lines = connection.lines();
        lines.writer = None;
        connection.due.store(!lines.waiting.is_empty(), Ordering::Relaxed);
    }
}

impl Connection {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line of the thread that is writing another one.
    fn is_caused_by_sink(&self) -> bool {
        let mut lines = self.lines();
        let caused = lines.writer.is_some_and(|writer| writer == thread::current().id());
        lines.caused += u64::from(caused);
        caused
    }

    /// Makes this thread the one that writes, unless there is one.
    fn begin_writing(&self) -> bool {
        let mut lines = self.lines();
        self.due.store(false, Ordering::Relaxed);
        let begins = lines.writer.is_none();
        if begins {
            lines.writer = Some(thread::current().id());
        }
        begins
    }

    /// Takes the next line. Returns `None` if this thread has nothing more to write. `reported` is true once a line about the
    /// lines that were left out has been returned.
    fn next(&self, reported: &mut bool) -> Option<Line> {
        let mut lines = self.lines();
        let line = lines.waiting.pop_front();
        if line.is_some() {
            return line;
        }
        // Once only: if the sink causes lines while it writes this one, the next such line counts them.
        if !std::mem::replace(reported, true) {
            let (left_out, caused) =
                (std::mem::take(&mut lines.left_out), std::mem::take(&mut lines.caused));
            let reasons = [
                (left_out, "because the sink of the log is slow"),
                (caused, "because the sink of the log caused them while it wrote others"),
            ];
            let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
            let reasons: Vec<_> = reasons
                .map(|(count, why)| {
                    let were = if count == 1 { "was" } else { "were" };
                    format!("{} {were} left out, {why}", Counted(count, "line"))
                })
                .collect();
            if !reasons.is_empty() {
                return Some(Line { level: Level::Warn, channel: None, text: reasons.join("; ") });
            }
        }
        lines.writer = None;
        None
    }
}

impl Line {
    fn write(self, connection: &str) {
        let Self { level, channel, text } = self;
        #[cfg(feature = "log")]
        {
            let level = log_level(level);
            match channel {
                None => log::log!(target: TARGET, level, "{connection}: {text}"),
                Some(channel) => {
                    log::log!(target: TARGET, level, "{connection}, channel {channel}: {text}");
                }
            }
        }
        #[cfg(feature = "tracing")]
        {
            let channel = channel.map(ChannelId::get);
            // The level of an event is a part of its static description.
            macro_rules! event {
                ($level:ident) => {
                    tracing::event!(
                        target: TARGET, tracing::Level::$level, connection, channel, "{text}"
                    )
                };
            }
            match level {
                Level::Error => event!(ERROR),
                Level::Warn => event!(WARN),
                Level::Info => event!(INFO),
                Level::Debug => event!(DEBUG),
            }
        }
    }
}

/// The target of all lines, by which programs filter.
const TARGET: &str = "amqp_client";

/// Returns whether a sink may want lines of this level. Reads only the atomics of the facades: user code must not run here.
fn wants(level: Level) -> bool {
    #[cfg(feature = "log")]
    if log_level(level) <= log::max_level() {
        return true;
    }
    #[cfg(feature = "tracing")]
    {
        use tracing::level_filters::LevelFilter;
        let level = match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        };
        if level <= LevelFilter::current() {
            return true;
        }
    }
    false
}

#[cfg(feature = "log")]
const fn log_level(level: Level) -> log::Level {
    match level {
        Level::Error => log::Level::Error,
        Level::Warn => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    }
}
