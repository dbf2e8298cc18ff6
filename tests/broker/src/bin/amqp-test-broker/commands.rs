//! Commands on standard input, one per line: they inject faults, and show what the broker holds.

use std::io::{self, BufRead, Write};

use amqp_test_broker::{Broker, ConnectionView, MessageView, QueueView, SessionId};

/// Reads commands until the input ends, and writes one line of output for each.
pub(crate) fn obey(broker: &Broker, mut input: impl BufRead, mut output: impl Write) {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let answer = match run(broker, &String::from_utf8_lossy(&line)) {
            Ok(answer) => answer,
            Err(error) => format!("error: {error}"),
        };
        // A reader that has closed the output may still want the command carried out.
        let _unread = writeln!(output, "{answer}").and_then(|()| output.flush());
        line.clear();
    }
}

/// Runs a command. Returns the reply, or an error text.
fn run(broker: &Broker, line: &str) -> Result<String, String> {
    let line = line.trim();
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    match command {
        "nack" => broker.nack_next(number(argument)?),
        "hold-confirms" => broker.hold_confirms(on_or_off(argument)?),
        "refuse-logins" => broker.refuse_logins(on_or_off(argument)?),
        "alarm" => broker.set_alarm(on_or_off(argument)?.then_some("low on memory")),
        "cut" => each(broker, argument, Broker::cut)?,
        "close" => each(broker, argument, Broker::close_connection)?,
        "freeze" => each(broker, argument, Broker::freeze)?,
        "thaw" => each(broker, argument, Broker::thaw)?,
        "messages" => {
            let queue = broker
                .queue(argument)
                .ok_or("no such queue; the command queues lists all queues")?;
            return Ok(list(queue.messages.iter().map(message)));
        }
        "stop" | "start" | "restart" | "connections" | "queues" if !argument.is_empty() => {
            return Err(format!("{command} takes no argument"));
        }
        "stop" => broker.stop(),
        "start" => broker.start_again().map_err(|error| cannot_listen(broker, &error))?,
        "restart" => broker.restart(),
        "connections" => return Ok(list(broker.connections().iter().map(connection))),
        "queues" => return Ok(list(broker.queues().iter().map(queue))),
        _ => {
            return Err(format!(
                "unknown command {command:?}; amqp-test-broker --help lists all commands"
            ));
        }
    }
    Ok("ok".to_owned())
}

fn cannot_listen(broker: &Broker, error: &io::Error) -> String {
    format!("cannot listen on {}: {error}", broker.addr())
}

fn number(argument: &str) -> Result<u32, String> {
    argument.parse().map_err(|_| format!("expected a number of messages, not {argument:?}"))
}

fn on_or_off(argument: &str) -> Result<bool, String> {
    match argument {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("expected on or off, not {argument:?}")),
    }
}

/// Does that to each connection of that name, or to every one. It is an error if there is none: the trouble would trouble nobody.
fn each(broker: &Broker, name: &str, act: fn(&Broker, SessionId)) -> Result<(), String> {
    let mut connections = broker.connections();
    if !name.is_empty() {
        connections.retain(|view| name_of(view).is_some_and(|own| own == name));
    }
    if connections.is_empty() {
        return Err(
            "there is no such connection; the command connections lists all connections".to_owned()
        );
    }
    connections.iter().for_each(|view| act(broker, view.id));
    Ok(())
}

/// Returns the connection's name, if the client has set one.
fn name_of(view: &ConnectionView) -> Option<String> {
    Some(view.client_properties.get("connection_name")?.as_str()?.to_owned())
}

fn connection(view: &ConnectionView) -> String {
    let name = name_of(view).map_or_else(|| "null".to_owned(), |name| text(name.as_bytes()));
    let (user, virtual_host) = (text(view.user.as_bytes()), text(view.virtual_host.as_bytes()));
    let (channels, unacknowledged) = (view.channels, view.unacknowledged);
    format!(
        r#"{{"user_provided_name":{name},"user":{user},"vhost":{virtual_host},"channels":{channels},"messages_unacknowledged":{unacknowledged}}}"#
    )
}

fn queue(view: &QueueView) -> String {
    let (name, virtual_host) = (text(view.name.as_bytes()), text(view.virtual_host.as_bytes()));
    let (ready, unacknowledged) = (view.messages.len(), view.unacknowledged);
    let consumers = view.consumers;
    format!(
        r#"{{"name":{name},"vhost":{virtual_host},"messages_ready":{ready},"messages_unacknowledged":{unacknowledged},"consumers":{consumers}}}"#
    )
}

fn message(view: &MessageView) -> String {
    let (exchange, key) = (text(view.exchange.as_bytes()), text(view.routing_key.as_bytes()));
    let (redelivered, payload) = (view.redelivered, text(&view.body));
    format!(
        r#"{{"exchange":{exchange},"routing_key":{key},"redelivered":{redelivered},"payload":{payload}}}"#
    )
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// A string of JSON. What is no UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    let mut json = String::from('"');
    for char in String::from_utf8_lossy(bytes).chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}
