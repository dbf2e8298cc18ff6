use std::collections::HashMap;
use std::io;

use super::flood::{Flood, flood_of};
use super::pipe::Pipe;
use super::ring::Ring;
use crate::wire::{
    BODY, CHANNEL_MAX, FRAME_MAX, HEADER, METHOD, Put as _, Take, content, method, split,
};

/// The size of the read buffer of a connection with traffic.
const READ: usize = 512 * 1024;

/// The size of the read buffer of an idle connection.
const READ_IDLE: usize = 4096;

#[derive(Default)]
pub(super) struct Connection {
    out: Vec<u8>,
    channels: HashMap<u16, Channel>,
    /// Channels with publishes to confirm.
    unconfirmed: Vec<u16>,
    /// The channel and tag of the consumer that gets echoes.
    echoes_to: Option<(u16, Vec<u8>)>,
    ring: Ring,
    /// The channel whose content is collected for an echo.
    collecting: Option<u16>,
    /// Bytes of content that are still to be forgotten.
    skip: usize,
    over: bool,
}

#[derive(Default)]
struct Channel {
    confirms: bool,
    published: u64,
    confirmed: u64,
    delivered: u64,
    prefetch: u64,
    flood: Option<Flood>,
    /// The header and body frames of an echo, and how many bytes of its body are missing.
    echo: Vec<u8>,
    missing: u64,
}

