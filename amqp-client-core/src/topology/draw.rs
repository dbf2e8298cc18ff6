use std::collections::HashMap;
use std::fmt::Write as _;

use amqp_proto::ShortStr;

use super::dead_letters::text;
use super::{Binding, Topology};

/// An arrow between two nodes.
struct Edge {
    from: Node,
    to: Node,
    label: String,
    /// True if it is a way of dead-lettered or unrouted messages.
    is_dotted: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Node {
    Exchange(ShortStr),
    Queue(ShortStr),
}

impl Node {
    fn label(&self, labels: &HashMap<Self, String>) -> String {
        match (labels.get(self), self) {
            (Some(label), _) => label.clone(),
            (None, Self::Exchange(name)) if name.is_empty() => "default exchange".to_owned(),
            (None, Self::Exchange(name) | Self::Queue(name)) => name.to_string(),
        }
    }
}

impl Topology {
    /// Draws the topology as a [Mermaid](https://mermaid.js.org) flowchart, which many Markdown viewers show. Exchanges are rounded,
    /// queues are boxes, and dotted arrows are the ways of dead-lettered and unrouted messages.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::topology::Topology;
    /// use amqp_client_tokio::{ExchangeOptions, QueueOptions};
    ///
    /// let topology = Topology::new()
    ///     .exchange("shop", "topic", ExchangeOptions::new())
    ///     .queue("orders", QueueOptions::new())
    ///     .bind("orders", "shop", "order.*");
    /// assert_eq!(
    ///     topology.to_mermaid(),
    ///     "flowchart LR\n    n0([\"shop (topic)\"])\n    n1[\"orders\"]\n    n0 -->|\"order.*\"| n1\n",
    /// );
    /// ```
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        let ((nodes, places, edges), labels) = (self.graph(), self.labels());
        for (index, node) in nodes.iter().enumerate() {
            let label = mermaid(&node.label(&labels));
            let _ = match node {
                Node::Exchange(_) => writeln!(text, "    n{index}([\"{label}\"])"),
                Node::Queue(_) => writeln!(text, "    n{index}[\"{label}\"]"),
            };
        }
        for edge in &edges {
            let (from, to) = (places[&edge.from], places[&edge.to]);
            let arrow = if edge.is_dotted { "-.->" } else { "-->" };
            let _ = match edge.label.as_str() {
                "" => writeln!(text, "    n{from} {arrow} n{to}"),
                label => writeln!(text, "    n{from} {arrow}|\"{}\"| n{to}", mermaid(label)),
            };
        }
        text
    }

    /// Draws the topology in the language of [Graphviz](https://graphviz.org).
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::topology::Topology;
    /// use amqp_client_tokio::QueueOptions;
    ///
    /// let topology = Topology::new().queue("orders", QueueOptions::new());
    /// assert!(topology.to_dot().contains("n0 [label=\"orders\", shape=box];"));
    /// ```
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = "digraph topology {\n    rankdir=LR;\n".to_owned();
        let ((nodes, places, edges), labels) = (self.graph(), self.labels());
        for (index, node) in nodes.iter().enumerate() {
            let shape = if matches!(node, Node::Exchange(_)) { "ellipse" } else { "box" };
            let label = dot(&node.label(&labels));
            let _ = writeln!(text, "    n{index} [label=\"{label}\", shape={shape}];");
        }
        for edge in &edges {
            let (from, to) = (places[&edge.from], places[&edge.to]);
            let style = if edge.is_dotted { ", style=dotted" } else { "" };
            let label = dot(&edge.label);
            let _ = writeln!(text, "    n{from} -> n{to} [label=\"{label}\"{style}];");
        }
        text.push_str("}\n");
        text
    }

    /// The nodes, their places, and the arrows. Nodes that are only mentioned are nodes, too.
    fn graph(&self) -> (Vec<Node>, HashMap<Node, usize>, Vec<Edge>) {
        let exchanges = self.exchanges.iter().map(|one| Node::Exchange(one.exchange.clone()));
        let queues = self.queues.iter().map(|one| Node::Queue(one.queue.clone()));
        let edges = self.edges();
        let mentioned = edges.iter().flat_map(|edge| [edge.from.clone(), edge.to.clone()]);
        let (mut nodes, mut places) = (Vec::new(), HashMap::new());
        for node in exchanges.chain(queues).chain(mentioned) {
            places.entry(node.clone()).or_insert_with(|| {
                nodes.push(node);
                nodes.len() - 1
            });
        }
        (nodes, places, edges)
    }

    fn edges(&self) -> Vec<Edge> {
        let bindings = self.bindings.iter().map(|binding| {
            let (source, to, key) = match binding {
                Binding::Queue(bind) => {
                    (&bind.exchange, Node::Queue(bind.queue.clone()), &bind.routing_key)
                }
                Binding::Exchange(bind) => {
                    (&bind.source, Node::Exchange(bind.destination.clone()), &bind.routing_key)
                }
            };
            let label = key.to_string();
            Edge { from: Node::Exchange(source.clone()), to, label, is_dotted: false }
        });
        let dead = self.queues.iter().filter_map(|queue| {
            let exchange = text(&queue.arguments, "x-dead-letter-exchange")?;
            let key = text(&queue.arguments, "x-dead-letter-routing-key");
            let label = key.as_ref().map(ShortStr::to_string).unwrap_or_default();
            let from = Node::Queue(queue.queue.clone());
            // The default exchange routes by the name of the queue.
            let to = match (exchange.is_empty(), key) {
                (true, Some(queue)) => Node::Queue(queue),
                _ => Node::Exchange(exchange),
            };
            Some(Edge { from, to, label, is_dotted: true })
        });
        let alternate = self.exchanges.iter().filter_map(|exchange| {
            let to = Node::Exchange(text(&exchange.arguments, "alternate-exchange")?);
            let from = Node::Exchange(exchange.exchange.clone());
            Some(Edge { from, to, label: "unrouted".to_owned(), is_dotted: true })
        });
        bindings.chain(dead).chain(alternate).collect()
    }

    /// The labels of nodes whose types are known.
    fn labels(&self) -> HashMap<Node, String> {
        let exchanges = self.exchanges.iter().filter(|one| !one.kind.is_empty()).map(|one| {
            (Node::Exchange(one.exchange.clone()), format!("{} ({})", one.exchange, one.kind))
        });
        let queues = self.queues.iter().filter_map(|one| {
            let kind = text(&one.arguments, "x-queue-type")?;
            Some((Node::Queue(one.queue.clone()), format!("{} ({kind})", one.queue)))
        });
        exchanges.chain(queues).collect()
    }
}

/// Escapes a label for Mermaid: by codes of characters.
fn mermaid(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for character in label.chars() {
        match character {
            '"' | '#' | ';' | '<' | '>' | '&' | '`' | '\\' => {
                let _ = write!(text, "#{};", u32::from(character));
            }
            other if other.is_control() => text.extend(other.escape_default()),
            other => text.push(other),
        }
    }
    text
}

/// Escapes a label for Graphviz.
fn dot(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for character in label.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            other if other.is_control() => {
                text.push('\\');
                text.extend(other.escape_default());
            }
            other => text.push(other),
        }
    }
    text
}
