//! The in-memory broker as a program: `amqp-test-broker [ADDRESS]`, by default 127.0.0.1:5672. Runs until it is killed.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;

use amqp_test_broker::Broker;

fn main() -> ExitCode {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5672".to_owned());
    let addr: SocketAddr = match addr.parse() {
        Ok(addr) => addr,
        Err(error) => {
            eprintln!("usage: amqp-test-broker [ADDRESS:PORT]: {addr}: {error}");
            return ExitCode::from(2);
        }
    };
    match Broker::listen(addr) {
        Ok(broker) => {
            println!("{}", broker.uri());
            loop {
                thread::park();
            }
        }
        Err(error) => {
            eprintln!("amqp-test-broker: {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
