use super::script::Patterns;
use crate::shrink::{fewer, repeated, without};

/// Removes from a script everything that `fails` does not need.
pub fn shrink(script: &Patterns, fails: impl Fn(&Patterns) -> bool) -> Patterns {
    repeated(script, size, |mut script| {
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.jobs);
        for index in 0..script.jobs.len() {
            script = fewer(script, &fails, |script| &mut script.jobs[index].count);
        }
        script
    })
}

fn size(script: &Patterns) -> usize {
    script.len() * 1000 + script.jobs.iter().map(|job| job.count as usize).sum::<usize>()
}
