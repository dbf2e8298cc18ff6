//! TLS over any transport. Rustls does no I/O either, so this is written once for all async runtimes.

use std::fmt;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use rustls::ClientConnection;

use super::explained::explained;
use super::{TlsError, TlsOptions};
use crate::driver::Transport;

/// The room for each read from the transport: one TLS record of the maximum size, which is 16 KiB and its overhead.
const READ_MIN: usize = 16 * 1024 + 512;

/// A transport inside of a TLS session.
pub struct Secured<S> {
    inner: S,
    session: ClientConnection,
    /// Bytes of an incomplete record.
    incoming: BytesMut,
    /// A part of a record came since that was last asked.
    progress: bool,
    /// Records that are being sent.
    outgoing: BytesMut,
    /// Nothing more is received: the transport or the session has ended, or failed.
    ended: bool,
    /// Nothing can be sent any more.
    unsendable: bool,
    /// The reason why nothing can be sent or received any more, until it is reported. Earlier input is read first: it may contain
    /// the reason.
    failure: Option<io::Error>,
    /// The session is not established, or has failed.
    missing: Arc<AtomicBool>,
}

/// For log lines: the state of the session, without keys and without bytes.
impl<S> fmt::Debug for Secured<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured")
            .field("protocol", &self.session.protocol_version())
            .field("handshaking", &self.session.is_handshaking())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<S: Transport> Secured<S> {
    /// Puts a session with that host around a transport. Its handshake begins with the first write or read.
    ///
    /// # Errors
    /// [`TlsError`], if the TLS configuration is invalid.
    pub fn new(inner: S, tls: &TlsOptions, host: &str) -> Result<Self, TlsError> {
        Ok(Self::with(inner, tls.session(host)?))
    }

    pub(crate) fn with(inner: S, session: ClientConnection) -> Self {
        Self {
            inner,
            session,
            incoming: BytesMut::new(),
            progress: false,
            outgoing: BytesMut::new(),
            ended: false,
            unsendable: false,
            failure: None,
            missing: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Sends the records that there are.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsendable {
            let reported = || io::ErrorKind::BrokenPipe.into();
            return Poll::Ready(Err(self.failure.take().unwrap_or_else(reported)));
        }
        let sent = self.poll_send_records(cx);
        self.unsendable = matches!(sent, Poll::Ready(Err(_)));
        sent
    }

    fn poll_send_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.outgoing.is_empty() {
                let pieces = [IoSlice::new(&self.outgoing)];
                let written = ready!(self.inner.poll_write(cx, &pieces))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.outgoing.advance(written);
            }
            if !self.session.wants_write() {
                return Poll::Ready(Ok(()));
            }
            self.session.write_tls(&mut (&mut self.outgoing).writer())?;
        }
    }

    /// Passes input to the TLS session. The session keeps little decrypted data, so that has to be taken out in between.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.incoming.is_empty() {
            self.incoming.reserve(READ_MIN);
            match ready!(self.inner.poll_read(cx, &mut self.incoming))? {
                0 => self.ended = true,
                _ => self.progress = true,
            }
        }
        // For the session, an empty read is the end.
        let mut rest: &[u8] = &self.incoming;
        let handshaking = self.session.is_handshaking();
        let first = rest.first_chunk().copied().filter(|_| handshaking);
        let taken = self.session.read_tls(&mut rest)?;
        self.incoming.advance(taken);
        if let Err(error) = self.session.process_new_packets() {
            self.missing.store(true, Ordering::Relaxed);
            // Sends the alert, as far as the transport takes it now. The error is returned either way.
            let _sent = self.poll_send(cx);
            return Poll::Ready(Err(explained(&error, first)));
        }
        if handshaking && !self.session.is_handshaking() {
            self.missing.store(false, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> Transport for Secured<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                // The peer has ended the session.
                Ok([]) => self.ended = true,
                Ok(plain) => {
                    // There is room for at least one byte.
                    let room = input.capacity() - input.len();
                    let count = plain.len().min(room.max(1));
                    input.extend_from_slice(plain.get(..count).unwrap_or_default());
                    reader.consume(count);
                    self.progress = false;
                    return Poll::Ready(Ok(count));
                }
                // There is no plain text yet.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The transport has ended without the end of the session. AMQP has its own close, which shows whether bytes are
                // missing.
                Err(_) if self.ended => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.ended {
                return Poll::Ready(self.failure.take().map_or(Ok(0), Err));
            }
            // Sends pending output of the handshake now. The next write or read sends the rest.
            if !self.unsendable {
                if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                    self.failure = Some(error);
                }
            }
            match self.poll_receive(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    // The session may have decrypted something before it failed.
                    self.ended = true;
                    self.failure = Some(error);
                }
                // No input explains the failure better.
                Poll::Pending => {
                    return self
                        .failure
                        .take()
                        .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Bytes that were accepted wait here, so no more are accepted meanwhile.
        ready!(self.poll_send(cx))?;
        let count = self.session.writer().write_vectored(pieces)?;
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The session accepts nothing before its handshake is complete, and reading completes it.
            _ if count == 0 => Poll::Pending,
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.inner.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        ready!(self.poll_send(cx))?;
        self.inner.poll_close(cx)
    }

    fn tls_missing(&self) -> Option<Arc<AtomicBool>> {
        Some(self.missing.clone())
    }

    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }
}
