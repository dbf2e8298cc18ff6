//! TLS at the peer's end of a [`Wire`](super::Wire).

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use bytes::Buf as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, crypto::ring};

use super::Wires;

/// A server called localhost. Its certificate is an Ed25519 one, so that records have the same lengths in each run.
pub(crate) fn localhost() -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let certificate = CertificateDer::from_pem_slice(certificate.pem().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

/// The server's end of a TLS session.
pub(crate) struct TlsEnd(ServerConnection);

impl TlsEnd {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        ServerConnection::new(config).map(Self)
    }

    /// Processes one piece of the client's output. Returns the plain text in it, or `None` if nothing is left.
    pub(crate) fn receive(&mut self, wires: &mut Wires) -> io::Result<Option<Vec<u8>>> {
        if wires.up.bytes.is_empty() {
            return Ok(None);
        }
        let mut piece = &wires.up.bytes[..wires.up.bytes.len().min(wires.piece)];
        let taken = self.0.read_tls(&mut piece)?;
        wires.up.bytes.advance(taken);
        self.0.process_new_packets().map_err(io::Error::other)?;
        let mut plain = Vec::new();
        // It fails when there is nothing more at present.
        let _nothing_more = self.0.reader().read_to_end(&mut plain);
        Ok(Some(plain))
    }

    /// Encrypts plain text for the client, or a part of it. Returns how much.
    pub(crate) fn send(&mut self, wires: &mut Wires, plain: &[u8]) -> io::Result<usize> {
        let count = self.0.writer().write(plain)?;
        self.flush(wires)?;
        Ok(count)
    }

    /// Ends the session.
    pub(crate) fn end(&mut self, wires: &mut Wires) -> io::Result<()> {
        self.0.send_close_notify();
        self.flush(wires)
    }

    /// Writes the pending output of the TLS session.
    pub(crate) fn flush(&mut self, wires: &mut Wires) -> io::Result<()> {
        while self.0.wants_write() {
            let mut records = Vec::new();
            self.0.write_tls(&mut records)?;
            wires.send_down(&records);
        }
        Ok(())
    }
}
