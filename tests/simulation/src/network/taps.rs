//! The tap of a connection, compared with the bytes that its transports have moved.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use amqp_client_core::Config;
use amqp_client_core::proto::ConnectionError;
use amqp_client_core::tap::{Direction, Frame, Tap, Transport};

/// Type, channel and size.
const HEAD: usize = 7;

/// The methods of the connection that carry credentials: `start-ok`, `secure-ok` and `update-secret`.
const CREDENTIALS: [[u8; 4]; 3] = [[0, 10, 0, 11], [0, 10, 0, 21], [0, 10, 0, 70]];

/// A connection with a tap.
pub(crate) struct Tapped {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The bytes of each transport: those that were sent, and those that were received.
    moved: Vec<[Moved; 2]>,
}

impl Tapped {
    /// Sets the tap.
    pub(super) fn new(config: Config) -> (Config, Self) {
        let seen = Arc::default();
        (config.tap(Watch(Arc::clone(&seen))), Self { seen, moved: Vec::new() })
    }

    /// Another transport begins.
    pub(super) fn begin(&mut self) {
        self.moved.push(Default::default());
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.moved.last_mut().into_iter().for_each(|[sent, _]| sent.pass(bytes));
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.moved.last_mut().into_iter().for_each(|[_, received]| received.pass(bytes));
    }

    /// No transport is in use: the tap has seen each byte of all of them once, in order.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = seen.iter().peekable();
        for (number, moved) in (1..).zip(&mut self.moved) {
            moved.iter_mut().for_each(Moved::end);
            let Some(own) = seen.next_if(|seen| seen.number == number) else {
                return Err(format!("a tap has not seen transport {number}"));
            };
            if let Some(mistake) = &own.mistake {
                return Err(format!("a tap has seen {mistake} of transport {number}"));
            }
            if !own.ended {
                return Err(format!("a tap has not seen the end of transport {number}"));
            }
            for (what, seen, moved) in [
                ("sent", &own.frames[0], &moved[0].frames),
                ("received", &own.frames[1], &moved[1].frames),
            ] {
                let same = seen.iter().zip(moved).take_while(|(seen, moved)| seen == moved);
                let same = same.count();
                if same < seen.len().max(moved.len()) {
                    return Err(format!(
                        "transport {number} has {what} {} frames, and a tap has seen {}; they differ from frame {same} on: \
                         {:?}, {:?}",
                        moved.len(),
                        seen.len(),
                        moved.get(same),
                        seen.get(same)
                    ));
                }
            }
        }
        seen.next().map_or(Ok(()), |more| {
            Err(format!("a tap has seen transport {}, which never was", more.number))
        })
    }
}

/// A frame, a protocol header, or what is left of a frame whose end never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Shown { hash: u64, len: usize },
    Masked,
}

impl Item {
    fn shown(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Self::Shown { hash: hasher.finish(), len: bytes.len() }
    }

    /// Bytes of the wire, as a tap has to show them.
    fn of(bytes: &[u8]) -> Self {
        let method = bytes.get(HEAD..HEAD + 4);
        let on_connection = bytes.first_chunk() == Some(&[1, 0, 0]);
        match on_connection && CREDENTIALS.iter().any(|own| method == Some(own)) {
            true => Self::Masked,
            false => Self::shown(bytes),
        }
    }
}

/// The bytes that went over a transport in one direction, as frames.
#[derive(Default)]
struct Moved {
    begun: Vec<u8>,
    frames: Vec<Item>,
}

impl Moved {
    fn pass(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(len) = whole(&self.begun[used..]) {
            self.frames.push(Item::of(&self.begun[used..used + len]));
            used += len;
        }
        self.begun.drain(..used);
    }

    fn end(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() {
            self.frames.push(Item::of(&begun));
        }
    }
}

/// Returns the length of the frame at the beginning, if all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let len = match bytes {
        [b'A', ..] => HEAD + 1,
        [_, _, _, size @ ..] => {
            let size = u32::from_be_bytes(*size.first_chunk()?);
            HEAD + usize::try_from(size).ok()? + 1
        }
        _ => return None,
    };
    (len <= bytes.len()).then_some(len)
}

/// The frames that a tap has seen of one transport.
struct Seen {
    number: u64,
    frames: [Vec<Item>; 2],
    ended: bool,
    mistake: Option<&'static str>,
}

/// The tap.
struct Watch(Arc<Mutex<Vec<Seen>>>);

impl Watch {
    /// Notes something about a transport that was begun and has not ended.
    fn note(&self, transport: &Transport, note: impl FnOnce(&mut Seen)) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.last_mut() {
            Some(last) if last.number == transport.number && !last.ended => note(last),
            Some(last) => last.mistake = Some("something beside the time"),
            None => {}
        }
    }
}

impl Tap for Watch {
    fn connected(&self, transport: &Transport) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = seen.last().is_some_and(|last| !last.ended);
        seen.push(Seen {
            number: transport.number,
            frames: Default::default(),
            ended: false,
            mistake: open.then_some("the begin before the end of another"),
        });
    }

    fn frame(&self, frame: &Frame<'_>) {
        let item = if frame.masked { Item::Masked } else { Item::shown(frame.bytes) };
        let bare = frame.masked && !frame.bytes.windows(8).any(|bytes| bytes == b"********");
        self.note(frame.transport, |seen| {
            seen.frames[usize::from(frame.direction == Direction::Received)].push(item);
            if bare {
                seen.mistake = Some("credentials");
            }
        });
    }

    fn disconnected(
        &self,
        transport: &Transport,
        _: std::time::Instant,
        _: Option<&ConnectionError>,
    ) {
        self.note(transport, |seen| seen.ended = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_taken_apart_in_pieces_of_any_size() {
        let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
        let secret = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 70, 0xCE];
        let mut stream = b"AMQP\0\0\x09\x01".to_vec();
        stream.extend(heartbeat);
        stream.extend(secret);
        stream.extend(&heartbeat[..5]);
        let expected = [
            Item::shown(&stream[..8]),
            Item::shown(&heartbeat),
            Item::Masked,
            Item::shown(&heartbeat[..5]),
        ];
        for size in 1..=stream.len() {
            let mut moved = Moved::default();
            stream.chunks(size).for_each(|piece| moved.pass(piece));
            moved.end();
            assert_eq!(moved.frames, expected, "in pieces of {size}");
        }
    }
}
