use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use amqp_proto::config::ClientConfig;
use amqp_proto::session::Recovery;
use amqp_proto::uri::{Endpoint, Uri};
use amqp_proto::{FieldError, Limits, TooLong};

use super::ConnectError;
use crate::config::{Config, Settings};
use crate::intercept::Intercept;
use crate::login::{self, TokenSource};
use crate::tap::Tap;
use crate::tls::TlsOptions;

/// The nodes to connect to, and how: the contents of an AMQP URI.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::{Recovery, Target};
/// use std::time::Duration;
///
/// // From a URI, with options that a URI does not have.
/// let target: Target = "amqp://billing:secret@rabbit-1,rabbit-2/orders?heartbeat=10".parse()?;
/// let target = target
///     .retry_open(true)
///     .recovery(Recovery::default().give_up_after(Some(Duration::from_secs(600))));
///
/// // The same without a URI.
/// let target = Target::new("rabbit-1", 5672)
///     .endpoint("rabbit-2", 5672)
///     .login("billing", "secret")
///     .virtual_host("orders")?
///     .heartbeat(Duration::from_secs(10))
///     .retry_open(true)
///     .recovery(Recovery::default().give_up_after(Some(Duration::from_secs(600))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) retry_open: bool,
    pub(crate) token_source: Option<Arc<dyn TokenSource>>,
    pub(crate) config: Config,
}

