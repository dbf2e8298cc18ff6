//! The order of queued frames: large messages of one channel do not hold up the others.
//!
//! Order is promised only within a channel (spec 4.7). So frames may overtake those of other channels, and bodies that are sent in
//! several frames may alternate. Two kinds of frames keep their place, and all later frames of their channels with them:
//! settlements, because an application may acknowledge a message once it has published the result on another channel, and frames
//! of channel 0, because a close of the connection comes last.

use alloc::collections::BTreeSet;

use bytes::Buf as _;

use super::Transmit;
use crate::frame::{FRAME_END, FrameKind};
use crate::method::{Arguments, BasicAck, BasicNack, BasicReject, TxCommit};

/// Number of bytes, rounded up to whole frames, after which it is the turn of the other frames.
const TURN: usize = 128 * 1024;

/// Type, channel and size of a frame.
const HEAD: usize = 7;

/// The bytes that have overtaken others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Overtaken {
    pub(crate) bytes: usize,
    /// Number of bytes that are still to be written when the last of them is written.
    pub(crate) left: usize,
}

impl Overtaken {
    /// More bytes have overtaken others. They are written before those of `self` that are not.
    pub(crate) fn add(&mut self, more: Self) {
        if self.bytes == 0 {
            *self = more;
        } else if more.bytes > 0 {
            self.bytes = self.bytes.saturating_add(more.bytes);
            self.left = more.left.min(self.left);
        }
    }

    /// Only `left` bytes are still to be written.
    pub(crate) fn written(&mut self, left: usize) {
        if left <= self.left {
            *self = Self::default();
        }
    }
}

/// A queued frame.
struct Queued {
    channel: u16,
    /// It keeps its place.
    stays: bool,
    /// The end of its head, and of all its copied bytes, in the buffer.
    head: usize,
    end: usize,
    /// The payload is a large body.
    is_large: bool,
}

impl Transmit {
    /// Rearranges what is queued, so that frames behind a large message go ahead of it. Behind `patience` bytes at most, they keep their
    /// place.
    pub(crate) fn spread(&mut self, patience: usize) {
        if self.remaining() <= patience || self.bodies.is_empty() || self.is_opaque() {
            return;
        }
        let mut busy = BTreeSet::new();
        let mut ahead = 0;
        let moves = |queued: &Queued, ahead: usize, busy: &BTreeSet<u16>| {
            ahead > patience && !queued.stays && !busy.contains(&queued.channel)
        };
        let mut any = false;
        let whole = self.each_frame(|queued, size| {
            match moves(queued, ahead, &busy) {
                true => any = true,
                false => _ = busy.insert(queued.channel),
            }
            ahead += size;
        });
        if !whole || !any {
            return;
        }
        // A frame that keeps its place stays behind all frames that were queued before it, moved or not.
        let (mut rest, mut moved, mut last) = (Self::new(), Self::new(), Self::new());
        (busy, ahead) = (BTreeSet::new(), 0);
        while let Some(queued) = self.peek_frame() {
            let before = self.remaining();
            if moves(&queued, ahead, &busy) {
                self.move_frame(&queued, &mut moved);
            } else {
                busy.insert(queued.channel);
                let is_last = !last.is_empty() || queued.stays && !moved.is_empty();
                self.move_frame(&queued, if is_last { &mut last } else { &mut rest });
            }
            ahead += before - self.remaining();
        }
        self.reclaim();
        self.alternate(moved, rest);
        self.append(&mut last);
    }

