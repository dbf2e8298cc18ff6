//! Sources of tokens that fail, are slow, never return or panic: the connection continues, and they are called again.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use amqp_client_core::adapter::Timer;
use amqp_client_core::login::{Token, TokenError, TokenSource, keep_fresh};

use super::World;
use super::client::{Client, Connected, Task};
use super::commands::{TokenReply, Tokens};

/// More than a late or failing source delays the next request, in addition to the time that the last token is valid.
const DELAY: Duration = Duration::from_secs(5 * 60);

/// A source of tokens, in virtual time.
struct Source {
    tokens: Tokens,
    asked: AtomicUsize,
    /// The time since the start, in ms, which the task moves on that asks.
    now: Arc<AtomicU64>,
    /// When a token that is late is there, by the same time.
    due: Arc<AtomicU64>,
}

impl Source {
    fn new(tokens: &Tokens) -> Self {
        let (now, due) = (Arc::default(), Arc::default());
        Self { tokens: tokens.clone(), asked: AtomicUsize::new(0), now, due }
    }
}

impl TokenSource for Source {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>> {
        let index = self.asked.fetch_add(1, Ordering::Relaxed);
        let replies = &self.tokens.replies;
        let token = Ok(Token::new("guest", self.tokens.valid_for).username("guest"));
        match replies[index % replies.len()] {
            TokenReply::Done => Box::pin(async { token }),
            TokenReply::Fails => Box::pin(async {
                Err(Arc::new(io::Error::other("no token, on purpose")) as TokenError)
            }),
            TokenReply::Never => Box::pin(pending()),
            TokenReply::Panics if index % 2 == 0 => panic!("a token source panics on purpose"),
            TokenReply::Panics => Box::pin(async { panic!("a token source panics on purpose") }),
            TokenReply::Late(time) => {
                let (now, due) = (self.now.clone(), self.due.clone());
                let at = now.load(Ordering::Relaxed) + time.as_millis() as u64;
                due.store(at, Ordering::Relaxed);
                let mut token = Some(token);
                Box::pin(poll_fn(move |_| match now.load(Ordering::Relaxed) < at {
                    true => Poll::Pending,
                    false => token.take().map_or(Poll::Pending, Poll::Ready),
                }))
            }
        }
    }
}

/// The virtual clock.
struct Ticks(Rc<World>);

impl Timer for Ticks {
    fn now(&self) -> Instant {
        self.0.clock.now()
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.0.clock.poll_until(at, cx)
    }
}

impl Client {
    /// Renews the tokens of each connection of a client, one after the other, until the client has finished.
    pub(crate) async fn keep_tokens(&self, tokens: &Tokens) {
        let clock = &self.world.clock;
        let source = Arc::new(Source::new(tokens));
        let first = Token::new("guest", tokens.valid_for);
        while !self.finished.get() {
            let Some(Connected { connection, link, .. }) = self.connected() else {
                clock.sleep(Duration::from_secs(1)).await;
                continue;
            };
            let timer = Ticks(self.world.clone());
            let mut renewal = pin!(keep_fresh(&connection, source.clone(), &first, timer));
            drop(connection);
            poll_fn(|cx| {
                let now = self.world.since_start().as_millis() as u64;
                source.now.store(now, Ordering::Relaxed);
                let ended = renewal.as_mut().poll(cx);
                self.tokens.set(source.asked.load(Ordering::Relaxed));
                let due = source.due.load(Ordering::Relaxed);
                if due > now {
                    let _later = clock.poll_until(clock.start() + Duration::from_millis(due), cx);
                }
                ended
            })
            .await;
            if self.connected().is_some_and(|own| own.link == link) {
                self.fail("tokens are not renewed any more, and the connection goes on");
            }
        }
    }
}

impl Task {
    /// The client requests another token while the connection is open, whatever the token source does.
    pub(crate) async fn has_fresh_tokens(&self) {
        let Some(tokens) = &self.policy().tokens else { return };
        let (asked, losses) = (self.tokens.get(), self.losses());
        self.sleep(tokens.valid_for * 2 + DELAY).await;
        if losses.is_some() && self.losses() == losses && self.tokens.get() == asked {
            self.fail("a source of tokens is not asked again");
        }
    }
}
