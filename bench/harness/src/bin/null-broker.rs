//! `null-broker PORT [TLS_PORT CA_FILE]`: a broker that is so fast that clients never wait for it.

use std::error::Error;

use amqp_bench_harness::broker;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().ok_or("usage: null-broker PORT [TLS_PORT CA_FILE]")?.parse()?;
    if let (Some(tls_port), Some(ca_file)) = (args.next(), args.next()) {
        broker::serve_tls(tls_port.parse()?, &ca_file)?;
    }
    Ok(broker::serve(port)?)
}
