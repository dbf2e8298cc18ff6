//! The AMQP URI: everything a client needs to know to connect, in one line.
//!
//! The grammar is RabbitMQ's (<https://www.rabbitmq.com/docs/uri-spec>), with several hosts allowed:
//! `amqp://user:password@host:port,host:port/vhost?parameter=value`.

mod query;
#[cfg(test)]
mod tests;

pub use query::UriOptions;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An AMQP URI, taken apart. What it does not say is left to the client's defaults.
///
/// ```
/// use amqp_proto::uri::Uri;
///
/// let uri: Uri = "amqp://app:secret@rabbit-1,rabbit-2:5673/%2Forders?heartbeat=10".parse()?;
/// assert_eq!(uri.endpoints[1].to_string(), "rabbit-2:5673");
/// assert_eq!(uri.virtual_host.as_deref(), Some("/orders"));
/// assert!(!format!("{uri:?}").contains("secret"));
/// # Ok::<(), amqp_proto::uri::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uri {
    /// `amqps`.
    pub tls: bool,
    /// The nodes of the broker; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The user's name.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Password>,
    /// The virtual host. `amqp://host` has none; `amqp://host/` has the one with the empty name.
    pub virtual_host: Option<String>,
    /// The query.
    pub options: UriOptions,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Endpoint {
    /// A name or an address, IPv6 addresses without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// A node.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A password: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password; keep it out of logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What is wrong with an AMQP URI.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// It starts with neither `amqp://` nor `amqps://`.
    #[error("an AMQP URI starts with amqp:// or amqps://")]
    Scheme,
    /// A percent sign without two hexadecimal digits behind it, or octets that are not UTF-8.
    #[error("the {part} is not well percent-encoded")]
    Encoding {
        /// Which part.
        part: &'static str,
    },
    /// A port that is no number from 0 to 65535.
    #[error("{text:?} is no port")]
    Port {
        /// What stands there.
        text: String,
    },
    /// An IPv6 address without its closing bracket, or with something but a port behind it.
    #[error("{text:?} is no host; IPv6 addresses stand in brackets, as [::1]:5672")]
    Host {
        /// What stands there.
        text: String,
    },
    /// A second slash.
    #[error("the virtual host has an unescaped slash: write %2F for a slash in its name")]
    VirtualHost,
    /// A fragment.
    #[error("an AMQP URI has no fragment: write %23 for a #")]
    Fragment,
    /// A parameter without a value.
    #[error("the parameter {name} has no value: write {name}=...")]
    NoValue {
        /// Its name.
        name: String,
    },
    /// A parameter that stands there twice.
    #[error("the parameter {name} is given twice")]
    Duplicate {
        /// Its name.
        name: String,
    },
    /// A parameter that does not exist.
    #[error("unknown parameter {name}; known are: {}", query::KNOWN)]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A parameter with a value that makes no sense.
    #[error("the parameter {name} is {expected}, not {value:?}")]
    BadValue {
        /// Its name.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What stands there.
        value: String,
    },
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("amqp") => false,
            _ if scheme.eq_ignore_ascii_case("amqps") => true,
            _ => return Err(UriError::Scheme),
        };
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let virtual_host = match path {
            Some(path) if path.contains('/') => return Err(UriError::VirtualHost),
            path => path.map(|path| decoded(path, "virtual host")).transpose()?,
        };
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (username, password) = user.map_or(Ok((None, None)), credentials)?;
        Ok(Self {
            tls,
            endpoints: hosts
                .split(',')
                .map(|host| endpoint(host, tls))
                .collect::<Result<_, _>>()?,
            username,
            password,
            virtual_host,
            options: UriOptions::parse(query)?,
        })
    }
}

fn credentials(user: &str) -> Result<(Option<String>, Option<Password>), UriError> {
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (user, None),
    };
    let password = password.map(|password| decoded(password, "password")).transpose()?;
    Ok((Some(decoded(name, "user name")?), password.map(Password)))
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`; what is missing is localhost and the scheme's port.
fn endpoint(text: &str, tls: bool) -> Result<Endpoint, UriError> {
    let bad_host = || UriError::Host { text: text.to_owned() };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad_host)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(bad_host()),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(bad_host()),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host = match decoded(host, "host")? {
        empty if empty.is_empty() => "localhost".to_owned(),
        host => host,
    };
    let port = match port {
        None | Some("") => {
            if tls {
                5671
            } else {
                5672
            }
        }
        Some(digits) if digits.bytes().all(|octet| octet.is_ascii_digit()) => {
            digits.parse().map_err(|_| UriError::Port { text: digits.to_owned() })?
        }
        Some(other) => {
            return Err(UriError::Port { text: other.to_owned() });
        }
    };
    Ok(Endpoint { host, port })
}

/// Undoes percent-encoding. A plus sign is a plus sign.
fn decoded(text: &str, part: &'static str) -> Result<String, UriError> {
    let bad = || UriError::Encoding { part };
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let mut digit = || rest.next().and_then(|octet| char::from(octet).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(bad());
        };
        octets.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(octets).map_err(|_| bad())
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(text: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(out, "{}", char::from(octet))?;
            }
            _ => write!(out, "%{octet:02X}")?,
        }
    }
    Ok(())
}

/// The URI, with `***` for the password, for logs.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "amqps://" } else { "amqp://" })?;
        if let Some(username) = &self.username {
            encode(username, f)?;
            f.write_str(if self.password.is_some() { ":***@" } else { "@" })?;
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            if endpoint.host.contains(':') {
                write!(f, "{endpoint}")?;
            } else {
                encode(&endpoint.host, f)?;
                write!(f, ":{}", endpoint.port)?;
            }
        }
        if let Some(virtual_host) = &self.virtual_host {
            f.write_str("/")?;
            encode(virtual_host, f)?;
        }
        self.options.fmt(f)
    }
}
