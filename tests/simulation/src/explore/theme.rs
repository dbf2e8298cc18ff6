//! The themes of scripts.
//!
//! If all commands were equally likely in all scripts, none would go deep into anything: three acknowledgements between two
//! commits would never come together. So each seed leaves groups of commands out, and has others more often than usual (swarm
//! testing). Some scripts also stay on few channels, or with one queue.

use std::time::Duration;

use amqp_client_core::StreamOffset;
use fastrand::Rng;

use super::client::SLOTS;
use super::commands::*;
use super::generate::{millis, pick};

/// Commands that belong together.
struct Group {
    /// The frequency with which one of them is drawn, in proportion to others, unless the theme sets it.
    usual: u32,
    any: fn(&mut Rng, &Theme) -> Command,
}

/// All commands. A command that is of no use without another is in its group.
const GROUPS: [Group; 17] = [
    Group { usual: 8, any: channels },
    Group { usual: 11, any: queues },
    Group { usual: 6, any: exchanges },
    Group { usual: 2, any: qos },
    Group { usual: 1, any: flow },
    Group { usual: 1, any: recover },
    Group { usual: 20, any: publish },
    Group { usual: 5, any: confirms },
    Group { usual: 2, any: withdraw },
    Group { usual: 16, any: consume },
    Group { usual: 4, any: cancel },
    Group { usual: 8, any: settle },
    Group { usual: 3, any: get },
    Group { usual: 4, any: transact },
    Group { usual: 3, any: tx },
    Group { usual: 4, any: watch },
    Group { usual: 5, any: pause },
];

/// Two of them.
const PUBLISH: usize = 6;
const TX: usize = 14;

/// The factor by which a theme prefers a group of commands.
const FREQUENT: u32 = 6;

/// The themes of scripts.
#[derive(Debug)]
pub(super) struct Theme {
    weights: [u32; GROUPS.len()],
    /// Number of channels that it uses.
    slots: usize,
    /// The queue that it mostly uses, if there is one.
    queue: Option<Name>,
    /// The settlement that it mostly uses, if there is one.
    settling: Option<Settling>,
    /// The policy for unconfirmed messages at a loss that it mostly uses, if there is one.
    loss: Option<Loss>,
    /// It makes hardly any mistakes: each of them costs a channel, with all that is under way there.
    pub(super) sober: bool,
    /// Its channels are transactional.
    pub(super) transactional: bool,
}

impl Theme {
    /// The theme of a seed. One in three is about everything.
    pub(super) fn any(rng: &mut Rng) -> Self {
        let mut weights = GROUPS.map(|group| group.usual);
        if rng.u8(..3) == 0 {
            return Self {
                weights,
                slots: SLOTS,
                queue: None,
                settling: None,
                loss: None,
                sober: false,
                transactional: false,
            };
        }
        for weight in &mut weights {
            *weight *= pick(rng, &[0, 0, 1, 1, FREQUENT]);
        }
        // Without anything to talk about, nothing happens: publishing is never left out.
        let publishing = &mut weights[PUBLISH];
        *publishing = (*publishing).max(GROUPS[PUBLISH].usual);
        let transactional = rng.u8(..4) == 0;
        if transactional {
            weights[TX] = GROUPS[TX].usual * FREQUENT;
        }
        let settling = [Settling::Ack, Settling::Ack, Settling::Drop, Settling::Nack];
        Self {
            weights,
            slots: pick(rng, &[1, 2, SLOTS]),
            queue: rng.bool().then(|| name(rng)).filter(|name| *name != Name::Missing),
            settling: rng.bool().then(|| pick(rng, &settling)),
            loss: rng.bool().then(|| pick(rng, &[Loss::Fail, Loss::Wait, Loss::Keep])),
            sober: rng.u8(..3) > 0,
            transactional,
        }
    }

    /// The number of a channel.
    pub(super) fn slot(&self, rng: &mut Rng) -> usize {
        rng.usize(..self.slots)
    }

    /// A queue.
    pub(super) fn name(&self, rng: &mut Rng) -> Name {
        match self.queue {
            Some(queue) if rng.u8(..4) > 0 => queue,
            _ => match name(rng) {
                Name::Missing | Name::Last if self.sober => Name::Shared(0),
                name => name,
            },
        }
    }

    /// A queue with a name that the script knows.
    fn known(&self, rng: &mut Rng) -> Name {
        match self.name(rng) {
            Name::Last => Name::Shared(0),
            name => name,
        }
    }
}

impl Command {
    pub(super) fn any(rng: &mut Rng, theme: &Theme) -> Self {
        let mut number = rng.u32(..theme.weights.iter().sum::<u32>());
        for (group, weight) in GROUPS.iter().zip(theme.weights) {
            match number.checked_sub(weight) {
                Some(rest) => number = rest,
                None => return (group.any)(rng, theme),
            }
        }
        pause(rng, theme)
    }
}

