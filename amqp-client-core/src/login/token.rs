use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use amqp_proto::uri::Password;
use futures_util::FutureExt as _;

use crate::Connection;
use crate::config::Config;
use crate::connection::WeakConnection;
use crate::driver::Timer;
use crate::error::chain;
use crate::event::ConnectionEvent;
use crate::logs::Level;
use crate::panics;
use crate::state::{On, Waiting};

/// Credentials that expire: an OAuth 2 token, or a temporary password.
#[derive(Debug, Clone)]
pub struct Token {
    username: String,
    secret: Password,
    valid_for: Duration,
}

impl Token {
    /// Creates a token that is valid for that long from now on; `Duration::MAX` means forever.
    pub fn new(secret: impl Into<String>, valid_for: Duration) -> Self {
        let secret = Password::from(secret.into());
        Self { username: String::new(), secret, valid_for }
    }

    /// Sets the user's name. RabbitMQ takes it from an OAuth 2 token, and ignores this one.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = username.into();
        self
    }

    /// Returns how long the token is valid.
    pub(crate) const fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// Makes the configuration log in with this token.
    pub(crate) fn log_in(&self, config: &mut Config) {
        let protocol = std::mem::take(&mut config.protocol);
        config.protocol = protocol.login(self.username.as_str(), self.secret.expose());
    }
}

/// The reason why a source returned no token.
pub type TokenError = Arc<dyn Error + Send + Sync>;

/// A source of tokens.
///
/// The client requests a token before it connects, and again when most of a token's lifetime has passed. It sends the new token to
/// the broker with `connection.update-secret`. A closure can be a source:
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::Target;
/// use amqp_client_tokio::login::{Token, TokenError};
///
/// # async fn ask_the_authorization_server() -> Result<String, std::io::Error> { Ok(String::new()) }
/// let target: Target = "amqps://rabbit-1,rabbit-2/orders".parse()?;
/// let target = target.token_source(|| async {
///     let secret = ask_the_authorization_server().await.map_err(|error| Arc::new(error) as TokenError)?;
///     Ok(Token::new(secret, Duration::from_secs(3600)))
/// });
/// # Ok::<(), amqp_client_core::ConnectError>(())
/// ```
pub trait TokenSource: Send + Sync {
    /// Returns a token that is valid now. A panic of the source counts as an error.
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;
}

impl<F, T> TokenSource for F
where
    F: Fn() -> T + Send + Sync,
    T: Future<Output = Result<Token, TokenError>> + Send + 'static,
{
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>> {
        Box::pin(self())
    }
}

/// Requests a token. A panic of the source is an error like any other, so that renewal and reconnecting continue.
pub(crate) fn ask(
    source: Arc<dyn TokenSource>,
) -> impl Future<Output = Result<Token, TokenError>> + Send {
    let asking = AssertUnwindSafe(async move { source.token().await }).catch_unwind();
    asking.map(|asked| {
        asked.unwrap_or_else(|panic| {
            let text = panics::text(&*panic).unwrap_or("no message");
            Err(Arc::new(io::Error::other(format!("the token source panicked: {text}"))))
        })
    })
}

impl fmt::Debug for dyn TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

/// A new token is requested when one `RENEW_PART`th of the present token's lifetime is left. The request may take that long.
const RENEW_PART: u32 = 5;

/// After a failure, the pause before the next request is one `RETRY_PART`th of the token's lifetime.
const RETRY_PART: u32 = 20;

/// The minimum time between two requests.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Sends the broker a new token whenever four fifths of the last token's lifetime have passed, until the connection is closed.
/// When the client logs in again after a loss, the lifetime of the token that it uses then counts from then on.
/// The adapters' `connect` spawns this future. After `connect_over`, spawn it yourself if you need it. It does not keep the
/// connection open.
///
/// If the source returns no token, or the broker does not reply in time, the future reports
/// [`TokenNotRenewed`](ConnectionEvent::TokenNotRenewed) and tries again. A broker that does not accept a token closes the
/// connection.
pub fn keep_fresh<T: Timer>(
    connection: &Connection,
    source: Arc<dyn TokenSource>,
    token: &Token,
    timer: T,
) -> impl Future<Output = ()> + use<T> {
    keep_fresh_from(connection, source, Some(token.valid_for), timer)
}

