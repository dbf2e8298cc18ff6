//! Prints what the parameters of a URI mean. It does not connect.
//!
//! ```text
//! cargo run --example uri_parameters -- 'amqps://user:secret@host/vhost?name=my%20program&heartbeat=60'
//! ```

use std::env;
use std::error::Error;

use amqp_client_tokio::Uri;

const EXAMPLES: [&str; 4] = [
    "amqp://user:secret@host/vhost?name=connection%20name&heartbeat=60",
    "amqp://user:secret@one:5672,two:5672,three:5672/%2f?connection_timeout=5000",
    "amqps://user:secret@host/vhost?cafile=/path/to/ca.pem",
    "amqps://host/vhost?auth_mechanism=external&cafile=/ca.pem&keyfile=/key.pem&certfile=/cert.pem",
];

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<_> = env::args().skip(1).collect();
    let uris: Vec<_> = if given.is_empty() {
        EXAMPLES.to_vec()
    } else {
        given.iter().map(String::as_str).collect()
    };
    for uri in uris {
        let parsed: Uri = uri.parse()?;
        // The password is not shown.
        println!("{parsed:#?}");
    }
    // A parameter that is misspelt is an error.
    match "amqp://host?heart_beat=60".parse::<Uri>() {
        Err(error) => println!("{error}"),
        Ok(uri) => return Err(format!("{uri:?} should be refused").into()),
    }
    Ok(())
}
