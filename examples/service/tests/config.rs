//! The configuration: what is allowed, and what errors say.

use std::ffi::OsString;

use amqp_example_service::{Config, VARIABLES, help};

fn read(name: &str, value: &str) -> Result<Config, String> {
    let get = |variable: &str| (variable == name).then(|| OsString::from(value));
    Config::read(get).map_err(|error| error.to_string())
}

#[test]
fn all_defaults_are_allowed() {
    Config::read(|_| None).expect("the defaults");
    for variable in VARIABLES {
        read(variable.name, variable.default).expect(variable.name);
        read(variable.name, "").expect("the default");
    }
}

#[test]
fn an_error_names_the_variable_and_its_value_and_what_is_allowed() {
    for (name, value) in [
        ("AMQP_URL", "http://localhost"),
        ("AMQP_URL", "amqp://local host"),
        ("HTTP_ADDRESS", "localhost"),
        ("HTTP_ADDRESS", "127.0.0.1:99999"),
        ("HANDLERS", "0"),
        ("HANDLERS", "1001"),
        ("HANDLERS", "many"),
        ("HANDLERS", "-1"),
        ("HANDLERS", " 1"),
        ("RETRIES", "101"),
        ("RETRY_DELAY_MS", "0"),
        ("RETRY_DELAY_MS", "60001"),
        ("CONFIRM_TIMEOUT_MS", "1s"),
        ("SHUTDOWN_GRACE_MS", "600001"),
        ("SHUTDOWN_GRACE_MS", "99999999999999999999999"),
    ] {
        let error = read(name, value).expect_err(value);
        let variable = VARIABLES.iter().find(|variable| variable.name == name).expect(name);
        let start = format!("{name} is {value:?}; set it to {}: ", variable.allowed);
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn an_error_does_not_show_the_password() {
    let error = read("AMQP_URL", "amqp://user:secret@host:port/").expect_err("a wrong port");
    assert!(error.starts_with(r#"AMQP_URL is "amqp://***@host:port/"; "#), "{error}");
    assert!(!error.contains("secret"));
}

#[test]
fn all_variables_are_documented() {
    let readme = include_str!("../README.md");
    for variable in VARIABLES {
        let row = format!("| `{}` | `{}` | {} |", variable.name, variable.default, variable.sets);
        assert!(readme.contains(&row), "the README has no line {row:?}");
        assert!(help().contains(variable.name));
    }
}
