//! The configuration, from the environment.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use amqp_client_patterns::retry::{Retry, RetryStrategy};
use amqp_client_tokio::Target;

/// The configuration of the service. [`VARIABLES`] says which variable sets what.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it belongs to the program")]
pub struct Config {
    /// The broker.
    pub broker: Target,
    /// The address of the HTTP endpoint.
    pub http: SocketAddr,
    /// The folder of shipped orders.
    pub folder: PathBuf,
    /// Number of orders that are handled at once.
    pub handlers: u16,
    /// The delays after which a failed order is tried again.
    pub retry: Retry,
    /// The time for which a request may wait until its order can be sent, and as long again for the confirm.
    pub confirm: Duration,
    /// The time for which requests and handlers may go on after the service was told to stop.
    pub grace: Duration,
}

/// A variable of the environment.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "it belongs to the program")]
pub struct Variable {
    /// The name.
    pub name: &'static str,
    /// The value if the variable is not set.
    pub default: &'static str,
    /// The setting.
    pub sets: &'static str,
    /// The allowed values.
    pub allowed: &'static str,
}

const fn variable(
    name: &'static str,
    default: &'static str,
    sets: &'static str,
    allowed: &'static str,
) -> Variable {
    Variable { name, default, sets, allowed }
}

const URI: &str = "amqp://guest:guest@localhost:5672/%2f";
const AMQP_URL: Variable =
    variable("AMQP_URL", URI, "the broker", "a URI such as amqps://user:password@host/vhost");
const HTTP_ADDRESS: Variable = variable(
    "HTTP_ADDRESS",
    "127.0.0.1:8080",
    "where to listen; port 0 is any free port",
    "an IP address and a port, such as 0.0.0.0:8080",
);
const ORDERS_FOLDER: Variable =
    variable("ORDERS_FOLDER", "orders", "the folder of shipped orders", "the path of a folder");
const HANDLERS: Variable =
    variable("HANDLERS", "16", "how many orders are handled at once", "a number from 1 to 1000");
const RETRIES: Variable = variable(
    "RETRIES",
    "5",
    "how often an order that fails is tried again, before it is parked",
    "a number from 0 to 100",
);
const RETRY_DELAY_MS: Variable = variable(
    "RETRY_DELAY_MS",
    "1000",
    "the delay before the first retry; it doubles each time, up to a minute",
    "a number of milliseconds from 1 to 60000",
);
const CONFIRM_TIMEOUT_MS: Variable = variable(
    "CONFIRM_TIMEOUT_MS",
    "5000",
    "how long a request waits until its order can be sent, and as long again for the confirm",
    "a number of milliseconds from 1 to 60000",
);
const SHUTDOWN_GRACE_MS: Variable = variable(
    "SHUTDOWN_GRACE_MS",
    "10000",
    "how long requests and handlers may go on after SIGTERM",
    "a number of milliseconds from 0 to 600000",
);

/// All variables.
pub const VARIABLES: [Variable; 8] = [
    AMQP_URL,
    HTTP_ADDRESS,
    ORDERS_FOLDER,
    HANDLERS,
    RETRIES,
    RETRY_DELAY_MS,
    CONFIRM_TIMEOUT_MS,
    SHUTDOWN_GRACE_MS,
];

impl Config {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`ConfigError`], if a variable has a value that is not allowed.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(|name| env::var_os(name))
    }

    /// Reads variables from anywhere. A variable that is missing or empty has its default.
    ///
    /// # Errors
    /// [`ConfigError`], if a variable has a value that is not allowed.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let values = Values(get);
        let delay = values.milliseconds(RETRY_DELAY_MS, 1..=60_000)?;
        Ok(Self {
            broker: values.parse(AMQP_URL)?,
            http: values.parse(HTTP_ADDRESS)?,
            folder: values.parse(ORDERS_FOLDER)?,
            handlers: values.number(HANDLERS, 1..=1000)?,
            // Queues for delays work on every broker, so an upgrade of the broker changes no queue.
            retry: Retry::times(values.number(RETRIES, 0..=100)?)
                .from(delay)
                .strategy(RetryStrategy::Queues),
            confirm: values.milliseconds(CONFIRM_TIMEOUT_MS, 1..=60_000)?,
            grace: values.milliseconds(SHUTDOWN_GRACE_MS, 0..=600_000)?,
        })
    }
}

struct Values<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Values<F> {
    fn parse<T: FromStr<Err: fmt::Display>>(&self, variable: Variable) -> Result<T, ConfigError> {
        let value = (self.0)(variable.name).filter(|value| !value.is_empty());
        let value = value.unwrap_or_else(|| variable.default.into());
        let invalid = |reason: String| ConfigError {
            variable,
            value: without_password(&value.to_string_lossy()),
            reason,
        };
        let text = value.to_str().ok_or_else(|| invalid("it is not UTF-8".to_owned()))?;
        text.parse().map_err(|error: T::Err| invalid(error.to_string()))
    }

    fn number<T>(&self, variable: Variable, allowed: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: FromStr<Err: fmt::Display> + PartialOrd + fmt::Display,
    {
        let number = self.parse(variable)?;
        if allowed.contains(&number) {
            return Ok(number);
        }
        let reason = "it is outside this range".to_owned();
        Err(ConfigError { variable, value: number.to_string(), reason })
    }

    fn milliseconds(
        &self,
        variable: Variable,
        allowed: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        Ok(Duration::from_millis(self.number(variable, allowed)?))
    }
}

/// Returns a value as it may be logged.
fn without_password(value: &str) -> String {
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://***{}", &value[..scheme], &value[at..])
        }
        _ => value.to_owned(),
    }
}

/// A variable of the environment has a value that is not allowed.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConfigError {
    /// The variable.
    pub variable: Variable,
    /// Its value. User and password of a URI are left out.
    pub value: String,
    /// Why the value is not allowed.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable: Variable { name, allowed, .. }, value, reason } = self;
        write!(f, "{name} is {value:?}; set it to {allowed}: {reason}")
    }
}

impl std::error::Error for ConfigError {}

/// The variables, as a text for `--help`.
#[must_use]
pub fn help() -> String {
    VARIABLES.iter().fold(String::new(), |help, Variable { name, default, sets, allowed }| {
        format!("{help}\n  {name} [default: {default}]\n      Sets {sets}: {allowed}\n")
    })
}