fn by(rng: &mut Rng) -> By {
    pick(rng, &[By::Method, By::Method, By::Method, By::Call, By::CallNoWait])
}

fn channels(rng: &mut Rng, theme: &Theme) -> Command {
    let slot = theme.slot(rng);
    match rng.u8(..8) {
        0..=4 => Command::Open { slot, unrecovered: rng.u8(..8) == 0 },
        _ => {
            let how = pick(rng, &[Closing::Await, Closing::Drop, Closing::Abandon]);
            Command::Close { slot, how }
        }
    }
}

fn queues(rng: &mut Rng, theme: &Theme) -> Command {
    let (channel, by) = (theme.slot(rng), by(rng));
    match rng.u8(..11) {
        0..=8 => Command::Declare { channel, queue: theme.name(rng), by },
        9 => Command::DeleteQueue { channel, queue: theme.known(rng), by },
        _ => Command::Purge { channel, queue: theme.known(rng) },
    }
}

fn exchanges(rng: &mut Rng, theme: &Theme) -> Command {
    let channel = theme.slot(rng);
    match rng.u8(..6) {
        0..=2 => Command::Bind {
            channel,
            queue: theme.name(rng),
            exchange: if theme.sober { 1 } else { rng.usize(1..4) },
            unbind: rng.u8(..4) == 0,
        },
        3..=5 if theme.sober => Command::DeclareExchange { channel, exchange: 2 },
        3 | 4 => Command::DeclareExchange { channel, exchange: pick(rng, &[2, 3]) },
        _ => Command::DeleteExchange { channel, exchange: pick(rng, &[2, 3]) },
    }
}

fn qos(rng: &mut Rng, theme: &Theme) -> Command {
    Command::Qos {
        channel: theme.slot(rng),
        prefetch: pick(rng, &[0, 1, 3, 100]),
        global: rng.u8(..4) == 0,
    }
}

fn flow(rng: &mut Rng, theme: &Theme) -> Command {
    Command::Flow { channel: theme.slot(rng) }
}

fn recover(rng: &mut Rng, theme: &Theme) -> Command {
    Command::Recover { channel: theme.slot(rng) }
}

fn publish(rng: &mut Rng, theme: &Theme) -> Command {
    let exchange = match theme.sober {
        true => pick(rng, &[0, 0, 0, 1]),
        false => pick(rng, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4]),
    };
    Command::Publish {
        channel: theme.slot(rng),
        exchange,
        queue: theme.name(rng),
        manner: manner(rng, theme),
        message: Shape::any(rng),
    }
}

fn manner(rng: &mut Rng, theme: &Theme) -> Manner {
    let loss = match theme.loss {
        Some(loss) if rng.u8(..4) > 0 => loss,
        _ => pick(rng, &[Loss::Fail, Loss::Wait, Loss::Keep, Loss::Keep]),
    };
    // A channel has transactions or confirms.
    let number = if theme.transactional && rng.u8(..16) > 0 { 0 } else { rng.u8(..200) };
    match number {
        0..=39 => Manner::Plain,
        40..=99 => Manner::Confirmed(loss),
        100..=134 => Manner::Prepared(loss),
        135..=164 => Manner::Batch(loss),
        165..=198 => Manner::Try(loss),
        _ if theme.sober => Manner::Plain,
        _ => Manner::Immediate,
    }
}

impl Shape {
    fn any(rng: &mut Rng) -> Self {
        Self {
            count: pick(rng, &[1, 1, 3, 20]),
            mandatory: rng.bool(),
            persistent: rng.u8(..4) > 0,
            size: pick(rng, &[12, 12, 100, 5_000, 30_000]),
            header: pick(rng, &[0, 0, 0, 0, 0, 0, 4_000, 6_000]),
            owned: OWNED && rng.u8(..6) == 0,
            window: pick(rng, &[1, 5, 1000]),
            keep_for: (rng.u8(..3) == 0)
                .then(|| Duration::from_millis(pick(rng, &[0, 100, 2_000, 20_000]))),
        }
    }
}

fn confirms(rng: &mut Rng, theme: &Theme) -> Command {
    match rng.u8(..5) {
        0..=3 => Command::Confirm { count: rng.usize(1..=5) },
        _ => Command::WaitForConfirms { channel: theme.slot(rng) },
    }
}

fn withdraw(rng: &mut Rng, _: &Theme) -> Command {
    Command::Withdraw { count: rng.usize(1..=10) }
}

