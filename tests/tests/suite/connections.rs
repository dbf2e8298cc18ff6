use std::time::{Duration, Instant};

use amqp_client_core::proto::method::{Arguments as _, BasicDeliver};
use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::proto::{ConnectionError, LoginError, ReplyCode};
use amqp_client_core::{BrokerVersion, ConnectError, ConnectionEvent, Settings};

use super::behaviours;

behaviours! {
    async fn limits_of_time_and_memory_can_be_as_they_like(world) {
        let most = Duration::MAX;
        let target = world.target();
        let protocol = target.get_config().get_protocol().clone();
        let protocol = protocol.heartbeat(most).handshake_timeout(most).close_timeout(most);
        let settings = Settings::default()
            .connect_timeout(most)
            .call_timeout(Some(most))
            .publish_timeout(Some(most))
            .confirm_timeout(Some(most))
            .delivery_budget(1);
        let connection = world.open(target.protocol(protocol).settings(settings)).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", super::temporary()).await?;
        let mut consumer = queue.consume(amqp_client_core::ConsumeOptions::new()).await?;
        for _ in 0..100 {
            queue.publish(&amqp_client_core::Message::new("m")).await?;
        }
        for _ in 0..100 {
            super::next(&mut consumer).await?.ack()?;
        }
        connection.shutdown(most).await?;
    }

    async fn a_setting_that_cannot_work_is_refused_by_its_name(world) {
        for retried in [false, true] {
            let settings = Settings::default();
            for (name, settings) in [
                ("delivery_budget", settings.delivery_budget(0)),
                ("keepalive", settings.keepalive(Some(Duration::ZERO))),
                ("connect_timeout", settings.connect_timeout(Duration::ZERO)),
                ("receive_buffer", settings.receive_buffer(Some(0))),
            ] {
                // Errors that a retry cannot change are not retried.
                let target = world.target().retry_open(retried).settings(settings);
                let error = world.open(target).await.expect_err("it cannot work");
                let text = amqp_client_core::proto::error::chain(&error).to_string();
                assert!(text.contains(&format!("Settings::{name} is 0")), "{text}");
            }
        }
    }

    async fn a_small_receive_buffer_is_enough(world) {
        let settings = Settings::default().receive_buffer(Some(64 * 1024));
        let connection = world.open(world.target().settings(settings)).await?;
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", super::temporary()).await?;
        let mut consumer = queue.consume(amqp_client_core::ConsumeOptions::new()).await?;
        let body = vec![b'x'; 300 * 1024];
        queue.publish(&amqp_client_core::Message::new(body.clone())).await?;
        let delivery = super::next(&mut consumer).await?;
        assert_eq!(delivery.body(), &body);
        delivery.ack()?;
    }

    async fn a_connection_opens_and_reports_what_was_negotiated(world) {
        let connection = world.connection().await?;
        assert!(connection.is_open());
        let negotiated = connection.negotiated().ok_or("nothing was negotiated")?;
        assert_eq!(negotiated.frame_max, 131_072);
        assert!(negotiated.channel_max > 0);
        assert!(negotiated.peer_can("publisher_confirms"));
        assert!(connection.broker_can("basic.nack") && !connection.broker_can("fly"));
        let product = negotiated.peer_properties.get("product").ok_or("no product")?;
        assert!(product.as_str().is_some_and(|product| !product.is_empty()));
        let version = connection.broker_version().ok_or("no version")?;
        assert_eq!(Some(version.product()), product.as_str());
        assert!(version >= BrokerVersion::rabbitmq(3, 10, 0), "{version}");
    }

    async fn closing_is_orderly_and_final(world) {
        let connection = world.connection().await?;
        let channel = connection.open_channel().await?;
        let mut events = connection.events();
        connection.close().await?;
        assert!(!connection.is_open());
        let event = events.next().await.ok_or("no event")?;
        let ConnectionEvent::Closed(reason) = event else { panic!("{event:?}") };
        assert!(reason.is_local_close());
        assert_eq!(events.next().await, None);
        assert_eq!(connection.closed().await, reason);
        assert!(connection.open_channel().await.is_err());
        assert!(channel.check().is_err());
        // Once more does no harm.
        connection.close().await?;
    }

    async fn closing_with_a_custom_code_reports_that_code(world) {
        let connection = world.connection().await?;
        connection.close_with(ReplyCode::CONNECTION_FORCED, "for maintenance").await?;
        let reason = connection.closed().await;
        let close = reason.as_close().ok_or("no close")?;
        assert_eq!(close.reply_code, ReplyCode::CONNECTION_FORCED);
        assert_eq!(close.reply_text, "for maintenance");
        assert_eq!(close.method(), None);
    }

    async fn closing_because_of_a_method_names_it(world) {
        let connection = world.connection().await?;
        let channel = connection.open_channel().await?;
        let (code, cause) = (ReplyCode::INTERNAL_ERROR, BasicDeliver::FACTS.id);
        channel.close_over(code, "of no use", cause).await?;
        let closed = channel.closed().await;
        let close = closed.as_close().ok_or("no close")?;
        assert_eq!((close.reply_code, close.method()), (code, Some("basic.deliver")));
        assert_eq!(close.reply_text, "of no use");
        connection.close_over(code, "of no use", cause).await?;
        let closed = connection.closed().await;
        let close = closed.as_close().ok_or("no close")?;
        assert_eq!((close.reply_code, close.method()), (code, Some("basic.deliver")));
    }

    async fn the_broker_was_heard_since_it_replied(world) {
        let connection = world.connection().await?;
        let begun = Instant::now();
        // The driver reads the clock when it begins a round, perhaps just before.
        while connection.health().last_heard < Some(begun) {
            connection.open_channel().await?;
        }
    }

    async fn a_connection_without_handles_closes(world) {
        let connection = world.open(world.target()).await?;
        let channel = connection.open_channel().await?;
        let mut events = connection.events();
        drop(connection);
        // A channel is a handle of its connection.
        channel.queue_declare("", super::temporary()).await?;
        drop(channel);
        let event = events.next().await.ok_or("no event")?;
        let ConnectionEvent::Closed(reason) = event else { panic!("{event:?}") };
        assert!(reason.is_local_close());
    }

    async fn a_wrong_password_is_refused_as_such(world) {
        let uri = with_authority(&world.uri, "guest:wrong");
        let error = world.open(uri.parse()?).await.expect_err("must be refused");
        let ConnectError::Refused { error: ConnectionError::Login(login), .. } = &error else {
            panic!("{error:?}")
        };
        let LoginError::Refused(close) = login else { panic!("{login:?}") };
        assert_eq!(close.reply_code, ReplyCode::ACCESS_REFUSED);
        assert!(format!("{error:?}").contains("403"), "{error:?}");
    }

    async fn an_unknown_virtual_host_is_refused_as_such(world) {
        let target = world.target().virtual_host("no-such-host")?;
        let error = world.open(target).await.expect_err("must be refused");
        let close = error.as_connection_error().and_then(|error| error.as_close());
        let close = close.ok_or_else(|| format!("{error:?}"))?;
        assert_eq!(close.reply_code, ReplyCode::NOT_ALLOWED);
        assert_eq!(close.method(), Some("connection.open"));
    }

    async fn a_uri_that_ends_in_a_slash_names_a_virtual_host_without_a_name(world) {
        let error = world.open(world.target().virtual_host("")?).await.expect_err("there is none");
        assert!(matches!(error, ConnectError::EmptyVirtualHost { .. }), "{error:?}");
        assert_eq!(error.reply_code(), Some(ReplyCode::NOT_ALLOWED));
        let text = error.to_string();
        assert!(text.contains("a URI that ends in `/`"), "{text}");
        assert!(amqp_client_core::proto::error::chain(&error).to_string().contains("530"), "{error:?}");
        let target: amqp_client_core::Target = "amqp://host/".parse()?;
        assert!(target.get_config().get_protocol().get_virtual_host().is_empty());
    }

    async fn a_missing_mechanism_is_reported_before_credentials_are_sent(world) {
        let uri = format!("{}?auth_mechanism=EXTERNAL", world.uri);
        let error = world.open(uri.parse()?).await.expect_err("must be refused");
        let Some(ConnectionError::Login(LoginError::NoCommonMechanism { offered, configured })) =
            error.as_connection_error()
        else {
            panic!("{error:?}")
        };
        assert!(offered.contains("PLAIN"));
        assert_eq!(configured, "EXTERNAL");
    }

    async fn amqplain_logs_in(world) {
        let uri = format!("{}?auth_mechanism=AMQPLAIN", world.uri);
        world.open(uri.parse()?).await?.close().await?;
    }

    async fn a_port_without_listener_is_unreachable(world) {
        let port = amqp_testkit::net::free_ports::<1>()?[0];
        let target = world.target().endpoints([Endpoint::new("127.0.0.1", port)]);
        let error = world.open(target).await.expect_err("nobody is there");
        let ConnectError::Unreachable { endpoint, .. } = &error else { panic!("{error:?}") };
        assert_eq!(endpoint.port, port);
    }

    async fn the_next_host_is_tried_when_one_is_unreachable(world) {
        let port = amqp_testkit::net::free_ports::<1>()?[0];
        let target = world.target();
        let unreachable = Endpoint::new("127.0.0.1", port);
        let endpoints: Vec<_> =
            std::iter::once(unreachable).chain(target.get_endpoints().iter().cloned()).collect();
        world.open(target.endpoints(endpoints)).await?.close().await?;
    }

    async fn every_address_of_a_name_is_tried(world) {
        // The broker listens on one of them.
        let target = world.target();
        let port = target.get_endpoints().first().ok_or("no host")?.port;
        let target = target.endpoints([Endpoint::new("localhost", port)]);
        world.open(target).await?.close().await?;
        let target = world.target().endpoints([Endpoint::new("no-such-host.invalid", port)]);
        let error = world.open(target).await.expect_err("there is no such host");
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("no-such-host.invalid:"), "{error}");
    }

    async fn a_silent_broker_is_given_up_in_time(world) {
        // The system takes the connection; nobody looks at it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = silent.local_addr()?.port();
        for scheme in ["amqp", "amqps"] {
            let uri = format!("{scheme}://localhost:{port}?connection_timeout=50");
            let error = world.open(uri.parse()?).await.expect_err("nobody answers");
            let ConnectError::TimedOut { after, .. } = error else { panic!("{scheme}: {error:?}") };
            assert_eq!(after.as_millis(), 50);
        }
    }

    async fn a_uri_sets_limits_and_name(world) {
        let uri = format!("{}?heartbeat=7&channel_max=5&frame_max=8192&name=suite", world.uri);
        let connection = world.open(uri.parse()?).await?;
        let negotiated = connection.negotiated().ok_or("nothing was negotiated")?;
        assert_eq!(negotiated.heartbeat.as_secs(), 7);
        assert_eq!(negotiated.channel_max, 5);
        assert_eq!(negotiated.frame_max, 8192);
    }

    async fn heartbeats_can_be_off_and_sent_by_hand(world) {
        let uri = format!("{}?heartbeat=0", world.uri);
        let connection = world.open(uri.parse()?).await?;
        let negotiated = connection.negotiated().ok_or("nothing was negotiated")?;
        assert!(negotiated.heartbeat.is_zero());
        connection.send_heartbeat();
        connection.open_channel().await?;
    }

    async fn a_connection_measures_time_until_it_ends(world) {
        let connection = world.connection().await?;
        let begun = Instant::now();
        let (first, second) = (Duration::from_millis(20), Duration::from_millis(40));
        // Both begin now, in whichever order they are awaited.
        let (later, sooner) = (connection.after(second), connection.after(first));
        later.await?;
        assert!(begun.elapsed() >= second);
        sooner.await?;
        connection.after(Duration::ZERO).await?;
        for _ in 0..100 {
            drop(connection.after(Duration::from_millis(1)));
        }
        let unended = [Duration::from_secs(3600), Duration::MAX].map(|time| connection.after(time));
        connection.close().await?;
        for after in unended.into_iter().chain([connection.after(Duration::MAX)]) {
            let error = after.await.expect_err("the connection has ended");
            assert!(error.is_local_close(), "{error:?}");
        }
    }

    async fn waiting_does_not_keep_a_connection_open(world) {
        let connection = world.open(world.target()).await?;
        let after = connection.after(Duration::MAX);
        drop(connection);
        assert!(after.await.expect_err("the connection has ended").is_local_close());
    }

    async fn a_new_secret_is_taken(world) {
        let connection = world.connection().await?;
        connection.update_secret("guest", "rotated by the suite").await?;
        connection.open_channel().await?;
    }
}

/// The URI with other credentials.
fn with_authority(uri: &str, authority: &str) -> String {
    let (scheme, rest) = uri.split_once("://").expect("a URI");
    let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    format!("{scheme}://{authority}@{hosts}")
}
