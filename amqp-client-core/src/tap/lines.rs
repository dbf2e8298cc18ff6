//! One line per frame.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use amqp_proto::ConnectionError;
use amqp_proto::frame::FrameKind;

use super::sink::Sink;
use super::{Direction, Frame, Kind, Tap, Transport};
use crate::error::chain;

/// The length of a line, in bytes, after which the rest is left out. Headers and tables can be much longer.
const LINE_MAX: usize = 2000;

/// The number of bytes to show of data that is not AMQP: enough to recognize another protocol.
const UNREADABLE_MAX: usize = 64;

/// A tap that writes one line per frame, for people and for `grep`.
///
/// ```text
/// 2026-03-01T12:00:00.000123Z 1.1 == connected to 127.0.0.1:5672
/// 2026-03-01T12:00:00.000304Z 1.1 -> protocol header 0-0-9-1
/// 2026-03-01T12:00:00.002118Z 1.1 <- 0 connection.start version_minor=9 mechanisms="PLAIN AMQPLAIN" ..
/// 2026-03-01T12:00:00.002790Z 1.1 -> 0 connection.start-ok mechanism="PLAIN" response=<redacted> locale="en_US" ..
/// 2026-03-01T12:00:00.010382Z 1.1 -> 1 basic.publish exchange="orders" routing_key="created" mandatory
/// 2026-03-01T12:00:00.010382Z 1.1 -> 1 header body_size=5 delivery_mode=2
/// 2026-03-01T12:00:00.010382Z 1.1 -> 1 body 5 bytes
/// 2026-03-01T12:00:30.000571Z 1.1 <- heartbeat
/// ```
///
/// A line begins with the time in UTC and the number of the transport: `2.1` is the first transport of the second connection.
/// `->` marks a frame that was sent, `<-` one that was received. The number after the arrow is the channel. Arguments that are false, 0
/// or empty are left out. Line breaks in texts of a peer are escaped. A line is cut after 2000 bytes, with escapes,
/// and then ends with ` [..]`.
///
/// The lines of one read or write of the connection are written together, and then the writer is flushed. So the writer needs no
/// buffer of its own. If the writer fails, nothing more is written, and the connection is not affected; see [`error`](Self::error). A
/// writer that blocks delays the connection.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Target, tap};
/// use std::sync::Arc;
///
/// let lines = Arc::new(tap::Lines::new(std::io::stderr()).body_bytes(16));
/// let target = Target::new("localhost", 5672).tap(lines.clone());
/// // Later:
/// if let Some(error) = lines.error() {
///     println!("{} frames were not logged: {error}", lines.dropped());
/// }
/// ```
pub struct Lines<W> {
    sink: Sink<W, ()>,
    body_bytes: usize,
}

impl<W: Write + Send + 'static> Lines<W> {
    /// Writes to `writer`, for example a file or standard error.
    pub fn new(writer: W) -> Self {
        Self { sink: Sink::new(writer, ()), body_bytes: 0 }
    }

    /// Sets how many bytes to show of each body frame, escaped as in a byte string of Rust. Default 0.
    #[must_use]
    pub fn body_bytes(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    /// Returns the error of the writer, if the writer has failed. Nothing was written after the error.
    #[must_use]
    pub fn error(&self) -> Option<Arc<io::Error>> {
        self.sink.error()
    }

    /// Returns the number of frames that were not written because the writer has failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    fn line(
        &self,
        frames: u64,
        (time, transport, sign): (SystemTime, &Transport, &str),
        write: impl FnOnce(&mut Line<'_>) -> fmt::Result,
    ) {
        self.sink.append(frames, |(), out| {
            let mut line = Line { left: LINE_MAX, out };
            let head = write!(line, "{} {transport} {sign} ", Utc(time));
            if head.and_then(|()| write(&mut line)).is_err() {
                out.extend_from_slice(" [..]".as_bytes());
            }
            out.push(b'\n');
        });
    }
}

impl<W: Write + Send + 'static> Tap for Lines<W> {
    fn connected(&self, transport: &Transport) {
        self.line(0, (transport.since_system_time, transport, "=="), |line| match transport.peer {
            Some(peer) => write!(line, "connected to {peer}"),
            None => write!(line, "connected"),
        });
    }

    fn frame(&self, frame: &Frame<'_>) {
        let sign = match frame.direction {
            Direction::Sent => "->",
            Direction::Received => "<-",
        };
        let show = |line: &mut Line<'_>| show(frame, self.body_bytes, line);
        self.line(1, (frame.system_time(), frame.transport, sign), show);
    }

    fn flush(&self) {
        self.sink.flush();
    }

    fn disconnected(&self, transport: &Transport, at: Instant, reason: Option<&ConnectionError>) {
        let head = (transport.system_time(at), transport, "==");
        self.line(0, head, |line| match reason {
            Some(reason) => write!(line, "disconnected: {}", chain(reason)),
            None => write!(line, "disconnected: the program dropped the connection"),
        });
    }
}

/// Shows the number of dropped frames, and the error of the writer.
impl<W: Write + Send + 'static> fmt::Debug for Lines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("body_bytes", &self.body_bytes)
            .field("dropped", &self.dropped())
            .field("error", &self.error())
            .finish_non_exhaustive()
    }
}

