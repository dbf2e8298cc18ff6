use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Uri {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> UriError {
    text.parse::<Uri>().expect_err(text)
}

/// Appendix A of RabbitMQ's URI specification: user, password, host, port and virtual host of each example.
#[test]
fn the_examples_of_the_specification_come_apart_as_it_says() {
    #[rustfmt::skip]
    let examples = [
        ("amqp://user:pass@host:10000/vhost", Some("user"), Some("pass"), "host", 10000, Some("vhost")),
        ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", Some("usera"), Some("apass"), "hoast", 10000, Some("v/host")),
        ("amqp://", None, None, "localhost", 5672, None),
        ("amqp://:@/", Some(""), Some(""), "localhost", 5672, Some("")),
        ("amqp://user@", Some("user"), None, "localhost", 5672, None),
        ("amqp://user:pass@", Some("user"), Some("pass"), "localhost", 5672, None),
        ("amqp://host", None, None, "host", 5672, None),
        ("amqp://:10000", None, None, "localhost", 10000, None),
        ("amqp:///vhost", None, None, "localhost", 5672, Some("vhost")),
        ("amqp://host/", None, None, "host", 5672, Some("")),
        ("amqp://host/%2F", None, None, "host", 5672, Some("/")),
        ("amqp://[::1]", None, None, "::1", 5672, None),
    ];
    for (text, username, password, host, port, virtual_host) in examples {
        let uri = parsed(text);
        assert!(!uri.tls, "{text}");
        assert_eq!(uri.username.as_deref(), username, "{text}");
        assert_eq!(uri.password.as_ref().map(Password::expose), password, "{text}");
        assert_eq!(uri.endpoints, [Endpoint::new(host, port)], "{text}");
        assert_eq!(uri.virtual_host.as_deref(), virtual_host, "{text}");
    }
}

#[test]
fn several_hosts_are_several_endpoints() {
    let uri = parsed("AMQPS://u:p@a,b:1,[fe80::1]:2,[::1]/v");
    assert!(uri.tls);
    let endpoints: Vec<_> = uri.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["a:5671", "b:1", "[fe80::1]:2", "[::1]:5671"]);
}

#[test]
fn parameters_are_typed() {
    let options = parsed(
        "amqp://h?heartbeat=0&connection_timeout=1500&channel_max=9&frame_max=8192&name=my%20app\
         &auth_mechanism=EXTERNAL&auth_mechanism=PLAIN&verify=verify_none&ca_certs=/etc/ca+1.pem",
    )
    .options;
    assert_eq!(options.heartbeat, Some(Duration::ZERO));
    assert_eq!(options.connection_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(options.channel_max, Some(9));
    assert_eq!(options.frame_max, Some(8192));
    assert_eq!(options.connection_name.as_deref(), Some("my app"));
    assert_eq!(options.auth_mechanisms, ["EXTERNAL", "PLAIN"]);
    assert_eq!(options.verify, Some(false));
    assert_eq!(options.cacertfile.as_deref(), Some("/etc/ca+1.pem"));
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(refused("http://host"), UriError::Scheme);
    assert_eq!(refused("amqp:host"), UriError::Scheme);
    assert_eq!(refused("amqp://host/a/b"), UriError::VirtualHost);
    assert_eq!(refused("amqp://host/#"), UriError::Fragment);
    assert_eq!(refused("amqp://h:99999"), UriError::Port { text: "99999".to_owned() });
    assert_eq!(refused("amqp://h:+1"), UriError::Port { text: "+1".to_owned() });
    assert_eq!(refused("amqp://[::1"), UriError::Host { text: "[::1".to_owned() });
    assert_eq!(refused("amqp://::1"), UriError::Host { text: "::1".to_owned() });
    assert_eq!(refused("amqp://h/%zz"), UriError::Encoding { part: "virtual host" });
    assert_eq!(refused("amqp://h/%e"), UriError::Encoding { part: "virtual host" });
    assert_eq!(refused("amqp://%ff@h"), UriError::Encoding { part: "user name" });
    assert_eq!(refused("amqp://h?heartbeat"), UriError::NoValue { name: "heartbeat".to_owned() });
    assert!(matches!(
        refused("amqp://h?heartbeat=1s"),
        UriError::BadValue { name: "heartbeat", .. }
    ));
    assert!(matches!(
        refused("amqp://h?heartbeat=-1"),
        UriError::BadValue { name: "heartbeat", .. }
    ));
    let twice = "amqp://h?name=a&connection_name=b";
    assert_eq!(refused(twice), UriError::Duplicate { name: "connection_name".to_owned() });
    let unknown = refused("amqp://h?heart_beat=1");
    assert_eq!(unknown, UriError::UnknownParameter { name: "heart_beat".to_owned() });
    assert!(unknown.to_string().contains("heartbeat, connection_timeout"));
}

#[test]
fn the_password_is_never_shown() {
    let uri = parsed("amqp://user:hunter2@host/v");
    assert_eq!(uri.to_string(), "amqp://user:***@host:5672/v");
    assert!(!format!("{uri:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn nothing_panics(text in "(amqps?://)?\\PC{0,40}") {
        let _parsed = text.parse::<Uri>();
    }

    #[test]
    fn what_is_printed_parses_to_the_same(
        tls: bool,
        username in proptest::option::of("\\PC{0,8}"),
        hosts in proptest::collection::vec(("[a-z0-9.-]{1,12}|::1|fe80::[0-9a-f]{1,4}", any::<u16>()), 1..4),
        virtual_host in proptest::option::of("\\PC{0,8}"),
        heartbeat in proptest::option::of(any::<u16>()),
        connection_name in proptest::option::of("\\PC{1,8}"),
    ) {
        let uri = Uri {
            tls,
            endpoints: hosts.into_iter().map(|(host, port)| Endpoint { host, port }).collect(),
            username,
            password: None,
            virtual_host,
            options: UriOptions {
                heartbeat: heartbeat.map(|seconds| Duration::from_secs(seconds.into())),
                connection_name,
                ..UriOptions::default()
            },
        };
        prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
    }
}
