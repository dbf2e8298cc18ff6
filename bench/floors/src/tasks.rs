//! The floors on tokio.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use amqp_bench_harness::floor::{Exchange, READ, Transport, round_trips};
use amqp_bench_harness::job::{Job, Latencies, Mark};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

fn runtime(multi_thread: bool) -> io::Result<Runtime> {
    let mut builder =
        if multi_thread { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_io().build()
}

/// The task that wants a reply reads and writes.
pub(crate) fn in_caller(
    multi_thread: bool,
    job: &Job,
    stream: std::net::TcpStream,
    exchange: Exchange,
    latencies: &mut Latencies,
) -> io::Result<Mark> {
    runtime(multi_thread)?.block_on(async {
        let stream = TcpStream::from_std(stream)?;
        let mut caller = Caller { stream, exchange, buffer: vec![0; READ] };
        let start = Mark::now();
        round_trips(job.count, &mut caller, latencies).await?;
        Ok(start)
    })
}

struct Caller {
    stream: TcpStream,
    exchange: Exchange,
    buffer: Vec<u8>,
}

impl Transport for Caller {
    async fn round_trip(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.exchange.request).await?;
        let mut missing = self.exchange.reply;
        while missing > 0 {
            missing -= at_least_one(self.stream.read(&mut self.buffer).await?)?;
        }
        Ok(())
    }
}

fn at_least_one(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

/// A task of its own reads and writes; the task that wants a reply wakes it, and waits until that wakes it.
pub(crate) fn in_driver(
    multi_thread: bool,
    job: &Job,
    stream: std::net::TcpStream,
    exchange: Exchange,
    latencies: &mut Latencies,
) -> io::Result<Mark> {
    runtime(multi_thread)?.block_on(async {
        let stream = TcpStream::from_std(stream)?;
        let (request, requests) = unbounded_channel();
        let (reply, replies) = unbounded_channel();
        let buffer = vec![0; READ];
        let mut driver = Driver {
            stream,
            exchange,
            buffer,
            requests,
            replies: reply,
            written: None,
            missing: 0,
        };
        let driving = tokio::spawn(async move { poll_fn(|cx| driver.poll(cx)).await });
        let mut asking = Asking { requests: request, replies };
        let start = Mark::now();
        let done = round_trips(job.count, &mut asking, latencies).await;
        drop(asking);
        // The error of the driver is the cause of the other's.
        driving.await.map_err(io::Error::other)??;
        done.map(|()| start)
    })
}

struct Asking {
    requests: UnboundedSender<()>,
    replies: UnboundedReceiver<()>,
}

impl Transport for Asking {
    async fn round_trip(&mut self) -> io::Result<()> {
        let ended = || io::Error::other("the driver ended");
        self.requests.send(()).map_err(|_| ended())?;
        self.replies.recv().await.ok_or_else(ended)
    }
}

/// Waits for a request and for bytes to read at once: a client's driver does, since a broker sends messages by itself.
struct Driver {
    stream: TcpStream,
    exchange: Exchange,
    buffer: Vec<u8>,
    requests: UnboundedReceiver<()>,
    replies: UnboundedSender<()>,
    /// The number of bytes of the request that are written; `None` without a request.
    written: Option<usize>,
    /// The number of bytes of the reply that have not arrived.
    missing: usize,
}

impl Driver {
    /// Ready when nobody can make a request any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written.is_none() {
                match self.requests.poll_recv(cx) {
                    Poll::Ready(Some(())) => {
                        self.written = Some(0);
                        self.missing = self.exchange.reply;
                    }
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {}
                }
            }
            self.write(cx)?;
            ready!(self.read(cx))?;
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some(written) = self.written {
            let rest = &self.exchange.request[written..];
            if rest.is_empty() {
                self.written = None;
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest)? {
                Poll::Ready(count) => self.written = Some(written + count),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Ready when a reply is complete.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut room = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            self.missing = self.missing.saturating_sub(at_least_one(room.filled().len())?);
            if self.missing == 0 {
                // This fails if nobody waits for the reply. Then there is no next request either.
                let _ended = self.replies.send(());
                return Poll::Ready(Ok(()));
            }
        }
    }
}
