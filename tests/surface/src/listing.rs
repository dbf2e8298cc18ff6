//! From rustdoc's JSON to a list, and from two lists to their differences.

use std::collections::HashSet;
use std::path::Path;

use crate::Result;

/// Automatic traits that nearly every type has, and that no signature asks for.
const AUTOMATIC: [&str; 6] = [
    "core::marker::Freeze ",
    "core::marker::StructuralPartialEq ",
    "core::marker::Unpin ",
    "core::marker::UnsafeUnpin ",
    "core::panic::unwind_safe::RefUnwindSafe ",
    "core::panic::unwind_safe::UnwindSafe ",
];

/// Methods of traits that the `impl` line above them has named.
const IMPLIED: [&str; 6] = [
    "::clone(&self)",
    "::cmp(&self,",
    "::eq(&self,",
    "::fmt(&self, &mut core::fmt::Formatter",
    "::hash<__H",
    "::partial_cmp(&self,",
];

/// Lists the public items in a file of rustdoc's JSON, one per line.
pub(crate) fn items(json: &Path) -> Result<Vec<String>> {
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    let mut seen = HashSet::new();
    let lines = api.items().map(ToString::to_string);
    // A type that has two paths has its impls twice, under one of them.
    Ok(lines.filter(|line| !goes_without_saying(line) && seen.insert(line.clone())).collect())
}

/// Returns whether a line only states what a reader expects. A type that is not `Send` or not `Sync` is listed.
fn goes_without_saying(line: &str) -> bool {
    let any = |patterns: &[&str]| patterns.iter().any(|pattern| line.contains(pattern));
    if line.starts_with("impl") {
        let usual = any(&["core::marker::Send for ", "core::marker::Sync for "]);
        any(&AUTOMATIC) || usual && !any(&["impl !", " where "])
    } else {
        any(&IMPLIED)
    }
}

/// The lines that only one of the lists has: those of the old one with `-`, those of the new one with `+`.
pub(crate) fn differences(old: &[&str], new: &[String]) -> Vec<String> {
    let was: HashSet<&str> = old.iter().copied().collect();
    let is: HashSet<&str> = new.iter().map(String::as_str).collect();
    let gone = old.iter().filter(|line| !is.contains(*line)).map(|line| format!("- {line}"));
    let added =
        new.iter().filter(|line| !was.contains(line.as_str())).map(|line| format!("+ {line}"));
    gone.chain(added).collect()
}
