//! TLS: what to trust, and who to be.

#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod transport;

#[cfg(feature = "tls")]
pub use rustls;
#[cfg(feature = "tls")]
pub use transport::Secured;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use amqp_proto::uri::UriOptions;
use thiserror::Error;

/// How to use TLS: verifies the server by the system's certificates, unless told otherwise.
///
/// ```
/// use amqp_client_core::tls::{Pem, TlsOptions};
///
/// let tls = TlsOptions::new()
///     .trust(Pem::file("/etc/rabbitmq/ca.pem"))
///     .identity(Pem::file("/etc/app/cert.pem"), Pem::file("/etc/app/key.pem"))
///     .server_name("rabbitmq.internal");
/// ```
///
/// Files are read anew for each connection, so renewed certificates are used without a restart.
///
/// A certificate and key in a PKCS#12 file (`.p12`, `.pfx`) become PEM by
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
    /// Trusts what the system trusts, and shows no certificate of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificate authorities, and no longer the system's. Can be called more than once.
    #[must_use]
    pub fn trust(mut self, authorities: Pem) -> Self {
        self.trusted.push(authorities);
        self
    }

    /// Shows a certificate (the client's own first, then those up to its authority) and proves it by a private key.
    #[must_use]
    pub fn identity(mut self, certificates: Pem, key: Pem) -> Self {
        self.identity = Some((certificates, key));
        self
    }

    /// The name that the server's certificate must have, in the place of the host's.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Whether to verify the server's certificate. Without, anybody on the way can be the server.
    #[must_use]
    pub const fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// What a URI says: `cacertfile`, `certfile`, `keyfile`, `verify`, `server_name_indication`, and their other spellings.
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
    /// In a file.
    File(PathBuf),
    /// As they are.
    Octets(Arc<[u8]>),
}

impl Pem {
    /// Those in a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// These octets.
    pub fn octets(octets: impl Into<Arc<[u8]>>) -> Self {
        Self::Octets(octets.into())
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            // It may be a key.
            Self::Octets(_) => f.write_str("<redacted>"),
        }
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Octets(_) => f.write_str("the given PEM"),
        }
    }
}

/// TLS cannot be used as it is set up.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// This build has no TLS.
    #[error("the client was built without TLS (feature `tls`), so amqps:// cannot be used")]
    NotBuilt,
    /// A file cannot be read, or is no PEM.
    #[error("{what} in {from}: {error}")]
    Unreadable {
        /// What was looked for.
        what: &'static str,
        /// Where.
        from: Pem,
        /// What is wrong with it.
        error: Arc<io::Error>,
    },
    /// A file is there, but what it should hold is not in it.
    #[error("{from} holds no {what}")]
    Empty {
        /// What was looked for.
        what: &'static str,
        /// Where.
        from: Pem,
    },
    /// One needs the other.
    #[error("{there} is given, but no {missing}")]
    Missing {
        /// What there is.
        there: &'static str,
        /// What there is not.
        missing: &'static str,
    },
    /// Private keys that are encrypted cannot be read.
    #[error(
        "encrypted private keys are not supported: decrypt it (openssl pkey -in key.pem -out plain.pem)"
    )]
    EncryptedKey,
    /// The system has no certificates to trust.
    #[error("the system has no certificates to trust ({0}); give some with cacertfile")]
    NoSystemRoots(String),
    /// A certificate or key cannot be used.
    #[error("{from}: {error}")]
    Unusable {
        /// Where it is from.
        from: Pem,
        /// Why.
        error: String,
    },
    /// The name of the server is none that a certificate can have.
    #[error("{0:?} is no name that a certificate can have")]
    BadName(String),
    /// The combination is impossible.
    #[error("{0}")]
    Impossible(String),
}
