//! Servers that are no broker, or a broken one.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::{env, fs};

use amqp_testkit::{PeerConnection, ScriptedPeer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, crypto::ring};

type Failed = Box<dyn Error>;

/// Runs a script for each client that connects, and returns the URI for them.
pub(crate) fn listen(script: impl Fn(PeerConnection) + Clone + Send + 'static) -> String {
    let peer = ScriptedPeer::bind().expect("there is a free port");
    let uri = peer.uri();
    let _runs = peer.spawn(move |peer| {
        while let Ok(connection) = peer.accept() {
            let script = script.clone();
            thread::spawn(move || script(connection));
        }
    });
    uri
}

/// Replaces the ports in a text, which differ in each run.
pub(crate) fn without_ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.chars().take_while(char::is_ascii_digit).count();
        shown.push_str("127.0.0.1:PORT");
        shown.push_str(&part[digits..]);
    }
    shown
}

/// What is wrong with a server with TLS.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Nothing: it only disconnects after the handshake.
    None,
    Expired,
    NotYetValid,
    OtherNames,
    /// It wants a certificate of the client.
    WantsCertificate,
}

/// The certificate authority of all servers here, and the path of its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    path: PathBuf,
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| make_authority().expect("there is an authority"))
}

fn make_authority() -> Result<Authority, Failed> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key)?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken-ca.pem");
    fs::write(&path, certificate.pem())?;
    let root = certificate.der().clone();
    Ok(Authority { issuer: Issuer::new(params, key), root, path })
}

/// Starts a server with TLS, and returns the URI for its clients. They trust its authority.
pub(crate) fn secured(fault: Fault) -> String {
    let uri = untrusted(fault);
    format!("{uri}?cacertfile={}", authority().path.display())
}

/// Like [`secured`], but its clients do not trust its authority.
pub(crate) fn untrusted(fault: Fault) -> String {
    let config = Arc::new(config(fault).expect("there is a configuration"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let at = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || serve(config, stream));
        }
    });
    format!("amqps://guest:guest@{at}/%2f")
}

/// Does the TLS handshake, reads the protocol header, and disconnects.
fn serve(config: Arc<ServerConfig>, stream: TcpStream) {
    let Ok(session) = ServerConnection::new(config) else { return };
    let mut stream = StreamOwned::new(session, stream);
    let _read = stream.read_exact(&mut [0; 8]);
    stream.conn.send_close_notify();
    let _sent = stream.flush();
    // The client may still write: it would get a reset instead of what was sent.
    let _end = std::io::copy(&mut stream.sock, &mut std::io::sink());
}

fn config(fault: Fault) -> Result<ServerConfig, Failed> {
    let key = KeyPair::generate()?;
    let name = if fault == Fault::OtherNames { "rabbit.example" } else { "127.0.0.1" };
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    match fault {
        Fault::Expired => params.not_after = date_time_ymd(2020, 1, 1),
        Fault::NotYetValid => params.not_before = date_time_ymd(3000, 1, 1),
        _ => {}
    }
    let certificate = params.signed_by(&key, &authority().issuer)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = if fault == Fault::WantsCertificate {
        let mut roots = RootCertStore::empty();
        roots.add(authority().root.clone())?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build()?)
    } else {
        builder.with_no_client_auth()
    };
    Ok(builder.with_single_cert(vec![certificate.der().clone()], key)?)
}
