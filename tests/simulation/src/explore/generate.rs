//! Scripts from seeds.

use std::time::Duration;

use amqp_test_broker::Scope;
use fastrand::Rng;

use super::client::SLOTS;
use super::commands::*;
use super::theme::Theme;
use crate::script::{Cut, Fault, What, is_over_tls};
use crate::wire::Conditions;

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

pub(super) fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(1..=most))
}

impl Exploration {
    /// The script of a seed. One in four has no faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x6578_706c_6f72_6500);
        let clients: Vec<_> = (0..rng.usize(1..=2)).map(|_| Policy::any(&mut rng)).collect();
        let heartbeat = Duration::from_secs(rng.u64(1..=10));
        let most = pick(&mut rng, &[10, 25, 60]);
        let theme = Theme::any(&mut rng);
        let tasks = (0..rng.usize(1..=4)).map(|_| Plan::any(&mut rng, &theme, clients.len(), most));
        let tasks: Vec<_> = tasks.collect();
        let faults = if seed % 4 == 0 { 0 } else { rng.usize(1..=5) };
        let faults = (0..faults).map(|_| fault(&mut rng, clients.len())).collect();
        let conditions = Conditions::any(&mut rng);
        let mut script = Self {
            seed,
            conditions,
            tls: false,
            heartbeat,
            counts_failures: seed % 5 < 2,
            delivery_limit: [20, 2, 7][(seed / 5 % 3) as usize],
            nodes: vec![Node::any(&mut rng, heartbeat), Node::any(&mut rng, heartbeat)],
            clients,
            tasks,
            faults,
        };
        if conditions.piece < 100 {
            script.keep_small();
        }
        script.with_trouble();
        script.with_bursts();
        if seed % 5 == 3 {
            script.with_limits();
        }
        if seed % 5 == 1 {
            script.with_crowds();
        }
        if script.panics() {
            script.with_panics();
        }
        if script.has_streams() {
            script.with_streams();
        }
        if is_over_tls(seed) {
            script = script.over_tls();
        }
        script.without_known_defects()
    }

    /// The same over TLS. If there are faults, some are of TLS: a session ends, and its transport does not.
    #[must_use]
    pub fn over_tls(mut self) -> Self {
        if std::mem::replace(&mut self.tls, true) {
            return self;
        }
        let mut rng = Rng::with_seed(self.seed ^ 0x7365_7373_696f_6e00);
        let count = if self.seed % 4 == 0 { 0 } else { pick(&mut rng, &[0, 0, 1, 2]) };
        for _ in 0..count {
            let what = What::EndTls { client: rng.usize(..self.clients.len()) };
            let span = pick(&mut rng, &[1_000, 10_000, 60_000]);
            self.faults.push(Fault { at: millis(&mut rng, span), what });
        }
        self
    }

    /// Returns whether there are streams.
    pub(super) const fn has_streams(&self) -> bool {
        self.seed % 3 == 1
    }

    /// Replaces one of the queues by a stream. Commands that a stream does not support would cost the connection, and are left
    /// out. So are messages that are too large for a frame, which the stream would miss.
    fn with_streams(&mut self) {
        for task in &mut self.tasks {
            for command in &mut task.commands {
                match command {
                    Command::Declare { queue, by, .. } if is_streamed(*queue) => {
                        (*queue, *by) = (Name::Stream, By::Method);
                    }
                    Command::Consume { queue, kind, by, .. } if is_streamed(*queue) => {
                        *queue = Name::Stream;
                        kind.no_ack = false;
                        kind.exclusive = false;
                        kind.prefetch = kind.prefetch.or(Some(10));
                        if *by == By::Call {
                            *by = By::Method;
                        }
                    }
                    Command::Publish { queue, message, .. } => {
                        message.header = 0;
                        if is_streamed(*queue) {
                            *queue = Name::Stream;
                        }
                    }
                    Command::DeleteQueue { queue, .. } if is_streamed(*queue) => {
                        *queue = Name::Stream;
                    }
                    // These names may stand for the stream.
                    Command::Get { queue, .. } | Command::Bind { queue, .. }
                        if matches!(queue, Name::Last | Name::ServerNamed) =>
                    {
                        *queue = Name::Quorum;
                    }
                    Command::Recover { channel } => *command = Command::Flow { channel: *channel },
                    _ => {}
                }
            }
            if let Some(Command::Open { slot: channel, .. }) = task.commands.first() {
                let (channel, queue) = (*channel, Name::Stream);
                task.commands.insert(1, Command::Declare { channel, queue, by: By::Method });
            }
        }
    }

    /// A body that is sent in small pieces must not be large: it takes too many steps.
    fn keep_small(&mut self) {
        for command in self.tasks.iter_mut().flat_map(|task| &mut task.commands) {
            if let Command::Publish { message, .. } = command {
                message.size = message.size.min(300);
                message.header = 0;
            }
        }
    }
}

