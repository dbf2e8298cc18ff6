use std::io;
use std::time::Duration;

use amqp_client_core::proto::uri::Endpoint;
use amqp_client_core::{OnCancel, QueueType, Recovery, Settings, Target};
use amqp_testkit::{Proxy, RabbitMq};

/// The brokers, each behind a proxy.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) nodes: Vec<RabbitMq>,
    pub(crate) proxies: Vec<Proxy>,
}

/// The time that a node may take to start on a machine that is busy with all of this.
const START: Duration = Duration::from_secs(300);

/// The heartbeat interval. Silence is noticed after two intervals.
const HEARTBEAT: Duration = Duration::from_secs(1);

impl Site {
    /// One node, or a cluster of that many.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let mut nodes = vec![RabbitMq::builder().deadline(START).start()?];
        while nodes.len() < count {
            let joined = RabbitMq::builder().deadline(START).join(&nodes[0]).start()?;
            nodes.push(joined);
        }
        let proxies = nodes.iter().map(|node| Proxy::start(node.addr())).collect::<io::Result<_>>();
        Ok(Self { proxies: proxies?, nodes })
    }

    /// Makes the queues that are declared so far survive kills. See [`RabbitMq::flush`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.nodes.iter().try_for_each(RabbitMq::flush)
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Queues that outlive a node, if there are others.
    pub(crate) fn queue_type(&self) -> QueueType {
        if self.is_cluster() { QueueType::Quorum } else { QueueType::Classic }
    }

    pub(crate) fn target(&self, name: &str, seed: u64) -> Result<Target, crate::Error> {
        let target: Target = format!("amqp://localhost?name={name}").parse()?;
        let endpoint = |proxy: &Proxy| {
            let addr = proxy.addr();
            Endpoint::new(addr.ip().to_string(), addr.port())
        };
        // A node may be down for as long as it takes to start.
        let patient = Some(Duration::from_secs(120));
        let settings = Settings::default()
            .connect_timeout(Duration::from_secs(10))
            .call_timeout(patient)
            .publish_timeout(patient)
            .confirm_timeout(patient);
        let recovery = Recovery::default()
            .seed(Some(seed))
            .delay_max(Duration::from_secs(2))
            .on_cancel(OnCancel::Resubscribe);
        Ok(target
            .endpoints(self.proxies.iter().map(endpoint))
            .heartbeat(HEARTBEAT)
            .settings(settings)
            .recovery(recovery))
    }

    pub(crate) fn each_proxy(&self, act: impl Fn(&Proxy)) {
        self.proxies.iter().for_each(act);
    }
}
