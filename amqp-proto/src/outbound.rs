//! The outbound side of a connection, which all its channels share: bytes for the peer, events for the application, and limits.

use alloc::vec::Vec;

use crate::body_pool::BodyPool;
use crate::event::{ChannelEvent, Event};
use crate::event_queue::EventQueue;
use crate::frame::{self, FrameKind, HEADER_EXCESS};
use crate::method::{Arguments, Method};
use crate::transmit::Overtaken;
use crate::{
    ChannelId, Close, CommandError, FRAME_MIN_SIZE, Limits, Misuse, RequestId, Transmit, Violation,
};
use bytes::Buf as _;

/// The side of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Queued bytes (excluding large bodies) above which a peer that triggers another reply is treated as hostile. Far above what a
/// working transport leaves behind, and little to lose.
const MAX_UNREAD_REPLIES: usize = 16 * 1024 * 1024;

/// The bytes for the peer and the events for the application, to which all channels of a connection append, and their limits.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) role: Role,
    pub(crate) transmit: Transmit,
    /// Bytes that the transport has taken before others. Until they are written, they count as queued.
    pub(crate) overtaken: Overtaken,
    pub(crate) events: EventQueue,
    /// The negotiated limit; before the negotiation, the limit that is accepted.
    pub(crate) frame_max: u32,
    pub(crate) limits: Limits,
    /// `connection.blocked` holds.
    pub(crate) blocked: bool,
    /// The peer announced `basic.nack`.
    pub(crate) nacks: bool,
    /// `connection.close` was queued: nothing may follow it.
    pub(crate) closing: Option<Close>,
    /// Channels with acknowledgements to flush.
    pub(crate) unflushed: Vec<ChannelId>,
    /// Number of queued bytes up to which the peer may provoke one more reply.
    unread_replies_max: usize,
    /// Bytes of incomplete messages, on all channels: of their bodies, and copies out of the read buffer.
    pub(crate) unfinished: usize,
    /// Channels with a message of which something lies in the read buffer, unless it is complete since.
    pub(crate) attached: Vec<ChannelId>,
    /// The largest body that was published and may be returned.
    pub(crate) returnable: u64,
    pub(crate) body_pool: BodyPool,
    /// True if a channel holds deliveries that are requeued after a pause.
    pub(crate) requeues: bool,
    /// Number of channels that wait for the peer: for a reply, a confirm, or the resumption of publishing.
    pub(crate) awaiting: usize,
    last_request: u64,
}

impl Outbound {
    pub(crate) fn new(role: Role, mut limits: Limits) -> Self {
        // With 0, the transport would always count as full.
        limits.transmit_high_water = limits.transmit_high_water.max(1);
        Self {
            role,
            transmit: Transmit::new(),
            overtaken: Overtaken::default(),
            events: EventQueue::default(),
            frame_max: effective_frame_max(limits.frame_max),
            limits,
            blocked: false,
            nacks: false,
            closing: None,
            unflushed: Vec::new(),
            // Up to the high water mark, the bytes may be publishes of this end.
            unread_replies_max: MAX_UNREAD_REPLIES.saturating_add(limits.transmit_high_water),
            unfinished: 0,
            attached: Vec::new(),
            returnable: 0,
            body_pool: BodyPool::default(),
            requeues: false,
            awaiting: 0,
            last_request: 0,
        }
    }

    pub(crate) const fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(crate) const fn continue_requests(&mut self, before: &Self) {
        self.last_request = before.last_request;
    }

    /// A method or header of a message that is not complete lies in the read buffer.
    #[inline]
    pub(crate) fn note_attached(&mut self, channel: ChannelId) {
        // Usually it is the same channel, until the message is complete.
        if self.attached.last() != Some(&channel) {
            self.attached.push(channel);
        }
    }

    pub(crate) fn emit(&mut self, channel: ChannelId, event: ChannelEvent) {
        self.events.push(Event::Channel(channel, event));
    }

    /// Queues a method that certainly fits into a frame.
    pub(crate) fn send_small(&mut self, channel: u16, method: &impl Arguments) {
        let out = self.transmit.buffer();
        let start = frame::begin(out, FrameKind::Method, channel);
        method.encode(out);
        frame::finish(out, start);
    }

    /// Queues a reply. A peer that triggers ever more replies and reads nothing is broken or hostile.
    pub(crate) fn reply(&mut self, channel: u16, method: &impl Arguments) -> Result<(), Violation> {
        self.check_replies()?;
        self.send_small(channel, method);
        Ok(())
    }

    /// Checks that the peer may provoke one more reply: too many queued bytes show that it does not read.
    #[inline]
    pub(crate) fn check_replies(&self) -> Result<(), Violation> {
        let limit = self.unread_replies_max;
        if self.transmit.copied() <= limit {
            Ok(())
        } else {
            Err(Violation::RepliesNotRead { limit })
        }
    }

    /// Queues a method, or nothing if it takes more than a frame.
    pub(crate) fn send(&mut self, channel: u16, method: &Method) -> Result<(), CommandError> {
        let frame_max = self.frame_max;
        let out = self.transmit.buffer();
        let before = out.len();
        let start = frame::begin(out, FrameKind::Method, channel);
        method.encode(out);
        frame::finish(out, start);
        let size = out.len() - before;
        if size > frame_max as usize {
            out.truncate(before);
            return Err(Misuse::TooLarge { method: method.facts().name, size, frame_max }.into());
        }
        Ok(())
    }

    /// The largest content header that is taken in.
    pub(crate) const fn header_max(&self) -> u32 {
        match self.role {
            Role::Client => self.frame_max.saturating_add(HEADER_EXCESS),
            // RabbitMQ closes the connection (501).
            Role::Server => self.frame_max,
        }
    }

    /// Number of bytes behind which frames keep their place: with more of them, a message among them is large.
    pub(crate) const fn patience(&self) -> usize {
        self.limits.transmit_high_water.saturating_mul(2)
    }

    /// Returns whether the outgoing buffer is full.
    pub(crate) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Number of bytes that can be queued before the outgoing buffer is full.
    pub(crate) fn room(&self) -> usize {
        let queued = self.transmit.remaining().saturating_add(self.overtaken.bytes);
        self.limits.transmit_high_water.saturating_sub(queued)
    }
}

/// The limit behind a proposal: 0, no limit, is the cap, and nothing is below the protocol's minimum.
pub(crate) fn effective_frame_max(proposed: u32) -> u32 {
    match proposed {
        0 => crate::FRAME_MAX_CAP,
        some => some.clamp(FRAME_MIN_SIZE, crate::FRAME_MAX_CAP),
    }
}
