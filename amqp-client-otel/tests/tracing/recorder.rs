//! A subscriber that records spans.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Records spans with their fields, and those in which they began.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Recording>>,
    entered: Mutex<Vec<u64>>,
    closed: Mutex<Vec<Recording>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Recording {
    pub(crate) name: &'static str,
    pub(crate) within: Option<&'static str>,
    /// The spans that it follows from.
    pub(crate) follows: Vec<&'static str>,
    fields: BTreeMap<&'static str, String>,
    handles: usize,
}

impl Recording {
    pub(crate) fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// Everything but the identifiers of the trace.
    pub(crate) fn text(&self) -> String {
        let fields = self.fields.iter().filter(|(name, _)| name.contains('.'));
        let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{} in {:?} | {}",
            self.name,
            self.within,
            fields.join(" ").replace("messaging.", "")
        )
    }
}

impl Recorder {
    /// Returns the spans that were closed since the last call.
    pub(crate) fn take(&self) -> Vec<Recording> {
        std::mem::take(&mut self.0.closed.lock().expect("no panic"))
    }
}

impl Visit for Recording {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.0.open.lock().expect("no panic");
        let within = self.0.entered.lock().expect("no panic").last().copied();
        let within = within.and_then(|id| open.get(&id)).map(|span| span.name);
        let name = span.metadata().name();
        let (follows, fields) = (Vec::new(), BTreeMap::new());
        let mut recording = Recording { name, within, follows, fields, handles: 1 };
        span.record(&mut recording);
        open.insert(id, recording);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if let Some(recording) = self.0.open.lock().expect("no panic").get_mut(&span.into_u64()) {
            values.record(recording);
        }
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        let mut open = self.0.open.lock().expect("no panic");
        let earlier = open.get(&follows.into_u64()).map(|earlier| earlier.name);
        if let Some(recording) = open.get_mut(&span.into_u64()) {
            recording.follows.extend(earlier);
        }
    }

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        self.0.entered.lock().expect("no panic").push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let left = self.0.entered.lock().expect("no panic").pop();
        assert_eq!(
            left,
            Some(span.into_u64()),
            "spans are left in the order in which they are entered"
        );
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(recording) = self.0.open.lock().expect("no panic").get_mut(&span.into_u64()) {
            recording.handles += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut open = self.0.open.lock().expect("no panic");
        let Some(recording) = open.get_mut(&span.into_u64()) else { return false };
        recording.handles -= 1;
        if recording.handles > 0 {
            return false;
        }
        let closed = open.remove(&span.into_u64());
        self.0.closed.lock().expect("no panic").extend(closed);
        true
    }
}
