//! Connections over custom streams, on every adapter: a Unix socket, a SOCKS5 proxy, a socket pair.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use amqp_client_blocking::Wait as _;
use amqp_client_core::{Connection, ConsumeOptions, Message, QueueOptions, Target};
use amqp_test_broker::Broker;
use amqp_testkit::RabbitMq;
use mio::event::Source;
use mio::{Interest, Registry, Token};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Far longer than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Returns the address of the broker: RabbitMQ, if there is one.
fn broker() -> Result<(Option<RabbitMq>, Target), Box<dyn Error + Send + Sync>> {
    match std::env::var("AMQP_URL") {
        Ok(uri) => Ok((None, uri.parse()?)),
        Err(_) => {
            let node = RabbitMq::start()?;
            let target = node.amqp_uri().parse()?;
            Ok((Some(node), target))
        }
    }
}

fn reach(target: &Target) -> io::Result<TcpStream> {
    let endpoint = target.get_endpoints().first().ok_or(io::ErrorKind::NotFound)?;
    TcpStream::connect((endpoint.host.as_str(), endpoint.port))
}

/// A stream whose ends can be used by two threads.
trait Duplex: Sized + Send + 'static {
    fn halves(self) -> io::Result<(Self, Self)>;
    fn end(&self) -> io::Result<()>;
}

macro_rules! duplex {
    ($($stream:ty)*) => {$(
        impl Duplex for $stream {
            fn halves(self) -> io::Result<(Self, Self)> {
                Ok((self.try_clone()?, self))
            }

            fn end(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    )*};
}

duplex! { TcpStream UnixStream }

/// Passes bytes on in both directions until one side has ended.
fn join<A, B>(one: A, other: B) -> io::Result<()>
where
    A: Duplex + Read + Write,
    B: Duplex + Read + Write,
{
    fn pass(mut from: impl Read, mut to: impl Write + Duplex) {
        let _reset = io::copy(&mut from, &mut to);
        let _gone = to.end();
    }
    let ((one_in, one_out), (other_in, other_out)) = (one.halves()?, other.halves()?);
    thread::spawn(move || pass(one_in, other_out));
    thread::spawn(move || pass(other_in, one_out));
    Ok(())
}

/// A Unix socket that leads to the broker.
fn unix_socket(name: &str, target: &Target) -> io::Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.sock"));
    let _from_before = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let target = target.clone();
    thread::spawn(move || join(listener.accept()?.0, reach(&target)?));
    Ok(path)
}

/// A SOCKS5 proxy (RFC 1928) for one connection, without authentication.
fn socks5_proxy() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || -> io::Result<()> {
        let (mut client, _) = listener.accept()?;
        let mut read = |count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).map(|()| bytes)
        };
        let methods = read(2)?[1];
        read(methods.into())?;
        client.write_all(&[5, 0])?;
        let mut read = |count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).map(|()| bytes)
        };
        let host = match read(4)?[..] {
            [5, 1, 0, 1] => read(4)?.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
            [5, 1, 0, 3] => {
                let length = read(1)?[0];
                String::from_utf8_lossy(&read(length.into())?).into_owned()
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let port = read(2)?;
        let server = TcpStream::connect((host, u16::from_be_bytes([port[0], port[1]])))?;
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        join(client, server)
    });
    Ok(port)
}

/// A message makes a round trip, and the connection ends in an orderly way.
async fn works(connection: &Connection) -> Outcome {
    connection.ready().await?;
    let channel = connection.open_channel().await?;
    let queue = channel.queue_declare("", QueueOptions::new().exclusive(true)).await?;
    let body = vec![7; 300_000];
    queue.publish(&Message::new(body.clone())).await?;
    let mut consumer = queue.consume(ConsumeOptions::new()).await?;
    let delivery = consumer.next().await.ok_or("the consumer has ended")??;
    assert_eq!(delivery.body(), body);
    delivery.ack()?;
    Ok(connection.close().await?)
}

#[tokio::test]
async fn tokio_goes_through_a_unix_socket() -> Outcome {
    let (_node, target) = broker()?;
    let stream = tokio::net::UnixStream::connect(unix_socket("tokio", &target)?).await?;
    let (connection, driver) = amqp_client_tokio::connect_over(stream, target.get_config().clone());
    tokio::spawn(driver);
    works(&connection).await
}