    /// Inserts frames of `later` behind the frame that is being written, if they had to wait for more than `patience` bytes. The first
    /// chunk stays as it is: a write of it may be under way.
    pub(crate) fn let_overtake(&mut self, later: &mut Self, patience: usize) -> Overtaken {
        let nothing = Overtaken::default();
        let seen = Some((later.buffer.len(), self.bodies.len()));
        if self.remaining() <= patience || later.is_empty() || later.stuck == seen {
            return nothing;
        }
        if later.is_opaque() || self.secret {
            return nothing;
        }
        // The first body is that of the frame that is being written, and one octet behind it ends this frame.
        let Some(&(body_at, _)) = self.bodies.front() else { return nothing };
        let end = body_at + 1;
        let mut busy = BTreeSet::new();
        let mut any = false;
        let whole = self.each_frame_from(end, 1, |queued, _| _ = busy.insert(queued.channel));
        let mut kept_back = busy.clone();
        let later_whole = later.each_frame(|queued, _| {
            match queued.stays || kept_back.contains(&queued.channel) {
                true => _ = kept_back.insert(queued.channel),
                false => any = true,
            }
        });
        if !whole || !later_whole || !any {
            later.stuck = seen;
            return nothing;
        }
        let Some(rest) = self.split_behind(end) else { return nothing };
        let (mut moved, mut kept) = (Self::new(), Self::new());
        while let Some(queued) = later.peek_frame() {
            if queued.stays || busy.contains(&queued.channel) {
                busy.insert(queued.channel);
                later.move_frame(&queued, &mut kept);
            } else {
                later.move_frame(&queued, &mut moved);
            }
        }
        later.reclaim();
        later.append(&mut kept);
        let bytes = moved.remaining();
        let left = self.alternate(moved, rest);
        later.stuck = Some((later.buffer.len(), self.bodies.len()));
        Overtaken { bytes, left }
    }

    /// Appends the frames of both in turns. Returns the number of bytes behind the last frame of `first`.
    fn alternate(&mut self, mut first: Self, mut second: Self) -> usize {
        loop {
            first.move_turn(self);
            if first.is_empty() {
                let left = second.remaining();
                self.append(&mut second);
                return left;
            }
            second.move_turn(self);
        }
    }

    /// Moves the frames of a turn to the end of `to`.
    fn move_turn(&mut self, to: &mut Self) {
        let end = to.remaining() + TURN;
        while to.remaining() < end {
            let Some(queued) = self.peek_frame() else { return };
            self.move_frame(&queued, to);
        }
    }

    /// Returns whether frames cannot be told apart: a part of a frame was written, or the buffer must not be copied.
    fn is_opaque(&self) -> bool {
        self.partly_written || self.secret
    }

    /// Splits off what is queued behind this position of the buffer, and the first body.
    fn split_behind(&mut self, at: usize) -> Option<Self> {
        if self.buffer.get(at - 1) != Some(&FRAME_END) {
            return None;
        }
        let mut rest = Self::new();
        rest.buffer.extend_from_slice(self.buffer.get(at..)?);
        self.buffer.truncate(at);
        rest.bodies = self.bodies.split_off(1);
        rest.bodies.iter_mut().for_each(|(place, _)| *place -= at);
        rest.body_bytes = rest.bodies.iter().map(|(_, body)| body.len()).sum();
        self.body_bytes -= rest.body_bytes;
        Some(rest)
    }

    /// Moves everything that `other` holds to the end.
    fn append(&mut self, other: &mut Self) {
        let (from, to) = (other.position, self.buffer.len());
        self.buffer.extend_from_slice(other.buffer.get(from..).unwrap_or_default());
        let bodies = other.bodies.drain(..);
        self.bodies.extend(bodies.map(|(at, body)| (at - from + to, body)));
        self.body_bytes += core::mem::take(&mut other.body_bytes);
        other.buffer.clear();
        other.position = 0;
    }

    /// Calls `see` with each frame and its size. Returns whether all bytes are whole frames.
    fn each_frame(&self, see: impl FnMut(&Queued, usize)) -> bool {
        self.each_frame_from(self.position, 0, see)
    }

