//! Messages as frames: split and put together by hand, and by a connection.

use std::sync::Arc;
use std::time::Instant;

use amqp_proto::content::{AssembleError, Assembled, Assembler, Content, ContentHeader};
use amqp_proto::frame::{FRAME_OVERHEAD, Frame, FrameKind};
use amqp_proto::method::{BasicAck, BasicDeliver, BasicPublish, ChannelClose, ChannelOpen, Method};
use amqp_proto::{
    ChannelEvent, Connection, DecodeErrorKind, Event, Properties, RawProperties, Route,
    ServerEvent, ShortStr, Violation,
};
use bytes::{BufMut as _, Bytes, BytesMut};

fn properties() -> RawProperties {
    RawProperties::from(&Properties { priority: Some(3), ..Properties::default() })
}

fn message(len: usize) -> Content {
    let body: Vec<u8> = (0..len).map(|index| u8::try_from(index % 251).unwrap_or(0)).collect();
    Content::new(BasicDeliver::default(), properties(), body)
}

fn frame(kind: FrameKind, payload: impl Into<Bytes>) -> Frame {
    Frame { kind, channel: 1, payload: payload.into() }
}

fn method(method: impl Into<Method>) -> Frame {
    let mut payload = Vec::new();
    method.into().encode(&mut payload);
    frame(FrameKind::Method, payload)
}

/// Assembles frames, of which the last completes a message.
fn assembled(frames: &[Frame]) -> Content {
    let mut assembler = Assembler::new(1);
    let (last, before) = frames.split_last().expect("some");
    for frame in before {
        assert_eq!(assembler.receive(frame), Ok(None), "{frame:?}");
        assert!(assembler.is_unfinished());
    }
    let Ok(Some(Assembled::Message(content))) = assembler.receive(last) else {
        panic!("{frames:?}")
    };
    assert!(!assembler.is_unfinished());
    *content
}

#[test]
fn a_message_is_the_same_whatever_the_size_of_its_frames() {
    for len in 0..70 {
        let content = message(len);
        for frame_max in 0..90 {
            let frames = content.to_frames(1, frame_max);
            let room = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
            let room = if frame_max == 0 { len.max(1) } else { room };
            assert_eq!(frames.len(), 2 + len.div_ceil(room), "{len} {frame_max}");
            let received = assembled(&frames);
            assert_eq!(received, content, "{len} {frame_max}");
            assert_eq!(received.into_body(), content.clone().into_body());
        }
    }
}

#[test]
fn bodies_are_not_copied() {
    let content = message(1000);
    let original = content.body[0].as_ptr_range();
    for frame_max in [0, 100] {
        let received = assembled(&content.to_frames(1, frame_max));
        assert!(received.body.iter().all(|part| original.contains(&part.as_ptr())));
    }
    let received = assembled(&content.to_frames(1, 0));
    assert_eq!(received.into_body().as_ptr(), original.start);
}

#[test]
fn a_header_is_as_worked_out_by_hand() {
    let header = ContentHeader::basic(0x0102, properties());
    let mut out = Vec::new();
    header.encode(&mut out);
    assert_eq!(out, b"\0\x3c\0\0\0\0\0\0\0\0\x01\x02\x08\0\x03");
    assert_eq!(ContentHeader::decode(&Bytes::from(out.clone())), Ok(header));
    for len in 0..12 {
        let error = ContentHeader::decode(&Bytes::copy_from_slice(&out[..len])).unwrap_err();
        assert_eq!((error.kind(), error.place()), (DecodeErrorKind::Truncated, "content header"));
    }
    let other = ContentHeader { class_id: 10, body_size: u64::MAX, properties: properties() };
    assert_eq!(ContentHeader::decode(&other.to_frame(1).payload), Ok(other));
}

#[test]
fn frames_that_are_no_message_are_refused() {
    let unexpected =
        |kind, expected| AssembleError::Violation(Violation::UnexpectedFrame { kind, expected });
    let deliver = || method(BasicDeliver::default());
    let header = |size| ContentHeader::basic(size, properties()).to_frame(1);
    let body = |text: &'static str| frame(FrameKind::Body, text);
    let connection = ContentHeader { class_id: 10, ..ContentHeader::basic(1, properties()) };
    let cases = [
        (vec![body("x")], unexpected("body", "a method frame")),
        (vec![header(1)], unexpected("content header", "a method frame")),
        (vec![frame(FrameKind::Heartbeat, "")], unexpected("heartbeat", "a method frame")),
        (vec![deliver(), deliver()], unexpected("method", "a content header")),
        (vec![deliver(), body("x")], unexpected("body", "a content header")),
        (vec![deliver(), header(1), header(1)], unexpected("content header", "a body frame")),
        (
            vec![deliver(), header(1), method(BasicAck::default())],
            unexpected("method", "a body frame"),
        ),
        (
            vec![deliver(), header(1), frame(FrameKind::Heartbeat, "")],
            unexpected("heartbeat", "a body frame"),
        ),
        (
            vec![deliver(), header(3), body("ab"), body("cd")],
            Violation::BodyTooLong { announced: 3 }.into(),
        ),
        (vec![deliver(), header(11)], AssembleError::BodyTooLarge { size: 11, limit: 10 }),
    ];
    for (frames, expected) in cases {
        let mut assembler = Assembler::new(1).body_max(10);
        let (last, before) = frames.split_last().expect("some");
        before.iter().for_each(|frame| assert_eq!(assembler.receive(frame), Ok(None)));
        assert_eq!(assembler.receive(last), Err(expected));
        // Nothing is left of it.
        assert!(!assembler.is_unfinished());
        assert!(matches!(
            assembler.receive(&method(BasicAck::default())),
            Ok(Some(Assembled::Method(_)))
        ));
    }
    let mut assembler = Assembler::new(1);
    assert_eq!(assembler.receive(&deliver()), Ok(None));
    let error = assembler.receive(&connection.to_frame(1)).unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "malformed frame: methods of class 10 carry no content (in content header)"
    );
}

