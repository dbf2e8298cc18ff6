//! The limit: bytes that are encoded beforehand, plain `send` and `recv`, one thread. Reading only splits frames, and a
//! round trip does not even do that: it counts bytes. See [`floor`].

use std::io;
use std::net::TcpStream;

use crate::floor::{self, Exchange, Recv};
use crate::job::{Job, Latencies, Mark, report};
use crate::link::Link;
use crate::wire::{
    BODY, CHANNEL_MAX, FRAME_END, FRAME_MAX, HEADER, METHOD, Put as _, Take, method, publish, split,
};

/// The number of bytes in one write.
const WRITE: usize = 256 * 1024;

/// The number of bytes in one write of `publish-encoding`: they fit into the L1 cache.
const ENCODED: usize = 32 * 1024;

const WINDOW: u64 = 1000;

/// Runs a job, or returns an error if it is not offered.
pub fn run(job: &Job) -> io::Result<()> {
    let mut peer = Peer::connect(&job.url)?;
    let mut message = Vec::new();
    publish(&mut message, 1, job.queue.as_bytes(), job.size);
    let mut latencies = Latencies::with_capacity(job.count);
    let mut start = Mark::now();
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) == 1 => peer.publish(&message, job.count)?,
        "publish-encoding" => peer.publish_encoding(job)?,
        "confirm" => {
            peer.call((85, 10), &[0], (85, 11))?;
            start = Mark::now();
            peer.confirm(&message, job.count)?;
        }
        "consume" | "consume-ack" | "consume-ack-100" => start = peer.consume(job)?,
        "fill" => {
            peer.send(&declare(&job.queue))?;
            peer.expect((50, 11))?;
            peer.call((85, 10), &[0], (85, 11))?;
            peer.confirm(&message, job.count)?;
        }
        "delete" => {
            let mut arguments = Vec::new();
            arguments.short(0).shortstr(job.queue.as_bytes()).octet(0);
            peer.call((50, 40), &arguments, (50, 41))?;
        }
        _ => {
            let Some((stream, exchange)) = peer.exchange(job, message)? else { job.not_offered() };
            let mut transport = Recv::new(&stream, &exchange);
            start = Mark::now();
            floor::blocking(floor::round_trips(job.count, &mut transport, &mut latencies))?;
        }
    }
    report(job, start, latencies);
    Ok(())
}

/// Connects, and makes the first of a job's round trips. Returns the stream and the bytes of each; `None` if the job has none, or
/// uses TLS.
pub fn exchange(job: &Job) -> io::Result<Option<(TcpStream, Exchange)>> {
    let mut message = Vec::new();
    publish(&mut message, 1, job.queue.as_bytes(), job.size);
    Peer::connect(&job.url)?.exchange(job, message)
}

fn declare(queue: &str) -> Vec<u8> {
    let mut arguments = Vec::new();
    // Durable, as the clients declare it.
    arguments.short(0).shortstr(queue.as_bytes()).octet(2).long(0);
    let mut declare = Vec::new();
    method(&mut declare, 1, (50, 10), &arguments);
    declare
}

struct Peer {
    link: Link,
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
    /// The number of bytes read so far.
    received: usize,
}

impl Peer {
    fn connect(url: &str) -> io::Result<Self> {
        let mut peer = Self {
            link: Link::connect(url)?,
            buffer: vec![0; 2 * WRITE],
            head: 0,
            tail: 0,
            received: 0,
        };
        peer.send(b"AMQP\x00\x00\x09\x01")?;
        peer.expect((10, 10))?;
        let mut capabilities = Vec::new();
        for name in ["publisher_confirms", "basic.nack"] {
            capabilities.shortstr(name.as_bytes()).octet(b't').octet(1);
        }
        let mut properties = Vec::new();
        properties.shortstr(b"capabilities").octet(b'F').longstr(&capabilities);
        let mut start_ok = Vec::new();
        start_ok.longstr(&properties).shortstr(b"PLAIN").longstr(b"\0guest\0guest");
        start_ok.shortstr(b"en_US");
        peer.request(0, (10, 11), &start_ok)?;
        peer.expect((10, 30))?;
        let mut bytes = Vec::new();
        let mut tune_ok = Vec::new();
        method(&mut bytes, 0, (10, 31), tune_ok.short(CHANNEL_MAX).long(FRAME_MAX).short(0));
        let mut open = Vec::new();
        method(&mut bytes, 0, (10, 40), open.shortstr(b"/").shortstr(b"").octet(0));
        peer.send(&bytes)?;
        peer.expect((10, 41))?;
        peer.call((20, 10), &[0], (20, 11))?;
        Ok(peer)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.send(bytes)
    }

