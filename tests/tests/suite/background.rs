//! A connection that is made in the background. A proxy between the client and the broker refuses it at first.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amqp_client_core::login::{Token, TokenError};
use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::tls::{Pem, TlsOptions};
use amqp_client_core::{
    CallError, ConnectError, Connection, ConnectionError, ConnectionEvent, ConnectionEvents,
    ConsumeOptions, Message, QueueOptions, Recovery, Settings, Status, Target,
};
use amqp_testkit::Proxy;

use super::{World, behaviours, name, next};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A proxy that refuses all connections, and a target that leads to it.
fn refusing(world: &World) -> Result<(Proxy, Target)> {
    let target = world.target();
    let broker = target.get_endpoints().first().ok_or("no host")?;
    let proxy = Proxy::start(format!("{}:{}", broker.host, broker.port).parse()?)?;
    proxy.refuse(true)?;
    let endpoint = Endpoint::new(proxy.addr().ip().to_string(), proxy.addr().port());
    let recovery = Recovery::default().delay_max(Duration::from_millis(100));
    Ok((proxy, target.endpoints([endpoint]).recovery(recovery)))
}

/// Waits until that many attempts have failed.
async fn failures(events: &mut ConnectionEvents, count: u32) -> Result<()> {
    let mut failed = 0;
    while failed < count {
        let event = events.next().await.ok_or("it is over")?;
        failed += u32::from(matches!(event, ConnectionEvent::AttemptFailed { .. }));
    }
    Ok(())
}

/// Waits for the last event.
async fn end_of(events: &mut ConnectionEvents) -> Result<ConnectionError> {
    while let Some(event) = events.next().await {
        if let ConnectionEvent::Closed(reason) = event {
            return Ok(reason);
        }
    }
    Err("the last event is the close".into())
}

fn assert_never_connected(connection: &Connection) {
    let health = connection.health();
    assert_eq!((health.status, health.losses), (Status::Connecting, 0));
    assert!(!connection.is_open() && health.last_heard.is_none());
    assert!(connection.negotiated().is_none() && connection.broker_version().is_none());
    assert!(connection.peer_addr().is_none() && !connection.broker_can("basic.nack"));
}