/// Like [`keep_fresh`], for a token that is valid for that long, or from the first login on.
pub(crate) fn keep_fresh_from<T: Timer>(
    connection: &Connection,
    source: Arc<dyn TokenSource>,
    valid_for: Option<Duration>,
    mut timer: T,
) -> impl Future<Output = ()> + use<T> {
    let connection = connection.downgrade();
    async move {
        let mut period = match valid_for {
            Some(valid_for) => valid_for,
            None => match connection.wait_until(&mut timer, None).await {
                Due::NewLogin(valid_for) => valid_for,
                Due::Renewal | Due::End => return,
            },
        };
        let mut failed = false;
        loop {
            let pause = if failed { period / RETRY_PART } else { period - period / RENEW_PART };
            // A token that is valid forever is not renewed.
            let at = timer.now().checked_add(pause.max(PAUSE_MIN));
            let Some(at) = at else { return };
            match connection.wait_until(&mut timer, Some(at)).await {
                Due::Renewal => {}
                Due::NewLogin(valid_for) => {
                    (period, failed) = (valid_for, false);
                    continue;
                }
                Due::End => return,
            }
            let renewal = connection.renew(ask(source.clone()), &mut timer, period / RENEW_PART);
            failed = match renewal.await {
                Ok(next) => {
                    // If the client has logged in again meanwhile, the broker has either token.
                    let other = connection.shared().lock().new_login.take();
                    connection.log_renewal(next);
                    period = other.map_or(next, |valid_for| valid_for.min(next));
                    false
                }
                Err(Some(why)) => {
                    connection.emit(&ConnectionEvent::TokenNotRenewed { why });
                    true
                }
                Err(None) => return,
            };
        }
    }
}

/// The next step of the renewal of tokens.
enum Due {
    /// Request a token.
    Renewal,
    /// The client has logged in with another token, which is valid for that long.
    NewLogin(Duration),
    /// The connection is closed.
    End,
}

impl WeakConnection {
    /// Waits until `at`, if that is set, or until something else is due.
    async fn wait_until(&self, timer: &mut impl Timer, at: Option<Instant>) -> Due {
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        poll_fn(|cx| {
            let due = self.shared().poll(cx, |state, task| match state.proto.check() {
                Err(_) => Poll::Ready(Due::End),
                Ok(()) => match state.new_login.take() {
                    Some(valid_for) => Poll::Ready(Due::NewLogin(valid_for)),
                    None => waiting.wait(state, task),
                },
            });
            match (due, at) {
                (Poll::Pending, Some(at)) => timer.poll_until(cx, at).map(|()| Due::Renewal),
                (due, _) => due,
            }
        })
        .await
    }

    /// Sends a new token, and returns its lifetime. The error is the reason for the failure, or `None` if the connection is closed.
    async fn renew(
        &self,
        token: impl Future<Output = Result<Token, TokenError>>,
        timer: &mut impl Timer,
        limit: Duration,
    ) -> Result<Duration, Option<String>> {
        let mut token = pin!(token);
        let late_at = timer.now() + limit.max(PAUSE_MIN);
        let mut waiting = Waiting::new(self.shared(), On::Connection);
        let token = poll_fn(|cx| {
            if let Poll::Ready(token) = token.as_mut().poll(cx) {
                return Poll::Ready(token.map_err(|error| Some(chain(&error).to_string())));
            }
            if self.poll_over(cx, &mut waiting).is_ready() {
                return Poll::Ready(Err(None));
            }
            let late = || Err(Some(format!("the token source returned no token within {limit:?}")));
            timer.poll_until(cx, late_at).map(|()| late())
        })
        .await?;
        let connection = self.upgrade().ok_or(None)?;
        let secret = token.secret.expose().as_bytes().to_vec();
        match connection.update_secret(secret, "token renewed").await {
            Ok(()) => Ok(token.valid_for),
            Err(_) if connection.is_over() => Err(None),
            Err(error) => Err(Some(chain(&error).to_string())),
        }
    }

    fn poll_over(&self, cx: &Context<'_>, waiting: &mut Waiting<'_>) -> Poll<()> {
        self.shared().poll(cx, |state, task| match state.proto.check() {
            Err(_) => Poll::Ready(()),
            Ok(()) => waiting.wait(state, task),
        })
    }

    fn log_renewal(&self, valid_for: Duration) {
        let mut state = self.shared().lock();
        state.log.line(Level::Info, None, || format!("the token was renewed, for {valid_for:?}"));
        state.log_due();
    }

    fn emit(&self, event: &ConnectionEvent) {
        self.shared().lock().emit(event);
    }
}
