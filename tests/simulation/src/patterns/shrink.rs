use super::script::Patterns;
use crate::shrink::without;

/// Removes from a script everything that `fails` does not need.
pub fn shrink(script: &Patterns, fails: impl Fn(&Patterns) -> bool) -> Patterns {
    let mut script = script.clone();
    loop {
        let before = size(&script);
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.jobs);
        for index in 0..script.jobs.len() {
            let mut less = script.clone();
            less.jobs[index].count /= 2;
            if less.jobs[index].count > 0 && fails(&less) {
                script = less;
            }
        }
        if size(&script) == before {
            return script;
        }
    }
}

fn size(script: &Patterns) -> usize {
    script.len() * 1000 + script.jobs.iter().map(|job| job.count as usize).sum::<usize>()
}
