//! A panic in the loop of a connection, for example in a stream of the application: everything that waits gets an error.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use amqp_client_blocking::{Config, Connection, QueueOptions, Wait as _, connect_over};
use amqp_test_broker::Broker;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Long enough for any machine: a thread that waits longer was forgotten.
const LONG: Duration = Duration::from_secs(30);

/// A stream that panics when it is written to, from some time on.
struct Treacherous {
    stream: TcpStream,
    panics: Arc<AtomicBool>,
}

impl Read for Treacherous {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.read(room)
    }
}

impl Write for Treacherous {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.panics.load(Ordering::SeqCst), "the stream panics");
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Treacherous {
    fn register(&mut self, registry: &Registry, token: Token, of: Interest) -> io::Result<()> {
        self.stream.register(registry, token, of)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, of: Interest) -> io::Result<()> {
        self.stream.reregister(registry, token, of)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.stream.deregister(registry)
    }
}

fn open(broker: &Broker) -> io::Result<(Connection, Arc<AtomicBool>)> {
    let stream = std::net::TcpStream::connect(broker.addr())?;
    stream.set_nonblocking(true)?;
    let panics = Arc::<AtomicBool>::default();
    let stream = TcpStream::from_std(stream);
    let stream = Treacherous { stream, panics: panics.clone() };
    Ok((connect_over(stream, Config::default())?, panics))
}

/// Threads that wait for a broker that does not reply: one of them runs the loop, and one is woken without waiting.
#[test]
fn everybody_learns_that_the_loop_has_panicked() -> Outcome {
    let broker = Broker::start()?;
    let (connection, panics) = open(&broker)?;
    connection.ready().wait()?;
    let channel = connection.open_channel().wait()?;
    for view in broker.connections() {
        broker.freeze(view.id);
    }
    let (called, calls) = mpsc::channel();
    connection.on_close(move |reason| called.send(reason.to_string()).unwrap_or_default());
    let (ended, ends) = mpsc::channel();
    for number in 0..4 {
        let (channel, ended) = (channel.clone(), ended.clone());
        thread::spawn(move || {
            let declared = channel.queue_declare(format!("q{number}"), QueueOptions::new()).wait();
            ended.send(declared.map(drop)).expect("the test waits");
        });
    }
    panics.store(true, Ordering::SeqCst);
    // Something to write, though every thread may wait by now.
    let _sent = channel.queue_purge("q").wait_timeout(Duration::ZERO);
    for _ in 0..4 {
        ends.recv_timeout(LONG)?.expect_err("the loop has panicked");
    }
    calls.recv_timeout(LONG)?;
    assert!(!connection.is_open());
    channel.queue_purge("q").wait().expect_err("the connection has ended");
    Ok(())
}

/// Only the helper runs the loop: for heartbeats, and for output that nobody waits for.
#[test]
fn everybody_learns_that_the_helper_has_panicked() -> Outcome {
    let broker = Broker::start()?;
    let (connection, panics) = open(&broker)?;
    connection.ready().wait()?;
    let (called, calls) = mpsc::channel();
    connection.on_close(move |reason| called.send(reason.to_string()).unwrap_or_default());
    panics.store(true, Ordering::SeqCst);
    let _closing = connection.close().wait_timeout(Duration::ZERO);
    calls.recv_timeout(LONG)?;
    assert!(!connection.is_open());
    Ok(())
}
