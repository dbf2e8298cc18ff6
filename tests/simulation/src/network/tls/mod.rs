//! TLS at both ends of a link. The client's end is the one that users run: the loop of the adapters, and the session around the
//! transport. The broker's end is a session of rustls in front of the broker.
//!
//! Keys and nonces are rustls's own, and so differ from run to run. What they lead to does not: the certificate is an Ed25519
//! one, nothing is resumed, and so each record has the same length whenever a seed runs.

mod client;
mod server;

use std::sync::{Arc, OnceLock};

use amqp_client_core::tls::{Pem, TlsOptions};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{Error, ServerConfig, version};

pub(super) use client::Secured;
pub(super) use server::{Farewell, ServerEnd};

/// The name in the certificate.
const HOST: &str = "localhost";

/// The certificates of both sides. They are made once.
struct Setup {
    client: TlsOptions,
    /// The TLS configuration of the nodes: with TLS 1.3, with and without tickets to resume a session, and with TLS 1.2.
    nodes: [Arc<ServerConfig>; 3],
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| Setup::new().expect("a certificate for localhost can be made"))
}

impl Setup {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut certificate = CertificateParams::new(vec![HOST.to_owned()])?;
        // A random one may be shorter by a byte.
        certificate.serial_number = Some(1.into());
        let certificate = certificate.self_signed(&key)?.pem();
        let key = key.serialize_pem();
        let node = |versions, tickets| -> Result<_, Box<dyn std::error::Error>> {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(versions)
                .map(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
            let mut config = config.and_then(|config: Result<ServerConfig, Error>| config)?;
            config.send_tls13_tickets = tickets;
            Ok(Arc::new(config))
        };
        let nodes = [
            node(&[&version::TLS13], 2)?,
            node(&[&version::TLS13], 0)?,
            node(&[&version::TLS12], 0)?,
        ];
        let client = TlsOptions::new().trust(Pem::bytes(certificate.clone().into_bytes()));
        Ok(Self { client, nodes })
    }
}