    /// The same, from a position of the buffer that has so many large bodies before it.
    fn each_frame_from(
        &self,
        mut position: usize,
        before: usize,
        mut see: impl FnMut(&Queued, usize),
    ) -> bool {
        let mut bodies = self.bodies.iter().skip(before).peekable();
        while position < self.buffer.len() {
            let body = bodies.peek().map(|(at, body)| (*at, body.len()));
            let Some(queued) = frame_at(&self.buffer, position, body) else { return false };
            let mut size = queued.end - position;
            if queued.is_large {
                size += bodies.next().map_or(0, |(_, body)| body.len());
            }
            see(&queued, size);
            position = queued.end;
        }
        bodies.next().is_none()
    }

    fn peek_frame(&self) -> Option<Queued> {
        let body = self.bodies.front().map(|(at, body)| (*at, body.len()));
        frame_at(&self.buffer, self.position, body)
    }

    /// Moves the first frame to the end of `to`.
    fn move_frame(&mut self, queued: &Queued, to: &mut Self) {
        let head = self.buffer.get(self.position..queued.head);
        to.buffer.extend_from_slice(head.unwrap_or_default());
        if queued.is_large {
            if let Some((_, body)) = self.bodies.pop_front() {
                self.body_bytes -= body.len();
                to.body_bytes += body.len();
                to.bodies.push_back((to.buffer.len(), body));
            }
        }
        to.buffer.extend_from_slice(self.buffer.get(queued.head..queued.end).unwrap_or_default());
        self.position = queued.end;
    }
}

/// Returns the frame that begins at a position. `body`: the position and the length of the next large body.
fn frame_at(buffer: &[u8], position: usize, body: Option<(usize, usize)>) -> Option<Queued> {
    let (head, behind) = buffer.get(position..)?.split_first_chunk::<HEAD>()?;
    let [kind, c0, c1, size @ ..] = *head;
    let (kind, size) = (FrameKind::from_octet(kind)?, u32::from_be_bytes(size) as usize);
    let channel = u16::from_be_bytes([c0, c1]);
    let head = position + HEAD;
    let is_large = size > 0 && body.is_some_and(|(at, _)| at == head);
    let payload = match body {
        Some((_, len)) if is_large => {
            if len != size {
                return None;
            }
            &[][..]
        }
        _ => behind.get(..size)?,
    };
    let end = head + payload.len() + 1;
    if buffer.get(end - 1) != Some(&FRAME_END) {
        return None;
    }
    let stays = channel == 0 || kind == FrameKind::Method && is_settlement(payload);
    Some(Queued { channel, stays, head, end, is_large })
}

