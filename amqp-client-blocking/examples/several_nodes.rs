//! Connects to the first node of several that can be reached, and prints which broker that is and what it can do.
//!
//! ```text
//! cargo run --example several_nodes
//! ```

use std::env;
use std::error::Error;
use std::iter::once;

use amqp_client_blocking::{Endpoint, Target, Wait as _, connect_target};

fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target: Target = uri.parse()?;
    // A URI may name several nodes, too: amqp://one:5672,two:5672. Nobody listens at this one.
    let dead = Endpoint::new("127.0.0.1", 1);
    let nodes: Vec<_> = once(dead).chain(target.get_endpoints().to_vec()).collect();
    let connection = connect_target(target.endpoints(nodes))?;

    let negotiated = connection.negotiated().ok_or("the connection is lost")?;
    for name in ["product", "version", "platform", "cluster_name"] {
        let value = negotiated.peer_properties.get(name);
        println!(" [x] {name}: {}", value.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown"));
    }
    println!(" [x] frames of up to {} bytes", negotiated.frame_max);
    println!(" [x] publisher confirms: {}", connection.broker_can("publisher_confirms"));
    Ok(connection.close().wait()?)
}
