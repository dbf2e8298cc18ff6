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
fn the_examples_of_the_specification_parse_as_specified() {
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
        ("amqp://host/%2f", None, None, "host", 5672, Some("/")),
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
fn errors_name_the_invalid_part() {
    assert_eq!(refused("http://host"), UriError::Scheme);
    assert_eq!(refused("amqp:host"), UriError::Scheme);
    assert_eq!(refused("amqp://host/a/b"), UriError::VirtualHost);
    assert_eq!(refused("amqp://host/#"), UriError::Fragment);
    assert_eq!(refused("amqp://h:99999"), UriError::Port { position: 1 });
    assert_eq!(refused("amqp://a,h:+1"), UriError::Port { position: 2 });
    assert_eq!(refused("amqp://[::1"), UriError::Host { position: 1 });
    assert_eq!(refused("amqp://[::1]5672"), UriError::Host { position: 1 });
    assert_eq!(refused("amqp://a,::1"), UriError::Host { position: 2 });
    assert_eq!(refused("amqp://[host]"), UriError::Host { position: 1 });
    assert_eq!(refused("amqp://[]"), UriError::Host { position: 1 });
    assert_eq!(refused("amqp://[fe80::1%25]"), UriError::Host { position: 1 });
    assert_eq!(refused("amqp://[fe80::1%eth0]"), UriError::Encoding { part: "host" });
    assert_eq!(refused("amqp://a,,b"), UriError::EmptyHost { position: 2 });
    assert_eq!(refused("amqp://a,:5673"), UriError::EmptyHost { position: 2 });
    assert_eq!(refused("amqp://,a"), UriError::EmptyHost { position: 1 });
    assert_eq!(refused("amqp://h/v\n"), UriError::Whitespace);
    assert_eq!(refused("amqp://h?name=my app"), UriError::Whitespace);
    assert_eq!(refused("amqp://h/%zz"), UriError::Encoding { part: "virtual host" });
    assert_eq!(refused("amqp://h/%e"), UriError::Encoding { part: "virtual host" });
    assert_eq!(refused("amqp://%ff@h"), UriError::Encoding { part: "user name" });
    assert_eq!(refused("amqp://h?heartbeat"), UriError::NoValue { name: "heartbeat".to_owned() });
    assert_eq!(refused("amqp://h?heartbeat="), UriError::NoValue { name: "heartbeat".to_owned() });
    let twice = "amqp://h?name=a&connection_name=b";
    assert_eq!(refused(twice), UriError::Duplicate { name: "connection_name".to_owned() });
    let unknown = refused("amqp://h?heart_beat=1");
    assert_eq!(unknown, UriError::UnknownParameter { name: "heart_beat".to_owned() });
    assert!(unknown.to_string().contains("heartbeat, connection_timeout"));
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for query in [
        "heartbeat=1s",
        "heartbeat=-1",
        "heartbeat=1.5",
        "heartbeat=65536",
        "connection_timeout=1e3",
        "channel_max=65536",
        "frame_max=4294967296",
        "frame_max=0x1000",
        "verify=peer",
        "no_verify_ssl=true",
    ] {
        let error = refused(&format!("amqp://h?{query}"));
        let (name, value) = query.split_once('=').unwrap();
        assert!(
            matches!(&error, UriError::BadValue { name: n, value: v, .. } if *n == name && v == value),
            "{query}: {error:?}"
        );
    }
}

#[test]
fn other_names_of_a_parameter_are_that_parameter() {
    for (query, name) in [
        ("verify=verify_peer&no_verify_ssl=0", "no_verify_ssl"),
        ("cafile=a&cacertfile=a", "cacertfile"),
        ("ca_certs=a&cafile=a", "cafile"),
        ("heartbeat=1&heartbeat=1", "heartbeat"),
    ] {
        let error = refused(&format!("amqps://h?{query}"));
        assert_eq!(error, UriError::Duplicate { name: name.to_owned() });
    }
    assert_eq!(parsed("amqps://h?no_verify_ssl=1").options.verify, Some(false));
    assert_eq!(parsed("amqps://h?no_verify_ssl=0").options.verify, Some(true));
}

#[test]
fn every_parameter_is_listed_and_printed() {
    let query = "heartbeat=1&connection_timeout=2&channel_max=3&frame_max=4&auth_mechanism=PLAIN\
        &auth_mechanism=EXTERNAL&connection_name=a&cacertfile=b&certfile=c&keyfile=d&password=***\
        &verify=verify_none&server_name_indication=e&locale=en_US";
    let text = format!("amqps://h:5671?{query}");
    assert_eq!(parsed(&text).to_string(), text);
    for pair in query.split('&') {
        let (name, _) = pair.split_once('=').unwrap();
        assert!(query::KNOWN.contains(name), "{name}");
    }
}

#[test]
fn inexpressible_values_are_printed_as_the_nearest() {
    let mut uri = parsed("amqp://h");
    uri.options.heartbeat = Some(Duration::from_millis(1));
    uri.options.connection_timeout = Some(Duration::from_nanos(1));
    assert_eq!(uri.to_string(), "amqp://h:5672?heartbeat=1&connection_timeout=1");
    uri.options.heartbeat = Some(Duration::MAX);
    uri.options.connection_timeout = Some(Duration::MAX);
    assert_eq!(parsed(&uri.to_string()).options.heartbeat, Some(Duration::from_secs(65535)));
    uri.password = Some(Password("hunter2".to_owned()));
    assert!(uri.to_string().starts_with("amqp://:***@h:5672"));
}

#[test]
fn a_scoped_address_keeps_its_zone() {
    let uri = parsed("amqp://[fe80::1%25eth0]");
    assert_eq!(uri.endpoints, [Endpoint::new("fe80::1%eth0", 5672)]);
    assert_eq!(uri.to_string(), "amqp://[fe80::1%25eth0]:5672");
}

#[test]
fn conversion_is_parsing() {
    assert_eq!(Uri::try_from("amqp://h"), Ok(parsed("amqp://h")));
    assert_eq!(Uri::try_from("h"), Err(UriError::Scheme));
}

#[test]
fn the_password_is_never_shown() {
    let uri = parsed("amqps://user:hunter2@host/v?password=hunter2");
    assert_eq!(uri.password.as_ref().map(Password::expose), Some("hunter2"));
    assert_eq!(uri.options.key_password.as_ref().map(Password::expose), Some("hunter2"));
    assert_eq!(uri.to_string(), "amqps://user:***@host:5671/v?password=***");
    assert!(!format!("{uri:?}").contains("hunter2"));
}

#[test]
fn no_error_quotes_a_password_that_is_not_escaped() {
    for text in [
        "amqp://user:hunter2/x@host",
        "amqp://user:p/hunter2/x@host",
        "amqp://user:p?hunter2@host",
        "amqp://user:1?hunter2=1@host",
        "amqp://user:1?heartbeat=hunter2@host",
        "amqp://user:p@x?hunter2@host",
        "amqp://user:p#hunter2@host",
        "amqp://user:x:hunter2/y@host",
        // Without the @, these would parse: the apparent virtual host is most of the password.
        "amqp://user:12/hunter2@host",
        "amqp://user:12/hunter2@host/vhost",
        "amqp://us/er:hunter2@host",
        "amqp://user:/hunter2@host",
        "amqps://user:p@ss/hunter2@host?heartbeat=5",
        // And here a query.
        "amqp://user:12?name=hunter2@host",
        "amqp://user:12?name=hunter2@host:5672/vhost",
        "amqp://user:12/v?name=hunter2@host",
    ] {
        assert_eq!(refused(text), UriError::StrayAt, "{text}");
    }
    for text in ["amqp://user:hunter2", "amqp://a,user:hunter2:x", "amqp://user:%hunter2@host"] {
        let error = refused(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
    }
    // The last @ of the authority ends the credentials, and one in the query is no error where there is one.
    let uri = parsed("amqp://user:p@ss@host/v%40w?name=me@here");
    assert_eq!(uri.password.as_ref().map(Password::expose), Some("p@ss"));
    assert_eq!(uri.virtual_host.as_deref(), Some("v@w"));
}

/// Returns the URI that comes of printing a URI and parsing that.
fn redacted(mut uri: Uri) -> Uri {
    let hide = |password: &mut Password| *password = Password("***".to_owned());
    uri.password.iter_mut().for_each(hide);
    uri.options.key_password.iter_mut().for_each(hide);
    uri
}

/// Pieces of URIs, valid and invalid.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z0-9:/@?#%&=,\\[\\].+é-]",
        "%[0-9a-fA-F]{2}",
        Just("[::1]".to_owned()),
        Just("[fe80::1%25".to_owned()),
        "(\\?|&)(heartbeat|name|frame_max|password|locale|verify|auth_mechanism)=[0-9]?",
    ];
    let scheme = prop_oneof![Just("amqp://"), Just("AMQPS://"), Just("")];
    (scheme, proptest::collection::vec(piece, 0..12))
        .prop_map(|(scheme, pieces)| scheme.to_owned() + &pieces.concat())
}

