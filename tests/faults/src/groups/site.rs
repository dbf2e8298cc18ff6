//! The nodes, each behind a proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use amqp_testkit::{Proxy, RabbitMq};

/// A cluster, and what can be done to it.
pub(crate) struct Site {
    nodes: Vec<RabbitMq>,
    proxies: Vec<Proxy>,
}

/// The time that a node may take to start on a machine that is busy with all of this.
const START: Duration = Duration::from_secs(300);

impl Site {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let builder = || {
            RabbitMq::builder()
                .deadline(START)
                .config_line("cluster_partition_handling = pause_minority")
        };
        let mut nodes = vec![builder().start()?];
        while nodes.len() < count {
            let joined = builder().join(&nodes[0]).start()?;
            nodes.push(joined);
        }
        let proxies = nodes.iter().map(|node| Proxy::start(node.addr())).collect::<io::Result<_>>();
        Ok(Self { proxies: proxies?, nodes })
    }

    pub(crate) fn node(&self, number: usize) -> &RabbitMq {
        &self.nodes[number]
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The addresses of the nodes for clients.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(Proxy::addr).collect()
    }

    /// Makes the queues that are declared so far survive kills. See [`RabbitMq::flush`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.nodes.iter().try_for_each(RabbitMq::flush)
    }

    pub(crate) fn cut(&self) {
        self.proxies.iter().for_each(Proxy::cut);
    }

    /// Cuts a node off from the others: it does not know their secret any more, so neither side gets a connection.
    pub(crate) fn isolate(&self, number: usize) -> io::Result<()> {
        let each =
            "[begin erlang:set_cookie(N, apart), erlang:disconnect_node(N) end || N <- Others].";
        self.with_others(number, each)
    }

    /// Brings it back.
    pub(crate) fn heal(&self, number: usize) -> io::Result<()> {
        let each = "[begin erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N) end || N <- Others].";
        self.with_others(number, each)
    }

    fn with_others(&self, number: usize, each: &str) -> io::Result<()> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != number);
        let names: Vec<_> = others.map(|(_, node)| format!("'{}'", node.node_name())).collect();
        let code = format!("Others = [{}], {each}", names.join(", "));
        self.nodes[number].ctl(&["eval", &code]).map(drop)
    }
}
