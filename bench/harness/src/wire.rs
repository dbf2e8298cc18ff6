//! The few bytes of AMQP 0-9-1 that the null broker and the raw limit need. Written for speed, not for other uses.

/// The last byte of each frame.
pub const FRAME_END: u8 = 0xCE;
/// The negotiated maximum size of a frame.
pub const FRAME_MAX: u32 = 131_072;
/// The negotiated highest channel number.
pub const CHANNEL_MAX: u16 = 2047;

/// Kinds of frames.
pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;

/// Appends fields.
pub trait Put {
    fn octet(&mut self, value: u8) -> &mut Self;
    fn short(&mut self, value: u16) -> &mut Self;
    fn long(&mut self, value: u32) -> &mut Self;
    fn longlong(&mut self, value: u64) -> &mut Self;
    fn shortstr(&mut self, value: &[u8]) -> &mut Self;
    fn longstr(&mut self, value: &[u8]) -> &mut Self;
}

impl Put for Vec<u8> {
    fn octet(&mut self, value: u8) -> &mut Self {
        self.push(value);
        self
    }

    fn short(&mut self, value: u16) -> &mut Self {
        self.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn long(&mut self, value: u32) -> &mut Self {
        self.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn longlong(&mut self, value: u64) -> &mut Self {
        self.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn shortstr(&mut self, value: &[u8]) -> &mut Self {
        self.push(value.len() as u8);
        self.extend_from_slice(value);
        self
    }

    fn longstr(&mut self, value: &[u8]) -> &mut Self {
        self.long(value.len() as u32).extend_from_slice(value);
        self
    }
}

/// Reads fields from the front of a slice. What is not there reads as zero: nobody hostile talks to a benchmark.
#[derive(Clone, Copy)]
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            None => [0; N],
        }
    }

    pub fn octet(&mut self) -> u8 {
        let [octet] = self.array();
        octet
    }

    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn longlong(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub fn shortstr(&mut self) -> &'a [u8] {
        let len = usize::from(self.octet());
        let (head, rest) = self.0.split_at_checked(len).unwrap_or_default();
        self.0 = rest;
        head
    }
}

/// Appends a frame.
pub fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.octet(kind).short(channel).longstr(payload).octet(FRAME_END);
}

/// Appends a method frame.
pub fn method(out: &mut Vec<u8>, channel: u16, (class, id): (u16, u16), arguments: &[u8]) {
    out.octet(METHOD).short(channel).long(arguments.len() as u32 + 4).short(class).short(id);
    out.extend_from_slice(arguments);
    out.push(FRAME_END);
}

/// Appends a content header without properties, and a body of that many bytes.
pub fn content(out: &mut Vec<u8>, channel: u16, size: usize) {
    let mut header = Vec::with_capacity(14);
    header.short(60).short(0).longlong(size as u64).short(0);
    frame(out, HEADER, channel, &header);
    let mut left = size;
    while left > 0 {
        let part = left.min(FRAME_MAX as usize - 8);
        out.octet(BODY).short(channel).long(part as u32);
        out.resize(out.len() + part, b'x');
        out.push(FRAME_END);
        left -= part;
    }
}

/// Appends a `basic.publish` to the default exchange.
pub fn publish(out: &mut Vec<u8>, channel: u16, routing_key: &[u8], size: usize) {
    let mut arguments = Vec::new();
    arguments.short(0).shortstr(b"").shortstr(routing_key).octet(0);
    method(out, channel, (60, 40), &arguments);
    content(out, channel, size);
}

/// A frame at the front of `input`: kind, channel, payload. Nothing while it is not there as a whole.
pub fn split(input: &[u8]) -> Option<(u8, u16, &[u8])> {
    let mut head = Take(input.get(..7)?);
    let (kind, channel, size) = (head.octet(), head.short(), head.long() as usize);
    let payload = input.get(7..7 + size)?;
    assert_eq!(*input.get(7 + size)?, FRAME_END, "the frame ends where it says");
    Some((kind, channel, payload))
}