#[test]
fn smol_goes_through_a_unix_socket() -> Outcome {
    let (_node, target) = broker()?;
    smol::block_on(async {
        let path = unix_socket("smol", &target)?;
        let stream = smol::net::unix::UnixStream::connect(path).await?;
        let (connection, driver) =
            amqp_client_smol::connect_over(stream, target.get_config().clone());
        smol::spawn(driver).detach();
        works(&connection).await
    })
}

#[test]
fn async_std_goes_through_a_unix_socket() -> Outcome {
    use amqp_client_smol::async_std::connect_over;
    let (_node, target) = broker()?;
    async_std::task::block_on(async {
        let path = unix_socket("async-std", &target)?;
        let stream = async_std::os::unix::net::UnixStream::connect(path).await?;
        let (connection, driver) = connect_over(stream, target.get_config().clone());
        async_std::task::spawn(driver);
        works(&connection).await
    })
}

#[test]
fn threads_go_through_a_unix_socket() -> Outcome {
    let (_node, target) = broker()?;
    let stream = UnixStream::connect(unix_socket("threads", &target)?)?;
    stream.set_nonblocking(true)?;
    let stream = mio::net::UnixStream::from_std(stream);
    let connection = amqp_client_blocking::connect_over(stream, target.get_config().clone())?;
    works(&connection).wait()
}

#[test]
fn threads_go_through_a_socket_pair() -> Outcome {
    let broker = Broker::start()?;
    let target: Target = broker.uri().parse()?;
    let (own, other) = UnixStream::pair()?;
    join(other, reach(&target)?)?;
    own.set_nonblocking(true)?;
    let stream = mio::net::UnixStream::from_std(own);
    let connection = amqp_client_blocking::connect_over(stream, target.get_config().clone())?;
    works(&connection).wait()
}

/// A stream with packets of its own: a read brings one of them at most, however much has come.
struct Packets(mio::net::TcpStream);

impl Read for Packets {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = bytes.len().min(100);
        self.0.read(bytes.get_mut(..count).unwrap_or_default())
    }
}

impl Write for Packets {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Source for Packets {
    fn register(&mut self, at: &Registry, token: Token, for_what: Interest) -> io::Result<()> {
        self.0.register(at, token, for_what)
    }

    fn reregister(&mut self, at: &Registry, token: Token, for_what: Interest) -> io::Result<()> {
        self.0.reregister(at, token, for_what)
    }

    fn deregister(&mut self, at: &Registry) -> io::Result<()> {
        self.0.deregister(at)
    }
}

#[test]
fn threads_go_through_a_stream_whose_reads_are_short() -> Outcome {
    let broker = Broker::start()?;
    let target: Target = broker.uri().parse()?;
    let stream = reach(&target)?;
    stream.set_nonblocking(true)?;
    let stream = Packets(mio::net::TcpStream::from_std(stream));
    let connection = amqp_client_blocking::connect_over(stream, target.get_config().clone())?;
    works(&connection).wait_timeout(LIMIT).ok_or("it stalls")?
}

#[tokio::test]
async fn tokio_goes_through_a_proxy() -> Outcome {
    let (_node, target) = broker()?;
    let endpoint = target.get_endpoints().first().ok_or("no host")?;
    let proxy = ("127.0.0.1", socks5_proxy()?);
    let to = (endpoint.host.as_str(), endpoint.port);
    let stream = tokio_socks::tcp::Socks5Stream::connect(proxy, to).await?;
    let (connection, driver) = amqp_client_tokio::connect_over(stream, target.get_config().clone());
    tokio::spawn(driver);
    works(&connection).await
}

#[test]
fn threads_go_through_a_proxy() -> Outcome {
    let (_node, target) = broker()?;
    let endpoint = target.get_endpoints().first().ok_or("no host")?;
    let to = (endpoint.host.as_str(), endpoint.port);
    let stream = socks::Socks5Stream::connect(("127.0.0.1", socks5_proxy()?), to)?.into_inner();
    stream.set_nonblocking(true)?;
    let stream = mio::net::TcpStream::from_std(stream);
    let connection = amqp_client_blocking::connect_over(stream, target.get_config().clone())?;
    works(&connection).wait()
}
