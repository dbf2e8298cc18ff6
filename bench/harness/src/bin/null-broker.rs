//! `null-broker PORT [tls PORT CA_FILE | slow PORT BYTES_PER_SECOND]`: a broker that is so fast that clients never wait for it.
//! It can also listen on a port with TLS, or on one whose connections read slowly.

use std::error::Error;

use amqp_bench_harness::broker;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: null-broker PORT [tls PORT CA_FILE | slow PORT BYTES_PER_SECOND]";
    let port = args.next().ok_or(usage)?.parse()?;
    if let Some(kind) = args.next() {
        let (extra, argument) = (args.next().ok_or(usage)?.parse()?, args.next().ok_or(usage)?);
        match kind.as_str() {
            "tls" => broker::serve_tls(extra, &argument)?,
            "slow" => broker::serve_slowly(extra, argument.parse()?)?,
            _ => return Err(usage.into()),
        }
    }
    Ok(broker::serve(port)?)
}
