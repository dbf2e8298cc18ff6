use std::fmt;
use std::time::Duration;

use super::{UriError, decoded, encode};

/// The parameters of an AMQP URI.
///
/// The names are those of RabbitMQ's clients (<https://www.rabbitmq.com/docs/uri-query-parameters>).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UriOptions {
    /// `heartbeat`, in seconds; zero turns heartbeats off.
    pub heartbeat: Option<Duration>,
    /// `connection_timeout`, in milliseconds.
    pub connection_timeout: Option<Duration>,
    /// `channel_max`.
    pub channel_max: Option<u16>,
    /// `frame_max`, in octets.
    pub frame_max: Option<u32>,
    /// `auth_mechanism`, in order; can be given more than once.
    pub auth_mechanisms: Vec<String>,
    /// `connection_name` or `name`.
    pub connection_name: Option<String>,
    /// `cacertfile`, `cafile` or `ca_certs`: a PEM file.
    pub cacertfile: Option<String>,
    /// `certfile`: a PEM file.
    pub certfile: Option<String>,
    /// `keyfile`: a PEM file.
    pub keyfile: Option<String>,
    /// `verify`: `verify_peer` (true) or `verify_none` (false); `no_verify_ssl=1` is the latter.
    pub verify: Option<bool>,
    /// `server_name_indication`: the name that the server's certificate must have.
    pub server_name: Option<String>,
}

/// All parameters, for those who mistyped one.
pub(super) const KNOWN: &str = "heartbeat, connection_timeout, channel_max, frame_max, \
    auth_mechanism, connection_name (name), cacertfile (cafile, ca_certs), certfile, keyfile, \
    verify, no_verify_ssl, server_name_indication";

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
                let seconds = number("heartbeat", "a number of seconds", &value)?;
                put(&mut self.heartbeat, Duration::from_secs(seconds))
            }
            "connection_timeout" => {
                let millis = number("connection_timeout", "a number of milliseconds", &value)?;
                put(&mut self.connection_timeout, Duration::from_millis(millis))
            }
            "channel_max" => {
                put(&mut self.channel_max, number("channel_max", "a number up to 65535", &value)?)
            }
            "frame_max" => {
                put(&mut self.frame_max, number("frame_max", "a number of octets", &value)?)
            }
            "auth_mechanism" => {
                self.auth_mechanisms.push(value);
                true
            }
            "connection_name" | "name" => put(&mut self.connection_name, value),
            "cacertfile" | "cafile" | "ca_certs" => put(&mut self.cacertfile, value),
            "certfile" => put(&mut self.certfile, value),
            "keyfile" => put(&mut self.keyfile, value),
            "verify" => put(&mut self.verify, verify(value)?),
            "no_verify_ssl" => put(&mut self.verify, no_verify(value)?),
            "server_name_indication" => put(&mut self.server_name, value),
            _ => {
                return Err(UriError::UnknownParameter { name: name.to_owned() });
            }
        };
        if fresh { Ok(()) } else { Err(UriError::Duplicate { name: name.to_owned() }) }
    }
}

/// Sets what was not set; says whether that was so.
fn put<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

fn number<T: std::str::FromStr>(
    name: &'static str,
    expected: &'static str,
    value: &str,
) -> Result<T, UriError> {
    let digits = value.bytes().all(|octet| octet.is_ascii_digit());
    let parsed = value.parse().ok().filter(|_| digits);
    parsed.ok_or_else(|| UriError::BadValue { name, expected, value: value.to_owned() })
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

impl fmt::Display for UriOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone();
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let verify =
            self.verify.map(|on| if on { "verify_peer" } else { "verify_none" }.to_owned());
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let single = [
            ("heartbeat", number(self.heartbeat.map(|time| time.as_secs()))),
            ("connection_timeout", number(self.connection_timeout.map(millis))),
            ("channel_max", number(self.channel_max.map(u64::from))),
            ("frame_max", number(self.frame_max.map(u64::from))),
            ("connection_name", text(&self.connection_name)),
            ("cacertfile", text(&self.cacertfile)),
            ("certfile", text(&self.certfile)),
            ("keyfile", text(&self.keyfile)),
            ("verify", verify),
            ("server_name_indication", text(&self.server_name)),
        ];
        let mechanisms =
            self.auth_mechanisms.iter().map(|name| ("auth_mechanism", Some(name.clone())));
        let given = single.into_iter().chain(mechanisms);
        let given = given.filter_map(|(name, value)| value.map(|value| (name, value)));
        for (index, (name, value)) in given.enumerate() {
            write!(f, "{}{name}=", if index == 0 { '?' } else { '&' })?;
            encode(&value, f)?;
        }
        Ok(())
    }
}
