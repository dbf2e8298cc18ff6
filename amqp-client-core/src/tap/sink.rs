//! Writes the output of a tap in batches, and keeps the first error.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The size of a batch, in bytes, at which it is written before the end of the read or write.
const BATCH_MAX: usize = 256 * 1024;

/// Collects the output for frames, and writes it once per read or write of the connection.
///
/// After the first error, nothing more is written: a reader could not read on after half a record.
pub(super) struct Sink<W, T> {
    inner: Mutex<Inner<W, T>>,
}

struct Inner<W, T> {
    /// `None` after an error, and while the writer is called, because the writer may panic.
    writer: Option<W>,
    batch: Vec<u8>,
    /// Number of frames in the batch.
    pending: u64,
    dropped: u64,
    error: Option<Arc<io::Error>>,
    /// The state of the format, such as the TCP streams of a capture.
    state: T,
}

impl<W: Write, T> Sink<W, T> {
    pub(super) fn new(writer: W, state: T) -> Self {
        let (batch, pending, dropped, error) = (Vec::new(), 0, 0, None);
        let inner = Inner { writer: Some(writer), batch, pending, dropped, error, state };
        Self { inner: Mutex::new(inner) }
    }

    /// Appends the output for a number of frames to the batch.
    pub(super) fn append(&self, frames: u64, put: impl FnOnce(&mut T, &mut Vec<u8>)) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.writer.is_none() {
            inner.dropped += frames;
            return;
        }
        inner.pending += frames;
        put(&mut inner.state, &mut inner.batch);
        if inner.batch.len() >= BATCH_MAX {
            inner.write();
        }
    }

    /// Writes the batch.
    pub(super) fn flush(&self) {
        let mut inner = self.lock();
        if !inner.batch.is_empty() {
            inner.write();
        }
    }

    /// Returns the number of frames that were not written because of an error.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Returns the error of the writer.
    pub(super) fn error(&self) -> Option<Arc<io::Error>> {
        self.lock().error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W, T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write, T> Inner<W, T> {
    fn write(&mut self) {
        // If the writer panics, the writer and the batch are lost.
        let (writer, pending) = (self.writer.take(), std::mem::take(&mut self.pending));
        self.dropped += pending;
        let mut batch = std::mem::take(&mut self.batch);
        let Some(mut writer) = writer else { return };
        match writer.write_all(&batch).and_then(|()| writer.flush()) {
            Ok(()) => {
                self.writer = Some(writer);
                self.dropped -= pending;
                batch.clear();
                batch.shrink_to(BATCH_MAX);
                self.batch = batch;
            }
            Err(error) => self.error = Some(Arc::new(error)),
        }
    }
}
