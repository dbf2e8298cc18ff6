use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amqp_client_core::login::{Token, TokenError};
use amqp_client_core::proto::ConnectionError;
use amqp_client_core::proto::LoginError;
use amqp_client_core::{ConnectError, ConnectionEvent, Recovery, Settings};

use super::behaviours;

fn failure(text: &'static str) -> TokenError {
    Arc::new(io::Error::other(text))
}

behaviours! {
    async fn a_token_is_asked_for_before_connecting_and_renewed_in_time(world) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let target = world.target().token_source(move || {
            let attempt = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match attempt {
                    0 => Ok(Token::new("guest", Duration::from_millis(500)).username("guest")),
                    1 => Err(failure("the server for tokens is down")),
                    _ => Ok(Token::new("guest", Duration::from_secs(3600)).username("guest")),
                }
            }
        });
        let connection = world.open(target).await?;
        let mut events = connection.events();
        let event = events.next().await.ok_or("no event")?;
        let ConnectionEvent::TokenNotRenewed { why } = event else { panic!("{event:?}") };
        assert_eq!(why, "the server for tokens is down");
        while asked.load(Ordering::SeqCst) < 3 {
            connection.open_channel().await?.close().await?;
        }
        // A request after the new secret has its reply after it.
        connection.open_channel().await?;
        connection.close().await?;
    }

    async fn without_a_token_there_is_no_connection(world) {
        let target = world.target().token_source(|| async { Err(failure("no such account")) });
        let error = world.open(target).await.expect_err("nothing to log in with");
        assert!(matches!(error, ConnectError::NoToken(_)), "{error:?}");
        let expected = "the token source returned no token: no such account";
        assert_eq!(format!("{error:?}"), expected);
    }

    async fn a_token_source_that_never_returns_is_given_up_in_time(world) {
        let settings = Settings::default().connect_timeout(Duration::from_millis(20));
        let target = world.target().settings(settings).token_source(std::future::pending);
        let error = world.open(target).await.expect_err("nothing to log in with");
        assert!(matches!(error, ConnectError::NoToken(_)), "{error:?}");
    }

    async fn a_token_source_that_fails_can_be_retried(world) {
        let recovery = Recovery::default().attempts_max(Some(4));
        let target = world.target().retry_open(true).recovery(recovery);
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let target = target.token_source(move || {
            let attempt = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match attempt {
                    0..3 => Err(failure("the server for tokens is down")),
                    _ => Ok(Token::new("guest", Duration::from_millis(500)).username("guest")),
                }
            }
        });
        let connection = world.open(target.clone()).await?;
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        // The token is renewed like any other.
        while asked.load(Ordering::SeqCst) < 5 {
            connection.open_channel().await?.close().await?;
        }
        connection.close().await?;

        let target = target.token_source(|| async { Err(failure("no such account")) });
        let error = world.open(target).await.expect_err("it is down for good");
        let last = "could not connect (attempts: 4, last failure: the token source returned no token: no such account)";
        assert!(format!("{error:?}").contains(last), "{error:?}");
    }

    async fn a_token_that_the_broker_does_not_know_is_refused_as_such(world) {
        let target = world.target().token_source(|| async {
            Ok(Token::new("stale", Duration::from_secs(3600)).username("guest"))
        });
        let error = world.open(target).await.expect_err("a wrong token");
        let reason = error.as_connection_error();
        assert!(matches!(reason, Some(ConnectionError::Login(LoginError::Refused(_)))), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("stale"));
    }
}
