//! Additions to a script: consumers that share names, faults during recovery, policies and nodes that differ more, and refusals
//! that cost the connection.

use std::time::Duration;

use amqp_client_core::OnPanic;
use amqp_client_core::proto::Oversized;
use amqp_test_broker::Scope;
use fastrand::Rng;

use super::client::SLOTS;
use super::commands::*;
use super::generate::{millis, pick};
use crate::script::{Cut, Fault, What};

impl Exploration {
    /// Adds faults of a few kinds. A script does not get all kinds: they would hide each other.
    pub(super) fn with_trouble(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x0074_726f_7562_6c65);
        let rng = &mut rng;
        for client in &mut self.clients {
            if let Some(recovering) = &mut client.recovery {
                recovering.change(rng);
            }
        }
        if rng.u8(..3) == 0 {
            self.rename_consumers(rng);
        }
        if rng.u8(..3) == 0 {
            self.add_refusal(rng);
        }
        if rng.u8(..6) == 0 {
            self.add_flapping(rng);
        }
        let focus = rng.u8(..12);
        let mut commands = self.tasks.iter().flat_map(|task| &task.commands);
        if commands.any(|command| matches!(command, Command::Tx { .. })) {
            // These commands do not commit, which transactional channels need.
            return;
        }
        for task in &mut self.tasks {
            let count = pick(rng, &[0, 1, 3, 8]);
            for _ in 0..count {
                let index = rng.usize(1..=task.commands.len());
                let commands = Command::troublesome(rng, focus);
                task.commands.splice(index..index, commands);
            }
        }
    }

    /// Clients take no large bodies, and make few attempts to connect.
    pub(super) fn with_limits(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x006c_696d_6974_7300);
        for client in &mut self.clients {
            let all = [Oversized::Hold, Oversized::Requeue, Oversized::Reject];
            client.oversized = rng.bool().then(|| pick(&mut rng, &all));
            if let Some(recovering) = &mut client.recovery {
                recovering.attempts_max = rng.bool().then(|| pick(&mut rng, &[1, 3, 20]));
            }
        }
    }

    /// Many tasks publish on the same channel.
    fn crowds(rng: &mut Rng) -> Vec<Command> {
        (0..pick(rng, &[0, 0, 1, 2]))
            .map(|_| Command::Crowd { channel: rng.usize(..SLOTS) })
            .collect()
    }

    /// Some tasks become many for a while.
    pub(super) fn with_crowds(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x0063_726f_7764_7300);
        for task in &mut self.tasks {
            let index = rng.usize(1..=task.commands.len());
            task.commands.splice(index..index, Self::crowds(&mut rng));
        }
    }

    /// The users' code panics: handlers of deliveries, callbacks, and sources of tokens, which also fail and are slow.
    pub(super) fn with_panics(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ 0x0070_616e_6963_7300);
        let rng = &mut rng;
        for client in &mut self.clients {
            client.tokens = rng.bool().then(|| Tokens::any(rng));
        }
        for task in &mut self.tasks {
            for _ in 0..pick(rng, &[0, 1, 4]) {
                let index = rng.usize(1..=task.commands.len());
                let policies = [OnPanic::Requeue, OnPanic::Reject, OnPanic::Propagate];
                let handle = Command::HandleAll {
                    consumer: rng.usize(..8),
                    limit: pick(rng, &[0, 1, 5]),
                    wait: millis(rng, 10_000),
                    on_panic: pick(rng, &policies),
                    panics: pick(rng, &[2, 4, 20]),
                };
                let channel = rng.bool().then(|| rng.usize(..SLOTS));
                task.commands.splice(index..index, [Command::OnClose { channel }, handle]);
            }
        }
    }

    /// Names consumers, with few names that are used again; some requests are too large for some nodes.
    fn rename_consumers(&mut self, rng: &mut Rng) {
        let piece = self.conditions.piece;
        for command in self.tasks.iter_mut().flat_map(|task| &mut task.commands) {
            if let Command::Consume { kind, .. } = command {
                kind.tag = rng.bool().then(|| rng.usize(..2));
                kind.filler = if piece < 100 || rng.u8(..4) > 0 { 0 } else { 5_000 };
            }
        }
    }

    /// The next requests of some method cost the connection or the channel; a loss comes before, so that some are repeated.
    fn add_refusal(&mut self, rng: &mut Rng) {
        let at = millis(rng, 20_000);
        let method = pick(rng, &[(50, 10), (50, 20), (60, 20), (60, 20), (60, 10)]);
        let scope = pick(rng, &[Scope::Channel, Scope::Connection]);
        let client = rng.usize(..self.clients.len());
        let refuse = What::Refuse { method, times: rng.u32(1..=3), scope };
        let loss = match rng.u8(..3) {
            0 => What::CloseConnection { client },
            1 => What::CloseChannel { client, channel: rng.usize(..SLOTS) },
            _ => What::Restart { down: millis(rng, 60_000) },
        };
        self.faults.push(Fault { at, what: refuse });
        self.faults.push(Fault { at: at + Duration::from_millis(1), what: loss });
    }

    fn add_flapping(&mut self, rng: &mut Rng) {
        let client = rng.usize(..self.clients.len());
        let cut = Cut {
            up: rng.u8(..4) == 0,
            after: rng.usize(400..2_000),
            reset: rng.bool(),
            at_frame: rng.bool(),
        };
        let time = match self.clients[client].recovery.as_ref().is_some_and(Recovering::is_hasty) {
            true => Duration::from_millis(200),
            false => pick(rng, &[Duration::from_secs(2), Duration::from_secs(60)]),
        };
        self.faults.push(Fault { at: millis(rng, 10_000), what: What::Flap { client, cut, time } });
    }
}

