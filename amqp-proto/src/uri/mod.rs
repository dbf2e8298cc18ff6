//! The AMQP URI: everything a client needs to know to connect, in one line.
//!
//! The grammar is RabbitMQ's (<https://www.rabbitmq.com/docs/uri-spec>), with several hosts allowed:
//! `amqp://user:password@host:port,host:port/vhost?parameter=value`.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

mod error;
mod query;
#[cfg(test)]
mod tests;

pub use error::UriError;
pub use query::UriOptions;

use core::fmt;
use core::net::Ipv6Addr;
use core::str::{FromStr, Utf8Error};

use crate::wire::{Secret, wipe};

/// A parsed AMQP URI. For everything that it does not contain, the defaults of the client apply.
///
/// `Display` prints a URI for logs: it parses to the same, but with `***` for each password.
///
/// ```
/// # use amqp_proto::uri::Uri;
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
///
/// ```
/// # use amqp_proto::uri::Endpoint;
/// assert_eq!(Endpoint::new("rabbit-1", 5672).to_string(), "rabbit-1:5672");
/// assert_eq!(Endpoint::new("::1", 5672).to_string(), "[::1]:5672");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Endpoint {
    /// A name or an address, IPv6 addresses without brackets: `rabbit-1`, `::1`, `fe80::1%eth0`.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Creates an endpoint.
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

/// A password: `Debug` does not show it, it has no `Display`, and its memory is overwritten when it is dropped.
///
/// ```
/// # use amqp_proto::uri::Password;
/// let password = Password::from("secret".to_owned());
/// assert_eq!(password.expose(), "secret");
/// assert_eq!(format!("{password:?}"), "<redacted>");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Returns the password. Keep it out of logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&Secret> for Password {
    type Error = Utf8Error;

    /// Fails if the secret is not UTF-8.
    fn try_from(secret: &Secret) -> Result<Self, Utf8Error> {
        core::str::from_utf8(secret.expose()).map(|text| Self(text.to_owned()))
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        wipe(&mut core::mem::take(&mut self.0).into_bytes());
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

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.contains(|c: char| c == ' ' || c.is_ascii_control()) {
            return Err(UriError::Whitespace);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("amqp") => false,
            _ if scheme.eq_ignore_ascii_case("amqps") => true,
            _ => return Err(UriError::Scheme),
        };
        // With a stray @, a quoted part of the URI may be a part of a password.
        parse(tls, rest).map_err(|error| if has_stray_at(rest) { UriError::StrayAt } else { error })
    }
}

impl TryFrom<&str> for Uri {
    type Error = UriError;

    fn try_from(text: &str) -> Result<Self, UriError> {
        text.parse()
    }
}

/// Parses the part after the scheme.
fn parse(tls: bool, rest: &str) -> Result<Uri, UriError> {
    if rest.contains('#') {
        return Err(UriError::Fragment);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (rest, None),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let (username, password) = user.map_or(Ok((None, None)), credentials)?;
    let endpoints = endpoints(hosts, tls)?;
    let virtual_host = match path {
        Some(path) if path.contains('/') => return Err(UriError::VirtualHost),
        // The @ ends a user name or password with an unescaped slash. So the apparent port and virtual host are parts of it, and
        // must neither be shown nor sent.
        Some(path) if path.contains('@') => return Err(UriError::StrayAt),
        path => path.map(|path| decoded(path, "virtual host")).transpose()?,
    };
    // The same with an unescaped question mark. But if there is an @ in the authority, this @ is part of a value.
    if user.is_none() && query.contains('@') {
        return Err(UriError::StrayAt);
    }
    let options = UriOptions::parse(query)?;
    Ok(Uri { tls, endpoints, username, password, virtual_host, options })
}

/// Returns whether the authority seems to end too early, before the `@`.
fn has_stray_at(rest: &str) -> bool {
    rest.split_once(['/', '?', '#']).is_some_and(|(_, behind)| behind.contains('@'))
}

fn credentials(user: &str) -> Result<(Option<String>, Option<Password>), UriError> {
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (user, None),
    };
    let password = password.map(|password| decoded(password, "password")).transpose()?;
    Ok((Some(decoded(name, "user name")?), password.map(Password)))
}

fn endpoints(hosts: &str, tls: bool) -> Result<Vec<Endpoint>, UriError> {
    let several = hosts.contains(',');
    let numbered = hosts.split(',').zip(1..);
    numbered
        .map(|(text, position)| match endpoint(text, tls, position)? {
            endpoint if !endpoint.host.is_empty() => Ok(endpoint),
            _ if several => Err(UriError::EmptyHost { position }),
            Endpoint { port, .. } => Ok(Endpoint::new("localhost", port)),
        })
        .collect()
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`; a missing port is that of the scheme.
fn endpoint(text: &str, tls: bool, position: usize) -> Result<Endpoint, UriError> {
    let bad_host = UriError::Host { position };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else { return Err(bad_host) };
            let host = decoded(host, "host")?;
            let port = rest.strip_prefix(':');
            if !is_ipv6(&host) || (port.is_none() && !rest.is_empty()) {
                return Err(bad_host);
            }
            (host, port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(bad_host),
            Some((host, port)) => (decoded(host, "host")?, Some(port)),
            None => (decoded(text, "host")?, None),
        },
    };
    let port = match port {
        None | Some("") if tls => 5671,
        None | Some("") => 5672,
        Some(digits) => query::digits(digits).ok_or(UriError::Port { position })?,
    };
    Ok(Endpoint { host, port })
}

/// Returns whether the host is an IPv6 address, with or without a zone (RFC 6874), which is written in brackets.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "-"));
    !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok()
}

/// Undoes percent-encoding. A plus sign is a plus sign.
fn decoded(text: &str, part: &'static str) -> Result<String, UriError> {
    let bad = || UriError::Encoding { part };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(bad());
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(text: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(out, "{}", char::from(byte))?;
            }
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// The text that is printed for a password.
const REDACTED: &str = "***";

/// The URI, with `***` for each password, for logs.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "amqps://" } else { "amqp://" })?;
        encode(self.username.as_deref().unwrap_or_default(), f)?;
        if self.password.is_some() {
            write!(f, ":{REDACTED}")?;
        }
        if self.username.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            print_endpoint(endpoint, f)?;
        }
        if let Some(virtual_host) = &self.virtual_host {
            f.write_str("/")?;
            encode(virtual_host, f)?;
        }
        self.options.fmt(f)
    }
}

fn print_endpoint(endpoint: &Endpoint, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match endpoint.host.split_once('%') {
        _ if !is_ipv6(&endpoint.host) => encode(&endpoint.host, f)?,
        Some((address, zone)) => {
            write!(f, "[{address}%25")?;
            encode(zone, f)?;
            f.write_str("]")?;
        }
        None => write!(f, "[{}]", endpoint.host)?,
    }
    write!(f, ":{}", endpoint.port)
}
