use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::driver::Transport;
#[cfg(feature = "tls")]
use crate::tls::Secured;

/// A transport, with TLS around it or without.
#[derive(Debug)]
pub(crate) enum MaybeTls<S> {
    Plain(S),
    #[cfg(feature = "tls")]
    Secured(Box<Secured<S>>),
}

macro_rules! either {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Self::Plain($transport) => $call,
            #[cfg(feature = "tls")]
            Self::Secured($transport) => $call,
        }
    };
}

impl<S: Transport> Transport for MaybeTls<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        either!(self, transport => transport.poll_read(cx, input))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, transport => transport.poll_write(cx, pieces))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, transport => transport.poll_flush(cx))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, transport => transport.poll_close(cx))
    }

    fn tls_missing(&self) -> Option<Arc<AtomicBool>> {
        either!(self, transport => transport.tls_missing())
    }

    fn take_progress(&mut self) -> bool {
        either!(self, transport => transport.take_progress())
    }
}
