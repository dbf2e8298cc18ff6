//! Logging in: SASL mechanisms (spec 4.2.2, `connection.start`, `connection.secure`).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::uri::Password;
use crate::wire::{Secret, TooLong, put_long_bytes};

/// A SASL mechanism: a way to log in.
///
/// A mechanism is shared by all connections of a configuration; each login begins its own [`SaslExchange`]. Closures are
/// exchanges, so a custom mechanism takes only a few lines. Clients call mechanisms and exchanges while they hold the lock of the
/// connection, so these may not block or use handles of that connection.
///
/// ```
/// use amqp_proto::{SaslExchange, Mechanism, SaslError, Secret};
///
/// /// RabbitMQ's demonstration of challenges.
/// #[derive(Debug)]
/// struct Demo;
///
/// impl Mechanism for Demo {
///     fn name(&self) -> &str {
///         "RABBIT-CR-DEMO"
///     }
///
///     fn begin(&self) -> Box<dyn SaslExchange> {
///         Box::new(|challenge: Option<&[u8]>| {
///             Ok(Secret::from(match challenge {
///                 None => "guest",
///                 Some(_) => "My password is guest",
///             }))
///         })
///     }
/// }
/// ```
pub trait Mechanism: fmt::Debug + Send + Sync {
    /// Returns the name that `connection.start` lists, such as `PLAIN`.
    fn name(&self) -> &str;

    /// Returns the name of the user, if the mechanism has one. It is shown in logs.
    fn username(&self) -> Option<&str> {
        None
    }

    /// Begins one login.
    fn begin(&self) -> Box<dyn SaslExchange>;

    /// Returns this mechanism with a new secret, which [`Session::update_secret`](crate::session::Session::update_secret)
    /// received. Later logins of the session use it. `None`, the default, keeps the mechanism as it is.
    fn with_secret(&self, _secret: &Secret) -> Option<Arc<dyn Mechanism>> {
        None
    }
}

/// A login in progress.
pub trait SaslExchange: Send {
    /// Returns the response to a challenge, or the first response if `challenge` is `None`.
    ///
    /// # Errors
    /// [`SaslError`] ends the connection.
    fn respond(&mut self, challenge: Option<&[u8]>) -> Result<Secret, SaslError>;
}

impl<F> SaslExchange for F
where
    F: FnMut(Option<&[u8]>) -> Result<Secret, SaslError> + Send,
{
    fn respond(&mut self, challenge: Option<&[u8]>) -> Result<Secret, SaslError> {
        self(challenge)
    }
}

/// A mechanism cannot respond.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SaslError {
    /// The mechanism has only one response, but the server sent a challenge.
    #[error("the server sent a challenge, but the mechanism has only one response")]
    UnexpectedChallenge,
    /// The challenge is not what the mechanism expects.
    #[error("the server's challenge is malformed: {0}")]
    BadChallenge(&'static str),
    /// The credentials are not available.
    #[error("no credentials: {0}")]
    NoCredentials(alloc::sync::Arc<str>),
    /// The mechanism's name is too long.
    #[error("{0}")]
    Name(TooLong),
}

crate::error::debug_shows_chain! { SaslError }

/// `PLAIN`: user name and password in the clear (RFC 4616); use TLS.
#[derive(Clone)]
pub struct Plain {
    username: String,
    password: Password,
}

impl Plain {
    /// Logs in as `username`.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Password::from(password.into()) }
    }
}

impl Mechanism for Plain {
    fn name(&self) -> &str {
        "PLAIN"
    }

    fn username(&self) -> Option<&str> {
        Some(&self.username)
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        let (username, password) = (self.username.as_bytes(), self.password.expose().as_bytes());
        single([&[0], username, &[0], password].concat())
    }

    fn with_secret(&self, secret: &Secret) -> Option<Arc<dyn Mechanism>> {
        let password = Password::try_from(secret).ok()?;
        Some(Arc::new(Self { username: self.username.clone(), password }))
    }
}

/// `AMQPLAIN`: user name and password in a field table, from before PLAIN; use TLS.
#[derive(Clone)]
pub struct AmqPlain {
    username: String,
    password: Password,
}

impl AmqPlain {
    /// Logs in as `username`.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Password::from(password.into()) }
    }
}

impl Mechanism for AmqPlain {
    fn name(&self) -> &str {
        "AMQPLAIN"
    }

    fn username(&self) -> Option<&str> {
        Some(&self.username)
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        let fields = [("LOGIN", self.username.as_str()), ("PASSWORD", self.password.expose())];
        // The buffer does not grow: that would leave copies of the secret in memory.
        let size = fields.iter().map(|(name, value)| 1 + name.len() + 5 + value.len()).sum();
        let mut encoded = Vec::with_capacity(size);
        for (name, value) in fields {
            encoded.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            encoded.extend_from_slice(name.as_bytes());
            encoded.push(b'S');
            put_long_bytes(&mut encoded, value.as_bytes());
        }
        single(encoded)
    }

    fn with_secret(&self, secret: &Secret) -> Option<Arc<dyn Mechanism>> {
        let password = Password::try_from(secret).ok()?;
        Some(Arc::new(Self { username: self.username.clone(), password }))
    }
}

/// `EXTERNAL`: the client's identity follows from the transport, for example from its TLS certificate.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct External;

impl Mechanism for External {
    fn name(&self) -> &str {
        "EXTERNAL"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        single("")
    }
}

/// `ANONYMOUS`: no credentials.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Anonymous;

impl Mechanism for Anonymous {
    fn name(&self) -> &str {
        "ANONYMOUS"
    }

    fn begin(&self) -> Box<dyn SaslExchange> {
        single("")
    }
}

/// An exchange of one response.
fn single(response: impl Into<Secret>) -> Box<dyn SaslExchange> {
    let response = response.into();
    Box::new(move |challenge: Option<&[u8]>| match challenge {
        None => Ok(response.clone()),
        Some(_) => Err(SaslError::UnexpectedChallenge),
    })
}

macro_rules! redacted {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("username", &self.username)
                    .finish_non_exhaustive()
            }
        }
    )*};
}

redacted! { Plain AmqPlain }
