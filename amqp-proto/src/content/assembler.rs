use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::progress::{Progress, unexpected};
use super::{Content, error::AssembleError};
use crate::RawProperties;
use crate::frame::{Frame, FrameKind};
use crate::method::{Arguments as _, ChannelClose, Method};

/// Puts the frames of one channel together to methods and messages. For programs that read frames by themselves, such as proxies and
/// recorders; a [`Connection`](crate::Connection) does it for its channels.
///
/// Bodies are not copied: a message has the payloads of its body frames.
///
/// ```
/// use amqp_proto::content::{Assembled, Assembler, Content};
/// use amqp_proto::method::BasicPublish;
/// use amqp_proto::RawProperties;
///
/// let publish = BasicPublish { routing_key: "orders".try_into()?, ..BasicPublish::default() };
/// let sent = Content::new(publish, RawProperties::EMPTY, "hello");
///
/// let mut assembler = Assembler::new(1);
/// for frame in sent.to_frames(1, 4096) {
///     if let Some(Assembled::Message(received)) = assembler.receive(&frame)? {
///         assert_eq!(*received, sent);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Assembler {
    channel: u16,
    body_max: u64,
    unfinished: Option<Unfinished>,
}

/// A message of which some frames are still missing.
#[derive(Debug)]
struct Unfinished {
    method: Method,
    progress: Progress,
    body: Vec<Bytes>,
}

/// The result of one frame or several.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a method has content or not")]
pub enum Assembled {
    /// A method without content.
    Method(Box<Method>),
    /// A method and its content.
    Message(Box<Content>),
}

impl Assembler {
    /// Creates an assembler for the frames of a channel.
    #[must_use]
    pub const fn new(channel: u16) -> Self {
        Self { channel, body_max: u64::MAX, unfinished: None }
    }

    /// Refuses messages with larger bodies, in bytes, by their headers. Otherwise, a peer can make the assembler hold as much as it
    /// sends. Default: no limit.
    #[must_use]
    pub const fn body_max(mut self, limit: u64) -> Self {
        self.body_max = limit;
        self
    }

    /// Returns whether a message has begun and is not complete.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Processes the next frame of the channel. Returns what it completes.
    ///
    /// `channel.close` is accepted in the middle of a message, which is then discarded: nothing else follows on the channel.
    ///
    /// # Errors
    /// [`AssembleError`]. Unless the frame belongs to another channel, the unfinished message is discarded, and a method has to come
    /// next. An AMQP peer closes the connection in this case.
    pub fn receive(&mut self, frame: &Frame) -> Result<Option<Assembled>, AssembleError> {
        if frame.channel != self.channel {
            let (channel, expected) = (frame.channel, self.channel);
            return Err(AssembleError::OtherChannel { channel, expected });
        }
        let before = self.unfinished.take();
        let unfinished = match (before, frame.kind) {
            (before, FrameKind::Method) => {
                let expected = before.map(|before| before.progress.expected());
                return self.receive_method(&frame.payload, expected);
            }
            (None, kind) => return Err(unexpected(kind, "a method frame").into()),
            (Some(mut before), FrameKind::Header) => {
                before.receive_header(&frame.payload, self.body_max)?;
                before
            }
            (Some(mut before), FrameKind::Body) => {
                before.receive_body(&frame.payload)?;
                before
            }
            (Some(before), kind) => return Err(unexpected(kind, before.progress.expected()).into()),
        };
        if !unfinished.progress.is_complete() {
            self.unfinished = Some(unfinished);
            return Ok(None);
        }
        Ok(Some(Assembled::Message(Box::new(unfinished.into_content()))))
    }

    /// `expected` is the frame that the message in progress still lacks.
    fn receive_method(
        &mut self,
        payload: &Bytes,
        expected: Option<&'static str>,
    ) -> Result<Option<Assembled>, AssembleError> {
        let method = Method::decode(payload)?;
        let facts = method.facts();
        // It carries the reason for the end of the channel.
        let closes = facts.id == ChannelClose::FACTS.id;
        if let Some(expected) = expected.filter(|_| !closes) {
            return Err(unexpected(FrameKind::Method, expected).into());
        }
        if !facts.content {
            return Ok(Some(Assembled::Method(Box::new(method))));
        }
        let (progress, body) = (Progress::default(), Vec::new());
        self.unfinished = Some(Unfinished { method, progress, body });
        Ok(None)
    }
}

impl Unfinished {
    fn receive_header(&mut self, payload: &Bytes, limit: u64) -> Result<(), AssembleError> {
        let header = self.progress.receive_header::<AssembleError>(payload)?;
        match header.body_size {
            size if size > limit => Err(AssembleError::BodyTooLarge { size, limit }),
            _ => Ok(()),
        }
    }

    fn receive_body(&mut self, payload: &Bytes) -> Result<(), AssembleError> {
        self.progress.receive_body(payload.len())?;
        // Empty frames are legal. A peer could send any number of them.
        if !payload.is_empty() {
            self.body.push(payload.clone());
        }
        Ok(())
    }

    fn into_content(mut self) -> Content {
        let header = self.progress.take_header();
        let properties = header.map_or(RawProperties::EMPTY, |header| header.properties);
        Content { method: self.method, properties, body: self.body }
    }
}