fn consume(rng: &mut Rng, theme: &Theme) -> Command {
    if rng.bool() {
        let (channel, by) = (theme.slot(rng), by(rng));
        return Command::Consume { channel, queue: theme.name(rng), kind: Kind::any(rng), by };
    }
    let (consumer, count) = (rng.usize(..8), rng.usize(1..=20));
    if rng.u8(..3) == 0 {
        let how = theme.settling.unwrap_or(Settling::Ack);
        return Command::Handle { consumer, count, wait: millis(rng, 10_000), how };
    }
    Command::Take { consumer, count, wait: millis(rng, 2_000) }
}

impl Kind {
    pub(super) fn any(rng: &mut Rng) -> Self {
        let from = [
            None,
            Some(StreamOffset::First),
            Some(StreamOffset::Next),
            Some(StreamOffset::Offset(2)),
        ];
        Self {
            no_ack: rng.u8(..5) == 0,
            exclusive: rng.u8(..6) == 0,
            prefetch: pick(rng, &[None, Some(1), Some(3), Some(100)]),
            from: pick(rng, &from),
            tag: None,
            filler: 0,
        }
    }
}

fn cancel(rng: &mut Rng, _: &Theme) -> Command {
    let consumer = rng.usize(..8);
    if rng.u8(..4) == 0 {
        return Command::DropConsumer { consumer };
    }
    let how = match rng.u8(..6) {
        0 | 1 => Cancelling::Await,
        2 => Cancelling::Drop,
        3 => Cancelling::Late(millis(rng, 3_000)),
        4 => Cancelling::Call,
        _ => Cancelling::CallNoWait,
    };
    Command::Cancel { consumer, how }
}

fn settle(rng: &mut Rng, theme: &Theme) -> Command {
    let (count, pick) = (rng.usize(1..=10), rng.usize(..20));
    let how = match theme.settling {
        Some(how) if rng.u8(..4) > 0 => how,
        _ => settling(rng),
    };
    Command::Settle { count, pick, how }
}

pub(super) fn settling(rng: &mut Rng) -> Settling {
    match rng.u8(..20) {
        0..=5 => Settling::Ack,
        6 | 7 => Settling::AckUpTo,
        8 => Settling::Nack,
        9 => Settling::NackUpTo,
        10 => Settling::NackForGood,
        11 => Settling::Reject,
        12 => Settling::RejectForGood,
        13 | 14 => Settling::Drop,
        15 => Settling::IntoMessage,
        _ => Settling::Tag {
            multiple: rng.bool(),
            by: pick(rng, &[TagBy::Ack, TagBy::Ack, TagBy::Nack, TagBy::Reject]),
        },
    }
}

fn get(rng: &mut Rng, theme: &Theme) -> Command {
    let no_ack = rng.u8(..4) == 0;
    Command::Get { channel: theme.slot(rng), queue: theme.name(rng), no_ack }
}

fn transact(rng: &mut Rng, _: &Theme) -> Command {
    Command::Transact {
        queue: pick(rng, &[Name::Shared(0), Name::Shared(1), Name::Quorum]),
        publishes: rng.usize(0..5),
        gets: rng.usize(0..5),
        end: pick(rng, &[End::Commit, End::Fail, End::Drop]),
        by_hand: rng.bool(),
    }
}

fn tx(rng: &mut Rng, theme: &Theme) -> Command {
    let channel = theme.slot(rng);
    let step = pick(
        rng,
        &[
            Step::Select,
            Step::Select,
            Step::Commit,
            Step::Commit,
            Step::Commit,
            Step::Rollback,
            Step::Rollback,
            Step::SettleAgain,
        ],
    );
    let how = match rng.u8(..6) {
        0 => Ending::Drop,
        1 => Ending::Late(millis(rng, 3_000)),
        _ => Ending::Await,
    };
    Command::Tx { channel, step, how }
}

fn watch(rng: &mut Rng, theme: &Theme) -> Command {
    let channel = theme.slot(rng);
    match rng.u8(..16) {
        0..=3 => Command::Watch,
        4..=7 => Command::Listen { channel },
        8..=11 => Command::OnClose { channel: rng.bool().then_some(channel) },
        12 => Command::Shutdown { grace: millis(rng, 5_000) },
        13 => Command::CloseConnection,
        _ => Command::UpdateSecret,
    }
}

fn pause(rng: &mut Rng, _: &Theme) -> Command {
    Command::Pause(millis(rng, 5_000))
}

fn name(rng: &mut Rng) -> Name {
    match rng.u8(..40) {
        0..=15 => Name::Shared(rng.usize(..2)),
        16..=20 => Name::Quorum,
        21..=27 => Name::AutoDelete(rng.usize(..2)),
        28..=33 => Name::Exclusive,
        34..=36 => Name::ServerNamed,
        37 | 38 => Name::Last,
        _ => Name::Missing,
    }
}

/// True if the owners of bodies use handles.
const OWNED: bool = true;