/// Returns whether a method acknowledges or rejects deliveries, perhaps earlier ones of a transaction.
fn is_settlement(payload: &[u8]) -> bool {
    let Some([c0, c1, m0, m1]) = payload.first_chunk() else { return false };
    let method = (u16::from_be_bytes([*c0, *c1]), u16::from_be_bytes([*m0, *m1]));
    [
        (BasicAck::CLASS_ID, BasicAck::METHOD_ID),
        (BasicNack::CLASS_ID, BasicNack::METHOD_ID),
        (BasicReject::CLASS_ID, BasicReject::METHOD_ID),
        (TxCommit::CLASS_ID, TxCommit::METHOD_ID),
    ]
    .contains(&method)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Frame;

    const PATIENCE: usize = 512 * 1024;
    const FRAME_MAX: u32 = 128 * 1024;
    const SETTLEMENTS: [[u16; 2]; 2] =
        [[BasicAck::CLASS_ID, BasicAck::METHOD_ID], [TxCommit::CLASS_ID, TxCommit::METHOD_ID]];
    static BODY: [u8; FRAME_MAX as usize] = [0; FRAME_MAX as usize];

    #[derive(Debug, Clone)]
    enum Step {
        Request {
            channel: u16,
        },
        Settle {
            channel: u16,
        },
        /// A message with a body of that many frames, which are not copied.
        Publish {
            channel: u16,
            frames: usize,
        },
        /// The transport asks for bytes, and accepts up to that many.
        Write {
            bytes: usize,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6u16).prop_map(|channel| Step::Request { channel }),
            1 => (1..6u16).prop_map(|channel| Step::Settle { channel }),
            2 => (1..6u16, 0..12usize).prop_map(|(channel, frames)| Step::Publish { channel, frames }),
            2 => (0..600_000usize).prop_map(|bytes| Step::Write { bytes }),
        ]
    }

    /// A connection's queue, and the bytes in the hands of its transport.
    #[derive(Default)]
    struct Scene {
        queue: Transmit,
        output: Transmit,
        written: BytesMut,
        /// Each frame that was queued: its channel, its number or size, and whether it keeps its place.
        queued: Vec<(u16, u32, bool)>,
    }

    impl Scene {
        fn push(&mut self, channel: u16, kind: FrameKind, ids: [u16; 2], body: Option<Bytes>) {
            let number = u32::try_from(self.queued.len()).expect("there are few");
            let out = self.queue.buffer();
            let size = body.as_ref().map_or(8, Bytes::len);
            out.push(kind.octet());
            out.extend_from_slice(&channel.to_be_bytes());
            out.extend_from_slice(&u32::try_from(size).expect("it is small").to_be_bytes());
            let is_settlement = SETTLEMENTS.contains(&ids);
            let number = match body {
                // The size tells bodies apart.
                Some(body) => {
                    self.queue.push_body(body);
                    u32::try_from(size).expect("it is small")
                }
                None => {
                    for id in ids {
                        out.extend_from_slice(&id.to_be_bytes());
                    }
                    out.extend_from_slice(&number.to_be_bytes());
                    number
                }
            };
            self.queue.buffer().push(FRAME_END);
            self.queued.push((channel, number, channel == 0 || is_settlement));
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Request { channel } => self.push(channel, FrameKind::Method, [50, 10], None),
                Step::Settle { channel } => {
                    let ids = SETTLEMENTS[self.queued.len() % 2];
                    self.push(channel, FrameKind::Method, ids, None);
                }
                Step::Publish { channel, frames } => {
                    self.push(channel, FrameKind::Method, [60, 40], None);
                    self.push(channel, FrameKind::Header, [60, 0], None);
                    for _ in 0..frames {
                        let body =
                            Bytes::from_static(&BODY).slice(..BODY.len() - self.queued.len());
                        self.push(channel, FrameKind::Body, [0, 0], Some(body));
                    }
                }
                Step::Write { bytes } => self.write(bytes),
            }
        }

        fn write(&mut self, mut bytes: usize) {
            if self.output.is_empty() {
                core::mem::swap(&mut self.output, &mut self.queue);
                self.output.spread(PATIENCE);
            } else {
                let first = Bytes::copy_from_slice(self.output.chunk());
                self.output.let_overtake(&mut self.queue, PATIENCE);
                assert_eq!(self.output.chunk(), first, "it may be in the hands of the system");
            }
            while bytes > 0 && !self.output.is_empty() {
                let chunk = self.output.chunk();
                let some = bytes.min(chunk.len());
                self.written.extend_from_slice(&chunk[..some]);
                self.output.advance(some);
                bytes -= some;
            }
        }

        /// Writes everything, and returns the frames in their order.
        fn finish(&mut self) -> Vec<(u16, u32)> {
            while !self.queue.is_empty() || !self.output.is_empty() {
                self.write(usize::MAX);
            }
            let mut frames = Vec::new();
            while let Some(frame) =
                Frame::decode(&mut self.written, 2 * FRAME_MAX).expect("a frame")
            {
                let number = match frame.payload.last_chunk() {
                    Some(number) if frame.payload.len() == 8 => u32::from_be_bytes(*number),
                    _ => u32::try_from(frame.payload.len()).expect("it is small"),
                };
                frames.push((frame.channel, number));
            }
            assert!(self.written.is_empty(), "a part of a frame is left");
            frames
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..<_>::default() })]
        #[test]
        fn channels_keep_their_order_and_settlements_their_place(
            steps in prop::collection::vec(step(), 1..40)
        ) {
            let mut scene = Scene::default();
            steps.iter().for_each(|step| scene.step(step));
            let written = scene.finish();
            prop_assert_eq!(written.len(), scene.queued.len(), "nothing is lost");
            let mut channels: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
            for (channel, number, _) in &scene.queued {
                channels.entry(*channel).or_default().push(*number);
            }
            for (channel, numbers) in channels {
                let own = written.iter().filter(|(of, _)| *of == channel).map(|(_, number)| *number);
                prop_assert_eq!(own.collect::<Vec<_>>(), numbers, "channel {}", channel);
            }
            for (place, (channel, number, stays)) in scene.queued.iter().enumerate() {
                if *stays {
                    let before = written.iter().position(|frame| frame == &(*channel, *number));
                    let before = before.expect("it was written");
                    for (channel, number, _) in &scene.queued[..place] {
                        let earlier = written.iter().position(|frame| frame == &(*channel, *number));
                        prop_assert!(earlier < Some(before), "frame {} is overtaken", number);
                    }
                }
            }
        }
    }

    /// Returns how many bytes are written before a request that comes while a large body is written, or was queued with it.
    fn ahead_of_request(queued_with_it: bool) -> usize {
        let mut scene = Scene::default();
        scene.step(&Step::Publish { channel: 1, frames: 200 });
        if !queued_with_it {
            scene.step(&Step::Write { bytes: 1_000_000 });
        }
        scene.step(&Step::Request { channel: 2 });
        let mut ahead = 0;
        // The transport accepts little at a time.
        while !scene.written.ends_with(&[0, 202, FRAME_END]) {
            scene.step(&Step::Write { bytes: 1 });
            ahead += 1;
        }
        ahead
    }

    #[test]
    fn a_request_waits_for_one_frame_of_a_large_body() {
        for queued_with_it in [false, true] {
            let ahead = ahead_of_request(queued_with_it);
            assert!(ahead <= FRAME_MAX as usize + 100, "{ahead}");
        }
    }

    /// The second request comes while the first one still waits for its frame, or behind a body of its own channel.
    #[test]
    fn later_requests_do_not_wait_for_the_whole_body_either() {
        for body_between in [false, true] {
            let mut scene = Scene::default();
            scene.step(&Step::Publish { channel: 1, frames: 200 });
            scene.step(&Step::Write { bytes: 1_000_000 });
            scene.step(&Step::Request { channel: 2 });
            scene.step(&Step::Write { bytes: 1 });
            if body_between {
                scene.step(&Step::Publish { channel: 2, frames: 3 });
            }
            scene.step(&Step::Request { channel: 2 });
            let begun = scene.written.len();
            // Requests end with their numbers among all frames.
            let mut is_written_within = |number: u8, frames: usize| {
                let end = [0, number, FRAME_END];
                let most = frames * FRAME_MAX as usize + 1000;
                while scene.written.len() < begun + most {
                    scene.step(&Step::Write { bytes: 10_000 });
                }
                let mut written = scene.written[begun..begun + most].windows(end.len());
                assert!(written.any(|bytes| bytes == end), "{number} waits for more frames");
            };
            is_written_within(202, 1);
            match body_between {
                true => is_written_within(208, 10),
                false => is_written_within(203, 2),
            }
        }
    }

    #[test]
    fn large_bodies_of_two_channels_alternate() {
        let mut scene = Scene::default();
        scene.step(&Step::Publish { channel: 1, frames: 20 });
        scene.step(&Step::Write { bytes: 1 });
        scene.step(&Step::Publish { channel: 2, frames: 20 });
        scene.step(&Step::Write { bytes: 1 });
        let frames = scene.finish();
        let channels: Vec<_> = frames.iter().map(|(channel, _)| *channel).collect();
        let longest = channels.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
        // A method and a header come with the first frames of a body.
        assert!(longest <= Some(5), "{channels:?}");
    }
}