impl Target {
    /// Creates a target with one node and the defaults of [`Config`].
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{Recovery, Settings, Target};
    /// use std::time::Duration;
    ///
    /// let target = Target::new("rabbit-1", 5672)
    ///     .endpoint("rabbit-2", 5672)
    ///     .login("billing", "secret")
    ///     .virtual_host("orders")?
    ///     .connection_name("billing worker 7")?
    ///     .heartbeat(Duration::from_secs(10))
    ///     .settings(Settings::default().call_timeout(Some(Duration::from_secs(5))))
    ///     .recovery(Recovery::default().delay_max(Duration::from_secs(30)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let endpoints = vec![Endpoint::new(host, port)];
        Self {
            endpoints,
            tls: None,
            recovery: Some(Recovery::default()),
            retry_open: false,
            token_source: None,
            config: Config::default(),
        }
    }

    /// Adds a node to try after the others. After a loss, nodes are tried in random order.
    #[must_use]
    pub fn endpoint(mut self, host: impl Into<String>, port: u16) -> Self {
        self.endpoints.push(Endpoint::new(host, port));
        self
    }

    /// Sets the nodes to try, instead of the present ones.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints = endpoints.into_iter().collect();
        self
    }

    /// Sets the user's name and password, for the mechanism `PLAIN`. Default `guest` and `guest`.
    #[must_use]
    pub fn login(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.config.protocol = self.config.protocol.login(username, password);
        self
    }

    /// Sets the virtual host. Default `/`.
    ///
    /// # Errors
    /// [`TooLong`], if no virtual host can have that name.
    pub fn virtual_host(mut self, name: impl AsRef<[u8]>) -> Result<Self, TooLong> {
        self.config.protocol = self.config.protocol.virtual_host(name)?;
        Ok(self)
    }

    /// Sets the name of the connection, for the broker's lists and logs.
    ///
    /// # Errors
    /// [`FieldError`], if the name does not fit the client properties.
    pub fn connection_name(mut self, name: impl AsRef<[u8]>) -> Result<Self, FieldError> {
        self.config.protocol = self.config.protocol.connection_name(name)?;
        Ok(self)
    }

    /// Sets the heartbeat interval to propose; see [`ClientConfig::heartbeat`].
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.config.protocol = self.config.protocol.heartbeat(interval);
        self
    }

    /// Sets the limits of frames, bodies and channels, including those of a URI.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.protocol = self.config.protocol.limits(limits);
        self
    }

    /// Sets login, virtual host, heartbeat and limits, including those of a URI.
    #[must_use]
    pub fn protocol(mut self, protocol: ClientConfig) -> Self {
        self.config.protocol = protocol;
        self
    }

    /// Sets the timeouts and buffers, including those of a URI. To change one of them, start from the present ones:
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::Target;
    ///
    /// let target: Target = "amqp://rabbit-1?connection_timeout=5000".parse()?;
    /// let settings = target.get_config().get_settings().call_timeout(None);
    /// let target = target.settings(settings);
    /// # Ok::<(), amqp_client_core::ConnectError>(())
    /// ```
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.config.settings = settings;
        self
    }

    /// Connects with TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets how a lost connection is recovered. Default [`Recovery::default`].
    #[must_use]
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = Some(recovery);
        self
    }

    /// Turns recovery off: a lost connection is closed for good.
    #[must_use]
    pub fn without_recovery(mut self) -> Self {
        self.recovery = None;
        self
    }

    /// Sets whether to retry the first connection as [`recovery`](Self::recovery) says. Set it for a program that may start
    /// before its broker. `connect_target` then waits until it succeeds: limit that with
    /// [`give_up_after`](Recovery::give_up_after) or [`attempts_max`](Recovery::attempts_max), or drop its future. To go on without
    /// waiting, use `connect_in_background`, which retries regardless of this setting. A
    /// [`token_source`](Self::token_source) that fails is retried as well. Errors that a retry cannot change, such as refused
    /// credentials, are returned at once. Default false.
    #[must_use]
    pub fn retry_open(mut self, retry: bool) -> Self {
        self.retry_open = retry;
        self
    }

    /// Adds a tap, which sees each frame that is sent and received, over all transports; see [`tap`](crate::tap).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::{Target, tap};
    ///
    /// let target = Target::new("localhost", 5672).tap(tap::Lines::new(std::io::stderr()));
    /// ```
    #[must_use]
    pub fn tap(mut self, tap: impl Tap) -> Self {
        self.config = self.config.tap(tap);
        self
    }

    /// Logs in with tokens from this source, instead of the configured mechanisms.
    #[must_use]
    pub fn token_source(mut self, source: impl TokenSource + 'static) -> Self {
        self.token_source = Some(Arc::new(source));
        self
    }

    /// Adds an interceptor, which sees the connection's messages and can add headers: see [`intercept`](crate::intercept). If
    /// there are several, they are called in the order in which they were added.
    #[must_use]
    pub fn intercept(mut self, intercept: impl Intercept) -> Self {
        self.config = self.config.intercept(intercept);
        self
    }

    /// Creates a target from a URI.
    ///
    /// # Errors
    /// [`ConnectError`], if its values do not fit the protocol.
    pub fn from_uri(uri: &Uri) -> Result<Self, ConnectError> {
        let protocol = ClientConfig::from_uri_with(uri, login::mechanism)?;
        let mut settings = Settings::default();
        if let Some(timeout) = uri.options.connection_timeout {
            settings = settings.connect_timeout(timeout);
        }
        let tls = uri.tls.then(|| TlsOptions::from_uri(&uri.options)).transpose()?;
        Ok(Self {
            endpoints: uri.endpoints.clone(),
            tls,
            recovery: Some(Recovery::default()),
            retry_open: false,
            token_source: None,
            config: Config { protocol, settings, ..Config::default() },
        })
    }
}

impl Target {
    /// Returns the nodes, for code that opens the transport itself.
    #[must_use]
    pub fn get_endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the TLS options, for code that opens the transport itself; `None` is a connection without TLS.
    #[must_use]
    pub const fn get_tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }

    /// Returns the source of tokens to log in with, for code that opens the transport itself.
    #[must_use]
    pub const fn get_token_source(&self) -> Option<&Arc<dyn TokenSource>> {
        self.token_source.as_ref()
    }

    /// Returns the configuration of the connection.
    #[must_use]
    pub const fn get_config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn node(&self, node: usize) -> Result<&Endpoint, ConnectError> {
        self.endpoints.get(node).ok_or(ConnectError::NoEndpoint)
    }
}

impl FromStr for Target {
    type Err = ConnectError;

    fn from_str(uri: &str) -> Result<Self, ConnectError> {
        Self::from_uri(&uri.parse()?)
    }
}