    fn request(&mut self, channel: u16, id: (u16, u16), arguments: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        method(&mut bytes, channel, id, arguments);
        self.send(&bytes)
    }

    fn call(&mut self, id: (u16, u16), arguments: &[u8], reply: (u16, u16)) -> io::Result<()> {
        self.request(1, id, arguments)?;
        self.expect(reply).map(drop)
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        } else if self.buffer.len() - self.tail < FRAME_MAX as usize + 8 {
            self.buffer.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        let room = &mut self.buffer[self.tail..];
        let count = self.link.read(room)?;
        self.tail += count;
        self.received += count;
        Ok(())
    }

    /// A frame that is there already: its kind, and where its payload is.
    fn buffered(&mut self) -> Option<(u8, std::ops::Range<usize>)> {
        let (kind, _, payload) = split(&self.buffer[self.head..self.tail])?;
        let start = self.head + 7;
        let range = start..start + payload.len();
        self.head = range.end + 1;
        Some((kind, range))
    }

    fn frame(&mut self) -> io::Result<(u8, std::ops::Range<usize>)> {
        loop {
            if let Some(frame) = self.buffered() {
                return Ok(frame);
            }
            self.fill()?;
        }
    }

    /// Waits for a method; returns where its arguments are.
    fn expect(&mut self, id: (u16, u16)) -> io::Result<std::ops::Range<usize>> {
        loop {
            let (kind, payload) = self.frame()?;
            let mut fields = Take(&self.buffer[payload.clone()]);
            match (kind, (fields.short(), fields.short())) {
                (METHOD, found) if found == id => return Ok(payload.start + 4..payload.end),
                (METHOD, (10, 50) | (20, 40)) => {
                    let text = String::from_utf8_lossy(&self.buffer[payload]).into_owned();
                    return Err(io::Error::other(text));
                }
                _ => {}
            }
        }
    }

