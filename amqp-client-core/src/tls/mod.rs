//! TLS configuration: trusted authorities and the client's certificate.

#[cfg(feature = "tls")]
mod explained;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod system;
#[cfg(feature = "tls")]
mod transport;

#[cfg(feature = "tls")]
pub use transport::Secured;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use amqp_proto::uri::UriOptions;
use thiserror::Error;

/// Options of TLS. By default, the server's certificate is verified against the system's certificate authorities.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::tls::{Pem, TlsOptions};
///
/// let tls = TlsOptions::new()
///     .trust(Pem::file("/etc/rabbitmq/ca.pem"))
///     .identity(Pem::file("/etc/app/cert.pem"), Pem::file("/etc/app/key.pem"))
///     .server_name("rabbitmq.internal");
/// ```
///
/// Renewed certificates are used without a restart: files are read again for each connection, and the system's authorities once a
/// minute at the most, for all connections of the process.
///
/// To convert a certificate and key in a PKCS#12 file (`.p12`, `.pfx`) to PEM:
///
/// ```sh
/// openssl pkcs12 -in client.p12 -nokeys -out cert.pem
/// openssl pkcs12 -in client.p12 -nocerts -noenc -out key.pem
/// ```
#[derive(Debug, Clone)]
pub struct TlsOptions {
    pub(crate) trusted: Vec<Pem>,
    pub(crate) identity: Option<(Pem, Pem)>,
    pub(crate) server_name: Option<String>,
    pub(crate) verify: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { trusted: Vec::new(), identity: None, server_name: None, verify: true }
    }
}

impl TlsOptions {
    /// Creates options that trust the system's authorities and present no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificate authorities instead of the system's. Can be called more than once.
    #[must_use]
    pub fn trust(mut self, authorities: Pem) -> Self {
        self.trusted.push(authorities);
        self
    }

    /// Presents a client certificate (the client's own first, then its chain up to the authority) with its private key.
    #[must_use]
    pub fn identity(mut self, certificates: Pem, key: Pem) -> Self {
        self.identity = Some((certificates, key));
        self
    }

    /// Sets the name that the server's certificate must have, instead of the host name.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets whether to verify the server's certificate. Without verification, anybody on the network path can impersonate the
    /// server.
    #[must_use]
    pub const fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Creates options from a URI: `cacertfile`, `certfile`, `keyfile`, `verify`, `server_name_indication`, and their other
    /// spellings.
    ///
    /// # Errors
    /// [`TlsError`], if a certificate has no key, or a key no certificate, or the key is encrypted.
    pub fn from_uri(options: &UriOptions) -> Result<Self, TlsError> {
        let identity = match (&options.certfile, &options.keyfile) {
            (Some(certificates), Some(key)) => Some((Pem::file(certificates), Pem::file(key))),
            (None, None) => None,
            (Some(_), None) => {
                return Err(TlsError::Missing { there: "certfile", missing: "keyfile" });
            }
            (None, Some(_)) => {
                return Err(TlsError::Missing { there: "keyfile", missing: "certfile" });
            }
        };
        if options.key_password.is_some() {
            return Err(TlsError::EncryptedKey);
        }
        Ok(Self {
            trusted: options.cacertfile.iter().map(Pem::file).collect(),
            identity,
            server_name: options.server_name.clone(),
            verify: options.verify.unwrap_or(true),
        })
    }
}

/// Certificates or a private key, in PEM.
#[derive(Clone)]
#[non_exhaustive]
pub enum Pem {
    /// The path of a file.
    File(PathBuf),
    /// The PEM data.
    Bytes(Arc<[u8]>),
}

impl Pem {
    /// Reads PEM from a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// Uses PEM data in memory.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            // The data may be a private key.
            Self::Bytes(_) => f.write_str("<redacted>"),
        }
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Bytes(_) => f.write_str("the PEM data in memory"),
        }
    }
}

/// The TLS configuration is invalid.
#[derive(Clone, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// This build has no TLS.
    #[error("the client was built without TLS; turn on its feature `tls` to use amqps://")]
    NotBuilt,
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {what} from {from}")]
    Unreadable {
        /// The expected content.
        what: &'static str,
        /// The source.
        from: Pem,
        /// The reason.
        #[source]
        error: Arc<io::Error>,
    },
    /// A file does not contain the expected content.
    #[error("{from} contains no {what}")]
    Empty {
        /// The expected content.
        what: &'static str,
        /// The source.
        from: Pem,
    },
    /// An option is set without the other option that it needs.
    #[error("{there} is set without {missing}; set both or neither")]
    Missing {
        /// The option that is set.
        there: &'static str,
        /// The option that is missing.
        missing: &'static str,
    },
    /// Encrypted private keys are not supported.
    #[error(
        "encrypted private keys are not supported; decrypt the key (openssl pkey -in key.pem -out plain.pem)"
    )]
    EncryptedKey,
    /// The system has no certificates to trust. The text lists what could not be read, if there was anything.
    #[error(
        "the system has no certificates to trust{}; set cacertfile in the URI, or TlsOptions::trust", bracketed(.0)
    )]
    NoSystemRoots(String),
    /// A certificate or key cannot be used.
    #[error("{from} cannot be used: {error}")]
    Unusable {
        /// The source.
        from: Pem,
        /// The reason.
        error: String,
    },
    /// The server name cannot occur in a certificate.
    #[error("{0:?} is not a valid server name for a certificate")]
    BadName(String),
    /// The combination of options is impossible.
    #[error("{0}")]
    Impossible(String),
}

/// Returns the text to add in brackets, if there is one.
fn bracketed(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

amqp_proto::__debug_shows_chain! { TlsError }
