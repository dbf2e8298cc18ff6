//! Attempts to connect, while the other end does not respond.
#![cfg(target_os = "linux")]

use std::fs;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::pin::Pin;
use std::time::{Duration, Instant};

use amqp_client_smol::{ConnectError, Connection, Settings, Target};
use smol::future::poll_once;
use socket2::{Domain, Socket, Type};

type Attempt = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>>>>;

/// A listener whose queue is full, so that the system drops further attempts to connect.
struct FullListener {
    _listener: Socket,
    _queued: TcpStream,
    port: u16,
}

impl FullListener {
    fn new() -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        // Linux queues one connection more than this.
        listener.listen(0)?;
        let addr = listener.local_addr()?.as_socket().expect("an address of IPv4");
        Ok(Self { _listener: listener, _queued: TcpStream::connect(addr)?, port: addr.port() })
    }

    /// The number of sockets that are connecting to this listener.
    fn connecting(&self) -> usize {
        let sockets = fs::read_to_string("/proc/self/net/tcp").expect("Linux lists the sockets");
        // In hexadecimal: own address, remote address, and the state `SYN_SENT`.
        let state = format!(":{:04X} 02 ", self.port);
        sockets.lines().filter(|line| line.contains(&state)).count()
    }
}

/// The number of threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("Linux lists the threads of a process").count()
}

/// Polls the attempts until so many sockets are connecting.
async fn until_connecting(attempts: &mut [Attempt], listener: &FullListener) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while listener.connecting() != attempts.len() {
        assert!(Instant::now() < deadline, "{} are connecting", listener.connecting());
        for attempt in attempts.iter_mut() {
            assert!(poll_once(attempt).await.is_none(), "nothing responds");
        }
        smol::Timer::after(Duration::from_millis(1)).await;
    }
}

/// In one test, because it counts the threads of the process.
#[test]
fn no_thread_waits_until_a_socket_is_connected() -> io::Result<()> {
    let mut runtimes: Vec<fn(Target) -> Attempt> =
        vec![|target| Box::pin(amqp_client_smol::connect_target(target))];
    #[cfg(feature = "async-std")]
    runtimes.push(|target| Box::pin(amqp_client_smol::async_std::connect_target(target)));
    let listener = FullListener::new()?;
    for receive_buffer in [None, Some(64 * 1024)] {
        let settings = Settings::default().receive_buffer(receive_buffer);
        for connect in &runtimes {
            let attempt = |_| connect(Target::new("127.0.0.1", listener.port).settings(settings));
            smol::block_on(async {
                // The first attempt starts the threads of the runtime.
                let mut attempts: Vec<_> = (0..1).map(attempt).collect();
                until_connecting(&mut attempts, &listener).await;
                let before = threads();
                attempts.extend((0..20).map(attempt));
                until_connecting(&mut attempts, &listener).await;
                assert_eq!(threads(), before);
                // An attempt that is abandoned leaves nothing behind.
                attempts.clear();
                until_connecting(&mut attempts, &listener).await;
            });
        }
    }
    Ok(())
}
