//! Errors of a TLS session, in words for the person who configured it.

use std::io;

use rustls::CertificateError::{
    Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
    NotValidYetContext, UnknownIssuer,
};
use rustls::{AlertDescription, CertificateError, Error};

/// Returns an error of the session. `first` are the first bytes of the input, if the handshake was not complete before them.
pub(super) fn explained(error: &Error, first: Option<[u8; 4]>) -> io::Error {
    let text = match (error, first) {
        (Error::InvalidMessage(_), Some(first)) => no_tls(first).to_owned(),
        (Error::InvalidCertificate(error), _) => certificate(error),
        (Error::AlertReceived(alert), _) => refused(*alert),
        (Error::PeerIncompatible(why), _) => {
            format!(
                "TLS: the broker has no TLS version or cipher suite in common with this client ({why:?})"
            )
        }
        (error, _) => format!("TLS: {error}"),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}

const fn no_tls(first: [u8; 4]) -> &'static str {
    match &first {
        b"AMQP" => {
            "the peer speaks AMQP without TLS: use amqp:// for this port, or connect to its TLS port (RabbitMQ: 5671)"
        }
        b"HTTP" => {
            "the peer speaks HTTP without TLS: this is not an AMQP port (RabbitMQ: 5671 with TLS, 5672 without)"
        }
        _ => "the peer does not speak TLS: this may be a port without TLS, use amqp:// for it",
    }
}

/// The broker's certificate is not accepted.
fn certificate(error: &CertificateError) -> String {
    let why = match error {
        Expired | ExpiredContext { .. } => {
            "has expired; renew it, or check the clock of this machine".to_owned()
        }
        NotValidYet | NotValidYetContext { .. } => {
            "is not valid yet; check the clock of this machine".to_owned()
        }
        UnknownIssuer => {
            "is signed by an authority that is not trusted here; set cacertfile in the URI, or \
             TlsOptions::trust"
                .to_owned()
        }
        NotValidForNameContext { expected, presented } => format!(
            "is not valid for {}, only for {}; connect to a name that it has, or set server_name_indication in the URI",
            expected.to_str(),
            names(presented)
        ),
        NotValidForName => "is not valid for this host; connect to a name that it has, or set \
             server_name_indication in the URI"
            .to_owned(),
        other => format!("is not accepted: {other}"),
    };
    format!("TLS: the broker's certificate {why}")
}

/// The names in a certificate. Rustls writes `DnsName("localhost")`.
fn names(presented: &[String]) -> String {
    let names: Vec<_> = presented
        .iter()
        .map(|name| {
            name.split(['"', '(', ')']).filter(|part| !part.is_empty()).nth(1).unwrap_or(name)
        })
        .collect();
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

/// The broker ended the session.
fn refused(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let why = match alert {
        Alert::CertificateRequired => {
            "the broker requires a client certificate; set certfile and keyfile in the URI, or TlsOptions::identity"
        }
        Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown => {
            "the broker does not trust the client certificate; use one of an authority that it trusts"
        }
        Alert::CertificateExpired => {
            "the broker refuses the client certificate, which has expired; renew it"
        }
        Alert::ProtocolVersion => {
            "the broker accepts no TLS version of this client, which has 1.2 and 1.3"
        }
        Alert::UnrecognisedName => {
            "the broker has no certificate for this host name; check the host name"
        }
        _ => "the broker ended the session; its log has the details",
    };
    format!("TLS: {why} (alert {alert:?})")
}
