//! Finding less that fails as well.

use super::commands::Exploration;
use crate::shrink::without;

/// Removes from a script everything that `fails` does not need: faults, tasks, commands, dropped futures. The rest still fails.
pub fn shrink(script: &Exploration, fails: impl Fn(&Exploration) -> bool) -> Exploration {
    let mut script = script.clone();
    loop {
        let before = script.len();
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.tasks);
        for task in 0..script.tasks.len() {
            script = without(&script, &fails, |script| &mut script.tasks[task].commands);
            let mut less = script.clone();
            if less.tasks[task].cancel.take().is_some() && fails(&less) {
                script = less;
            }
        }
        for client in 0..script.clients.len() {
            let mut less = script.clone();
            if less.clients[client].recovery.take().is_some() && fails(&less) {
                script = less;
            }
        }
        let mut less = script.clone();
        if std::mem::take(&mut less.tls) && fails(&less) {
            script = less;
        }
        if script.len() == before {
            return script;
        }
    }
}

impl Exploration {
    /// Number of its parts.
    #[must_use]
    pub fn len(&self) -> usize {
        let cancels = self.tasks.iter().filter(|task| task.cancel.is_some()).count();
        let recoveries = self.clients.iter().filter(|client| client.recovery.is_some()).count();
        let commands: usize = self.tasks.iter().map(|task| task.commands.len()).sum();
        usize::from(self.tls)
            + commands
            + self.tasks.len()
            + self.faults.len()
            + cancels
            + recoveries
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