fn show(frame: &Frame<'_>, body_bytes: usize, line: &mut Line<'_>) -> fmt::Result {
    let payload = frame.payload();
    match (frame.kind, payload) {
        (Kind::ProtocolHeader, [.., id, major, minor, revision]) => {
            return write!(line, "protocol header {id}-{major}-{minor}-{revision}");
        }
        (Kind::Cut, bytes) => {
            return write!(line, "the first {} bytes of a frame without an end", bytes.len());
        }
        (Kind::Frame(FrameKind::Heartbeat), []) => return write!(line, "heartbeat"),
        (Kind::Frame(_), _) => {}
        (_, bytes) => {
            let shown = bytes.get(..UNREADABLE_MAX).unwrap_or(bytes);
            let len = bytes.len();
            return write!(
                line,
                "{len} bytes that are not AMQP 0-9-1: \"{}\"",
                shown.escape_ascii()
            );
        }
    }
    write!(line, "{} ", frame.channel().unwrap_or_default())?;
    if let Some(method) = frame.method() {
        let method = match method {
            Ok(method) => method,
            Err(error) => return write!(line, "malformed method: {error}"),
        };
        write!(line, "{}", method.facts().name)?;
        let mut fields = Fields::new(line);
        method.each_argument(|name, value| fields.put(name, value));
        return fields.result;
    }
    if let Some(header) = frame.content_header() {
        let (header, properties) = match header.map(|header| (header.properties.decode(), header)) {
            Ok((Ok(properties), header)) => (header, properties),
            Ok((Err(error), _)) | Err(error) => {
                return write!(line, "malformed header: {error}");
            }
        };
        write!(line, "header body_size={}", header.body_size)?;
        let mut fields = Fields::new(line);
        properties.each(|name, value| fields.put(name, value));
        return fields.result;
    }
    write!(line, "{} {} bytes", kind_name(frame.kind), payload.len())?;
    match payload.get(..body_bytes).unwrap_or(payload) {
        [] => Ok(()),
        shown => write!(line, " \"{}\"", shown.escape_ascii()),
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        // A heartbeat with a payload violates the protocol.
        Kind::Frame(FrameKind::Heartbeat) => "heartbeat with a payload of",
        _ => "body",
    }
}

/// Appends the arguments of a method, or properties, that are not false, 0 or empty.
struct Fields<'a, 'b> {
    line: &'a mut Line<'b>,
    result: fmt::Result,
}

impl<'a, 'b> Fields<'a, 'b> {
    const fn new(line: &'a mut Line<'b>) -> Self {
        Self { line, result: Ok(()) }
    }

    fn put(&mut self, name: &str, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.try_put(name, value);
        }
    }

    fn try_put(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        // The value is written first, and removed if it is false, 0 or empty.
        let (start, left) = (self.line.out.len(), self.line.left);
        write!(self.line, " {name}=")?;
        let value_start = self.line.out.len();
        write!(self.line, "{value:?}")?;
        let written = self.line.out.get(value_start..).unwrap_or_default();
        match written {
            b"false" | b"0" | b"\"\"" | b"{}" | b"[]" => {
                self.line.out.truncate(start);
                self.line.left = left;
            }
            // A flag that is set is shown by its name alone.
            b"true" => self.line.out.truncate(value_start - 1),
            _ => {}
        }
        Ok(())
    }
}

/// A line that ends with an error when it gets too long, and escapes line breaks.
struct Line<'a> {
    left: usize,
    out: &'a mut Vec<u8>,
}

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // `Debug` escapes strings, but an error may quote a peer's text.
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(control) => {
                    let before = part.len() - control.len_utf8();
                    self.put(part.get(..before).unwrap_or_default())?;
                    let escaped = control.escape_default();
                    // An escape is not cut in the middle.
                    self.left.checked_sub(escaped.len()).ok_or(fmt::Error)?;
                    self.put(&escaped.to_string())?;
                }
                None => self.put(part)?,
            }
        }
        Ok(())
    }
}

impl Line<'_> {
    /// Appends text without control characters, or the part of it that fits.
    fn put(&mut self, text: &str) -> fmt::Result {
        let mut end = text.len().min(self.left);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (fits, rest) = text.split_at(end);
        self.out.extend_from_slice(fits.as_bytes());
        self.left -= end;
        if rest.is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Shows a time as `2026-03-01T12:00:00.000123Z`.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let micros = since.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Returns year, month and day of a day since 1970.
///
/// The calculation counts from March 1, 0000, so that a leap day is the last day of its year. 400 years have 146097 days.
const fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // The months from March on have 31, 30, 31, 30, 31 days, and again: 153 days in five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000001Z"),
            (951_782_399, "2000-02-28T23:59:59.000001Z"),
            (951_782_400, "2000-02-29T00:00:00.000001Z"),
            (951_868_800, "2000-03-01T00:00:00.000001Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000001Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000001Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000001Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, 1000);
            assert_eq!(Utc(time).to_string(), text);
        }
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        let mut out = Vec::new();
        let mut line = Line { left: 20, out: &mut out };
        assert!(write!(line, "a\nb\u{85}c\u{e9}").is_ok());
        assert!(write!(line, "{}", "\u{e9}".repeat(20)).is_err());
        let text = String::from_utf8(out).expect("no character is cut");
        // 11 bytes with escapes, and four letters of two bytes.
        assert_eq!(text, format!("a\\nb\\u{{85}}c{}", "\u{e9}".repeat(4)));
        let (mut out, controls) = (Vec::new(), "\u{85}".repeat(20));
        assert!(write!(Line { left: 20, out: &mut out }, "{controls}").is_err());
        assert_eq!(out, br"\u{85}\u{85}\u{85}", "no escape is cut");
    }
}
