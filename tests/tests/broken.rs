//! Broken set-ups between a client and its broker, with the whole text that a user sees: what a program prints whose `main`
//! returns the error. `broken_broker.rs` has those that need a real broker.

mod adapters;
mod script;
mod servers;

use std::net::TcpListener;
use std::sync::OnceLock;

use amqp_client_core::proto::method::{ConnectionClose, ConnectionStart, ConnectionTune};
use amqp_client_core::proto::{LongStr, ReplyCode, ShortStr};
use amqp_client_core::{ConnectStep, ConnectionEvent};
use amqp_client_tokio::connect_in_background;
use amqp_testkit::PeerConnection;
use script::{greet, offer, send, settle};
use servers::{Fault, listen, secured, untrusted};

/// A broken set-up: its name, a function that makes it and returns a URI, the step that fails, and the text. `PORT` stands for
/// the port.
type Row = (&'static str, fn() -> String, ConnectStep, &'static str);

/// A peer that sends these bytes, whatever the client sends.
fn says(bytes: &'static [u8]) -> String {
    listen(move |mut peer| {
        let _header = peer.read_exact(8);
        let _sent = peer.write(bytes);
        let _closed = peer.close();
    })
}

fn with_tls(uri: String) -> String {
    uri.replace("amqp://", "amqps://")
}

/// A peer that refuses the client after these methods, as RabbitMQ does.
fn refuses(
    until: fn(&mut PeerConnection),
    code: ReplyCode,
    text: &'static str,
    cause: (u16, u16),
) -> String {
    listen(move |mut peer| {
        until(&mut peer);
        let (class_id, method_id) = cause;
        let reply_text = ShortStr::truncated(text);
        let close = ConnectionClose { reply_code: code.0, reply_text, class_id, method_id };
        send(&mut peer, 0, close);
        let _close_ok = peer.read_frame();
    })
}

/// The URI of a port at which nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let at = listener.local_addr().expect("it listens");
    format!("amqp://{at}")
}

/// The URI of a port that the system accepts connections for, but nobody else.
fn silent() -> String {
    static SILENT: OnceLock<TcpListener> = OnceLock::new();
    let listener =
        SILENT.get_or_init(|| TcpListener::bind("127.0.0.1:0").expect("there is a free port"));
    format!("amqp://{}/?connection_timeout=2000", listener.local_addr().expect("it listens"))
}

