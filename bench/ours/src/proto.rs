//! The bare protocol over a std socket. The difference to the adapters is the cost of handles and runtimes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use amqp_bench_harness::job::{Job, Latencies, Mark, report};
use amqp_proto::method::{BasicConsume, BasicQos, ConfirmSelect, QueueDeclare, Request};
use amqp_proto::{
    ChannelEvent, ChannelId, ClientConfig, Connection, Event, RawProperties, Route, ShortStr,
};
use bytes::{Buf as _, Bytes, BytesMut};

use crate::Outcome;

/// Number of bytes that are read at once.
const READ: usize = 64 * 1024;

/// Number of bytes that may wait before they are written.
const WRITE: usize = 64 * 1024;

fn short(text: &str) -> Outcome<ShortStr> {
    Ok(ShortStr::try_from(text)?)
}

fn consume(job: &Job, no_ack: bool) -> Outcome<BasicConsume> {
    let (queue, consumer_tag) = (short(&job.queue)?, short("ctag")?);
    Ok(BasicConsume { queue, consumer_tag, no_ack, ..BasicConsume::default() })
}

/// A connection and its stream.
struct Ends {
    stream: TcpStream,
    connection: Connection,
    input: BytesMut,
}

/// One channel.
struct Client {
    ends: Ends,
    id: ChannelId,
}

pub(crate) fn run(job: &Job) -> Outcome {
    let mut client = Client::connect(&job.url)?;
    let body = Bytes::from(vec![b'x'; job.size]);
    let mut latencies = Latencies::with_capacity(job.count);
    let mut start = Mark::now();
    let queue = short(&job.queue)?;
    let declare = QueueDeclare { queue, durable: true, ..QueueDeclare::default() };
    match job.scenario.as_str() {
        "publish" if job.parameter("tasks", 1) == 1 => {
            for _ in 0..job.count {
                client.publish(job, &body)?;
                client.ends.write_if(WRITE)?;
            }
            client.call(declare)?;
        }
        "confirm" => {
            client.call(ConfirmSelect::default())?;
            start = Mark::now();
            let (mut sent, mut confirmed) = (0, 0);
            while confirmed < job.count {
                while sent < job.count && sent - confirmed < 1000 {
                    client.publish(job, &body)?;
                    sent += 1;
                    client.ends.write_if(WRITE)?;
                }
                client.until(|event| match event {
                    ChannelEvent::Confirmed { publishes, .. } => {
                        confirmed = publishes.end().get();
                        true
                    }
                    _ => false,
                })?;
            }
        }
        "consume" | "consume-ack" => start = client.consume(job)?,
        "rpc" => {
            client.call(QueueDeclare { durable: false, exclusive: true, ..declare })?;
            client.start_consumer(job, true)?;
            start = Mark::now();
            for _ in 0..job.count {
                let start = Instant::now();
                client.publish(job, &body)?;
                client.until(|event| matches!(event, ChannelEvent::Delivery { .. }))?;
                latencies.since(start);
            }
        }
        "declare" => {
            for _ in 0..job.count {
                let start = Instant::now();
                client.call(declare.clone())?;
                latencies.since(start);
            }
        }
        _ => job.not_offered(),
    }
    report(job, start, latencies);
    process::exit(0)
}

impl Ends {
    fn write(&mut self) -> Outcome {
        while let Some(transmit) = self.connection.poll_transmit(Instant::now()) {
            let mut pieces = [std::io::IoSlice::new(&[]); 64];
            let filled = transmit.chunks_vectored(&mut pieces);
            let written = self.stream.write_vectored(&pieces[..filled])?;
            transmit.advance(written);
        }
        Ok(())
    }

    fn write_if(&mut self, waiting: usize) -> Outcome {
        if self.connection.queued() < waiting {
            return Ok(());
        }
        self.write()
    }

    fn read(&mut self) -> Outcome {
        let start = self.input.len();
        self.input.resize(start + READ, 0);
        let count = self.stream.read(&mut self.input[start..])?;
        self.input.truncate(start + count);
        if count == 0 {
            return Err("the broker disconnected".into());
        }
        Ok(self.connection.handle_input(Instant::now(), &mut self.input)?)
    }
}

impl Client {
    fn connect(url: &str) -> Outcome<Self> {
        let authority = url.strip_prefix("amqp://").ok_or("not amqp")?;
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let stream = TcpStream::connect(authority.split('/').next().unwrap_or(authority))?;
        stream.set_nodelay(true)?;
        let connection = Connection::client(Arc::new(ClientConfig::default()), Instant::now());
        let mut ends = Ends { stream, connection, input: BytesMut::new() };
        while !ends.connection.is_open() {
            ends.write()?;
            ends.read()?;
            while ends.connection.poll_event().is_some() {}
        }
        let id = ends.connection.open_channel()?;
        let mut client = Self { ends, id };
        client.until(|event| matches!(event, ChannelEvent::Opened))?;
        Ok(client)
    }

    fn publish(&mut self, job: &Job, body: &Bytes) -> Outcome {
        let mut channel = self.ends.connection.channel(self.id)?;
        channel.publish(&Route::queue(&job.queue), &RawProperties::EMPTY, body)?;
        Ok(())
    }

    /// Writes, reads, and passes on all events, until `found` returns true.
    fn until(&mut self, mut found: impl FnMut(ChannelEvent) -> bool) -> Outcome {
        self.ends.write()?;
        loop {
            let mut done = false;
            while let Some(event) = self.ends.connection.poll_event() {
                match event {
                    Event::Channel(_, ChannelEvent::Closed(error)) => return Err(error.into()),
                    Event::Channel(_, event) => done |= found(event),
                    _ => {}
                }
            }
            if done {
                return Ok(());
            }
            self.ends.read()?;
        }
    }

    fn call(&mut self, request: impl Request) -> Outcome {
        self.ends.connection.channel(self.id)?.request(request)?;
        self.until(|event| matches!(event, ChannelEvent::Reply { .. }))
    }

    fn start_consumer(&mut self, job: &Job, no_ack: bool) -> Outcome {
        self.call(consume(job, no_ack)?)
    }

    fn consume(&mut self, job: &Job) -> Outcome<Mark> {
        let no_ack = job.scenario == "consume";
        if !no_ack {
            let prefetch_count = job.parameter("prefetch", 1000) as u16;
            self.call(BasicQos { prefetch_count, ..BasicQos::default() })?;
        }
        let start = Mark::now();
        self.ends.connection.channel(self.id)?.request(consume(job, no_ack)?)?;
        let (mut taken, mut tags) = (0, Vec::new());
        while taken < job.count {
            self.until(|event| match event {
                ChannelEvent::Delivery { delivery, .. } => {
                    taken += 1;
                    tags.push(delivery.delivery_tag());
                    true
                }
                _ => false,
            })?;
            if !no_ack {
                let mut channel = self.ends.connection.channel(self.id)?;
                tags.iter().try_for_each(|tag| channel.ack(*tag))?;
            }
            tags.clear();
        }
        self.ends.write()?;
        Ok(start)
    }
}
