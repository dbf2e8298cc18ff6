//! The broker in memory as a program. It runs until it is killed.

mod commands;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use amqp_test_broker::{Broker, Options};
use lexopt::prelude::*;

const USAGE: &str = "\
An AMQP 0-9-1 broker in memory, for tests and first steps. In production, use RabbitMQ.

Usage: amqp-test-broker [OPTIONS] [ADDRESS:PORT]

Listens on 127.0.0.1:5672, if nothing else is said. Port 0 is any that is free. Prints the URI to connect to.

Options:
  --user NAME:PASSWORD  Adds a user; without any, there is guest:guest
  --virtual-host NAME   Adds a virtual host to /
  --heartbeat SECONDS   The interval to propose; 0 asks for none [default: 60]
  --max-message-size BYTES
                        The largest body to take [default: 134217728]
  --whims SEED          Uses the freedom that the protocol gives brokers, at random: confirms late, out of order,
                        several at once; answers basic.consume late
  --rabbitmq-4-3        Counts failed deliveries of quorum queues as RabbitMQ 4.3 does
  --commands            Reads commands from standard input
  --help                Shows this

Each command is a line, and is answered by a line on standard output: ok, what was asked for in JSON, or \"error: \" and
what is wrong. NAME is what a client calls its connection (connection_name); without it, a command is for all
connections. The program goes on when the input ends.

Commands:
  stop                  Closes all connections (320) and listens no more; durable queues and persistent messages stay
  start                 Listens again at the same address, after stop
  restart               Drops all connections and starts anew, as when the power fails for a moment
  nack N                Refuses the next N publishes in confirm mode (basic.nack)
  hold-confirms on|off  Sends no confirms until they are off, then all that were held
  refuse-logins on|off  Refuses every login (403), as if user or password were wrong
  alarm on|off          Blocks publishers (connection.blocked), as when memory runs short
  cut [NAME]            Ends the transport without a word, as when the network breaks
  close [NAME]          Closes the connection (320), as an operator does
  freeze [NAME]         Neither reads nor writes, as if the network lost every packet
  thaw [NAME]           Goes on where it was frozen
  connections           Lists connections
  queues                Lists queues of all virtual hosts
  messages QUEUE        Lists the messages that are ready in a queue of the virtual host /";

struct Arguments {
    addr: SocketAddr,
    options: Options,
    /// A shell stops a background job that reads from its terminal: nothing is read unasked.
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

/// Nothing if help is wanted.
fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut addr = SocketAddr::from(([127, 0, 0, 1], 5672));
    let (mut options, mut takes_commands) = (Options::new(), false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("user") => {
                let value = parser.value()?.string()?;
                let (name, password) = value.split_once(':').ok_or("--user: NAME:PASSWORD")?;
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
            Long("whims") => options = options.whims(parser.value()?.parse()?),
            Long("commands") => takes_commands = true,
            Long("help") | Short('h') => return Ok(None),
            Value(value) => addr = value.parse()?,
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Arguments { addr, options, takes_commands }))
}