impl Connection {
    pub(super) fn run(&mut self, pipe: &mut impl Pipe) -> io::Result<()> {
        let mut buffer = vec![0; READ_IDLE];
        let (mut head, mut tail) = (0, 0);
        while tail < 8 {
            match pipe.recv(&mut buffer[tail..8], true)? {
                0 => return Ok(()),
                count => tail += count,
            }
        }
        tail = 0;
        self.start();
        while !self.over {
            self.write(pipe)?;
            let flooding = self.is_flooding();
            match pipe.recv(&mut buffer[tail..], !flooding) {
                Ok(0) => return Ok(()),
                Ok(count) => tail += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pipe.wait(self.can_flood())?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if tail == buffer.len() && buffer.len() < READ {
                buffer.resize(READ, 0);
            }
            head = self.take_frames(&buffer[..tail], head);
            self.confirm();
            if head == tail {
                (head, tail) = (0, 0);
                while self.skip > 32 * 1024 {
                    match pipe.discard(self.skip, &mut buffer)? {
                        0 => return Ok(()),
                        count => self.skip -= count,
                    }
                }
            } else if buffer.len() - tail < buffer.len() / 2 {
                buffer.copy_within(head..tail, 0);
                (head, tail) = (0, tail - head);
            }
        }
        pipe.send_all(&self.out)
    }

    /// Handles all complete frames; returns where the rest begins.
    fn take_frames(&mut self, input: &[u8], mut head: usize) -> usize {
        while !self.over {
            let skipped = self.skip.min(input.len() - head);
            self.skip -= skipped;
            head += skipped;
            let Some(&[kind, c0, c1, s0, s1, s2, s3]) = input[head..].first_chunk() else { break };
            let channel = u16::from_be_bytes([c0, c1]);
            let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize + 8;
            let content = matches!(kind, HEADER | BODY);
            if content && self.collecting != Some(channel) {
                self.skip = size;
                continue;
            }
            let Some((_, _, payload)) = split(&input[head..]) else { break };
            if kind == METHOD {
                self.method(channel, payload);
            } else if content {
                self.collect(channel, &input[head..head + size]);
            }
            head += size;
        }
        head
    }

    /// Answers first, then a block of each flood.
    fn write(&mut self, pipe: &mut impl Pipe) -> io::Result<()> {
        // Nothing may come between a frame and its rest.
        for flood in self.floods().filter(|flood| flood.is_writing()) {
            if !flood.write(pipe)? {
                return Ok(());
            }
        }
        if !self.ring.write(pipe)? {
            return Ok(());
        }
        if !self.out.is_empty() {
            pipe.send_all(&self.out)?;
            self.out.clear();
        }
        for channel in self.channels.values_mut() {
            let Some(flood) = &mut channel.flood else { continue };
            let room = flood.room();
            if room > 0 {
                flood.load(room);
                if !flood.write(pipe)? {
                    return Ok(());
                }
            }
            if flood.is_over() {
                channel.flood = None;
            }
        }
        if !self.ring.is_over() {
            self.ring.load(|number| {
                let channel = self.channels.entry(number).or_default();
                channel.delivered += 1;
                channel.delivered
            });
            self.ring.write(pipe)?;
        }
        Ok(())
    }

    fn floods(&mut self) -> impl Iterator<Item = &mut Flood> {
        self.channels.values_mut().filter_map(|channel| channel.flood.as_mut())
    }

    fn is_flooding(&self) -> bool {
        !self.ring.is_over()
            || self.channels.len() < 64
                && self.channels.values().any(|channel| channel.flood.is_some())
    }

    fn can_flood(&self) -> bool {
        let mut floods = self.channels.values().filter_map(|channel| {
            channel.flood.as_ref().map(|flood| flood.is_writing() || flood.room() > 0)
        });
        !self.ring.is_over() || floods.any(|can| can)
    }

    /// One ack for all that came with a read.
    fn confirm(&mut self) {
        for number in self.unconfirmed.drain(..) {
            let Some(channel) = self.channels.get_mut(&number) else { continue };
            channel.confirmed = channel.published;
            let mut arguments = Vec::with_capacity(9);
            arguments.longlong(channel.published).octet(1);
            method(&mut self.out, number, (60, 80), &arguments);
        }
    }

    fn publish(&mut self, number: u16, routing_key: &[u8]) {
        let channel = self.channels.entry(number).or_default();
        channel.published += 1;
        if channel.confirms && channel.confirmed + 1 == channel.published {
            self.unconfirmed.push(number);
        }
        if routing_key.starts_with(b"echo.") {
            channel.echo.clear();
            channel.missing = u64::MAX;
            self.collecting = Some(number);
        }
        self.ring.start(routing_key);
        self.over |= routing_key == b"cut";
    }

    /// Adds a frame of content to the echo.
    fn collect(&mut self, number: u16, frame: &[u8]) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.echo.extend_from_slice(frame);
        channel.missing = match frame[0] {
            HEADER => Take(&frame[11..]).longlong(),
            _ => channel.missing - (frame.len() as u64 - 8),
        };
        if channel.missing > 0 {
            return;
        }
        self.collecting = None;
        let mut echo = std::mem::take(&mut channel.echo);
        let Some((to, tag)) = &self.echoes_to else { return };
        let consuming = self.channels.entry(*to).or_default();
        consuming.delivered += 1;
        let mut arguments = Vec::with_capacity(64);
        arguments.shortstr(tag).longlong(consuming.delivered).octet(0);
        arguments.shortstr(b"").shortstr(b"echo");
        method(&mut self.out, *to, (60, 60), &arguments);
        let mut at = 0;
        while *to != number && at < echo.len() {
            echo[at + 1..at + 3].copy_from_slice(&to.to_be_bytes());
            at += 8 + Take(&echo[at + 3..]).long() as usize;
        }
        self.out.extend_from_slice(&echo);
    }