#[test]
fn frames_of_other_channels_and_a_close_of_the_channel_are_special() {
    let mut assembler = Assembler::new(1);
    let frames = message(5).to_frames(1, 0);
    assert_eq!(assembler.receive(&frames[0]), Ok(None));
    let other = Frame { channel: 2, ..frames[1].clone() };
    let error = AssembleError::OtherChannel { channel: 2, expected: 1 };
    assert_eq!(assembler.receive(&other), Err(error));
    // It was somebody else's: the message continues.
    assert_eq!(assembler.receive(&frames[1]), Ok(None));
    let close = ChannelClose { reply_code: 404, ..ChannelClose::default() };
    let closed = Assembled::Method(Box::new(close.clone().into()));
    assert_eq!(assembler.receive(&method(close)), Ok(Some(closed)));
    assert!(!assembler.is_unfinished());
}

#[test]
fn empty_body_frames_take_no_memory() {
    let mut assembler = Assembler::new(1);
    let frames = message(2).to_frames(1, 0);
    assert_eq!(assembler.receive(&frames[0]), Ok(None));
    assert_eq!(assembler.receive(&frames[1]), Ok(None));
    for _ in 0..1000 {
        assert_eq!(assembler.receive(&frame(FrameKind::Body, "")), Ok(None));
    }
    let Ok(Some(Assembled::Message(content))) = assembler.receive(&frames[2]) else { panic!() };
    assert_eq!(content.body.len(), 1);
}

/// An assembler reads the frames of a client, and a server reads those of `Content`.
#[test]
#[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
fn connections_write_and_read_the_same() {
    let now = Instant::now();
    let mut client = Connection::client(Arc::default(), now);
    let mut server = Connection::server(Arc::default(), now);
    while !client.is_open() {
        let mut wire = output(&mut client, now);
        server.handle_input(now, &mut wire).expect("valid");
        while let Some(event) = server.poll_event() {
            match event {
                Event::Server(ServerEvent::Login { .. }) => server.accept_login().expect("now"),
                Event::Server(ServerEvent::Open { .. }) => server.accept_open().expect("now"),
                _ => {}
            }
        }
        client.handle_input(now, &mut output(&mut server, now)).expect("valid");
    }
    let frame_max = client.negotiated().expect("it is open").frame_max;
    let bodies =
        [0, 1, frame_max as usize, 3 * frame_max as usize].map(|len| message(len).into_body());
    let id = client.open_channel().expect("a channel");
    for body in &bodies {
        let mut channel = client.channel(id).expect("it is open");
        channel.publish(&Route::queue("q"), &properties(), body).expect("it is sent");
    }
    let mut wire = output(&mut client, now);

    let mut assembler = Assembler::new(id.get());
    let mut read = Vec::new();
    while let Some(frame) = Frame::decode(&mut wire, frame_max).expect("valid") {
        match assembler.receive(&frame).expect("valid") {
            Some(Assembled::Message(content)) => read.push(*content),
            Some(Assembled::Method(method)) => {
                assert!(matches!(*method, Method::ChannelOpen(ChannelOpen { .. })));
            }
            None => {}
        }
    }
    let publish = BasicPublish {
        routing_key: ShortStr::try_from("q").expect("short"),
        ..BasicPublish::default()
    };
    let expected = bodies.map(|body| Content::new(publish.clone(), properties(), body));
    assert_eq!(read, expected);

    // The server reads what they write.
    let mut bytes = Vec::new();
    method(ChannelOpen::default()).encode(&mut bytes);
    for frame in expected.iter().flat_map(|content| content.to_frames(id.get(), frame_max)) {
        frame.encode(&mut bytes);
    }
    server.handle_input(now, &mut BytesMut::from(&bytes[..])).expect("valid");
    let mut published = Vec::new();
    while let Some(event) = server.poll_event() {
        if let Event::Channel(_, ChannelEvent::Published(message)) = event {
            published.push(message.body.clone());
        }
    }
    assert_eq!(published, expected.map(Content::into_body));
}

fn output(connection: &mut Connection, now: Instant) -> BytesMut {
    let mut wire = BytesMut::new();
    while let Some(transmit) = connection.poll_transmit(now) {
        wire.put(transmit);
    }
    wire
}
