//! Sequences of requests that are sent before the first reply is awaited, with faults in between, as data.
//!
//! A burst follows one of a few plots, which differ in all their details.

use std::time::Duration;

use fastrand::Rng;

use super::client::SLOTS;
use super::commands::{Cancelling, Command, Ending, Exploration, Name, Settling};
use super::generate::{millis, pick};
use super::theme::settling;
use crate::script::{Cut, What};

/// A step of a burst. What it says of the last consumer concerns the consumer that the burst has requested last and still has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Declare {
        queue: Name,
        no_wait: bool,
    },
    /// Binds a queue with a key of its own.
    Bind {
        queue: Name,
        no_wait: bool,
    },
    /// Starts a consumer, with the prefetch limit of the channel or with its own.
    Consume {
        queue: Name,
        no_wait: bool,
        limit: Option<u16>,
    },
    /// Sets the prefetch limit, which is restored after a loss if it is `recovered`.
    Limit {
        prefetch: u16,
        recovered: bool,
    },
    /// Publishes messages that are kept over a loss.
    Keep {
        exchange: usize,
        count: usize,
    },
    /// Cancels the last consumer.
    Cancel(Cancelling),
    /// Cancels the last consumer by the tag that it has at the broker when it was paused once.
    CancelResumed,
    /// The broker cancels the last consumer.
    Evict,
    /// Drops the reply or the consumer that came last.
    DropLast,
    /// Fetches a message that is too large for the client, and drops the reply after a while.
    Fetch {
        latencies: u32,
    },
    /// Starts a consumer that takes nothing until it is paused.
    Doze,
    /// Takes everything from the last consumer. If that was paused, it is started again.
    Wake,
    /// Takes everything from the last consumer, and keeps it unsettled.
    Hold,
    /// Settles some of the deliveries that the client holds.
    Settle {
        count: usize,
        pick: usize,
        how: Settling,
    },
    /// Publishes messages to a queue.
    Feed {
        queue: Name,
        count: usize,
    },
    /// Awaits all replies.
    Await,
    /// Waits so many times half the latency of the network.
    Wait(u32),
    /// Something goes wrong now.
    Strike(What),
}

impl Exploration {
    /// Adds bursts to some tasks.
    pub(super) fn with_bursts(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x0062_7572_7374_7300);
        let rng = &mut rng;
        for task in &mut self.tasks {
            if rng.u8(..4) == 0 {
                let index = rng.usize(1..=task.commands.len());
                task.commands.insert(index, Command::OnRecover);
            }
        }
        let mut commands = self.tasks.iter().flat_map(|task| &task.commands);
        if rng.bool() || commands.any(|command| matches!(command, Command::Tx { .. })) {
            // A delivery of a transactional channel has to be committed, and bursts do not commit.
            return;
        }
        let streams = self.has_streams();
        for task in &mut self.tasks {
            for _ in 0..pick(rng, &[0, 1, 1, 2]) {
                let index = rng.usize(1..=task.commands.len());
                let acts = Act::any(rng, task.client, streams);
                let end = match rng.u8(..6) {
                    0 => Ending::Drop,
                    1 => Ending::Late(millis(rng, 3_000)),
                    _ => Ending::Await,
                };
                let burst = Command::Burst { channel: rng.usize(..SLOTS), acts, end };
                task.commands.insert(index, burst);
            }
        }
        // Consumers are paused only if the client holds little.
        for client in self.clients.iter_mut().filter(|client| client.delivery_budget > 1 << 20) {
            client.delivery_budget = 8 * 1024;
            // While the client does not read, it gets no replies.
            client.timeout = Some(Duration::from_secs(60));
        }
    }
}

impl Act {
    fn any(rng: &mut Rng, client: usize, streams: bool) -> Vec<Self> {
        let mut acts = match rng.u8(..12) {
            0..=3 if streams => Self::reader(rng),
            0..=2 => Self::pipeline(rng),
            3 | 4 => Self::twins(rng),
            5 => vec![Self::Fetch { latencies: rng.u32(..8) }],
            6 => Self::locked(rng),
            7 => Self::careful(rng),
            _ => Self::doze(rng),
        };
        if rng.bool() {
            acts.push(Self::Wait(rng.u32(..8)));
        }
        if rng.u8(..4) > 0 {
            acts.push(Self::Strike(Self::strike(rng, client)));
            acts.push(Self::Wait(rng.u32(..24)));
            if rng.bool() {
                acts.push(Self::at_last(rng));
            }
        }
        if rng.u8(..4) == 0 {
            let index = rng.usize(..=acts.len());
            acts.insert(index, Self::Strike(Self::strike(rng, client)));
        }
        if rng.u8(..3) == 0 {
            acts.push(Self::Await);
            acts.extend((0..rng.usize(1..=4)).map(|_| Self::one(rng)));
        }
        acts
    }

    /// Requests that lean on one another.
    fn pipeline(rng: &mut Rng) -> Vec<Self> {
        (0..rng.usize(2..=8)).map(|_| Self::one(rng)).collect()
    }

    fn one(rng: &mut Rng) -> Self {
        let names = [Name::Last, Name::Last, Name::Shared(0)];
        let no_wait = rng.bool();
        match rng.u8(..12) {
            0..=3 => {
                let names =
                    [Name::ServerNamed, Name::ServerNamed, Name::Shared(0), Name::Shared(1)];
                Self::Declare { queue: pick(rng, &names), no_wait }
            }
            4..=6 => Self::Bind { queue: pick(rng, &names), no_wait },
            7 | 8 => {
                let limit = pick(rng, &[None, None, Some(2), Some(0)]);
                Self::Consume { queue: pick(rng, &names), no_wait, limit }
            }
            9 => Self::limit(rng),
            10 => Self::at_last(rng),
            _ => Self::Await,
        }
    }

