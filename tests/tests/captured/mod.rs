//! Captures of what tests send and receive, if the variable `AMQP_CAPTURES` names a folder for them. `tests/captures` compares them
//! with tshark.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use amqp_client_core::Target;
use amqp_client_core::tap::{Lines, Pcap};

/// The capture of this process, and the same frames as lines.
struct Capture {
    pcap: Arc<Pcap<File>>,
    lines: Arc<Lines<File>>,
}

/// Adds the taps to a target, if there is a folder for captures.
pub(crate) fn captured(target: Target) -> Target {
    static CAPTURE: OnceLock<Option<Capture>> = OnceLock::new();
    let capture = CAPTURE.get_or_init(|| {
        let folder = std::env::var_os("AMQP_CAPTURES")?;
        let create = |extension: &str| {
            let file = format!("{}.{extension}", std::process::id());
            File::create(Path::new(&folder).join(file)).expect("the folder is writable")
        };
        let (pcap, lines) = (Pcap::new(create("pcapng")), Lines::new(create("lines")));
        Some(Capture { pcap: Arc::new(pcap), lines: Arc::new(lines) })
    });
    match capture {
        Some(Capture { pcap, lines }) => target.tap(pcap.clone()).tap(lines.clone()),
        None => target,
    }
}
