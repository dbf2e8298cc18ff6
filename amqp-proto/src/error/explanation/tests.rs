use alloc::format;
use alloc::string::ToString as _;

use proptest::prelude::*;

use super::*;
use crate::ShortStr;

fn close(reply_code: ReplyCode, text: &str) -> Close {
    let close = Close::local(None, reply_code, ShortStr::truncated(text));
    Close { by: Initiator::Peer, ..close }
}

fn parsed(text: &str) -> Option<Explanation> {
    close(ReplyCode::PRECONDITION_FAILED, text).explanation()
}

fn resource(kind: &str, name: &str, virtual_host: &str) -> Resource {
    Resource { kind: kind.into(), name: name.into(), virtual_host: virtual_host.into() }
}

fn queue() -> Resource {
    resource("queue", "q", "/")
}

/// Each text is RabbitMQ's. Those with a version in their row are sent by that version and its neighbours only.
#[test]
fn rabbitmqs_texts_are_taken_apart() {
    let exchange = || resource("exchange", "x", "/");
    let refused = |permission, resource| Explanation::AccessRefused {
        permission,
        resource,
        topic: None,
        user: "u".into(),
    };
    let topic = |permission| Explanation::AccessRefused {
        permission,
        resource: exchange(),
        topic: Some("a.b".into()),
        user: "u".into(),
    };
    let limit = |of, scope, limit| Explanation::Limit { of, scope, limit };
    let invalid = |argument: &str, why: &str| Explanation::InvalidArgument {
        argument: argument.into(),
        resource: queue(),
        why: why.into(),
    };
    let unavailable = || Explanation::Unavailable { resource: queue() };
    let unsupported = || Explanation::NotSupported { resource: queue() };
    let rows = [
        (
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
            Explanation::InequivalentArgument {
                argument: "durable".into(),
                resource: queue(),
                received: "'true'".into(),
                current: "'false'".into(),
            },
        ),
        (
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '5' \
             of type 'signedint'",
            Explanation::InequivalentArgument {
                argument: "x-max-length".into(),
                resource: queue(),
                received: "none".into(),
                current: "the value '5' of type 'signedint'".into(),
            },
        ),
        (
            "invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}",
            invalid("x-max-length", "{value_negative,-1}"),
        ),
        (
            "invalid arg 'x-max-age' for queue 'q' in vhost '/': {bad,\"a: b\"}",
            invalid("x-max-age", "{bad,\"a: b\"}"),
        ),
        (
            "invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
            invalid("x-max-priority", "rabbit_quorum_queue"),
        ),
        ("invalid property 'non-durable' for queue 'q' in vhost '/'", invalid("non-durable", "")),
        // 3.10
        ("access to queue 'q' in vhost '/' refused for user 'u'", refused(None, queue())),
        // 4.0
        (
            "read access to queue 'q' in vhost '/' refused for user 'u'",
            refused(Some(Permission::Read), queue()),
        ),
        (
            "configure access to exchange 'x' in vhost '/' refused for user 'u' by backend rabbit_auth_backend_http: no",
            refused(Some(Permission::Configure), exchange()),
        ),
        // 3.10
        ("access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'", topic(None)),
        // 4.0
        (
            "write access to topic 'a.b' in exchange 'x' in vhost '/' refused for user 'u'",
            topic(Some(Permission::Write)),
        ),
        ("no queue 'q' in vhost '/'", Explanation::NotFound { resource: queue() }),
        ("no exchange 'x' in vhost '/'", Explanation::NotFound { resource: exchange() }),
        (
            "home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            unavailable(),
        ),
        ("queue 'q' in vhost '/' has crashed and failed to restart", unavailable()),
        ("queue 'q' in vhost '/' process is stopped by supervisor", unavailable()),
        ("failed to perform operation on queue 'q' in vhost '/' due to timeout", unavailable()),
        (
            "failed to perform operation on queue 'q' in vhost '/': its leader <0.1.0> may be stopping or being demoted",
            unavailable(),
        ),
        (
            "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another \
             connection or the exclusive property value does not match that of the original declaration.",
            Explanation::Locked { resource: queue() },
        ),
        (
            "queue 'q' in vhost '/' in exclusive use",
            Explanation::ExclusiveConsumer { resource: queue() },
        ),
        ("queue 'q' in vhost '/' in use", Explanation::InUse { resource: queue() }),
        ("exchange 'x' in vhost '/' in use", Explanation::InUse { resource: exchange() }),
        ("queue 'q' in vhost '/' not empty", Explanation::NotEmpty { resource: queue() }),
        (
            "cannot publish to internal exchange 'x' in vhost '/'",
            Explanation::InternalExchange { resource: exchange() },
        ),
        ("basic.get not supported by stream queues queue 'q' in vhost '/'", unsupported()),
        ("queue.purge not supported by stream queues queue 'q' in vhost '/'", unsupported()),
        (
            "cannot delete queue 'q' in vhost '/'. queue.delete operations with if-unused flag set are not supported by \
             quorum queues",
            unsupported(),
        ),
        ("unknown delivery tag 42", Explanation::UnknownDeliveryTag { delivery_tag: 42 }),
        (
            "delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms. This timeout value can be \
             configured, see consumers doc guide to learn more",
            Explanation::AcknowledgementTimeout { timeout: Duration::from_secs(1) },
        ),
        (
            "message size 17000000 is larger than configured max size 16777216",
            Explanation::MessageTooLarge { size: 17_000_000, max: 16_777_216 },
        ),
        (
            "message size 9 is larger than max size 8",
            Explanation::MessageTooLarge { size: 9, max: 8 },
        ),
        (
            "user_id property set to 'a' but authenticated user was 'b'",
            Explanation::UserId { claimed: "a".into(), user: "b".into() },
        ),
        (
            "invalid expiration 'soon': {leftover_string,\"soon\"}",
            Explanation::InvalidExpiration { expiration: "soon".into() },
        ),
        (
            "attempt to reuse consumer tag 'c'",
            Explanation::ConsumerTagInUse { consumer_tag: "c".into() },
        ),
        (
            "number of channels opened (2) has reached the negotiated channel_max (2)",
            limit(Limited::Channels, Scope::Connection, 2),
        ),
        // 3.10
        (
            "number of channels opened for user 'u' has reached the maximum allowed user limit of (2)",
            limit(Limited::Channels, Scope::User("u".into()), 2),
        ),
        // 4.3
        (
            "number of channels opened for user 'u' has reached the maximum allowed user limit of 2",
            limit(Limited::Channels, Scope::User("u".into()), 2),
        ),
        (
            "number of channels opened on node 'a@b' has reached the maximum allowed limit of 2",
            limit(Limited::Channels, Scope::Node, 2),
        ),
        (
            "reached maximum (3) of consumers per channel",
            limit(Limited::Consumers, Scope::Channel, 3),
        ),
        (
            "cannot declare queue 'q': queue limit in vhost 'v' (3) is reached",
            limit(Limited::Queues, Scope::VirtualHost("v".into()), 3),
        ),
        // 3.10
        (
            "queue limit in vhost 'v' (3) is reached",
            limit(Limited::Queues, Scope::VirtualHost("v".into()), 3),
        ),
        (
            "cannot declare queue 'q': queue limit in cluster (3) is reached",
            limit(Limited::Queues, Scope::Cluster, 3),
        ),
        (
            "cannot declare exchange 'x' in vhost '/': exchange limit of 3 is reached",
            limit(Limited::Exchanges, Scope::Cluster, 3),
        ),
        (
            "connection refused: node connection limit (3) is reached",
            limit(Limited::Connections, Scope::Node, 3),
        ),
        (
            "connection refused for user 'u': user connection limit (3) is reached",
            limit(Limited::Connections, Scope::User("u".into()), 3),
        ),
        (
            "access to vhost 'v' refused for user 'u': connection limit (3) is reached",
            limit(Limited::Connections, Scope::VirtualHost("v".into()), 3),
        ),
        ("vhost v not found", Explanation::VirtualHostNotFound { virtual_host: "v".into() }),
        (
            "access to vhost 'v' refused for user 'u'",
            Explanation::VirtualHostRefused { virtual_host: "v".into(), user: "u".into() },
        ),
        (
            "access to vhost 'v' refused for user 'u': vhost 'v' is down",
            Explanation::VirtualHostDown { virtual_host: "v".into() },
        ),
        (
            "Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
            Explanation::LoginRefused { mechanism: "PLAIN".into() },
        ),
        (
            "negotiated frame_max = 4096 is lower than the minimum allowed value (8192)",
            Explanation::Negotiation {
                parameter: "frame_max".into(),
                negotiated: 4096,
                bound: 8192,
                too_high: false,
            },
        ),
        (
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
            Explanation::Negotiation {
                parameter: "channel_max".into(),
                negotiated: 0,
                bound: 2047,
                too_high: true,
            },
        ),
        ("Node was put into maintenance mode", Explanation::ShuttingDown),
        ("broker forced connection closure with reason 'shutdown'", Explanation::ShuttingDown),
        ("credential expired", Explanation::CredentialsExpired),
        ("operation not permitted on the default exchange", Explanation::DefaultExchange),
        (
            "queue name 'amq.x' contains reserved prefix 'amq.*'",
            Explanation::ReservedName { name: "amq.x".into() },
        ),
        (
            "unknown exchange type 'odd'",
            Explanation::UnknownExchangeType { exchange_type: "odd".into() },
        ),
        (
            "invalid exchange type 'odd'",
            Explanation::UnknownExchangeType { exchange_type: "odd".into() },
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(parsed(text).as_ref(), Some(&expected), "{text}");
        assert_eq!(parsed(&format!("PRECONDITION_FAILED - {text}")), Some(expected), "{text}");
    }
}

#[test]
fn each_reason_that_needs_action_has_one_short_hint() {
    let closed = close(ReplyCode::NOT_FOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
    let text = "connection closed by the peer: 404 NOT_FOUND: no queue 'q' in vhost '/'; declare it first, or check the name \
                and the virtual host";
    assert_eq!(closed.to_string(), text);
    // Anybody can have made the broker close it, not only an operator.
    for why in ["upgrade", "user 'u' is deleted", ""] {
        let text = format!("CONNECTION_FORCED - {why}");
        let forced = close(ReplyCode::CONNECTION_FORCED, &text);
        let expected = Explanation::ConnectionForced { why: why.into() };
        assert_eq!((forced.explanation(), forced.hint()), (Some(expected), None));
    }
    let text = "CONNECTION_FORCED - Closed via management plugin";
    let operator = close(ReplyCode::CONNECTION_FORCED, text);
    let expected = Some(Explanation::ClosedByOperator);
    assert_eq!((operator.explanation(), operator.hint()), (expected, None));
    let failed = close(ReplyCode::INTERNAL_ERROR, "INTERNAL_ERROR");
    assert_eq!(failed.hint(), Some("the broker's log has the details"));
    let own = Close { by: Initiator::Local, ..closed };
    assert_eq!((own.explanation(), own.hint()), (None, None));
}

/// RabbitMQ 3 does not name the permission, but the method needs only one.
#[test]
fn the_missing_permission_follows_from_the_method() {
    let permission = |(class_id, method_id), kind| {
        let text =
            format!("ACCESS_REFUSED - access to {kind} 'a' in vhost '/' refused for user 'u'");
        let close = Close { class_id, method_id, ..close(ReplyCode::ACCESS_REFUSED, &text) };
        match close.explanation() {
            Some(Explanation::AccessRefused { permission, .. }) => permission,
            other => panic!("{other:?}"),
        }
    };
    let (declare, bind, purge, delete) = ((50, 10), (50, 20), (50, 30), (50, 40));
    let (consume, publish, get) = ((60, 20), (60, 40), (60, 70));
    for (method, kind, expected) in [
        (declare, "queue", None),
        (bind, "queue", Some(Permission::Write)),
        (bind, "exchange", Some(Permission::Read)),
        (purge, "queue", Some(Permission::Read)),
        (delete, "queue", Some(Permission::Configure)),
        (consume, "queue", Some(Permission::Read)),
        (publish, "exchange", Some(Permission::Write)),
        (get, "queue", Some(Permission::Read)),
        ((0, 0), "queue", None),
    ] {
        assert_eq!(permission(method, kind), expected, "{method:?} {kind}");
    }
}

/// A name that looks like other parts of the texts.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("'"),
        Just("' in vhost '"),
        Just("' for queue '"),
        Just(": received "),
        Just(" but current is "),
        Just("' refused for user '"),
        Just(" in use"),
        Just("is reached"),
        Just("..."),
        Just("\u{202e}"),
        Just("ü"),
        Just("日本"),
        Just("a"),
        Just(" "),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A name that no text can be taken for.
const TAME: &str = "[a-zä-ü0-9.]{0,12}";

proptest! {
    #[test]
    fn any_bytes_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..255), code: u16) {
        let reply_text = ShortStr::named("text", bytes).expect("it is short");
        let close = Close { reply_code: ReplyCode(code), reply_text, ..close(ReplyCode(0), "") };
        let _explanation = close.explanation();
        prop_assert!(!close.to_string().is_empty());
    }

    /// Parts of the texts in any order, cut anywhere.
    #[test]
    fn any_mixture_of_texts_can_be_parsed(
        parts in proptest::collection::vec(
            prop_oneof![
                hostile(),
                Just("access to ".to_owned()), Just("inequivalent arg '".to_owned()),
                Just("queue 'q' in vhost '/'".to_owned()), Just("vhost ".to_owned()), Just("no ".to_owned()),
                Just("connection limit (".to_owned()), Just(") is reached".to_owned()),
                Just("negotiated frame_max = ".to_owned()), Just("(99999999999999999999)".to_owned()),
                Just("number of channels opened ".to_owned()), Just("message size ".to_owned()),
            ],
            0..9,
        ),
        cut in 0usize..300,
    ) {
        let text = parts.concat();
        let end = (0..=cut.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let _explanation = parsed(&text[..end]);
    }

    #[test]
    fn hostile_names_come_back(name in hostile(), tame in TAME, host in TAME) {
        let resource = resource("queue", &name, &host);
        let shown = format!("queue '{name}' in vhost '{host}'");
        let fits = |text: &str| text.len() <= 255;
        let text = format!("no {shown}");
        if fits(&text) {
            prop_assert_eq!(parsed(&text), Some(Explanation::NotFound { resource: resource.clone() }));
        }
        let text = format!("read access to {shown} refused for user '{tame}'");
        if fits(&text) {
            prop_assert_eq!(parsed(&text), Some(Explanation::AccessRefused {
                permission: Some(Permission::Read),
                resource: resource.clone(),
                topic: None,
                user: tame.clone(),
            }));
        }
        let text = format!("inequivalent arg '{tame}' for {shown}: received '{tame}' but current is none");
        if fits(&text) {
            prop_assert_eq!(parsed(&text), Some(Explanation::InequivalentArgument {
                argument: tame.clone(),
                resource: resource.clone(),
                received: format!("'{tame}'"),
                current: "none".into(),
            }));
        }
        let text = format!("{shown} in use");
        if fits(&text) {
            prop_assert_eq!(parsed(&text), Some(Explanation::InUse { resource }));
        }
    }
}
