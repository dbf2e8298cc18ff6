use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::{Pem, TlsError, TlsOptions, system};

impl TlsOptions {
    /// Begins a session with a host, as a state machine of rustls.
    pub(crate) fn session(&self, host: &str) -> Result<ClientConnection, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::BadName(name.to_owned()))?;
        let impossible = |error: rustls::Error| TlsError::Impossible(error.to_string());
        ClientConnection::new(Arc::new(self.config()?), name).map_err(impossible)
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Impossible(error.to_string()))?;
        let verifier: Arc<dyn ServerCertVerifier> = match self.verify {
            true => WebPkiServerVerifier::builder_with_provider(self.roots()?, provider)
                .build()
                .map_err(|error| TlsError::Impossible(error.to_string()))?,
            false => Arc::new(Anybody(provider)),
        };
        // Either the usual verifier, or the one that was explicitly configured.
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let Some((certificates, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        builder.with_client_auth_cert(certificates.certificates()?, key.private_key()?).map_err(
            |error| TlsError::Unusable { from: certificates.clone(), error: error.to_string() },
        )
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        if self.trusted.is_empty() {
            return system::roots();
        }
        let mut roots = RootCertStore::empty();
        for trusted in &self.trusted {
            for certificate in trusted.certificates()? {
                roots.add(certificate).map_err(|error| TlsError::Unusable {
                    from: trusted.clone(),
                    error: error.to_string(),
                })?;
            }
        }
        Ok(roots.into())
    }
}

impl Pem {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let what = "certificates";
        let bytes = self.read(what)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let certificates = certificates.map_err(|error| self.unreadable(what, error))?;
        match certificates.is_empty() {
            true => Err(TlsError::Empty { what: "certificate", from: self.clone() }),
            false => Ok(certificates),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = self.read("private key")?;
        if bytes.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
            return Err(TlsError::EncryptedKey);
        }
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::Empty { what: "private key", from: self.clone() },
            error => self.unreadable("private key", error),
        })
    }

    fn read(&self, what: &'static str) -> Result<Arc<[u8]>, TlsError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => match std::fs::read(path) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => {
                    let (from, error) = (self.clone(), Arc::new(error));
                    Err(TlsError::Unreadable { what, from, error })
                }
            },
        }
    }

    fn unreadable(&self, what: &'static str, error: pem::Error) -> TlsError {
        let error = Arc::new(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
        TlsError::Unreadable { what, from: self.clone(), error }
    }
}

/// The first bytes of the PEM of an encrypted key.
const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Accepts any certificate, as configured; it still checks that the server has the key of the
/// certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
