//! A tap sees the frames of every transport of a connection, and no credentials.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use amqp_client_core::proto::ConnectionError;
use amqp_client_core::proto::method::Method;
use amqp_client_core::tap::{Direction, Frame, Kind, Tap, Transport};
use amqp_client_core::{ConnectionEvent, Endpoint, Message};
use amqp_testkit::Proxy;

use super::{behaviours, next, temporary};

/// The names of the methods, by transport and direction, and what was wrong.
#[derive(Default)]
struct Record(Mutex<Vec<(u64, Direction, &'static str)>>, Mutex<Vec<String>>);

impl Record {
    fn methods(&self, transport: u64, direction: Direction) -> Vec<&'static str> {
        let all = self.0.lock().expect("no panic");
        let wanted =
            all.iter().filter(|(number, own, _)| (*number, *own) == (transport, direction));
        wanted.map(|(.., name)| *name).collect()
    }

    fn note(&self, transport: &Transport, direction: Direction, name: &'static str) {
        self.0.lock().expect("no panic").push((transport.number, direction, name));
    }
}

impl Tap for Record {
    fn connected(&self, transport: &Transport) {
        self.note(transport, Direction::Sent, "connected");
    }

    fn frame(&self, frame: &Frame<'_>) {
        let name = match frame.method() {
            Some(Ok(method)) => {
                if let Method::ConnectionStartOk(start) = &method {
                    let hidden = frame.masked && start.response.expose() == b"********";
                    let wrong = (!hidden).then(|| "the response is not masked".to_owned());
                    self.1.lock().expect("no panic").extend(wrong);
                }
                method.facts().name
            }
            None if matches!(frame.kind, Kind::Frame(_)) => return,
            None if frame.kind == Kind::ProtocolHeader => "protocol header",
            // The proxy may cut the connection in the middle of a frame.
            None if frame.kind == Kind::Cut => return,
            _ => {
                let wrong = format!("{frame:?}: {}", frame.bytes.escape_ascii());
                return self.1.lock().expect("no panic").push(wrong);
            }
        };
        self.note(frame.transport, frame.direction, name);
    }

    fn disconnected(&self, transport: &Transport, _: Instant, _: Option<&ConnectionError>) {
        self.note(transport, Direction::Sent, "disconnected");
    }
}

behaviours! {
    async fn a_tap_sees_all_transports(world) {
        let target = world.target();
        let broker = target.get_endpoints().first().ok_or("no host")?;
        let proxy = Proxy::start(format!("{}:{}", broker.host, broker.port).parse()?)?;
        let (host, port) = (proxy.addr().ip().to_string(), proxy.addr().port());
        let record = Arc::new(Record::default());
        let target = target.endpoints([Endpoint::new(host, port)]).tap(record.clone());
        let connection = world.open(target).await?;
        let mut events = connection.events();
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", temporary()).await?;
        queue.publish_confirmed(&Message::new("m")).await?;
        let mut consumer = queue.consume(amqp_client_core::ConsumeOptions::new()).await?;
        next(&mut consumer).await?.ack()?;
        proxy.cut();
        while !matches!(events.next().await, Some(ConnectionEvent::Recovered(_))) {}
        queue.publish(&Message::new("m")).await?;
        next(&mut consumer).await?.ack()?;
        connection.close().await?;

        let sent = record.methods(1, Direction::Sent);
        let handshake = [
            "connected",
            "protocol header",
            "connection.start-ok",
            "connection.tune-ok",
            "connection.open",
        ];
        assert_eq!(sent[..5], handshake);
        let expected = ["channel.open", "queue.declare", "basic.publish", "basic.consume", "basic.ack"];
        assert!(expected.iter().all(|name| sent.contains(name)), "{sent:?}");
        assert_eq!(sent.last(), Some(&"disconnected"));
        let received = record.methods(1, Direction::Received);
        assert_eq!(received[..3], ["connection.start", "connection.tune", "connection.open-ok"]);
        assert!(received.contains(&"basic.deliver"), "{received:?}");

        // The second one is restored and closed.
        let sent = record.methods(2, Direction::Sent);
        assert_eq!(sent[..5], handshake);
        let expected = ["queue.declare", "basic.consume", "basic.publish", "connection.close"];
        assert!(expected.iter().all(|name| sent.contains(name)), "{sent:?}");
        assert!(record.methods(2, Direction::Received).contains(&"connection.close-ok"));
        let wrong = record.1.lock().expect("no panic").join("\n");
        assert!(wrong.is_empty(), "{wrong}");
    }
}
