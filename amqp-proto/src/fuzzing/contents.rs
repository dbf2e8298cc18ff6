//! Messages as frames, split and put together by hand.

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};

use crate::content::{Assembled, Assembler, Content, ContentHeader};
use crate::frame::{Frame, FrameKind};
use crate::method::{
    BasicAck, BasicDeliver, BasicGetOk, BasicPublish, BasicReturn, ChannelClose, Method,
};
use crate::{Properties, RawProperties};

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Sends {
    Publish,
    Deliver,
    GetOk,
    Return,
    Ack,
    Close,
}

impl Sends {
    fn method(self) -> Method {
        match self {
            Self::Publish => BasicPublish::default().into(),
            Self::Deliver => BasicDeliver::default().into(),
            Self::GetOk => BasicGetOk::default().into(),
            Self::Return => BasicReturn::default().into(),
            Self::Ack => BasicAck::default().into(),
            Self::Close => ChannelClose::default().into(),
        }
    }
}

#[derive(Debug, Clone, Arbitrary)]
enum Step<'a> {
    Method(Sends),
    Header { class_id: u16, body_size: u8 },
    Basic { body_size: u8 },
    Body(&'a [u8]),
    Raw { kind: u8, payload: &'a [u8] },
}

/// Any message, split into frames of any size, is put together to the same. Frames in any order do no harm.
pub fn contents(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let _enough = identity(&mut input);
    let _enough = any_order(&mut input);
}

fn identity(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (frame_max, sends) = (u32::from(u16::arbitrary(input)?), Sends::arbitrary(input)?);
    let priority = Option::<u8>::arbitrary(input)?;
    let properties = RawProperties::from(&Properties { priority, ..Properties::default() });
    let mut body = Vec::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let part = <&[u8]>::arbitrary(input)?;
        body.extend((!part.is_empty()).then(|| Bytes::copy_from_slice(part)));
    }
    let content = Content { method: sends.method(), properties, body };
    if !content.method.facts().content {
        return Ok(());
    }
    let frames = content.to_frames(7, frame_max);
    let mut wire = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut wire));
    let (mut wire, mut assembler) = (BytesMut::from(&wire[..]), Assembler::new(7));
    let mut left = frames.len();
    while let Some(frame) = Frame::decode(&mut wire, u32::MAX).expect("it was encoded") {
        left -= 1;
        match assembler.receive(&frame).expect("the frames of a message") {
            Some(Assembled::Message(received)) => {
                assert_eq!((&*received, left), (&content, 0));
                assert_eq!(received.into_body(), content.clone().into_body());
            }
            other => assert!(other.is_none() && left > 0 && assembler.is_unfinished()),
        }
    }
    assert_eq!(left, 0);
    Ok(())
}

fn any_order(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut assembler = Assembler::new(7).body_max(200);
    // The arrived part of the present message: its announced size, and its body.
    let (mut announced, mut arrived) = (None, 0);
    for _ in 0..input.int_in_range(0..=100)? {
        let frame = match Step::arbitrary(input)? {
            Step::Method(sends) => {
                let mut payload = Vec::new();
                sends.method().encode(&mut payload);
                Frame { kind: FrameKind::Method, channel: 7, payload: payload.into() }
            }
            Step::Header { class_id, body_size } => {
                let properties = RawProperties::EMPTY;
                ContentHeader { class_id, body_size: body_size.into(), properties }.to_frame(7)
            }
            Step::Basic { body_size } => {
                ContentHeader::basic(body_size.into(), RawProperties::EMPTY).to_frame(7)
            }
            Step::Body(body) => {
                let payload = Bytes::copy_from_slice(body);
                Frame { kind: FrameKind::Body, channel: 7, payload }
            }
            Step::Raw { kind, payload } => {
                let kinds = [FrameKind::Method, FrameKind::Header, FrameKind::Heartbeat];
                let kind = kinds[usize::from(kind) % kinds.len()];
                Frame { kind, channel: 7, payload: Bytes::copy_from_slice(payload) }
            }
        };
        let result = assembler.receive(&frame);
        match frame.kind {
            FrameKind::Header => {
                announced = ContentHeader::decode(&frame.payload).ok().map(|own| own.body_size);
            }
            FrameKind::Body => arrived += frame.payload.len() as u64,
            _ => (announced, arrived) = (None, 0),
        }
        match result {
            Ok(Some(Assembled::Message(content))) => {
                assert_eq!((Some(content.body_size()), content.body_size()), (announced, arrived));
                assert!(arrived <= 200);
            }
            Ok(Some(Assembled::Method(method))) => assert!(!method.facts().content),
            Ok(None) => {
                assert!(assembler.is_unfinished());
                continue;
            }
            Err(_) => {}
        }
        assert!(!assembler.is_unfinished());
        (announced, arrived) = (None, 0);
    }
    Ok(())
}
