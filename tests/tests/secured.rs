//! TLS over transports in memory: through TLS, the end of a peer is reported as precisely as
//! without it.

mod script;

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use amqp_client_core::adapter::Secured;
use amqp_client_core::adapter::{Drive, Timer, Transport};
use amqp_client_core::proto::method::{ConnectionClose, ConnectionOpenOk, ConnectionTune, Method};
use amqp_client_core::proto::{ConnectionError, ReplyCode, ShortStr};
use amqp_client_core::tls::TlsOptions;
use amqp_client_core::{Config, Connection, OpenChannel};
use amqp_testkit::peer::frame_octets;
use bytes::{Buf as _, BytesMut};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, crypto::ring};
use script::{METHOD, encoded, offer};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Both directions of a transport.
#[derive(Default)]
struct Wire {
    to_client: BytesMut,
    to_server: BytesMut,
    /// What the client's reads end with once they have taken everything.
    read_end: Option<Result<(), ErrorKind>>,
    write_error: Option<ErrorKind>,
}

/// The client's end.
#[derive(Clone, Default)]
struct Line(Rc<RefCell<Wire>>);

impl Transport for Line {
    fn poll_read(&mut self, _: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        let count = wire.to_client.len().min(input.capacity() - input.len());
        input.extend_from_slice(&wire.to_client.split_to(count));
        match wire.read_end {
            _ if count > 0 => Poll::Ready(Ok(count)),
            Some(Ok(())) => Poll::Ready(Ok(0)),
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            None => Poll::Pending,
        }
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        match wire.write_error {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => {
                pieces.iter().for_each(|piece| wire.to_server.extend_from_slice(piece));
                Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Time does not pass.
struct Still(Instant);

impl Timer for Still {
    fn now(&self) -> Instant {
        self.0
    }

    fn poll_until(&mut self, _: &mut Context<'_>, at: Instant) -> Poll<()> {
        if at <= self.0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A client, its transport, and the server's end of TLS if there is any.
struct Scene {
    connection: Connection,
    drive: Pin<Box<dyn Future<Output = ()>>>,
    line: Line,
    session: Option<ServerConnection>,
}

impl Scene {
    /// The handshakes are over.
    fn open(tls: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let line = Line::default();
        let (timer, config) = (Still(Instant::now()), Config::default());
        let (connection, drive, session): (_, Pin<Box<dyn Future<Output = ()>>>, _) = if tls {
            let tls = TlsOptions::new().verify(false);
            let secured = Secured::new(line.clone(), &tls, "localhost")?;
            let (connection, drive) = Drive::new(secured, timer, config);
            (connection, Box::pin(drive), Some(server_session()?))
        } else {
            let (connection, drive) = Drive::new(line.clone(), timer, config);
            (connection, Box::pin(drive), None)
        };
        let mut scene = Self { connection, drive, line, session };
        let tune = ConnectionTune { channel_max: 10, frame_max: 131_072, heartbeat: 0 };
        scene.says(offer())?;
        scene.says(tune)?;
        scene.says(ConnectionOpenOk::default())?;
        assert!(scene.connection.is_open());
        Ok(scene)
    }

    /// Lets the client run, and both ends of TLS agree.
    fn turn(&mut self) -> io::Result<()> {
        for _ in 0..6 {
            let _over = self.drive.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let mut wire = self.line.0.borrow_mut();
            let Some(session) = &mut self.session else { break };
            while wire.to_server.has_remaining() {
                let mut rest = &wire.to_server[..];
                let taken = session.read_tls(&mut rest)?;
                wire.to_server.advance(taken);
                session.process_new_packets().map_err(io::Error::other)?;
                let _nothing_more = session.reader().read_to_end(&mut Vec::new());
            }
            while session.wants_write() {
                let mut records = Vec::new();
                session.write_tls(&mut records)?;
                wire.to_client.extend_from_slice(&records);
            }
        }
        Ok(())
    }

    /// Queues output of the server that the client has not read yet.
    fn queues(&mut self, method: impl Into<Method>) -> io::Result<()> {
        let octets = frame_octets(METHOD, 0, &encoded(method));
        let mut wire = self.line.0.borrow_mut();
        let Some(session) = &mut self.session else {
            wire.to_client.extend_from_slice(&octets);
            return Ok(());
        };
        session.writer().write_all(&octets)?;
        while session.wants_write() {
            let mut records = Vec::new();
            session.write_tls(&mut records)?;
            wire.to_client.extend_from_slice(&records);
        }
        Ok(())
    }

    /// Ends the session, if there is one, as the client will read next.
    fn ends_session(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.send_close_notify();
        let mut records = Vec::new();
        session.write_tls(&mut records)?;
        self.line.0.borrow_mut().to_client.extend_from_slice(&records);
        Ok(())
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
        let mut wire = self.line.0.borrow_mut();
        wire.write_error = Some(write_error);
        wire.read_end = read_end;
        drop(wire);
        self.connection.open_channel()
    }

    /// Returns why the connection is over.
    fn reason(&mut self) -> Option<ConnectionError> {
        let _over = self.drive.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let closed = pin!(self.connection.closed());
        match closed.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => Some(reason),
            Poll::Pending => None,
        }
    }
}

fn server_session() -> Result<ServerConnection, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(ServerConnection::new(Arc::new(config))?)
}

/// How the transport of a client ends: the errors of its writes, and of its reads.
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
            // What comes behind the end of the session is not read.
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
    scene.line.0.borrow_mut().to_client.extend_from_slice(&[23, 3, 3, 0, 20]);
    scene.line.0.borrow_mut().to_client.extend_from_slice(&[9; 20]);
    let reason = scene.reason().ok_or("the connection goes on")?;
    assert_eq!(reason.reply_code(), Some(ReplyCode::CONNECTION_FORCED), "{reason}");
    Ok(())
}