impl Tokens {
    fn any(rng: &mut Rng) -> Self {
        let all = [
            TokenReply::Done,
            TokenReply::Late(millis(rng, 1_000)),
            TokenReply::Late(millis(rng, 60_000)),
            TokenReply::Fails,
            TokenReply::Never,
            TokenReply::Panics,
        ];
        let replies = (0..rng.usize(1..=4)).map(|_| pick(rng, &all)).collect();
        Self { valid_for: Duration::from_secs(pick(rng, &[2, 20, 100])), replies }
    }
}

impl Recovering {
    /// Returns whether it never pauses for long, however often in a row something fails. So it tries as often as the network lets
    /// it.
    pub(crate) fn is_hasty(&self) -> bool {
        self.delays.is_some_and(|(_, longest)| longest < Duration::from_secs(1))
    }

    fn change(&mut self, rng: &mut Rng) {
        if rng.u8(..4) == 0 {
            self.delays = None;
        }
        self.retry_locked = rng.u8(..3) == 0 && !self.is_hasty();
        self.retry_open = rng.bool();
        self.give_up_after =
            (rng.u8(..8) == 0).then(|| Duration::from_millis(pick(rng, &[0, 500, 10_000])));
    }
}

impl Command {
    /// Some commands that belong together.
    fn troublesome(rng: &mut Rng, focus: u8) -> Vec<Self> {
        let channel = rng.usize(..SLOTS);
        let consumer = rng.usize(..8);
        let what = if rng.bool() { focus } else { rng.u8(..12) };
        match what {
            0..=2 => {
                let latencies = rng.u32(..24);
                vec![Self::AwaitRecovery { latencies }, Self::at_recovery(rng, channel, consumer)]
            }
            3 | 4 => vec![Self::Usurp { consumer, channel }],
            5 => vec![Self::Starve { idle: channel, busy: rng.usize(..SLOTS) }],
            6 => vec![Self::Feast { channel }],
            7 if rng.u8(..4) == 0 => vec![Self::QosSize { channel }],
            8 => {
                let queue = Name::AutoDelete(rng.usize(..2));
                vec![
                    Self::Declare { channel, queue, by: By::Method },
                    Self::Consume { channel, queue, kind: Kind::PLAIN, by: By::Method },
                    Self::Publish {
                        channel,
                        exchange: 4,
                        queue,
                        manner: Manner::Plain,
                        message: Shape::SMALL,
                    },
                    Self::Pause(millis(rng, 5_000)),
                ]
            }
            9 => {
                let kind = Kind { exclusive: true, ..Kind::PLAIN };
                let queue = Name::Shared(rng.usize(..2));
                vec![Self::Consume { channel, queue, kind, by: By::Method }]
            }
            10 => {
                let kind = Kind::PLAIN;
                vec![
                    Self::Declare { channel, queue: Name::Last, by: By::Method },
                    Self::AwaitRecovery { latencies: rng.u32(..24) },
                    Self::Consume { channel, queue: Name::Last, kind, by: By::Method },
                ]
            }
            _ => {
                let by = pick(rng, &[By::Method, By::Call]);
                vec![Self::Declare { channel, queue: Name::Foreign, by }]
            }
        }
    }

    /// A fault that is most harmful while channels are restored.
    fn at_recovery(rng: &mut Rng, slot: usize, consumer: usize) -> Self {
        match rng.u8(..8) {
            0..=3 => Self::Close {
                slot,
                how: pick(rng, &[Closing::Await, Closing::Drop, Closing::Abandon]),
            },
            4 | 5 => Self::DropConsumer { consumer },
            _ => Self::Cancel {
                consumer,
                how: pick(rng, &[Cancelling::Await, Cancelling::Drop, Cancelling::CallNoWait]),
            },
        }
    }
}

impl Kind {
    const PLAIN: Self =
        Self { no_ack: false, exclusive: false, prefetch: None, from: None, tag: None, filler: 0 };
}

impl Shape {
    pub(super) const SMALL: Self = Self {
        count: 1,
        mandatory: false,
        persistent: false,
        size: 12,
        header: 0,
        owned: false,
        window: 1000,
        keep_for: None,
    };
}
