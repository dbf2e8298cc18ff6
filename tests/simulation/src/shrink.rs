//! Finding less that fails as well.

use crate::script::Script;

/// Removes from a script everything that `fails` does not need, in ever smaller parts. The rest
/// still fails.
pub fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    repeated(script, size, |mut script| {
        script = without(&script, &fails, |script| &mut script.faults);
        script = without(&script, &fails, |script| &mut script.jobs);
        for index in 0..script.jobs.len() {
            script = fewer(script, &fails, |script| &mut script.jobs[index].count);
            script = changed(script, &fails, |script| script.jobs[index].cancel.take().is_some());
        }
        script
    })
}

fn size(script: &Script) -> usize {
    let jobs = script.jobs.iter();
    script.len() * 1000
        + jobs.map(|job| job.count as usize * 2 + usize::from(job.cancel.is_some())).sum::<usize>()
}

/// Repeats a step until it makes the script no smaller: what one part needed may be removed after that part.
pub(crate) fn repeated<S: Clone>(
    script: &S,
    size: impl Fn(&S) -> usize,
    step: impl Fn(S) -> S,
) -> S {
    let mut script = script.clone();
    loop {
        let before = size(&script);
        script = step(script);
        if size(&script) == before {
            return script;
        }
    }
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

/// Halves a count in a script, down to 1, while it still fails.
pub(crate) fn fewer<S: Clone>(
    mut script: S,
    fails: &impl Fn(&S) -> bool,
    count: impl Fn(&mut S) -> &mut u32,
) -> S {
    while *count(&mut script) > 1 {
        let mut less = script.clone();
        *count(&mut less) /= 2;
        if !fails(&less) {
            break;
        }
        script = less;
    }
    script
}

/// Returns the script with a change, if it still fails. The change returns whether it changed anything.
pub(crate) fn changed<S: Clone>(
    script: S,
    fails: &impl Fn(&S) -> bool,
    change: impl FnOnce(&mut S) -> bool,
) -> S {
    let mut less = script.clone();
    if change(&mut less) && fails(&less) { less } else { script }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fails_is_left() {
        let script = (1..).map(Script::new).find(|script| script.jobs.len() > 3);
        let script = script.expect("a seed with several jobs and faults");
        let longest = script.jobs.iter().map(|job| job.count).max().expect("there are jobs");
        assert!(longest > 3 && !script.is_calm(), "{script:?}");

        let less = shrink(&script, |script| script.jobs.iter().any(|job| job.count > 3));

        let [job] = &less.jobs[..] else { panic!("{less:?}") };
        assert!(job.count > 3 && job.count / 2 <= 3, "{less:?}");
        assert!(job.cancel.is_none() && less.is_calm(), "{less:?}");
    }
}
