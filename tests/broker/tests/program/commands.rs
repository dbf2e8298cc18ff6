//! Commands of tests to the program, on its standard input.

use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use amqp_client_blocking::{
    ConfirmError, MessageProperties, PublisherOptions, QueueOptions, Wait as _,
};
use amqp_client_core::proto::ConnectionError;

use crate::Outcome;
use crate::program::Program;

fn obedient() -> io::Result<Program> {
    Program::start_by(Command::new(env!("CARGO_BIN_EXE_amqp-test-broker")).arg("--commands"))
}

#[test]
fn publishes_are_refused_and_confirms_held_on_command() -> Outcome {
    let mut program = obedient()?;
    let channel = program.connect("one")?.open_channel().wait()?;
    channel.queue_declare("q \"1\"", QueueOptions::new()).wait()?;
    let persistent = MessageProperties::new().persistent();
    let publisher =
        channel.default_exchange().publisher(PublisherOptions::new().properties(persistent))?;
    assert_eq!(program.ask("nack 1")?, "ok");
    let refused = publisher.publish("q \"1\"", "refused").wait()?;
    assert_eq!(refused.wait(), Err(ConfirmError::Nacked));
    assert_eq!(program.ask("hold-confirms on")?, "ok");
    let mut held = pin!(publisher.publish("q \"1\"", "held\n").wait()?);
    // A later request gets its reply, and the publish gets no confirm.
    channel.basic_qos(1).wait()?;
    assert_eq!(held.as_mut().wait_timeout(Duration::ZERO), None);
    assert_eq!(
        program.ask("messages q \"1\"")?,
        r#"[{"exchange":"","routing_key":"q \"1\"","redelivered":false,"payload":"held\u000a"}]"#
    );
    assert_eq!(program.ask("hold-confirms off")?, "ok");
    held.wait()?;
    // It survives, as does the program when its input ends.
    assert_eq!(program.ask("restart")?, "ok");
    assert_eq!(
        program.ask("queues")?,
        r#"[{"name":"q \"1\"","vhost":"/","messages_ready":1,"messages_unacknowledged":0,"consumers":0}]"#
    );
    drop(program.child.stdin.take());
    program.finish()
}

#[test]
fn connections_are_made_trouble_by_their_names_on_command() -> Outcome {
    let mut program = obedient()?;
    assert!(program.ask("cut")?.starts_with("error: there is no such connection"));
    let (one, two) = (program.connect("one")?, program.connect("two")?);
    let channel = two.open_channel().wait()?;
    assert_eq!(
        program.ask("connections")?,
        concat!(
            r#"[{"user_provided_name":"one","user":"guest","vhost":"/","channels":0,"messages_unacknowledged":0},"#,
            r#"{"user_provided_name":"two","user":"guest","vhost":"/","channels":1,"messages_unacknowledged":0}]"#
        )
    );
    assert_eq!(program.ask("freeze two")?, "ok");
    let mut asked = pin!(channel.basic_qos(1));
    assert!(asked.as_mut().wait_timeout(Duration::ZERO).is_none());
    one.open_channel().wait()?;
    assert!(asked.as_mut().wait_timeout(Duration::ZERO).is_none());
    assert_eq!(program.ask("thaw two")?, "ok");
    asked.wait()?;
    assert_eq!(program.ask("cut one")?, "ok");
    assert_eq!(one.closed().wait(), ConnectionError::Eof);
    assert!(program.ask("cut one")?.starts_with("error: there is no such connection"));
    assert_eq!(program.ask("close")?, "ok");
    assert_eq!(two.closed().wait().reply_code().map(|code| code.0), Some(320));
    program.finish()
}

#[test]
fn clients_are_kept_out_and_blocked_on_command() -> Outcome {
    let mut program = obedient()?;
    let connection = program.connect("one")?;
    assert_eq!(program.ask("refuse-logins on")?, "ok");
    let refused = program.connect("two").expect_err("nobody is let in");
    assert!(format!("{refused:?}").contains("ACCESS_REFUSED"), "{refused}");
    assert_eq!(program.ask("refuse-logins off")?, "ok");
    program.connect("two")?;
    assert_eq!(program.ask("alarm on")?, "ok");
    // The broker has sent that before it replies to this.
    connection.open_channel().wait()?;
    assert!(connection.is_blocked());
    assert_eq!(program.ask("alarm off")?, "ok");
    connection.open_channel().wait()?;
    assert!(!connection.is_blocked());
    for _ in 0..2 {
        assert_eq!(program.ask("stop")?, "ok");
        program.connect("two").expect_err("nobody listens");
    }
    let taken = TcpListener::bind(program.addr())?;
    assert!(program.ask("start")?.starts_with("error: cannot listen on 127.0.0.1:"));
    drop(taken);
    assert_eq!(program.ask("start")?, "ok");
    program.finish()
}

#[test]
fn an_unknown_command_is_reported_and_does_nothing() -> Outcome {
    let mut program = obedient()?;
    for (line, says) in [
        ("", "unknown command \"\""),
        ("stpo", "unknown command \"stpo\""),
        ("STOP", "unknown command"),
        ("stop now", "stop takes no argument"),
        ("nack", "expected a number of messages, not \"\""),
        ("nack -1", "expected a number of messages"),
        ("nack 4294967296", "expected a number of messages"),
        ("hold-confirms maybe", "expected on or off, not \"maybe\""),
        ("messages nothing", "no such queue"),
        ("thaw nobody", "there is no such connection"),
        ("\0", "unknown command"),
        (&"x".repeat(1_000_000), "unknown command"),
    ] {
        let answer = program.ask(line)?;
        assert!(answer.starts_with("error: ") && answer.contains(says), "{line:.20}: {answer:.99}");
    }
    // White space around words is none of them.
    assert_eq!(program.ask("\t nack   1 \r")?, "ok");
    assert_eq!(program.ask("queues")?, "[]");
    program.finish()
}
