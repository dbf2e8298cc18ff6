//! Finding less that fails as well.

use crate::script::Script;

/// Leaves out of a script what `fails` does not need, in ever smaller parts. What remains fails.
pub fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut script = script.clone();
    loop {
        let before = size(&script);
        script = without(
            &script,
            &fails,
            |script| script.faults.len(),
            |script, from, to| {
                script.faults.drain(from..to);
            },
        );
        script = without(
            &script,
            &fails,
            |script| script.jobs.len(),
            |script, from, to| {
                script.jobs.drain(from..to);
            },
        );
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

fn without(
    script: &Script,
    fails: &impl Fn(&Script) -> bool,
    len: impl Fn(&Script) -> usize,
    remove: impl Fn(&mut Script, usize, usize),
) -> Script {
    let mut script = script.clone();
    let mut part = len(&script).div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < len(&script) {
            let mut less = script.clone();
            remove(&mut less, from, len(&script).min(from + part));
            if fails(&less) { script = less } else { from += part }
        }
        part /= 2;
    }
    script
}

/// The same with a job that does less.
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