proptest! {
    #[test]
    fn nothing_panics(text in "(amqps?://)?\\PC{0,40}") {
        let _parsed = text.parse::<Uri>();
    }

    #[test]
    fn parsed_uris_print_and_parse_to_the_same(text in pieces()) {
        if let Ok(uri) = text.parse::<Uri>() {
            let printed = uri.to_string();
            prop_assert_eq!(printed.parse::<Uri>(), Ok(redacted(uri)), "{}", printed);
        }
    }

    #[test]
    fn no_error_quotes_a_password(
        before in "[a-z0-9:/@?#%&=,\\[\\]]{0,6}",
        after in "[a-z0-9:/@?#%&=,\\[\\]]{0,6}",
        behind in "(:5672)?(/v)?(\\?heartbeat=5)?",
    ) {
        let text = format!("amqp://user:{before}hunter2{after}@host{behind}");
        match text.parse::<Uri>() {
            Err(error) => {
                prop_assert!(!format!("{error} {error:?}").contains("hunter2"), "{}", text);
            }
            // It is not taken for anything else.
            Ok(uri) => prop_assert!(!format!("{uri} {uri:?}").contains("hunter2"), "{}", text),
        }
    }

    #[test]
    fn printed_uris_parse_to_the_same(
        tls: bool,
        username in proptest::option::of("\\PC{0,8}"),
        password in proptest::option::of("\\PC{0,8}"),
        hosts in proptest::collection::vec(
            ("[a-z0-9.-]{1,12}|\\PC{1,8}|::1|fe80::[0-9a-f]{1,4}(%\\PC{1,4})?", any::<u16>()),
            1..4,
        ),
        virtual_host in proptest::option::of("(?s).{0,8}"),
        heartbeat in proptest::option::of(any::<u16>()),
        timeout in proptest::option::of(any::<u64>()),
        auth_mechanisms in proptest::collection::vec("\\PC{1,8}", 0..3),
        connection_name in proptest::option::of("\\PC{1,8}"),
        verify: Option<bool>,
    ) {
        let uri = Uri {
            tls,
            endpoints: hosts.into_iter().map(|(host, port)| Endpoint { host, port }).collect(),
            password: password.filter(|_| username.is_some()).map(Password),
            username,
            virtual_host,
            options: UriOptions {
                heartbeat: heartbeat.map(|seconds| Duration::from_secs(seconds.into())),
                connection_timeout: timeout.map(Duration::from_millis),
                auth_mechanisms,
                connection_name,
                verify,
                ..UriOptions::default()
            },
        };
        prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(redacted(uri)));
    }
}
