use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

use super::ContentHeader;
use crate::frame::{FRAME_OVERHEAD, Frame, FrameKind};
use crate::method::Method;
use crate::{Body, RawProperties};

/// A method and its content: a message as it is on the wire, in one direction or the other.
///
/// Two contents are equal if their methods, properties and bodies are, whatever frames their bodies arrived in.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "a message is these three things")]
pub struct Content {
    /// The method: `basic.publish`, `basic.deliver`, `basic.get-ok` or `basic.return`. No other method carries content.
    pub method: Method,
    /// The properties. Those of a received message can be malformed; see [`RawProperties`].
    pub properties: RawProperties,
    /// The parts of the body: the payloads of its frames, none of them empty.
    pub body: Vec<Bytes>,
}

impl Content {
    /// Creates a message. `method` has to be one that carries content.
    pub fn new(method: impl Into<Method>, properties: RawProperties, body: impl Body) -> Self {
        let body = Some(body.into_bytes()).filter(|body| !body.is_empty());
        Self { method: method.into(), properties, body: body.into_iter().collect() }
    }

    /// Returns the number of bytes of the body.
    #[must_use]
    pub fn body_size(&self) -> u64 {
        self.body.iter().map(|part| part.len() as u64).sum()
    }

    /// Returns the whole body. A body of one part is not copied.
    #[must_use]
    pub fn into_body(mut self) -> Bytes {
        match self.body.len() {
            0 | 1 => self.body.pop().unwrap_or_default(),
            _ => self.body.concat().into(),
        }
    }

    /// Splits the message into frames: method, header and body. The body is not copied. `frame_max` is the negotiated limit of a
    /// whole frame; 0 is no limit. A method or header cannot be split: if its frame exceeds the limit, the message cannot be sent.
    #[must_use]
    pub fn to_frames(&self, channel: u16, frame_max: u32) -> Vec<Frame> {
        let mut method = Vec::new();
        self.method.encode(&mut method);
        let method = Frame { kind: FrameKind::Method, channel, payload: method.into() };
        let header = ContentHeader::basic(self.body_size(), self.properties.clone());
        let mut frames = vec![method, header.to_frame(channel)];
        let room = match frame_max as usize {
            0 => usize::MAX,
            max => max.saturating_sub(FRAME_OVERHEAD).max(1),
        };
        for part in &self.body {
            let mut part = part.clone();
            while !part.is_empty() {
                let payload = part.split_to(part.len().min(room));
                frames.push(Frame { kind: FrameKind::Body, channel, payload });
            }
        }
        frames
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |content: &Self| content.body.clone().into_iter().flatten();
        self.method == other.method
            && self.properties == other.properties
            && self.body_size() == other.body_size()
            && bytes(self).eq(bytes(other))
    }
}

/// Shows the length of the body, but none of its bytes.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("method", &self.method)
            .field("properties", &self.properties)
            .field("body_size", &self.body_size())
            .finish_non_exhaustive()
    }
}