impl Node {
    fn any(rng: &mut Rng, heartbeat: Duration) -> Self {
        Self {
            frame_max: pick(rng, &[4096, 8192, 131_072, 131_072]),
            channel_max: pick(rng, &[3, 8, 2047, 2047]),
            heartbeat: heartbeat * pick(rng, &[1, 1, 3]),
            nack: rng.u8(..8) > 0,
        }
    }
}

impl Policy {
    fn any(rng: &mut Rng) -> Self {
        let (timeout, delivery_budget) = match rng.u8(..4) {
            0 => (None, 64 << 20),
            1 => (Some(Duration::from_secs(rng.u64(30..=120))), 8 * 1024),
            _ => (Some(Duration::from_secs(rng.u64(30..=120))), 256 * 1024),
        };
        Self {
            timeout,
            delivery_budget,
            frame_max: pick(rng, &[4096, 131_072, 131_072]),
            oversized: None,
            tokens: None,
            recovery: (rng.u8(..5) > 0).then(|| Recovering::any(rng)),
        }
    }
}

impl Recovering {
    fn any(rng: &mut Rng) -> Self {
        let (delay_min, delay_max) =
            pick(rng, &[(100, 5_000), (1, 1), (1, 30_000), (5_000, 60_000)]);
        Self {
            reopen_channels: rng.bool(),
            resubscribe: rng.bool(),
            locked: pick(rng, &[None, Some(1_000), Some(100), Some(20_000)])
                .map(Duration::from_millis),
            keep_max: pick(rng, &[200, 16 * 1024, 256 * 1024]),
            delays: Some((Duration::from_millis(delay_min), Duration::from_millis(delay_max))),
            retry_locked: false,
            give_up_after: None,
            attempts_max: None,
            retry_open: false,
        }
    }
}

impl Plan {
    fn any(rng: &mut Rng, theme: &Theme, clients: usize, most: usize) -> Self {
        let slot = theme.slot(rng);
        let mut commands = vec![Command::Open { slot, unrecovered: rng.u8(..8) == 0 }];
        // Most queues are there, or too little happens.
        for queue in QUEUES {
            if theme.sober || rng.u8(..4) > 0 {
                commands.push(Command::Declare { channel: slot, queue, by: By::Method });
            }
        }
        if theme.transactional {
            let (channel, step, how) = (slot, Step::Select, Ending::Await);
            commands.push(Command::Tx { channel, step, how });
        }
        if theme.sober && rng.u8(..4) > 0 {
            let (channel, queue, by) = (slot, theme.name(rng), By::Method);
            let kind = Kind { exclusive: false, ..Kind::any(rng) };
            commands.push(Command::Consume { channel, queue, kind, by });
        }
        commands.extend((0..rng.usize(1..=most)).map(|_| Command::any(rng, theme)));
        Self { client: rng.usize(..clients), commands, cancel: rng.bool().then(|| rng.u32(2..12)) }
    }
}

fn fault(rng: &mut Rng, clients: usize) -> Fault {
    let client = rng.usize(..clients);
    let what = match rng.u8(..26) {
        0..=6 => {
            let most = pick(rng, &[10, 100, 500, 5_000]);
            let (up, after) = (rng.bool(), rng.usize(1..=most));
            What::Cut(client, Cut { up, after, reset: rng.bool(), at_frame: rng.bool() })
        }
        7 => What::Stall { client, up: rng.bool(), time: millis(rng, 60_000) },
        8 => What::Starve { client, time: millis(rng, 30_000) },
        9 => What::Kill { client },
        10..=12 => What::Restart { down: millis(rng, 5_000) },
        13 => What::Alarm { time: millis(rng, 60_000) },
        14 => What::Jump { time: millis(rng, 600_000) },
        15 | 16 => What::CancelConsumer(rng.usize(..20)),
        17 | 18 => What::CloseChannel { client, channel: rng.usize(..SLOTS) },
        19 | 20 => What::CloseConnection { client },
        21 | 22 => What::DeleteQueue(rng.usize(..20)),
        23 => What::Wipe,
        _ => {
            let methods = [(50, 10), (50, 20), (60, 20), (60, 10), (40, 10), (85, 10), (90, 10)];
            let (method, times) = (pick(rng, &methods), rng.u32(1..=3));
            What::Refuse { method, times, scope: Scope::Channel }
        }
    };
    let span = pick(rng, &[1_000, 10_000, 60_000]);
    Fault { at: millis(rng, span), what }
}

/// The queues that tasks begin with.
const QUEUES: [Name; 6] = [
    Name::Shared(0),
    Name::Shared(1),
    Name::Quorum,
    Name::AutoDelete(0),
    Name::Exclusive,
    Name::ServerNamed,
];

/// Returns whether a script with streams has its stream in the place of this queue.
const fn is_streamed(queue: Name) -> bool {
    matches!(queue, Name::AutoDelete(_) | Name::Last)
}