const NONE: (u16, u16) = (0, 0);
const TUNE: (u16, u16) = (10, 30);
const OPEN: (u16, u16) = (10, 40);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("no such host name", || "amqp://no-such-host.invalid".into(), ConnectStep::Dns,
        "cannot reach no-such-host.invalid:5672 (step: DNS; check the host name): "),
    ("nothing listens", nobody, ConnectStep::Tcp,
        "cannot reach 127.0.0.1:PORT (step: TCP; nothing listens there: check the port, and whether the broker runs): Connection refused (os error 111)"),
    ("the port is silent", silent, ConnectStep::ProtocolHeader,
        "connecting to 127.0.0.1:PORT timed out after 2s (step: protocol header; check the port: one for TLS needs amqps://, and a broker that starts may reply late)"),
    ("the port is silent, with TLS", || with_tls(silent()), ConnectStep::Tls,
        "connecting to 127.0.0.1:PORT timed out after 2s (step: TLS; check the port: one without TLS needs amqp://)"),
    ("a proxy without a broker", || says(b""), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header; check the port: one for TLS needs amqps://, and a proxy needs a broker behind it): the peer disconnected without closing the connection"),
    ("a port for TLS", || says(b"\x15\x03\x03\x00\x02\x02\x0a"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer speaks TLS: this is a TLS port, use amqps:// for it"),
    ("a port for HTTP", || says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer speaks HTTP: this is not an AMQP port (RabbitMQ's management listens on 15672, AMQP on 5672)"),
    ("a broker of AMQP 1.0", || says(b"AMQP\x03\x01\x00\x00"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer speaks AMQP 1.0, not 0-9-1; check the port, and that the broker has AMQP 0-9-1"),
    ("a broker of AMQP 0-9", || says(b"AMQP\x01\x01\x00\x09"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer speaks AMQP 1-0-9 (protocol 1), not 0-9-1; check the port"),
    ("a port for SSH", || says(b"SSH-2.0-OpenSSH_9.2\r\n"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer does not speak AMQP: its first bytes are \"SSH-2.0-\"; check the port"),
    ("a port of Redis", || says(b"-ERR unknown command 'AMQP'\r\n"), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header): the peer does not speak AMQP: its first bytes are \"-ERR unk\"; check the port"),
    ("TLS to a proxy without a broker", || with_tls(says(b"")), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS; check the port: one without TLS needs amqp://, and a proxy needs a broker behind it): the peer disconnected without closing the connection"),
    ("TLS to a port without TLS", || with_tls(says(b"AMQP\x00\x00\x09\x01")), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: the peer speaks AMQP without TLS: use amqp:// for this port, or connect to its TLS port (RabbitMQ: 5671)"),
    ("TLS to a port for HTTP", || with_tls(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: the peer speaks HTTP without TLS: this is not an AMQP port (RabbitMQ: 5671 with TLS, 5672 without)"),
    ("TLS to a port for SSH", || with_tls(says(b"SSH-2.0-OpenSSH_9.2\r\n")), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: the peer does not speak TLS: this may be a port without TLS, use amqp:// for it"),
    ("an expired certificate", || secured(Fault::Expired), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: TLS: the broker's certificate has expired; renew it, or check the clock of this machine"),
    ("a certificate of the future", || secured(Fault::NotYetValid), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: TLS: the broker's certificate is not valid yet; check the clock of this machine"),
    ("a certificate for other names", || secured(Fault::OtherNames), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: TLS: the broker's certificate is not valid for 127.0.0.1, only for rabbit.example; connect to a name that it has, or set server_name_indication in the URI"),
    ("an unknown authority", || untrusted(Fault::None), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: TLS: the broker's certificate is signed by an authority that is not trusted here; set cacertfile in the URI, or TlsOptions::trust"),
    ("no client certificate", || secured(Fault::WantsCertificate), ConnectStep::Tls,
        "cannot connect to 127.0.0.1:PORT (step: TLS): the transport failed: TLS: the broker requires a client certificate; set certfile and keyfile in the URI, or TlsOptions::identity (alert CertificateRequired)"),
    ("a proxy with TLS, without a broker", || secured(Fault::None), ConnectStep::ProtocolHeader,
        "cannot connect to 127.0.0.1:PORT (step: protocol header; check the port: one for TLS needs amqps://, and a proxy needs a broker behind it): the peer disconnected without closing the connection"),
    ("no common mechanism", || listen(|mut peer| {
        let _header = peer.read_protocol_header();
        send(&mut peer, 0, ConnectionStart { mechanisms: LongStr::from("GSSAPI"), ..offer() });
        let _end = peer.read_frame();
    }), ConnectStep::Sasl,
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: the server offers the SASL mechanisms \"GSSAPI\", but the client is configured for \"PLAIN\"; set auth_mechanism in the URI to one of the server's"),
    ("a disconnect instead of a refusal", || listen(|mut peer| {
        greet(&mut peer);
        let _closed = peer.close();
    }), ConnectStep::Sasl,
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: connection closed during login; the credentials were probably rejected: check the user and the password"),
    ("a login that hangs", || format!("{}?connection_timeout=2000", listen(|mut peer| {
        greet(&mut peer);
        let _end = peer.read_frame();
    })), ConnectStep::Sasl,
        "connecting to 127.0.0.1:PORT timed out after 2s (step: login; the broker is slow or hangs: see its log)"),
    ("a wrong password", || refuses(greet, ReplyCode::ACCESS_REFUSED,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.", NONE),
        ConnectStep::Sasl,
        "cannot connect to 127.0.0.1:PORT (step: login): login failed: refused by the server: 403 ACCESS_REFUSED: Login was refused using authentication mechanism PLAIN. For details see the broker logfile; check the user and the password; the user guest may connect only from the broker's own host"),
    ("frame_max of the broker too small", || listen(|mut peer| {
        greet(&mut peer);
        send(&mut peer, 0, ConnectionTune { channel_max: 0, frame_max: 100, heartbeat: 0 });
        let _end = peer.read_frame();
    }), ConnectStep::Tune,
        "cannot connect to 127.0.0.1:PORT (step: tuning): protocol violation by the peer: cannot negotiate frame_max = 100: the minimum is 4096"),
    ("frame_max too small for RabbitMQ 4", || refuses(settle, ReplyCode::NOT_ALLOWED,
        "NOT_ALLOWED - negotiated frame_max = 4096 is lower than the minimum allowed value (8192)", TUNE),
        ConnectStep::Tune,
        "cannot connect to 127.0.0.1:PORT (step: tuning): connection closed by the peer: 530 NOT_ALLOWED: negotiated frame_max = 4096 is lower than the minimum allowed value (8192) (caused by connection.tune); raise the limit in the client's configuration"),
    ("a virtual host that is missing", || refuses(settle, ReplyCode::NOT_ALLOWED,
        "NOT_ALLOWED - vhost orders not found", OPEN), ConnectStep::VirtualHost,
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: vhost orders not found (caused by connection.open); check the name, or create it (rabbitmqctl add_vhost)"),
    ("a virtual host that is down", || refuses(settle, ReplyCode::INTERNAL_ERROR,
        "INTERNAL_ERROR - access to vhost 'orders' refused for user 'guest': vhost 'orders' is down", OPEN),
        ConnectStep::VirtualHost,
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 541 INTERNAL_ERROR: access to vhost 'orders' refused for user 'guest': vhost 'orders' is down (caused by connection.open); see the broker's log, or restart it (rabbitmqctl restart_vhost)"),
    ("a node at its limit", || refuses(settle, ReplyCode::NOT_ALLOWED,
        "NOT_ALLOWED - connection refused: node connection limit (100) is reached", OPEN), ConnectStep::VirtualHost,
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 530 NOT_ALLOWED: connection refused: node connection limit (100) is reached (caused by connection.open); close other connections, or raise connection_max on the broker"),
    ("a node that shuts down", || refuses(settle, ReplyCode::CONNECTION_FORCED,
        "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", NONE), ConnectStep::VirtualHost,
        "cannot connect to 127.0.0.1:PORT (step: virtual host): connection closed by the peer: 320 CONNECTION_FORCED: broker forced connection closure with reason 'shutdown'; connect again later, or to another node"),
    ("a disconnect at the virtual host", || listen(|mut peer| {
        settle(&mut peer);
        let _closed = peer.close();
    }), ConnectStep::VirtualHost,
        "cannot connect to 127.0.0.1:PORT (step: virtual host; see the broker's log): the peer disconnected without closing the connection"),
];

/// Shows the texts of all rows that differ at once.
#[test]
fn each_broken_set_up_is_explained() {
    let mut wrong = Vec::new();
    for (name, make, step, expected) in ROWS {
        for (adapter, error) in adapters::failures(&make()) {
            let text = servers::without_ports(&format!("{error:?}"));
            // What the system says about a name differs between systems and runtimes.
            let fits = match expected.ends_with(": ") {
                true => text.starts_with(expected),
                false => text == *expected,
            };
            if !fits || error.step() != *step {
                wrong.push(format!("{name} ({adapter}): {:?}\n  {text}", error.step()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The steps also reach the events of a connection that goes on trying.
#[tokio::test]
async fn attempts_report_the_step_that_failed() -> adapters::Outcome {
    let at_host: fn() -> String = || {
        listen(|mut peer| {
            settle(&mut peer);
            let _closed = peer.close();
        })
    };
    let rows: [(fn() -> String, ConnectStep); 6] = [
        (|| "amqp://no-such-host.invalid".into(), ConnectStep::Dns),
        (nobody, ConnectStep::Tcp),
        (|| with_tls(says(b"")), ConnectStep::Tls),
        (|| secured(Fault::None), ConnectStep::ProtocolHeader),
        (|| says(b""), ConnectStep::ProtocolHeader),
        (at_host, ConnectStep::VirtualHost),
    ];
    for (make, expected) in rows {
        let connection = connect_in_background(make().parse()?)?;
        let mut events = connection.events();
        let failed = loop {
            match events.next().await {
                Some(ConnectionEvent::AttemptFailed { step, .. }) => break step,
                Some(ConnectionEvent::Closed(reason)) => panic!("{expected}: {reason:?}"),
                Some(_) => {}
                None => panic!("{expected}: the events have ended"),
            }
        };
        assert_eq!((failed, connection.connect_step()), (Some(expected), Some(expected)));
    }
    Ok(())
}
