//! The arguments that RabbitMQ 3.10 to 4.3 knows, by the type of queue: `queue_arguments` and `consumer_arguments` of
//! `capabilities/0` in the sources of its queue types.
//!
//! RabbitMQ refuses an argument that only other types of queues have, and ignores an argument that it does not know at all.

use super::queue_values::QueueType;

/// A version of RabbitMQ: its three numbers.
pub(super) type Numbers = [u32; 3];

/// Ranges of versions: the first with the argument, and the first without it.
type Versions = &'static [(Numbers, Numbers)];

/// The first version after those that are known here.
const END: Numbers = [4, 4, 0];

const ALL: Versions = &[([3, 10, 0], END)];
const NONE: Versions = &[];
const SINCE_4_0: Versions = &[([4, 0, 0], END)];
const SINCE_4_3: Versions = &[([4, 3, 0], END)];
const UNTIL_4_0: Versions = &[([3, 10, 0], [4, 0, 0])];

/// An argument that RabbitMQ knows.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    classic: Versions,
    quorum: Versions,
    stream: Versions,
}

impl Known {
    const fn new(
        name: &'static str,
        classic: Versions,
        quorum: Versions,
        stream: Versions,
    ) -> Self {
        Self { name, classic, quorum, stream }
    }

    /// Returns whether queues of that type have the argument.
    pub(super) fn is_of(&self, kind: QueueType, version: Numbers) -> bool {
        let versions = match kind {
            QueueType::Classic => self.classic,
            QueueType::Quorum => self.quorum,
            QueueType::Stream => self.stream,
        };
        versions.iter().any(|(from, until)| (*from..*until).contains(&version))
    }
}

/// The arguments of `queue.declare`.
pub(super) const OF_QUEUES: &[Known] = &[
    Known::new("x-queue-type", ALL, ALL, ALL),
    Known::new("x-expires", ALL, ALL, NONE),
    Known::new("x-message-ttl", ALL, ALL, NONE),
    Known::new("x-dead-letter-exchange", ALL, ALL, NONE),
    Known::new("x-dead-letter-routing-key", ALL, ALL, NONE),
    Known::new("x-dead-letter-strategy", NONE, ALL, NONE),
    Known::new("x-max-length", ALL, ALL, NONE),
    Known::new("x-max-length-bytes", ALL, ALL, ALL),
    Known::new("x-max-in-memory-length", NONE, ALL, NONE),
    Known::new("x-max-in-memory-bytes", NONE, ALL, NONE),
    Known::new("x-max-priority", ALL, NONE, NONE),
    Known::new("x-overflow", ALL, ALL, NONE),
    Known::new("x-queue-mode", ALL, NONE, NONE),
    Known::new("x-queue-version", ALL, NONE, NONE),
    Known::new("x-single-active-consumer", ALL, ALL, NONE),
    Known::new("x-queue-master-locator", ALL, NONE, NONE),
    Known::new("x-queue-leader-locator", SINCE_4_0, ALL, ALL),
    Known::new("x-quorum-initial-group-size", NONE, ALL, NONE),
    // The server reads this argument and does not list it, so it refuses it for no type.
    Known::new("x-quorum-target-group-size", NONE, NONE, NONE),
    Known::new("x-delivery-limit", NONE, ALL, NONE),
    // Earlier versions read this argument for all types and do not list it.
    Known::new("x-consumer-timeout", NONE, &[([4, 3, 2], END)], NONE),
    Known::new("x-consumer-disconnected-timeout", NONE, SINCE_4_3, NONE),
    Known::new("x-delayed-retry-type", NONE, SINCE_4_3, NONE),
    Known::new("x-delayed-retry-min", NONE, SINCE_4_3, NONE),
    Known::new("x-delayed-retry-max", NONE, SINCE_4_3, NONE),
    Known::new("x-max-age", NONE, NONE, ALL),
    Known::new("x-stream-max-segment-size-bytes", NONE, NONE, ALL),
    // From 3.13 on, streams read this argument. Those versions do not list it.
    Known::new(
        "x-stream-filter-size-bytes",
        NONE,
        NONE,
        &[([4, 2, 7], [4, 3, 0]), ([4, 3, 1], END)],
    ),
    Known::new("x-initial-cluster-size", NONE, NONE, ALL),
];

/// The arguments of `basic.consume`.
pub(super) const OF_CONSUMERS: &[Known] = &[
    Known::new("x-priority", ALL, ALL, NONE),
    Known::new("x-consumer-timeout", NONE, SINCE_4_3, NONE),
    Known::new("x-cancel-on-ha-failover", UNTIL_4_0, NONE, NONE),
    Known::new("x-stream-offset", NONE, NONE, ALL),
    // 3.13 reads these two and does not list them.
    Known::new("x-stream-filter", NONE, NONE, SINCE_4_0),
    Known::new("x-stream-match-unfiltered", NONE, NONE, SINCE_4_0),
];

/// The versions in which any entry of these tables begins or ends, and one of each series.
pub(super) const VERSIONS: &[Numbers] = &[
    [3, 10, 0],
    [3, 11, 0],
    [3, 12, 0],
    [3, 13, 0],
    [4, 0, 0],
    [4, 1, 0],
    [4, 2, 0],
    [4, 2, 7],
    [4, 3, 0],
    [4, 3, 1],
    [4, 3, 2],
];

/// Returns whether the tables apply to a version.
pub(super) fn applies_to(version: Numbers) -> bool {
    (VERSIONS[0]..END).contains(&version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_a_version_of_its_own() {
        for known in OF_QUEUES.iter().chain(OF_CONSUMERS) {
            for (from, until) in [known.classic, known.quorum, known.stream].concat() {
                assert!(VERSIONS.contains(&from), "{}: {from:?}", known.name);
                assert!(VERSIONS.contains(&until) || until == END, "{}: {until:?}", known.name);
            }
        }
        assert!(VERSIONS.is_sorted());
    }
}