    fn limit(rng: &mut Rng) -> Self {
        Self::Limit { prefetch: pick(rng, &[0, 1, 3, 7]), recovered: rng.bool() }
    }

    /// Something that ends the last consumer, or its start.
    fn at_last(rng: &mut Rng) -> Self {
        match rng.u8(..8) {
            0..=2 => Self::DropLast,
            3 => Self::CancelResumed,
            4 => Self::Evict,
            5 => Self::Wake,
            _ => {
                let ways =
                    [Cancelling::Await, Cancelling::Drop, Cancelling::Call, Cancelling::CallNoWait];
                Self::Cancel(pick(rng, &ways))
            }
        }
    }

    /// Several consumers of a queue that goes with the last of them; some go before they have started.
    fn twins(rng: &mut Rng) -> Vec<Self> {
        let queue = Name::AutoDelete(rng.usize(100..1_000_000));
        let consume =
            |rng: &mut Rng| Self::Consume { queue, no_wait: rng.u8(..4) == 0, limit: None };
        let mut acts = vec![Self::Declare { queue, no_wait: rng.u8(..4) == 0 }];
        acts.push(consume(rng));
        acts.push(Self::Await);
        for _ in 0..rng.usize(1..=2) {
            acts.push(consume(rng));
            if rng.u8(..4) == 0 {
                acts.push(Self::Wait(rng.u32(1..4)));
            }
            acts.push(Self::at_last(rng));
        }
        acts.extend([Self::Await, Self::Wait(rng.u32(..8))]);
        acts
    }

    /// A consumer of a stream, which goes while it is started again.
    fn reader(rng: &mut Rng) -> Vec<Self> {
        let queue = Name::Stream;
        let mut acts = vec![
            Self::Declare { queue, no_wait: false },
            Self::Feed { queue, count: rng.usize(1..10) },
            Self::Limit { prefetch: pick(rng, &[1, 3, 7]), recovered: true },
            Self::Consume { queue, no_wait: rng.bool(), limit: None },
            Self::Await,
            Self::Wait(rng.u32(..12)),
            pick(rng, &[Self::Wake, Self::Hold, Self::Hold]),
            Self::Evict,
            Self::Wait(rng.u32(..12)),
        ];
        if rng.bool() {
            acts.push(Self::at_last(rng));
        }
        let (count, pick, how) = (rng.usize(1..=10), rng.usize(..20), settling(rng));
        acts.push(Self::Settle { count, pick, how });
        acts
    }

    /// A queue of another client is declared, and requests behind that.
    fn locked(rng: &mut Rng) -> Vec<Self> {
        let mut acts = vec![Self::Declare { queue: Name::Foreign, no_wait: false }];
        acts.extend((0..rng.usize(..3)).map(|_| Self::one(rng)));
        let dropped = rng.usize(1..=acts.len());
        acts.insert(dropped, Self::DropLast);
        acts.extend((0..rng.usize(..3)).map(|_| Self::one(rng)));
        acts
    }

    /// Kept messages are sent again one by one, because one of them has closed the channel, and a consumer is started again.
    fn careful(rng: &mut Rng) -> Vec<Self> {
        let mut acts = vec![
            Self::Consume { queue: Name::Shared(0), no_wait: false, limit: None },
            Self::Await,
            Self::Keep { exchange: 0, count: rng.usize(1..4) },
            Self::Keep { exchange: 4, count: 1 },
            Self::Keep { exchange: 0, count: rng.usize(1..8) },
            Self::Wait(rng.u32(..12)),
            Self::Evict,
            Self::Wait(rng.u32(..8)),
        ];
        acts.push(Self::at_last(rng));
        acts
    }

    /// A consumer is paused, and goes while it is started again.
    fn doze(rng: &mut Rng) -> Vec<Self> {
        let mut acts = Vec::new();
        if rng.bool() {
            acts.push(Self::Limit { prefetch: 0, recovered: rng.bool() });
        }
        acts.push(Self::Doze);
        acts.extend((0..pick(rng, &[0, 0, 1, 2])).map(|_| Self::limit(rng)));
        acts.extend([Self::Wake, Self::Wait(rng.u32(..8))]);
        match rng.u8(..4) {
            0 => acts.extend([Self::DropLast, Self::Wait(rng.u32(..4))]),
            1 => {
                let limit = pick(rng, &[None, None, Some(2)]);
                acts.push(Self::Consume { queue: Name::Shared(1), no_wait: false, limit });
            }
            _ => acts.push(Self::at_last(rng)),
        }
        acts
    }

    fn strike(rng: &mut Rng, client: usize) -> What {
        match rng.u8(..8) {
            0 | 1 => What::CloseConnection { client },
            2 | 3 => {
                let (up, after) = (rng.bool(), rng.usize(1..=200));
                What::Cut(client, Cut { up, after, reset: rng.bool(), at_frame: rng.bool() })
            }
            4 => What::Restart { down: Duration::from_millis(rng.u64(1..=1_000)) },
            _ => What::CloseChannel { client, channel: rng.usize(..SLOTS) },
        }
    }
}