    fn start(&mut self) {
        let mut capabilities = Vec::new();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
            "per_consumer_qos",
        ] {
            capabilities.shortstr(name.as_bytes()).octet(b't').octet(1);
        }
        let mut properties = Vec::new();
        properties.shortstr(b"capabilities").octet(b'F').longstr(&capabilities);
        properties.shortstr(b"product").octet(b'S').longstr(b"null broker");
        let mut arguments = Vec::new();
        arguments.octet(0).octet(9).longstr(&properties).longstr(b"AMQPLAIN PLAIN");
        method(&mut self.out, 0, (10, 10), arguments.longstr(b"en_US"));
    }

    fn method(&mut self, number: u16, payload: &[u8]) {
        let mut fields = Take(payload);
        let id = (fields.short(), fields.short());
        // Most begin with a field that is not used any more, and a name.
        let mut after_ticket = fields;
        after_ticket.short();
        match id {
            (60, 40) => {
                after_ticket.shortstr();
                self.publish(number, after_ticket.shortstr());
            }
            (60, 80) => self.settle(number, fields.longlong(), fields.octet() & 1 == 1),
            (60, 90 | 120) => self.settle(number, fields.longlong(), false),
            (60, 70) => self.get(number, after_ticket.shortstr()),
            (60, 20) => self.consume(number, after_ticket),
            (60, 10) => {
                fields.long();
                let prefetch = u64::from(fields.short());
                self.channels.entry(number).or_default().prefetch = prefetch;
                self.answer(number, (60, 11), &[]);
            }
            (10, 50) | (10, 51) => {
                self.over = true;
                self.answer(0, (10, 51), &[]);
            }
            (85, 10) => {
                self.channels.entry(number).or_default().confirms = true;
                if fields.octet() & 1 == 0 {
                    self.answer(number, (85, 11), &[]);
                }
            }
            (50, 10) => self.queue_declare(number, after_ticket),
            (10, 11) => {
                let mut tune = Vec::new();
                self.answer(0, (10, 30), tune.short(CHANNEL_MAX).long(FRAME_MAX).short(60));
            }
            (10, 40) => self.answer(0, (10, 41), &[0]),
            (20, 10) => {
                self.channels.insert(number, Channel::default());
                self.answer(number, (20, 11), &[0; 4]);
            }
            (20, 40) => {
                self.channels.remove(&number);
                self.answer(number, (20, 41), &[]);
            }
            (60, 30) => self.cancel(number, fields),
            (40, 10) | (40, 20) | (50, 20) | (60, 110) => {
                self.answer(number, (id.0, id.1 + 1), &[])
            }
            (40, 30) | (50, 50) => self.answer(number, (id.0, id.1 + 1), &[]),
            (40, 40) => self.answer(number, (40, 51), &[]),
            (50, 30) | (50, 40) => self.answer(number, (50, id.1 + 1), &[0; 4]),
            _ => {}
        }
    }

    fn answer(&mut self, channel: u16, id: (u16, u16), arguments: &[u8]) {
        method(&mut self.out, channel, id, arguments);
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool) {
        let channel = self.channels.get_mut(&number);
        if let Some(flood) = channel.and_then(|channel| channel.flood.as_mut()) {
            flood.settle(tag, multiple);
        }
    }

    fn get(&mut self, number: u16, queue: &[u8]) {
        let Some((_, size)) = flood_of(queue) else { return self.answer(number, (60, 72), &[0]) };
        let channel = self.channels.entry(number).or_default();
        channel.delivered += 1;
        let mut arguments = Vec::with_capacity(64);
        arguments.longlong(channel.delivered).octet(0).shortstr(b"").shortstr(queue).long(1);
        method(&mut self.out, number, (60, 71), &arguments);
        content(&mut self.out, number, size);
    }

    fn queue_declare(&mut self, number: u16, mut fields: Take<'_>) {
        let queue = fields.shortstr();
        if fields.octet() & 0x10 != 0 {
            return;
        }
        let queue = if queue.is_empty() { b"amq.gen-null".as_slice() } else { queue };
        let mut arguments = Vec::new();
        self.answer(number, (50, 11), arguments.shortstr(queue).long(0).long(0));
    }

    fn consume(&mut self, number: u16, mut fields: Take<'_>) {
        let (queue, tag, bits) = (fields.shortstr(), fields.shortstr(), fields.octet());
        let tag = if tag.is_empty() { b"ctag".as_slice() } else { tag };
        if bits & 8 == 0 {
            let mut arguments = Vec::new();
            self.answer(number, (60, 21), arguments.shortstr(tag));
        }
        if queue == b"ring" {
            return self.ring.add(number, tag);
        }
        let channel = self.channels.entry(number).or_default();
        let prefetch = Some(channel.prefetch).filter(|limit| bits & 2 == 0 && *limit > 0);
        match Flood::new(number, tag, queue, prefetch) {
            Some(flood) => channel.flood = Some(flood),
            None => self.echoes_to = Some((number, tag.to_vec())),
        }
    }

    fn cancel(&mut self, number: u16, mut fields: Take<'_>) {
        let tag = fields.shortstr();
        let channel = self.channels.get_mut(&number);
        if let Some(flood) = channel.and_then(|channel| channel.flood.as_mut()) {
            flood.stop();
        }
        if fields.octet() & 1 == 0 {
            let mut arguments = Vec::new();
            self.answer(number, (60, 31), arguments.shortstr(tag));
        }
    }
}
