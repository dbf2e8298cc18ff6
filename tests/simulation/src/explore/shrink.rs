//! Finding less that fails as well.

use super::acts::Act;
use super::commands::{Command, Exploration};
use crate::shrink::{changed, repeated, without};

/// Removes from a script everything that `fails` does not need: faults, tasks, commands, dropped futures. The rest still fails.
pub fn shrink(script: &Exploration, fails: impl Fn(&Exploration) -> bool) -> Exploration {
    repeated(script, Exploration::len, |mut script| {
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.tasks);
        for task in 0..script.tasks.len() {
            script = without(&script, &fails, |script| &mut script.tasks[task].commands);
            for command in 0..script.tasks[task].commands.len() {
                script = without_acts(script, &fails, (task, command));
            }
            script = changed(script, &fails, |script| script.tasks[task].cancel.take().is_some());
        }
        for client in 0..script.clients.len() {
            script =
                changed(script, &fails, |script| script.clients[client].recovery.take().is_some());
        }
        changed(script, &fails, |script| std::mem::take(&mut script.tls))
    })
}

/// Removes from a burst what `fails` does not need.
fn without_acts(
    script: Exploration,
    fails: &impl Fn(&Exploration) -> bool,
    (task, command): (usize, usize),
) -> Exploration {
    let Command::Burst { channel, acts, end } = &script.tasks[task].commands[command] else {
        return script;
    };
    let with = |acts: &Vec<Act>| {
        let (channel, acts, end) = (*channel, acts.clone(), *end);
        let mut less = script.clone();
        less.tasks[task].commands[command] = Command::Burst { channel, acts, end };
        less
    };
    with(&without(acts, &|acts| fails(&with(acts)), |acts| acts))
}

impl Exploration {
    /// Number of its parts.
    #[must_use]
    pub fn len(&self) -> usize {
        let cancels = self.tasks.iter().filter(|task| task.cancel.is_some()).count();
        let recoveries = self.clients.iter().filter(|client| client.recovery.is_some()).count();
        let parts = |command: &Command| match command {
            Command::Burst { acts, .. } => 1 + acts.len(),
            _ => 1,
        };
        let commands: usize = self.tasks.iter().flat_map(|task| &task.commands).map(parts).sum();
        usize::from(self.tls)
            + commands
            + self.tasks.len()
            + self.faults.len()
            + cancels
            + recoveries
    }

    /// Returns whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
