use bytes::Bytes;

use super::ContentHeader;
use crate::frame::FrameKind;
use crate::{DecodeError, Violation};

/// The progress of a message since its method: the rules for the frames that follow it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    header: Option<ContentHeader>,
    received: u64,
}

impl Progress {
    /// Processes the payload of a content header frame.
    pub(super) fn receive_header<E>(&mut self, payload: &Bytes) -> Result<&ContentHeader, E>
    where
        E: From<Violation> + From<DecodeError>,
    {
        if self.header.is_some() {
            return Err(unexpected(FrameKind::Header, self.expected()).into());
        }
        let header = ContentHeader::decode(payload)?;
        header.check_class()?;
        Ok(self.header.insert(header))
    }

    /// Counts the payload of a body frame. Returns the size of the whole body.
    pub(super) fn receive_body(&mut self, len: usize) -> Result<u64, Violation> {
        let Some(header) = &self.header else {
            return Err(unexpected(FrameKind::Body, self.expected()));
        };
        self.received = self.received.saturating_add(len as u64);
        match header.body_size {
            announced if self.received > announced => Err(Violation::BodyTooLong { announced }),
            announced => Ok(announced),
        }
    }

    /// Returns whether the message is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.body_size == self.received)
    }

    pub(super) const fn header_mut(&mut self) -> Option<&mut ContentHeader> {
        self.header.as_mut()
    }

    /// Takes the header, before the next message begins.
    pub(super) const fn take_header(&mut self) -> Option<ContentHeader> {
        self.received = 0;
        self.header.take()
    }

    /// Describes the frame that has to come next, for errors.
    pub(super) const fn expected(&self) -> &'static str {
        if self.header.is_some() { "a body frame" } else { "a content header" }
    }
}

pub(crate) const fn unexpected(kind: FrameKind, expected: &'static str) -> Violation {
    Violation::UnexpectedFrame { kind: kind.name(), expected }
}