    /// Waits for the whole body of a message.
    fn message(&mut self, size: usize) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let (kind, payload) = self.frame()?;
            if kind == BODY {
                left -= payload.len();
            }
        }
        Ok(())
    }

    fn barrier(&mut self) -> io::Result<()> {
        self.send(&declare("barrier"))?;
        self.expect((50, 11)).map(drop)
    }

    fn publish(&mut self, message: &[u8], count: u64) -> io::Result<()> {
        let at_once = (WRITE / message.len()).max(1);
        let block = message.repeat(at_once);
        let mut left = count as usize;
        while left > 0 {
            let next = left.min(at_once);
            self.send(&block[..next * message.len()])?;
            left -= next;
        }
        self.barrier()
    }

    /// Publishes like a client without bookkeeping: encodes each message and copies its body.
    fn publish_encoding(&mut self, job: &Job) -> io::Result<()> {
        let body = vec![b'y'; job.size];
        let mut out = Vec::with_capacity(2 * WRITE);
        for _ in 0..job.count {
            encode(
                &mut out,
                std::hint::black_box(job.queue.as_bytes()),
                std::hint::black_box(&body),
            );
            if out.len() >= ENCODED {
                self.send(&out)?;
                out.clear();
            }
        }
        self.send(&out)?;
        self.barrier()
    }

    fn confirm(&mut self, message: &[u8], count: u64) -> io::Result<()> {
        let at_once = (WRITE / message.len()).max(1) as u64;
        let block = message.repeat(at_once.min(WINDOW) as usize);
        let (mut sent, mut confirmed) = (0, 0);
        while confirmed < count {
            let mut next = (WINDOW - (sent - confirmed)).min(count - sent);
            sent += next;
            while next > 0 {
                let part = next.min(at_once);
                self.send(&block[..part as usize * message.len()])?;
                next -= part;
            }
            let mut ack = self.expect((60, 80))?;
            loop {
                let mut fields = Take(&self.buffer[ack]);
                let (tag, multiple) = (fields.longlong(), fields.octet() & 1 == 1);
                confirmed = if multiple { tag } else { confirmed + 1 };
                match self.buffered() {
                    Some((METHOD, payload)) => ack = payload.start + 4..payload.end,
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Makes the first round trip of a job, and checks its reply. All later replies have the same number of bytes.
    fn exchange(
        mut self,
        job: &Job,
        message: Vec<u8>,
    ) -> io::Result<Option<(TcpStream, Exchange)>> {
        let queue = job.queue.as_bytes();
        let mut arguments = Vec::new();
        arguments.short(0).shortstr(queue);
        let (request, reply) = match job.scenario.as_str() {
            "confirm-each" => {
                self.call((85, 10), &[0], (85, 11))?;
                (message, Some((60, 80)))
            }
            "rpc" => {
                self.call((50, 10), arguments.octet(0b1100).long(0), (50, 11))?;
                self.start_consumer(job, true)?;
                self.expect((60, 21))?;
                (message, None)
            }
            "get" => {
                let mut get = Vec::new();
                method(&mut get, 1, (60, 70), arguments.octet(1));
                (get, None)
            }
            "declare" => (declare(&job.queue), Some((50, 11))),
            _ => return Ok(None),
        };
        let before = self.received;
        self.send(&request)?;
        match reply {
            Some(id) => self.expect(id).map(drop)?,
            None => self.message(job.size)?,
        }
        let exchange = Exchange { request, reply: self.received - before };
        Ok(match self.link {
            Link::Plain(stream) => Some((stream, exchange)),
            Link::Tls(_) => None,
        })
    }

    fn start_consumer(&mut self, job: &Job, no_ack: bool) -> io::Result<()> {
        let mut arguments = Vec::new();
        arguments.short(0).shortstr(job.queue.as_bytes()).shortstr(b"ctag");
        arguments.octet(if no_ack { 2 } else { 0 }).long(0);
        self.request(1, (60, 20), &arguments)
    }

    fn consume(&mut self, job: &Job) -> io::Result<Mark> {
        let no_ack = job.scenario == "consume";
        if !no_ack {
            let mut arguments = Vec::new();
            arguments.long(0).short(job.parameter("prefetch", 1000) as u16).octet(0);
            self.call((60, 10), &arguments, (60, 11))?;
        }
        let every = if job.scenario == "consume-ack" { 1 } else { 100 };
        let start = Mark::now();
        self.start_consumer(job, no_ack)?;
        let mut out = Vec::new();
        let (mut taken, mut tag, mut left) = (0, 0, 0);
        while taken < job.count {
            while let Some((kind, payload)) = self.buffered() {
                let mut fields = Take(&self.buffer[payload.clone()]);
                match kind {
                    METHOD => {
                        fields.long();
                        fields.shortstr();
                        tag = fields.longlong();
                    }
                    HEADER => {
                        fields.long();
                        left = fields.longlong();
                    }
                    BODY => {
                        left -= payload.len() as u64;
                        if left == 0 {
                            taken += 1;
                            if !no_ack && (taken % every == 0 || taken == job.count) {
                                let mut arguments = Vec::with_capacity(9);
                                arguments.longlong(tag).octet(u8::from(every > 1));
                                method(&mut out, 1, (60, 80), &arguments);
                            }
                        }
                    }
                    _ => {}
                }
            }
            self.send(&out)?;
            out.clear();
            if taken < job.count {
                self.fill()?;
            }
        }
        Ok(start)
    }
}

#[inline(never)]
fn encode(out: &mut Vec<u8>, routing_key: &[u8], body: &[u8]) {
    let size = (9 + routing_key.len()) as u32;
    out.octet(METHOD).short(1).long(size).short(60).short(40).short(0).octet(0);
    out.shortstr(routing_key).octet(0).octet(FRAME_END);
    out.octet(HEADER).short(1).long(14).short(60).short(0).longlong(body.len() as u64).short(0);
    out.octet(FRAME_END);
    for part in body.chunks(FRAME_MAX as usize - 8) {
        out.octet(BODY).short(1).longstr(part).octet(FRAME_END);
    }
}