behaviours! {
    async fn a_connection_is_made_in_the_background(world) {
        let (proxy, target) = refusing(&world)?;
        let connection = world.open_in_background(target)?;
        let recoveries = Arc::new(AtomicU32::new(0));
        let count = recoveries.clone();
        connection.on_recover(move |_| { count.fetch_add(1, Ordering::SeqCst); });
        assert_never_connected(&connection);
        let mut events = connection.events();
        // The request waits for the connection.
        let opening = connection.open_channel();
        failures(&mut events, 2).await?;
        assert_never_connected(&connection);
        proxy.refuse(false)?;
        let channel = opening.await?;
        connection.ready().await?;
        let mut reported = Vec::new();
        while let Some(event) = events.next().await {
            if event == ConnectionEvent::Opened {
                break;
            }
            reported.push(event);
        }
        let only_attempts = reported.iter().all(|event| matches!(event,
            ConnectionEvent::Waiting { .. } | ConnectionEvent::Connecting { .. }
                | ConnectionEvent::AttemptFailed { .. }));
        assert!(only_attempts, "{reported:?}");
        let health = connection.health();
        assert_eq!((health.status, health.losses), (Status::Open, 0));
        assert!(connection.negotiated().is_some());
        assert_eq!(connection.peer_addr(), Some(proxy.addr()));

        // From then on, it is a connection like any other.
        let queue = channel.queue_declare(name("q"), QueueOptions::new()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        proxy.cut();
        while !matches!(events.next().await.ok_or("it is over")?, ConnectionEvent::Recovered(_)) {}
        queue.publish_confirmed(&Message::new("m")).await?;
        next(&mut consumer).await?.ack()?;
        while recoveries.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(recoveries.load(Ordering::SeqCst), 1);
        queue.delete().await?;
    }

    async fn requests_before_the_first_connection_time_out(world) {
        let (proxy, target) = refusing(&world)?;
        let settings = Settings::default().call_timeout(Some(Duration::from_millis(50)));
        let connection = world.open_in_background(target.settings(settings))?;
        let error = connection.open_channel().await.expect_err("there is no broker");
        assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
        let error = connection.queue_exists("q").await.expect_err("there is no broker");
        assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
        assert_never_connected(&connection);
        proxy.refuse(false)?;
        connection.ready().await?;
        let channel = connection.open_channel().timeout(Duration::from_secs(30)).await?;
        drop(channel);
        // Those of the requests that timed out are closed as well.
        while connection.health().channels > 0 {
            connection.after(Duration::from_millis(10)).await?;
        }
    }

    async fn closing_ends_the_attempts(world) {
        let (_proxy, target) = refusing(&world)?;
        let connection = world.open_in_background(target.clone())?;
        let mut events = connection.events();
        let waiting = connection.open_channel();
        failures(&mut events, 1).await?;
        connection.close().await?;
        assert!(end_of(&mut events).await?.is_local_close());
        assert!(connection.closed().await.is_local_close());
        assert!(connection.ready().await.is_err() && waiting.await.is_err());

        // Before the first attempt, too.
        let connection = world.open_in_background(target.clone())?;
        connection.close().await?;
        assert!(matches!(connection.health().status, Status::Closed(_)));

        let connection = world.open_in_background(target.clone())?;
        assert!(connection.shutdown(Duration::from_secs(60)).await?.is_nothing());

        let connection = world.open_in_background(target)?;
        let mut events = connection.events();
        failures(&mut events, 1).await?;
        drop(connection);
        assert!(end_of(&mut events).await?.is_local_close());
    }

    async fn a_first_connection_that_cannot_succeed_ends_with_the_reason(world) {
        let (proxy, target) = refusing(&world)?;
        let limited = Recovery::default().attempts_max(Some(3)).delay_max(Duration::from_millis(10));
        let connection = world.open_in_background(target.clone().recovery(limited))?;
        let error = connection.ready().await.expect_err("there is no broker");
        let ConnectionError::NotRecovered { attempts: 3, .. } = &error else { panic!("{error}") };
        assert_eq!(connection.health().status, Status::Closed(error));

        let connection = world.open_in_background(target.clone().login("guest", "wrong"))?;
        let mut events = connection.events();
        failures(&mut events, 1).await?;
        proxy.refuse(false)?;
        let error = connection.closed().await;
        assert!(matches!(error, ConnectionError::Login(_)), "{error}");
        assert_eq!(end_of(&mut events).await?, error);
        assert_eq!(connection.open_channel().await.expect_err("it is over").to_string(),
            CallError::from(amqp_client_core::ChannelError::Connection(error)).to_string());

        let vhost = name("no such vhost");
        let connection = world.open_in_background(target.virtual_host(vhost)?)?;
        let error = connection.closed().await;
        assert!(error.as_close().is_some() && !error.is_local_close(), "{error}");
    }

    async fn a_target_that_is_invalid_is_refused_at_once(world) {
        let (_proxy, target) = refusing(&world)?;
        let none = world.open_in_background(target.clone().endpoints([]));
        assert!(matches!(none, Err(ConnectError::NoEndpoint)), "{none:?}");
        let settings = Settings::default().delivery_budget(0);
        let unread = world.open_in_background(target.clone().settings(settings));
        assert!(matches!(unread, Err(ConnectError::Setting(_))), "{unread:?}");
        let tls = TlsOptions::new().trust(Pem::file("/does/not/exist.pem"));
        let untrusted = world.open_in_background(target.tls(tls));
        assert!(matches!(untrusted, Err(ConnectError::Tls(_))), "{untrusted:?}");
    }

    async fn without_recovery_each_endpoint_is_tried_once(world) {
        let (proxy, target) = refusing(&world)?;
        let target = target.without_recovery();
        let connection = world.open_in_background(target.clone())?;
        let error = connection.closed().await;
        assert!(matches!(error, ConnectionError::NotRecovered { attempts: 1, .. }), "{error}");

        proxy.refuse(false)?;
        let proxied = target.get_endpoints().to_vec();
        let target = target.endpoints([Endpoint::new("127.0.0.1", 1)].into_iter().chain(proxied));
        let connection = world.open_in_background(target)?;
        let mut events = connection.events();
        connection.ready().await?;
        connection.open_channel().await?;
        proxy.cut();
        let error = end_of(&mut events).await?;
        assert!(error.is_transient(), "{error}");
        assert_eq!(connection.closed().await, error);
    }

    async fn tokens_of_a_connection_in_the_background_are_renewed(world) {
        let (proxy, target) = refusing(&world)?;
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let target = target.token_source(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                if number < 2 {
                    return Err(Arc::new(std::io::Error::other("no such server")) as TokenError);
                }
                Ok(Token::new("guest", Duration::from_secs(1)).username("guest"))
            }
        });
        let connection = world.open_in_background(target)?;
        let mut events = connection.events();
        failures(&mut events, 3).await?;
        proxy.refuse(false)?;
        connection.ready().await?;
        let before = asked.load(Ordering::SeqCst);
        while asked.load(Ordering::SeqCst) < before + 2 {
            connection.after(Duration::from_millis(10)).await?;
        }
        connection.close().await?;
    }
}
