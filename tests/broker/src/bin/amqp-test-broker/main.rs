//! The in-memory broker as a program. It runs until it is killed.

mod commands;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use amqp_test_broker::{Broker, Options};
use lexopt::prelude::*;

const USAGE: &str = "\
An in-memory AMQP 0-9-1 broker for tests and first steps. In production, use RabbitMQ.

Usage: amqp-test-broker [OPTIONS] [ADDRESS:PORT]

Listens on ADDRESS:PORT [default: 127.0.0.1:5672]. With port 0, the system chooses a free port. Prints the URI to
connect to.

Options:
  --user NAME:PASSWORD  Adds a user; without this option, the only user is guest:guest
  --virtual-host NAME   Adds a virtual host; / always exists
  --heartbeat SECONDS   The interval to propose; 0 turns heartbeats off [default: 60]
  --max-message-size BYTES
                        The largest body to accept [default: 134217728]
  --nondeterminism SEED Chooses at random where the protocol allows several behaviours: confirms late, out of order, or
                        several messages at once; replies to basic.consume late
  --rabbitmq-4-3        Counts failed deliveries of quorum queues as RabbitMQ 4.3 does
  --commands            Reads commands from standard input
  --help                Shows this text

Each command is one line. The reply is one line on standard output: ok, or the requested data as JSON, or \"error: \" and
the reason. NAME is the connection_name of a client; without NAME, a command applies to all connections. The program
continues when its input ends.

Commands:
  stop                  Closes all connections (320) and stops listening; durable queues and persistent messages remain
  start                 Listens again at the same address, after stop
  restart               Drops all connections and restarts, as after a power failure
  nack N                Refuses the next N publishes in confirm mode (basic.nack)
  hold-confirms on|off  Holds all confirms; off sends those that were held
  refuse-logins on|off  Refuses every login (403), as if the user name or password were wrong
  alarm on|off          Blocks publishers (connection.blocked), as if memory were low
  cut [NAME]            Ends the transport without a close, as if the network failed
  close [NAME]          Closes the connection (320), as an operator does
  freeze [NAME]         Stops reading and writing, as if the network lost every packet
  thaw [NAME]           Ends a freeze
  connections           Lists connections
  queues                Lists the queues of all virtual hosts
  messages QUEUE        Lists the ready messages of a queue in the virtual host /";

struct Arguments {
    addr: SocketAddr,
    options: Options,
    /// Off by default: a shell stops a background job that reads from its terminal.
    takes_commands: bool,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("amqp-test-broker: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Broker::listen(arguments.addr, arguments.options) {
        Ok(broker) => {
            println!("{}", broker.uri());
            if arguments.takes_commands {
                commands::obey(&broker, io::stdin().lock(), io::stdout());
            }
            loop {
                thread::park();
            }
        }
        Err(error) => {
            eprintln!("amqp-test-broker: {}: {error}", arguments.addr);
            ExitCode::FAILURE
        }
    }
}

/// Returns `None` if the arguments request help.
fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut addr = SocketAddr::from(([127, 0, 0, 1], 5672));
    let (mut options, mut takes_commands) = (Options::new(), false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("user") => {
                let value = parser.value()?.string()?;
                let (name, password) =
                    value.split_once(':').ok_or("--user: expected NAME:PASSWORD")?;
                options = options.user(name, password);
            }
            Long("virtual-host") => options = options.virtual_host(&parser.value()?.string()?),
            Long("heartbeat") => {
                let seconds = parser.value()?.parse::<u16>()?;
                options = options.heartbeat(Duration::from_secs(seconds.into()));
            }
            Long("max-message-size") => {
                options = options.max_message_size(parser.value()?.parse()?);
            }
            Long("rabbitmq-4-3") => options = options.rabbitmq_4_3(),
            Long("nondeterminism") => options = options.nondeterminism(parser.value()?.parse()?),
            Long("commands") => takes_commands = true,
            Long("help") | Short('h') => return Ok(None),
            Value(value) => addr = value.parse()?,
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Arguments { addr, options, takes_commands }))
}
