//! Defects that are known and not mended yet: scripts avoid what leads to them, so that others are found behind them.
//!
//! Each rule goes with its defect.

use super::commands::{By, Command, End, Exploration, Loss, Manner};

impl Exploration {
    /// The script without what leads to a known defect.
    pub(super) fn without_known_defects(mut self) -> Self {
        for task in &mut self.tasks {
            let recovery = self.clients[task.client].recovery.as_ref();
            let recovers = recovery.is_some();
            let reopens = recovery.is_some_and(|recovery| recovery.reopen_channels);
            for command in &mut task.commands {
                match command {
                    // A kept message that the broker closes the channel for is sent again, for ever.
                    Command::Publish { manner, .. } if reopens => avoid_keeping(manner),
                    // A consumer whose cancel is not awaited never ends.
                    Command::Cancel { consumer, .. } => {
                        *command = Command::DropConsumer { consumer: *consumer };
                    }
                    // The next transaction commits the half of one that was dropped.
                    Command::Transact { end, by_hand: false, .. } if *end == End::Drop => {
                        *end = End::Fail;
                    }
                    Command::Consume { kind, by, .. } => {
                        // A session that brings an exclusive consumer back too early never ends recovering.
                        kind.exclusive &= !recovers;
                        // What a raw consumer gets is rejected, and comes again, for ever.
                        if *by == By::Call {
                            *by = By::Method;
                        }
                    }
                    _ => {}
                }
            }
        }
        self
    }
}

fn avoid_keeping(manner: &mut Manner) {
    match manner {
        Manner::Confirmed(loss)
        | Manner::Prepared(loss)
        | Manner::Batch(loss)
        | Manner::Try(loss) => *loss = Loss::Wait,
        Manner::Plain | Manner::Immediate => {}
    }
}

/// Whether what is requeued without blame has to be so at the broker.
pub(super) const BLAME: bool = false;
