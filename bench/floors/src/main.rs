//! `floors SCENARIO COUNT SIZE URL QUEUE`: round trips without protocol logic. `RUNTIME` names the way to wait for a reply:
//!
//! - `epoll`: one thread, which waits in `epoll_wait` and then reads;
//! - `ct`: tokio's current-thread runtime, and the caller reads and writes;
//! - `ct-driver`: the same, but a task of its own reads and writes, as in most asynchronous clients;
//! - `mt`, `mt-driver`: both on the multi-thread runtime, in `block_on`.
//!
//! The driver `raw` waits in `recv`.

mod tasks;

use std::io;
use std::net::TcpStream;

use amqp_bench_harness::floor::{Exchange, READ, Transport, blocking, read, round_trips, send_all};
use amqp_bench_harness::job::{Job, Latencies, Mark, report};
use amqp_bench_harness::raw;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

fn main() -> io::Result<()> {
    let job = Job::from_args();
    let Some((stream, exchange)) = raw::exchange(&job)? else { job.not_offered() };
    stream.set_nonblocking(true)?;
    let mut latencies = Latencies::with_capacity(job.count);
    let runtime = std::env::var("RUNTIME").unwrap_or_default();
    let start = match runtime.as_str() {
        "epoll" => {
            let mut transport = Polled::new(stream, exchange)?;
            let start = Mark::now();
            blocking(round_trips(job.count, &mut transport, &mut latencies))?;
            start
        }
        "ct" => tasks::in_caller(false, &job, stream, exchange, &mut latencies)?,
        "ct-driver" => tasks::in_driver(false, &job, stream, exchange, &mut latencies)?,
        "mt" => tasks::in_caller(true, &job, stream, exchange, &mut latencies)?,
        "mt-driver" => tasks::in_driver(true, &job, stream, exchange, &mut latencies)?,
        other => return Err(io::Error::other(format!("no floor is called {other}"))),
    };
    report(&job, start, latencies);
    Ok(())
}

/// The thread waits in `epoll_wait`.
struct Polled {
    stream: TcpStream,
    exchange: Exchange,
    epoll: Epoll,
    buffer: Vec<u8>,
}

impl Polled {
    fn new(stream: TcpStream, exchange: Exchange) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&stream, EpollEvent::new(events, 0))?;
        Ok(Self { stream, exchange, epoll, buffer: vec![0; READ] })
    }
}

impl Transport for Polled {
    async fn round_trip(&mut self) -> io::Result<()> {
        send_all(&self.stream, &self.exchange.request)?;
        let mut missing = self.exchange.reply;
        while missing > 0 {
            self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?;
            // Whatever arrives later is another event, so the socket does not have to be read until it is empty.
            missing -= read(&self.stream, &mut self.buffer)?;
        }
        Ok(())
    }
}
