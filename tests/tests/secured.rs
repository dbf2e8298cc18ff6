//! TLS over transports in memory: through TLS, the end of a peer is reported as precisely as
//! without it.

mod harness;
mod script;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Instant;

use amqp_client_core::adapter::{Drive, Secured};
use amqp_client_core::proto::method::{ConnectionClose, ConnectionOpenOk, ConnectionTune, Method};
use amqp_client_core::proto::{ConnectionError, ReplyCode, ShortStr};
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{Config, Connection, OpenChannel};
use amqp_testkit::peer::frame_bytes;
use harness::{Clock, TlsEnd, Wire, localhost, poll_once};
use script::{METHOD, encoded, offer};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A client, its transport, and the server's end of TLS if there is any. Time does not pass.
struct Scene {
    connection: Connection,
    drive: Pin<Box<dyn Future<Output = ()>>>,
    wire: Wire,
    session: Option<TlsEnd>,
}

impl Scene {
    /// The handshakes have completed.
    fn open(tls: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let wire = Wire::default();
        let (clock, config) = (Clock::at(Instant::now()), Config::default());
        let (connection, drive, session): (_, Pin<Box<dyn Future<Output = ()>>>, _) = if tls {
            let tls = TlsOptions::new().verify(false);
            let secured = Secured::new(wire.clone(), &tls, "localhost")?;
            let (connection, drive) = Drive::new(secured, clock, config);
            (connection, Box::pin(drive), Some(TlsEnd::new(localhost()?)?))
        } else {
            let (connection, drive) = Drive::new(wire.clone(), clock, config);
            (connection, Box::pin(drive), None)
        };
        let mut scene = Self { connection, drive, wire, session };
        let tune = ConnectionTune { channel_max: 10, frame_max: 131_072, heartbeat: 0 };
        scene.says(offer())?;
        scene.says(tune)?;
        scene.says(ConnectionOpenOk::default())?;
        assert!(scene.connection.is_open());
        Ok(scene)
    }

    fn poll(&mut self) {
        let _over = self.drive.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Lets the client run, and both ends of TLS agree.
    fn turn(&mut self) -> io::Result<()> {
        for _ in 0..6 {
            self.poll();
            let Some(session) = &mut self.session else { break };
            let wires = &mut self.wire.borrow_mut();
            while session.receive(wires)?.is_some() {}
            session.flush(wires)?;
        }
        Ok(())
    }

    /// Queues output of the server that the client has not read yet.
    fn queues(&mut self, method: impl Into<Method>) -> io::Result<()> {
        let bytes = frame_bytes(METHOD, 0, &encoded(method));
        let wires = &mut self.wire.borrow_mut();
        match &mut self.session {
            Some(session) => assert_eq!(session.send(wires, &bytes)?, bytes.len()),
            None => wires.send_down(&bytes),
        }
        Ok(())
    }

    /// Ends the session, if there is one, as the client will read next.
    fn ends_session(&mut self) -> io::Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.end(&mut self.wire.borrow_mut()))
    }

    fn says(&mut self, method: impl Into<Method>) -> io::Result<()> {
        self.turn()?;
        self.queues(method)?;
        self.turn()
    }

    /// Nothing the client writes is taken any more, and it has something to write.
    fn breaks(
        &mut self,
        write_error: ErrorKind,
        read_end: Option<Result<(), ErrorKind>>,
    ) -> OpenChannel {
        let mut wires = self.wire.borrow_mut();
        wires.write_error = Some(write_error);
        wires.read_end = read_end;
        drop(wires);
        self.connection.open_channel()
    }

    /// Returns the reason why the connection has ended.
    fn reason(&mut self) -> Option<ConnectionError> {
        self.poll();
        poll_once(pin!(self.connection.closed()))
    }
}

/// The end of the transport of a client: the errors of its writes, and of its reads.
const ENDS: [(ErrorKind, Option<Result<(), ErrorKind>>); 4] = [
    (ErrorKind::BrokenPipe, None),
    (ErrorKind::BrokenPipe, Some(Ok(()))),
    (ErrorKind::ConnectionReset, Some(Ok(()))),
    (ErrorKind::BrokenPipe, Some(Err(ErrorKind::ConnectionReset))),
];

/// Without TLS; with it; and with a session that the peer ends in an orderly way.
const SESSIONS: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

#[test]
fn the_last_bytes_of_the_peer_are_read_after_a_failed_write() -> Outcome {
    for (tls, orderly) in SESSIONS {
        for (write, read) in ENDS {
            let mut scene = Scene::open(tls)?;
            scene.queues(ConnectionClose {
                reply_code: 320,
                reply_text: ShortStr::try_from("shutdown")?,
                ..ConnectionClose::default()
            })?;
            if orderly {
                scene.ends_session()?;
            }
            let _opening = scene.breaks(write, read);
            let reason = scene.reason().ok_or("the connection goes on")?;
            let code = reason.reply_code();
            assert_eq!(
                code,
                Some(ReplyCode::CONNECTION_FORCED),
                "{tls} {orderly} {write} {read:?}: {reason}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_failed_write_is_the_reason_if_the_peer_sent_nothing() -> Outcome {
    for (tls, orderly) in SESSIONS {
        for (write, read) in ENDS {
            let mut scene = Scene::open(tls)?;
            if orderly {
                scene.ends_session()?;
            }
            let _opening = scene.breaks(write, read);
            let reason = scene.reason().ok_or("the connection goes on")?;
            let ConnectionError::Transport(failure) = reason else { panic!("{reason}") };
            // Bytes after the end of the session are not read.
            let expected = read.and_then(Result::err).filter(|_| !orderly).unwrap_or(write);
            assert_eq!(failure.kind(), expected, "{tls} {orderly} {write} {read:?}");
        }
    }
    Ok(())
}

/// A session that breaks behind the close of the connection does not hide it.
#[test]
fn the_last_bytes_of_the_peer_are_read_before_broken_records() -> Outcome {
    let mut scene = Scene::open(true)?;
    scene.queues(ConnectionClose { reply_code: 320, ..ConnectionClose::default() })?;
    scene.wire.borrow_mut().send_down(&[23, 3, 3, 0, 20]);
    scene.wire.borrow_mut().send_down(&[9; 20]);
    let reason = scene.reason().ok_or("the connection goes on")?;
    assert_eq!(reason.reply_code(), Some(ReplyCode::CONNECTION_FORCED), "{reason}");
    Ok(())
}
