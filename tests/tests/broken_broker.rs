//! Broken set-ups that need a real broker, with the whole text that a user sees: what a program prints whose `main` returns the
//! error. `broken.rs` has those without a broker. Where the versions of RabbitMQ say different things, the row has both texts.

mod once;

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::time::Duration;

use amqp_client_core::proto::FieldTable;
use amqp_client_core::{
    Channel, ConnectStep, Connection, ConnectionEvent, ConnectionEvents, ConsumeOptions,
    ExchangeKind, ExchangeOptions, Message, MessageProperties, PublisherOptions, QueueOptions,
    SendError,
};
use amqp_testkit::RabbitMq;
use amqp_testkit::net::free_ports;
use once::open;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A node with users, virtual hosts and limits for the tests.
struct Node {
    node: RabbitMq,
    /// Where it listens in the network of this machine, if there is one: a client there is not on the broker's own host.
    afar: Option<SocketAddr>,
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::start().expect("RabbitMQ starts"))
}

impl Node {
    fn start() -> std::io::Result<Self> {
        let [port] = free_ports()?;
        let afar = own_address().map(|address| SocketAddr::from((address, port)));
        let mut builder = RabbitMq::builder().config_line("max_message_size = 1000");
        if let Some(afar) = afar {
            builder = builder.config_line(format!("listeners.tcp.9 = {afar}"));
        }
        let node = builder.start()?;
        let local = "application:set_env(rabbit, loopback_users, [<<\"guest\">>]).";
        for command in [
            &["eval", local][..],
            &["add_user", "nobody", "secret"],
            &["add_user", "limited", "secret"],
            &["set_permissions", "limited", "^mine", "^mine|^amq.topic|^amq.gen", "^mine"],
            &["set_topic_permissions", "limited", "amq.topic", "^mine", "^mine"],
            &["add_user", "crowded", "secret"],
            &["set_permissions", "crowded", ".*", ".*", ".*"],
            &["set_user_limits", "crowded", r#"{"max-channels": 1}"#],
            &["add_user", "full", "secret"],
            &["set_permissions", "full", ".*", ".*", ".*"],
            &["set_user_limits", "full", r#"{"max-connections": 0}"#],
            &["add_vhost", "closed"],
            &["set_permissions", "-p", "closed", "guest", ".*", ".*", ".*"],
            &["set_vhost_limits", "-p", "closed", r#"{"max-connections": 0}"#],
            &["add_vhost", "small"],
            &["set_permissions", "-p", "small", "guest", ".*", ".*", ".*"],
            &["set_vhost_limits", "-p", "small", r#"{"max-queues": 0}"#],
        ] {
            node.ctl(command)?;
        }
        Ok(Self { node, afar })
    }

    /// The URI for a user, with this end.
    fn uri(&self, user: &str, end: &str) -> String {
        format!("amqp://{user}@{}/{end}", self.node.addr())
    }
}

/// Returns the address of this machine in its network, if it has one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// The differences between the texts and what was expected.
struct Table {
    wrong: Vec<String>,
    /// 0 for RabbitMQ 3, 1 for 4.0, 2 for later versions.
    version: usize,
}

impl Table {
    /// A row with one text for all versions; or one for RabbitMQ 3 and one for 4; or for 3, for 4.0 and for later versions.
    fn row<T: Debug, E: Debug>(&mut self, name: &str, outcome: Result<T, E>, expected: &[&str]) {
        let expected = expected.get(self.version).or_else(|| expected.last());
        let text = outcome
            .map_or_else(|error| format!("{error:?}"), |value| format!("no error: {value:?}"));
        let port = node().node.addr().port().to_string();
        let text = text.replace(&port, "PORT").replace(&node().node.node_name(), "NODE");
        if expected.copied() != Some(&*text) {
            self.wrong.push(format!("{name}\n  {text}"));
        }
    }

    fn check(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

async fn table() -> Result<(Connection, Table), Box<dyn std::error::Error + Send + Sync>> {
    let connection = open(&node().node.amqp_uri()).await?;
    let version = match connection.broker_version() {
        Some(version) if version.major() < 4 => 0,
        Some(version) if version.minor() == 0 && version.major() == 4 => 1,
        _ => 2,
    };
    Ok((connection, Table { wrong: Vec::new(), version }))
}

#[tokio::test]
#[rustfmt::skip]
async fn refused_connections_are_explained() -> Outcome {
    let (_connection, mut table) = table().await?;
    let node = node();
    let sasl = ConnectStep::Sasl;
    let host = ConnectStep::VirtualHost;
    for (name, uri, step, expected) in [
        ("a wrong password", node.uri("guest:wrong", "%2f"), sasl, &[
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: refused by the server: 403 ACCESS_REFUSED: Login was refused using authentication mechanism PLAIN. For details see the broker logfile; check the user and the password; the user guest may connect only from the broker's own host"][..]),
        ("an unknown user", node.uri("stranger:secret", "%2f"), sasl, &[
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: refused by the server: 403 ACCESS_REFUSED: Login was refused using authentication mechanism PLAIN. For details see the broker logfile; check the user and the password; the user guest may connect only from the broker's own host"]),
        ("no common mechanism", node.uri("guest:guest", "%2f?auth_mechanism=external"), sasl, &[
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: the server offers the SASL mechanisms \"PLAIN AMQPLAIN\", but the client is configured for \"EXTERNAL\"; set auth_mechanism in the URI to one of the server's", "cannot connect to 127.0.0.1:PORT (step: login): login failed: the server offers the SASL mechanisms \"AMQPLAIN PLAIN ANONYMOUS\", but the client is configured for \"EXTERNAL\"; set auth_mechanism in the URI to one of the server's"]),
        ("a missing virtual host", node.uri("guest:guest", "orders"), host, &[
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: vhost orders not found (caused by connection.open); check the name, or create it (rabbitmqctl add_vhost)"]),
        ("the empty virtual host", node.uri("guest:guest", ""), host, &[
        "127.0.0.1:PORT refused the virtual host with the empty name, which a URI that ends in `/` selects; to use the virtual host `/`, end the URI in `/%2f` or remove its final `/`: connection closed by the peer: 530 NOT_ALLOWED: vhost  not found (caused by connection.open); check the name, or create it (rabbitmqctl add_vhost)"]),
        ("no permissions in the virtual host", node.uri("nobody:secret", "%2f"), host, &[
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: access to vhost '/' refused for user 'nobody' (caused by connection.open); check the name, or grant the user permissions in it (rabbitmqctl set_permissions)"]),
        ("too many connections of the user", node.uri("full:secret", "%2f"), host, &[
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: connection refused for user 'full': user connection limit (0) is reached (caused by connection.open); close other connections, or raise the limit (rabbitmqctl set_user_limits)"]),
        ("too many connections in the virtual host", node.uri("guest:guest", "closed"), host, &[
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: access to vhost 'closed' refused for user 'guest': connection limit (0) is reached (caused by connection.open); close other connections, or raise the limit (rabbitmqctl set_vhost_limits)"]),
    ] {
        let opened = open(&uri).await.map(drop);
        if let Err(error) = &opened {
            assert_eq!(error.step(), step, "{name}: {error:?}");
        }
        table.row(name, opened, expected);
    }
    let small = open(&node.uri("guest:guest", "%2f?frame_max=4096")).await;
    table.row("a small frame_max", small.map(drop), &["no error: ()", "no error: ()", "cannot connect to 127.0.0.1:PORT (step: virtual host; see the broker's log): the peer disconnected without closing the connection"]);
    match node.afar {
        Some(afar) => {
            let opened = open(&format!("amqp://{afar}")).await.map(drop);
            let opened = opened.map_err(|error| Text(format!("{error:?}").replace(&afar.to_string(), "AFAR")));
            table.row("guest from afar", opened, &[
        "cannot connect to AFAR (step: login): login failed: refused by the server: 403 ACCESS_REFUSED: Login was refused using authentication mechanism PLAIN. For details see the broker logfile; check the user and the password; the user guest may connect only from the broker's own host"]);
        }
        None => println!("skipped: this machine has no network"),
    }
    table.check();
    Ok(())
}

#[tokio::test]
#[rustfmt::skip]
async fn refused_requests_are_explained() -> Outcome {
    let (connection, mut table) = table().await?;
    let channel = || async { connection.open_channel().await.expect("there is room") };
    let exclusive = || QueueOptions::new().exclusive(true);
    channel().await.queue_declare("mine", exclusive()).await?;
    channel().await.exchange_declare("inside", ExchangeKind::Fanout, ExchangeOptions::new().internal(true)).await?;

    let other = channel().await.queue_declare("mine", exclusive().max_length(7)).await;
    table.row("an argument differs", other, &[
        "channel 1 closed by the peer: 406 PRECONDITION_FAILED: inequivalent arg 'x-max-length' for queue 'mine' in vhost '/': received the value '7' of type 'long' but current is none (caused by queue.declare); declare it with the same values, or delete it first, with all messages in it"]);
    let other = channel().await.exchange_declare("amq.direct", ExchangeKind::Fanout, ExchangeOptions::new()).await;
    table.row("the type of an exchange differs", other, &[
        "channel 1 closed by the peer: 406 PRECONDITION_FAILED: inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'fanout' but current is 'direct' (caused by exchange.declare); declare it with the same values, or delete it first, with all messages in it"]);
    table.row("a missing queue", channel().await.queue_declare_passive("no").await, &[
        "channel 1 closed by the peer: 404 NOT_FOUND: no queue 'no' in vhost '/' (caused by queue.declare); declare it first, or check the name and the virtual host"]);
    table.row("consume from a missing queue", channel().await.basic_consume("no", ConsumeOptions::new()).await, &[
        "channel 1 closed by the peer: 404 NOT_FOUND: no queue 'no' in vhost '/' (caused by basic.consume); declare it first, or check the name and the virtual host"]);
    table.row("bind to a missing exchange", channel().await.queue_bind("mine", "no", "", FieldTable::new()).await, &[
        "channel 1 closed by the peer: 404 NOT_FOUND: no exchange 'no' in vhost '/' (caused by queue.bind); declare it first, or check the name and the virtual host"]);
    table.row("bind to the default exchange", channel().await.queue_bind("mine", "", "", FieldTable::new()).await, &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: operation not permitted on the default exchange (caused by queue.bind); the default exchange is bound to every queue by its name; use another exchange for bindings"]);
    table.row("a reserved name", channel().await.queue_declare("amq.mine", QueueOptions::new()).await, &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: queue name 'amq.mine' contains reserved prefix 'amq.*' (caused by queue.declare); the prefix amq. is reserved: choose another name"]);
    // RabbitMQ closes the whole connection.
    let odd = open(&node().node.amqp_uri()).await?;
    let odd = odd.open_channel().await?.exchange_declare("odd", ExchangeKind::Other("odd".into()), ExchangeOptions::new()).await;
    table.row("an unknown type of exchange", odd, &[
        "connection closed by the peer: 503 COMMAND_INVALID: unknown exchange type 'odd' (caused by exchange.declare); check the type, or enable the plugin that provides it", "channel 1 closed by the peer: 406 PRECONDITION_FAILED: unknown exchange type 'odd' (caused by exchange.declare); check the type, or enable the plugin that provides it"]);
    table.row("an internal exchange", send(channel().await, "inside", "", &Message::new("x")).await, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: cannot publish to internal exchange 'inside' in vhost '/' (caused by basic.publish); publish to an exchange that is bound to it"]);
    table.row("publish to a missing exchange", send(channel().await, "no", "", &Message::new("x")).await, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 404 NOT_FOUND: no exchange 'no' in vhost '/' (caused by basic.publish); declare it first, or check the name and the virtual host"]);
    let large = send(channel().await, "", "mine", &Message::new("x".repeat(2000))).await;
    table.row("a large message", large, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 406 PRECONDITION_FAILED: message size 2000 is larger than configured max size 1000 (caused by basic.publish); split the message, or raise max_message_size on the broker"]);
    let claimed = MessageProperties::new().user_id("root");
    let claimed = send(channel().await, "", "mine", &Message::new("x").with(&claimed)?).await;
    table.row("another user's id", claimed, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 406 PRECONDITION_FAILED: user_id property set to 'root' but authenticated user was 'guest' (caused by basic.publish); remove the property user_id, or set it to the connection's user"]);
    send(channel().await, "", "mine", &Message::new("x")).await?;
    table.row("delete if empty", channel().await.queue_delete_if_empty("mine").await, &[
        "channel 2 closed by the peer: 406 PRECONDITION_FAILED: queue 'mine' in vhost '/' not empty (caused by queue.delete); consume or purge its messages first, or delete without if_empty"]);
    let holder = channel().await;
    let consumer = holder.basic_consume("mine", ConsumeOptions::new().exclusive(true)).await?;
    table.row("delete if unused", channel().await.queue_delete_if_unused("mine").await, &[
        "channel 2 closed by the peer: 406 PRECONDITION_FAILED: queue 'mine' in vhost '/' in use (caused by queue.delete); remove its consumers or bindings first, or delete without if_unused"]);
    table.row("an exclusive consumer", channel().await.basic_consume("mine", ConsumeOptions::new()).await.map(drop), &[
        "channel 2 closed by the peer: 403 ACCESS_REFUSED: queue 'mine' in vhost '/' in exclusive use (caused by basic.consume); stop its other consumers, or consume without exclusive"]);
    drop(consumer);
    let stranger = open(&node().node.amqp_uri()).await?;
    let locked = stranger.open_channel().await?.queue_declare("mine", exclusive()).await;
    table.row("the exclusive queue of another connection", locked, &[
        "channel 1 closed by the peer: 405 RESOURCE_LOCKED: cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration (caused by queue.declare); only the connection that declared it can use it; close that connection, or choose another name"]);
    let small = open(&node().uri("guest:guest", "small")).await?;
    table.row("too many queues", small.open_channel().await?.queue_declare("q", exclusive()).await, &[
        "channel 1 closed by the peer: 406 PRECONDITION_FAILED: cannot declare queue 'q': queue limit in vhost 'small' (0) is reached (caused by queue.declare); delete other queues, or raise the limit (rabbitmqctl set_vhost_limits)"]);
    let crowded = open(&node().uri("crowded:secret", "%2f")).await?;
    let _first = crowded.open_channel().await?;
    table.row("too many channels of the user", crowded.open_channel().await, &[
        "connection closed by the peer: 530 NOT_ALLOWED: number of channels opened for user 'crowded' has reached the maximum allowed user limit of (1); close other channels, or raise the limit (rabbitmqctl set_user_limits)", "connection closed by the peer: 530 NOT_ALLOWED: number of channels opened for user 'crowded' has reached the maximum allowed user limit of (1); close other channels, or raise the limit (rabbitmqctl set_user_limits)", "connection closed by the peer: 530 NOT_ALLOWED: number of channels opened for user 'crowded' has reached the maximum allowed user limit of 1; close other channels, or raise the limit (rabbitmqctl set_user_limits)"]);
    let narrow = open(&node().uri("guest:guest", "%2f?channel_max=1")).await?;
    let _first = narrow.open_channel().await?;
    table.row("too many channels of the connection", narrow.open_channel().await, &[
        "all channels of the connection are in use (limit: 1); close some, or open another connection"]);
    table.check();
    Ok(())
}

async fn send(
    channel: Channel,
    exchange: &str,
    key: &str,
    message: &Message,
) -> Result<(), SendError> {
    let exchange = channel.exchange(exchange).map_err(amqp_client_core::PublishError::from)?;
    exchange.publish_confirmed(key, message).await
}

#[tokio::test]
#[rustfmt::skip]
async fn missing_permissions_are_explained() -> Outcome {
    let (owner, mut table) = table().await?;
    owner.open_channel().await?.queue_declare("theirs", QueueOptions::new()).await?;
    let connection = open(&node().uri("limited:secret", "%2f")).await?;
    let channel = || async { connection.open_channel().await.expect("there is room") };
    let theirs = channel().await.queue_declare("theirs.too", QueueOptions::new()).await;
    table.row("configure a queue", theirs, &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: access to queue 'theirs.too' in vhost '/' refused for user 'limited' (caused by queue.declare); grant the user the permission for it (rabbitmqctl set_permissions)", "channel 1 closed by the peer: 403 ACCESS_REFUSED: configure access to queue 'theirs.too' in vhost '/' refused for user 'limited' (caused by queue.declare); grant the user the configure permission (rabbitmqctl set_permissions)"]);
    let theirs = channel().await.exchange_declare("theirs", ExchangeKind::Fanout, ExchangeOptions::new()).await;
    table.row("configure an exchange", theirs, &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: access to exchange 'theirs' in vhost '/' refused for user 'limited' (caused by exchange.declare); grant the user the permission for it (rabbitmqctl set_permissions)", "channel 1 closed by the peer: 403 ACCESS_REFUSED: configure access to exchange 'theirs' in vhost '/' refused for user 'limited' (caused by exchange.declare); grant the user the configure permission (rabbitmqctl set_permissions)"]);
    table.row("write to an exchange", send(channel().await, "amq.direct", "", &Message::new("x")).await, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: access to exchange 'amq.direct' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the write permission (rabbitmqctl set_permissions)", "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: write access to exchange 'amq.direct' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the write permission (rabbitmqctl set_permissions)"]);
    table.row("write to the default exchange", send(channel().await, "", "theirs", &Message::new("x")).await, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: access to exchange 'amq.default' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the write permission (rabbitmqctl set_permissions)", "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: write access to exchange 'amq.default' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the write permission (rabbitmqctl set_permissions)"]);
    table.row("read a queue", channel().await.basic_consume("theirs", ConsumeOptions::new()).await.map(drop), &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: access to queue 'theirs' in vhost '/' refused for user 'limited' (caused by basic.consume); grant the user the read permission (rabbitmqctl set_permissions)", "channel 1 closed by the peer: 403 ACCESS_REFUSED: read access to queue 'theirs' in vhost '/' refused for user 'limited' (caused by basic.consume); grant the user the read permission (rabbitmqctl set_permissions)"]);
    table.row("get from a queue", channel().await.basic_get("theirs").await.map(drop), &[
        "channel 1 closed by the peer: 403 ACCESS_REFUSED: access to queue 'theirs' in vhost '/' refused for user 'limited' (caused by basic.get); grant the user the read permission (rabbitmqctl set_permissions)", "channel 1 closed by the peer: 403 ACCESS_REFUSED: read access to queue 'theirs' in vhost '/' refused for user 'limited' (caused by basic.get); grant the user the read permission (rabbitmqctl set_permissions)"]);
    table.row("write a topic", send(channel().await, "amq.topic", "their.news", &Message::new("x")).await, &[
        "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: access to topic 'their.news' in exchange 'amq.topic' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the permission for this routing key (rabbitmqctl set_topic_permissions)", "the message was sent, but its channel closed before the confirm; the broker may have the message or not: channel 1 closed by the peer: 403 ACCESS_REFUSED: write access to topic 'their.news' in exchange 'amq.topic' in vhost '/' refused for user 'limited' (caused by basic.publish); grant the user the permission for this routing key (rabbitmqctl set_topic_permissions)"]);
    owner.open_channel().await?.queue_delete("theirs").await?;
    table.check();
    Ok(())
}

/// The node is short of something, or goes away: each needs the node for itself.
#[tokio::test]
#[rustfmt::skip]
async fn a_node_in_trouble_is_explained() -> Outcome {
    let own = RabbitMq::start()?;
    let (_connection, mut table) = table().await?;
    let connection = open(&own.amqp_uri()).await?;
    let mut events = connection.events();
    let channel = connection.open_channel().await?;
    let options = || PublisherOptions::new().timeout(Some(Duration::from_millis(50)));
    for (alarm, normal, blocked, held) in [
        (&["set_vm_memory_high_watermark", "0.0000001"], &["set_vm_memory_high_watermark", "0.4"],
        "the broker accepts no messages: low on memory",
        "not sent within 50ms: the broker has blocked publishing (connection.blocked): it is short of memory or disk"),
        (&["set_disk_free_limit", "100000GB"], &["set_disk_free_limit", "1MB"],
        "the broker accepts no messages: low on disk",
        "not sent within 50ms: the broker has blocked publishing (connection.blocked): it is short of memory or disk"),
    ] {
        own.ctl(alarm)?;
        // Only a connection that publishes is blocked.
        let _unknown = channel.default_exchange().publisher(options())?.send("no", "x").await;
        let event = next(&mut events, |event| matches!(event, ConnectionEvent::Blocked { .. })).await;
        table.row("the event", Err::<(), _>(event), &[blocked]);
        let sent = channel.default_exchange().publisher(options())?.send("no", "x").await;
        table.row("a publish meanwhile", sent, &[held]);
        own.ctl(normal)?;
        next(&mut events, |event| matches!(event, ConnectionEvent::Unblocked)).await;
    }
    own.ctl(&["close_all_connections", "lunch break"])?;
    let reason = next(&mut events, |event| matches!(event, ConnectionEvent::Closed(_))).await;
    table.row("closed by an operator", Err::<(), _>(reason), &[
        "connection closed: connection closed by the peer: 320 CONNECTION_FORCED: lunch break"]);
    let connection = open(&own.amqp_uri()).await?;
    let mut events = connection.events();
    own.stop()?;
    let reason = next(&mut events, |event| matches!(event, ConnectionEvent::Closed(_))).await;
    table.row("the node shuts down", Err::<(), _>(reason), &[
        "connection closed: connection closed by the peer: 320 CONNECTION_FORCED: broker forced connection closure with reason 'shutdown'; connect again later, or to another node"]);
    table.check();
    Ok(())
}

/// Returns the text of the next event of a kind.
async fn next(events: &mut ConnectionEvents, wanted: fn(&ConnectionEvent) -> bool) -> Text {
    loop {
        match events.next().await {
            Some(event) if wanted(&event) => return Text(event.to_string()),
            Some(_) => {}
            None => return Text("no such event".to_owned()),
        }
    }
}

/// A text that is shown as it is.
struct Text(String);

impl Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
