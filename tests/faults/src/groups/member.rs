//! A member of the group, as a process of its own. It writes lines of the ledger to its standard output.

use std::io::{Write as _, stdin};
use std::net::SocketAddr;
use std::time::Duration;

use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::{Recovery, Settings, Target};
use amqp_client_patterns::handler::{PartitionKey, RoutingKey, State, Text, Verdict};
use amqp_client_patterns::partitions::{GroupEvent, Member, Partitions};
use amqp_client_patterns::work::Work;
use amqp_client_tokio::connect_target;

use crate::ledger::{Entry, Line, Message};
use crate::oracle::Kind;
use crate::{Error, NAME};

/// What a member is told by its command line.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) partitions: u32,
    /// The nodes, in the order in which they are tried.
    pub(crate) nodes: Vec<SocketAddr>,
}

/// How many messages of a partition a member may have. A hand-over waits for them.
const PREFETCH: u16 = 10;

/// The longest time that a message takes.
const WORK: Duration = Duration::from_millis(4);

/// Works until it is told to leave by the end of its standard input.
pub(crate) async fn work(orders: Orders) -> Result<(), Error> {
    let connection = connect_target(target(&orders.name, &orders.nodes)?).await?;
    let partitions = Partitions::new(NAME, orders.partitions)?;
    let member = match orders.kind {
        Kind::Named { weight } => Member::named(&orders.name).weight(weight),
        Kind::Slot(slot) => Member::slot(slot),
    };
    let name = orders.name.clone();
    let group = partitions
        .join(&connection, member)
        .prefetch(PREFETCH)
        .stalled_after(Duration::from_secs(10))
        .on_event(move |event| {
            if let GroupEvent::Stalled { partition, .. } = event {
                write(Entry::Stalled { member: name.clone(), partition: *partition });
            }
        })
        .await?;
    write(Entry::Joined { member: orders.name.clone() });
    let told = tokio::task::spawn_blocking(|| std::io::copy(&mut stdin(), &mut std::io::sink()));
    let work = Work::on_group(group).at_once(4).grace(Duration::from_secs(20)).state(orders.name);
    work.each(handle).until(told).await?;
    Ok(connection.close().await?)
}

/// Handles a message: its body is the number of its key.
async fn handle(
    PartitionKey(key): PartitionKey,
    RoutingKey(queue): RoutingKey,
    Text(number): Text,
    State(member): State<String>,
) -> Result<(), Verdict> {
    // Work takes time, and not always the same.
    tokio::time::sleep(WORK.mul_f64(fastrand::f64())).await;
    let message = Message { key: String::from_utf8(key.into())?, number: number.parse()? };
    let partition = queue.rsplit('.').next().ok_or("it is not in a partition")?.parse()?;
    write(Entry::Processed { member, partition, message });
    Ok(())
}

/// Writes a line at once: the process may be killed right after it.
fn write(entry: Entry) {
    let line = format!("{}\n", Line::now(entry));
    // If nobody reads it any more, the run is over.
    let _over = std::io::stdout().write_all(line.as_bytes());
}

/// All nodes, with short heartbeats.
pub(crate) fn target(name: &str, nodes: &[SocketAddr]) -> Result<Target, Error> {
    let target: Target = format!("amqp://localhost?name={name}").parse()?;
    let endpoint = |node: &SocketAddr| Endpoint::new(node.ip().to_string(), node.port());
    // A node may be down for as long as it takes to start.
    let patient = Some(Duration::from_secs(120));
    let settings = Settings::default()
        .connect_timeout(Duration::from_secs(5))
        .call_timeout(patient)
        .publish_timeout(patient)
        .confirm_timeout(patient);
    let recovery = Recovery::default().delay_max(Duration::from_secs(1));
    Ok(target
        .endpoints(nodes.iter().map(endpoint))
        .heartbeat(Duration::from_secs(1))
        .settings(settings)
        .recovery(recovery))
}
