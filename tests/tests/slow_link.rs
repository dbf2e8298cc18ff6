//! Links that take little at a time, or stop, on every adapter: deadlines do not count while the bytes ahead are written.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use amqp_client_blocking::Wait as _;
use amqp_client_core::{
    CallError, Config, ConfirmError, Connection, PublisherOptions, QueueOptions, Settings, Target,
};
use amqp_test_broker::Broker;
use futures_util::future::try_join;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Number of bytes that the link takes at a time, and the pause after them.
const PIECE: usize = 32 * 1024;
const PAUSE: Duration = Duration::from_millis(50);

/// The time for which the link is slow once a body has begun: longer than every timeout.
const SLOW: Duration = Duration::from_secs(6);
const CALL: Duration = Duration::from_secs(4);

/// More than the link takes while it is slow.
const BODY: usize = 8 * 1024 * 1024;

/// A body as large as the send buffer of a TCP socket can be, and the pauses of a link that takes 400 KiB a second.
const TCP_BODY: usize = 2 * 1024 * 1024 + 512 * 1024;
const TCP_PAUSE: Duration = Duration::from_millis(80);

/// A link to a broker.
struct Scene {
    _broker: Broker,
    stream: UnixStream,
    config: Config,
}

/// Passes a client's bytes on to the broker, piece by piece. Once a body has begun, it pauses after each piece, or ends.
fn pass_on(
    from: &mut impl io::Read,
    to: &mut TcpStream,
    mut pause: impl FnMut() -> Option<Duration>,
) -> io::Result<()> {
    let (mut piece, mut passed) = (vec![0; PIECE], 0);
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&piece[..count])?;
        passed += count;
        if passed > PIECE {
            let Some(pause) = pause() else { return Ok(()) };
            // The subject: a link that takes nothing for this time.
            thread::sleep(pause);
        }
    }
}

/// The link takes a body slowly, and after a while either as fast as it comes or not at all.
fn scene(stops: bool) -> io::Result<Scene> {
    let broker = Broker::start()?;
    let (own, mut up) = UnixStream::pair()?;
    let mut to = TcpStream::connect(broker.addr())?;
    let (mut from, mut down) = (to.try_clone()?, up.try_clone()?);
    thread::spawn(move || {
        let _gone = io::copy(&mut from, &mut down);
        let _gone = down.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut begun = None;
        // The other thread keeps both streams.
        pass_on(&mut up, &mut to, || match begun.get_or_insert_with(Instant::now).elapsed() {
            _ if stops => None,
            elapsed if elapsed < SLOW => Some(PAUSE),
            _ => Some(Duration::ZERO),
        })
    });
    let target: Target = broker.uri().parse().map_err(io::Error::other)?;
    let settings = Settings::default()
        .call_timeout(Some(CALL))
        .publish_timeout(Some(CALL))
        .confirm_timeout(Some(CALL));
    let config = target.settings(settings).get_config().clone();
    own.set_nonblocking(true)?;
    Ok(Scene { _broker: broker, stream: own, config })
}

/// A link through a socket of TCP, whose far end takes so little at a time that the near end's system has to keep the rest, and
/// shows no progress while it does.
fn tcp_scene() -> io::Result<(Broker, Target)> {
    let broker = Broker::start()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, PIECE)?;
    let uri = broker.uri().replace(&broker.addr().to_string(), &listener.local_addr()?.to_string());
    let mut to = TcpStream::connect(broker.addr())?;
    let mut from = to.try_clone()?;
    thread::spawn(move || -> io::Result<()> {
        let (mut up, _) = listener.accept()?;
        let mut down = up.try_clone()?;
        thread::spawn(move || io::copy(&mut from, &mut down));
        pass_on(&mut up, &mut to, || Some(TCP_PAUSE))
    });
    let target: Target = uri.parse().map_err(io::Error::other)?;
    let settings = Settings::default().call_timeout(Some(CALL)).confirm_timeout(Some(CALL));
    Ok((broker, target.settings(settings).without_recovery()))
}

