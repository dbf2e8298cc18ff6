//! The stream of the raw limit: plain, or with TLS.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::floor;

/// The number of encrypted bytes that are read at once.
const READ: usize = 256 * 1024;

pub(crate) enum Link {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Link {
    /// Connects to the authority of a URL. With `amqps`, trusts the certificate in its parameter `cacertfile`.
    pub(crate) fn connect(url: &str) -> io::Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("amqp", url));
        let authority = rest.split('/').next().unwrap_or(rest);
        let address = authority.rsplit('@').next().unwrap_or(authority);
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        if scheme != "amqps" {
            return Ok(Self::Plain(stream));
        }
        let host = address.split(':').next().unwrap_or(address);
        let ca_file = rest.split_once("cacertfile=").map_or("", |(_, file)| file);
        Ok(Self::Tls(Box::new(Tls::new(stream, host, ca_file)?)))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => floor::send_all(stream, bytes),
            Self::Tls(tls) => tls.send(bytes),
        }
    }

    /// Reads at least one byte.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => floor::read(stream, buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

/// A session of rustls, and what was read but not decrypted.
pub(crate) struct Tls {
    stream: TcpStream,
    session: ClientConnection,
    input: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Tls {
    fn new(stream: TcpStream, host: &str, ca_file: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(ca_file).map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), host).map_err(io::Error::other)?;
        let mut tls = Self { stream, session, input: vec![0; READ], head: 0, tail: 0 };
        while tls.session.is_handshaking() {
            tls.flush()?;
            tls.fill()?;
        }
        Ok(tls)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // At most as much as rustls buffers.
            let taken = self.session.writer().write(bytes)?;
            bytes = &bytes[taken..];
            self.flush()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.head == self.tail {
            (self.head, self.tail) = (0, floor::read(&self.stream, &mut self.input)?);
        }
        self.head += self.session.read_tls(&mut &self.input[self.head..self.tail])?;
        self.session.process_new_packets().map_err(io::Error::other)?;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.fill()?,
                done => return done,
            }
        }
    }
}
