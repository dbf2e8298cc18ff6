//! The sink of the log: a file.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

struct Sink(Mutex<Option<File>>);

static SINK: Sink = Sink(Mutex::new(None));

/// From now on, lines go to that file.
pub(crate) fn write_to(path: &Path) -> io::Result<()> {
    static ONCE: Once = Once::new();
    let file = File::create(path)?;
    *SINK.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    ONCE.call_once(|| {
        if log::set_logger(&SINK).is_ok() {
            log::set_max_level(log::LevelFilter::Debug);
        }
    });
    Ok(())
}

impl log::Log for Sink {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "amqp_client"
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = file.as_mut().filter(|_| self.enabled(record.metadata())) else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (since.as_secs() % 86_400, since.subsec_millis());
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let _full = writeln!(
            file,
            "{hour:02}:{minute:02}:{second:02}.{millis:03} {:5} {}",
            record.level(),
            record.args()
        );
    }

    fn flush(&self) {}
}