/// A request waits behind a body that the system could take at once, and needs more than the timeout to pass on.
async fn waits_for_the_system(connection: Connection) -> Outcome {
    let channel = connection.open_channel().await?;
    channel.queue_declare("q", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let begun = Instant::now();
    let first = publisher.publish("q", vec![7; TCP_BODY]).await?;
    channel.basic_qos(10).await?;
    assert!(begun.elapsed() > CALL, "the link is too fast to show anything");
    Ok(first.await?)
}

/// Requests of the channel wait behind a large body, and those of other channels do not.
async fn works(connection: Connection) -> Outcome {
    connection.ready().await?;
    let (channel, other) = (connection.open_channel().await?, connection.open_channel().await?);
    channel.queue_declare("q", QueueOptions::new()).await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let begun = Instant::now();
    let first = publisher.publish("q", vec![7; BODY]).await?;
    let (asked, opening) = (channel.basic_qos(10), connection.open_channel());
    other.basic_qos(10).await?;
    opening.await?;
    assert!(begun.elapsed() < CALL, "requests of other channels waited for the body");
    asked.await?;
    assert!(begun.elapsed() > CALL, "the link is too fast to show anything");
    first.await?;
    Ok(connection.close().await?)
}

/// Everything behind a body that the link does not take times out.
async fn ends(connection: Connection) -> Outcome {
    connection.ready().await?;
    let channel = connection.open_channel().await?;
    let publisher = channel.default_exchange().publisher(PublisherOptions::new())?;
    let confirmation = publisher.publish("q", vec![7; BODY]).await?;
    let begun = Instant::now();
    let asked = channel.basic_qos(10);
    assert!(matches!(asked.await, Err(CallError::TimedOut { after: CALL, .. })));
    // The timeout counts from the time of the driver's turn, which may have read the clock just before the request was made.
    assert!(begun.elapsed() + 10 * PAUSE >= CALL);
    assert!(matches!(confirmation.await, Err(ConfirmError::TimedOut { after: CALL })));
    Ok(())
}

/// The function by which an adapter connects over a stream.
type Open = fn(UnixStream, Config) -> io::Result<Connection>;

async fn on_both_links(open: Open) -> Outcome {
    let (slow, stopped) = (scene(false)?, scene(true)?);
    let slow = works(open(slow.stream, slow.config)?);
    let stopped = ends(open(stopped.stream, stopped.config)?);
    try_join(slow, stopped).await.map(|((), ())| ())
}

#[tokio::test]
async fn on_tokio() -> Outcome {
    on_both_links(|stream, config| {
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let (connection, driver) = amqp_client_tokio::connect_over(stream, config);
        tokio::spawn(driver);
        Ok(connection)
    })
    .await
}

#[test]
fn on_smol() -> Outcome {
    smol::block_on(on_both_links(|stream, config| {
        let stream = smol::Async::new(stream)?;
        let (connection, driver) = amqp_client_smol::connect_over(stream, config);
        smol::spawn(driver).detach();
        Ok(connection)
    }))
}

#[test]
fn on_async_std() -> Outcome {
    use amqp_client_smol::async_std::connect_over;
    async_std::task::block_on(on_both_links(|stream, config| {
        let stream = async_std::os::unix::net::UnixStream::from(stream);
        let (connection, driver) = connect_over(stream, config);
        async_std::task::spawn(driver);
        Ok(connection)
    }))
}

#[test]
fn on_threads() -> Outcome {
    on_both_links(|stream, config| {
        let stream = mio::net::UnixStream::from_std(stream);
        let connection = amqp_client_blocking::connect_over(stream, config)?;
        Ok(connection)
    })
    .wait()
}

#[tokio::test]
async fn a_system_that_would_take_everything_on_tokio() -> Outcome {
    let (_broker, target) = tcp_scene()?;
    let connection = amqp_client_tokio::connect_target(target).await?;
    waits_for_the_system(connection).await
}

#[test]
fn a_system_that_would_take_everything_on_smol() -> Outcome {
    let (_broker, target) = tcp_scene()?;
    smol::block_on(async {
        let connection = amqp_client_smol::connect_target(target).await?;
        waits_for_the_system(connection).await
    })
}

#[test]
fn a_system_that_would_take_everything_on_async_std() -> Outcome {
    use amqp_client_smol::async_std::connect_target;
    let (_broker, target) = tcp_scene()?;
    async_std::task::block_on(async {
        let connection = connect_target(target).await?;
        waits_for_the_system(connection).await
    })
}

#[test]
fn a_system_that_would_take_everything_on_threads() -> Outcome {
    let (_broker, target) = tcp_scene()?;
    let connection = amqp_client_blocking::connect_target(target)?;
    waits_for_the_system(connection).wait()
}
