use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use super::{Password, REDACTED, UriError, decoded, encode};

/// The parameters of an AMQP URI.
///
/// The names are those of RabbitMQ's clients (<https://www.rabbitmq.com/docs/uri-query-parameters>), and also those of other
/// common clients for the same parameters. All but `auth_mechanism` may appear only once; an unknown parameter is an error.
/// Values are percent-encoded; `+` is a plus sign.
///
/// ```
/// use std::time::Duration;
///
/// # use amqp_proto::uri::Uri;
/// let uri: Uri = "amqps://host?heartbeat=10&verify=verify_peer&cacertfile=/etc/ca.pem".parse()?;
/// assert_eq!(uri.options.heartbeat, Some(Duration::from_secs(10)));
/// assert_eq!(uri.options.verify, Some(true));
/// assert_eq!(uri.options.cacertfile.as_deref(), Some("/etc/ca.pem"));
///
/// let error = "amqp://host?hartbeat=10".parse::<Uri>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown parameter hartbeat; supported are heartbeat,"));
/// # Ok::<(), amqp_proto::uri::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UriOptions {
    /// `heartbeat`, in whole seconds up to 65535; zero turns heartbeats off.
    pub heartbeat: Option<Duration>,
    /// `connection_timeout`, in milliseconds.
    pub connection_timeout: Option<Duration>,
    /// `channel_max`.
    pub channel_max: Option<u16>,
    /// `frame_max`, in bytes.
    pub frame_max: Option<u32>,
    /// `auth_mechanism`, in order; may appear more than once.
    pub auth_mechanisms: Vec<String>,
    /// `connection_name` or `name`.
    pub connection_name: Option<String>,
    /// `cacertfile`, `cafile` or `ca_certs`: a PEM file.
    pub cacertfile: Option<String>,
    /// `certfile`: a PEM file.
    pub certfile: Option<String>,
    /// `keyfile`: a PEM file.
    pub keyfile: Option<String>,
    /// `password`: the password of the key file, not of the user. The name is that of RabbitMQ's Erlang client (`amqp_uri`).
    pub key_password: Option<Password>,
    /// `verify`: `verify_peer` (true) or `verify_none` (false); `no_verify_ssl=1` is the latter.
    pub verify: Option<bool>,
    /// `server_name_indication`: the name that the server's certificate must have.
    pub server_name: Option<String>,
    /// `locale`: the locale of reply texts, such as `en_US`. The name is pika's.
    pub locale: Option<String>,
}

/// All parameters, for the error about an unknown one.
pub(super) const KNOWN: &str = "heartbeat, connection_timeout, channel_max, frame_max, \
    auth_mechanism, connection_name (name), cacertfile (cafile, ca_certs), certfile, keyfile, \
    password (of the key), verify (no_verify_ssl), server_name_indication, locale";

impl UriOptions {
    pub(super) fn parse(query: &str) -> Result<Self, UriError> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name, "name of a parameter")?;
            let value = decoded(value, "value of a parameter")?;
            if value.is_empty() {
                return Err(UriError::NoValue { name });
            }
            options.set(&name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), UriError> {
        let fresh = match name {
            "heartbeat" => {
                let expected = "a whole number of seconds up to 65535";
                let seconds: u16 = number("heartbeat", expected, &value)?;
                put(&mut self.heartbeat, Duration::from_secs(seconds.into()))
            }
            "connection_timeout" => {
                let millis =
                    number("connection_timeout", "a whole number of milliseconds", &value)?;
                put(&mut self.connection_timeout, Duration::from_millis(millis))
            }
            "channel_max" => {
                put(&mut self.channel_max, number("channel_max", "a number up to 65535", &value)?)
            }
            "frame_max" => {
                put(&mut self.frame_max, number("frame_max", "a number of bytes", &value)?)
            }
            "auth_mechanism" => {
                self.auth_mechanisms.push(value);
                true
            }
            "connection_name" | "name" => put(&mut self.connection_name, value),
            "cacertfile" | "cafile" | "ca_certs" => put(&mut self.cacertfile, value),
            "certfile" => put(&mut self.certfile, value),
            "keyfile" => put(&mut self.keyfile, value),
            "password" => put(&mut self.key_password, Password(value)),
            "verify" => put(&mut self.verify, verify(value)?),
            "no_verify_ssl" => put(&mut self.verify, no_verify(value)?),
            "server_name_indication" => put(&mut self.server_name, value),
            "locale" => put(&mut self.locale, value),
            _ => {
                return Err(UriError::UnknownParameter { name: name.to_owned() });
            }
        };
        if fresh { Ok(()) } else { Err(UriError::Duplicate { name: name.to_owned() }) }
    }
}

/// Sets a value that was not set. Returns whether it was unset.
fn put<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

fn number<T: FromStr>(
    name: &'static str,
    expected: &'static str,
    value: &str,
) -> Result<T, UriError> {
    digits(value).ok_or_else(|| UriError::BadValue { name, expected, value: value.to_owned() })
}

/// A number without a sign.
pub(super) fn digits<T: FromStr>(text: &str) -> Option<T> {
    let unsigned = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| unsigned)
}

fn verify(value: String) -> Result<bool, UriError> {
    match &*value {
        "verify_peer" => Ok(true),
        "verify_none" => Ok(false),
        _ => {
            let expected = "verify_peer or verify_none";
            Err(UriError::BadValue { name: "verify", expected, value })
        }
    }
}

fn no_verify(value: String) -> Result<bool, UriError> {
    match &*value {
        "0" => Ok(true),
        "1" => Ok(false),
        _ => Err(UriError::BadValue { name: "no_verify_ssl", expected: "0 or 1", value }),
    }
}

/// The query, with its question mark if it is not empty; `***` for the password of the key.
impl fmt::Display for UriOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Query { f, separator: '?' };
        query.put("heartbeat", self.heartbeat.map(whole_seconds))?;
        query.put("connection_timeout", self.connection_timeout.map(whole_millis))?;
        query.put("channel_max", self.channel_max)?;
        query.put("frame_max", self.frame_max)?;
        for mechanism in &self.auth_mechanisms {
            query.put("auth_mechanism", Some(mechanism))?;
        }
        query.put("connection_name", self.connection_name.as_ref())?;
        query.put("cacertfile", self.cacertfile.as_ref())?;
        query.put("certfile", self.certfile.as_ref())?;
        query.put("keyfile", self.keyfile.as_ref())?;
        if self.key_password.is_some() {
            query.name("password")?.write_str(REDACTED)?;
        }
        let verify = |on| if on { "verify_peer" } else { "verify_none" };
        query.put("verify", self.verify.map(verify))?;
        query.put("server_name_indication", self.server_name.as_ref())?;
        query.put("locale", self.locale.as_ref())
    }
}

/// A query as it is being printed.
struct Query<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    /// The separator before the next parameter.
    separator: char,
}

impl<'f> Query<'_, 'f> {
    fn put(&mut self, name: &str, value: Option<impl ToString>) -> fmt::Result {
        value.map_or(Ok(()), |value| encode(&value.to_string(), self.name(name)?))
    }

    /// Prints the part before the value. Returns the formatter for the value.
    fn name(&mut self, name: &str) -> Result<&mut fmt::Formatter<'f>, fmt::Error> {
        let separator = core::mem::replace(&mut self.separator, '&');
        write!(self.f, "{separator}{name}=")?;
        Ok(self.f)
    }
}

/// Rounded up, so that a short time does not turn heartbeats off; at most the largest heartbeat.
fn whole_seconds(time: Duration) -> u16 {
    u16::try_from(time.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u16::MAX)
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
