//! Finding less that fails as well.

use crate::script::Script;

/// Removes from a script everything that `fails` does not need, in ever smaller parts. The rest
/// still fails.
pub fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut script = script.clone();
    loop {
        let before = size(&script);
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.jobs);
        for index in 0..script.jobs.len() {
            script = simplified(&script, &fails, index);
        }
        if size(&script) == before {
            return script;
        }
    }
}

fn size(script: &Script) -> u64 {
    let jobs = script.jobs.iter();
    script.len() as u64 * 1000
        + jobs.map(|job| u64::from(job.count) * 2 + u64::from(job.cancel.is_some())).sum::<u64>()
}

/// Removes from a list in a script what is not needed, in ever smaller parts.
pub(crate) fn without<S: Clone, T>(
    script: &S,
    fails: &impl Fn(&S) -> bool,
    list: impl Fn(&mut S) -> &mut Vec<T>,
) -> S {
    let mut script = script.clone();
    let mut part = list(&mut script).len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        loop {
            let len = list(&mut script).len();
            if from >= len {
                break;
            }
            let mut less = script.clone();
            list(&mut less).drain(from..len.min(from + part));
            if fails(&less) { script = less } else { from += part }
        }
        part /= 2;
    }
    script
}

/// Returns the script with a job that does less, if it still fails.
fn simplified(script: &Script, fails: &impl Fn(&Script) -> bool, index: usize) -> Script {
    let mut script = script.clone();
    loop {
        let mut less = script.clone();
        less.jobs[index].count /= 2;
        if less.jobs[index].count == 0 || !fails(&less) {
            break;
        }
        script = less;
    }
    let mut less = script.clone();
    if less.jobs[index].cancel.take().is_some() && fails(&less) {
        script = less;
    }
    script
}
