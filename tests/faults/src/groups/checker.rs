//! The checker: it reads a ledger, and says which promises it breaks. It knows nothing of the library, nor of who wrote the ledger.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::ledger::{Entry, Line, Message};
use crate::oracle::{Kind, owners, partition_of};

/// What a ledger says.
#[derive(Debug, Default)]
pub(crate) struct Report {
    published: usize,
    confirmed: usize,
    processed: usize,
    duplicates: usize,
    rows: BTreeMap<String, Row>,
    /// From the start of a member's process to its first message.
    joins: Vec<u64>,
    stuck: usize,
    /// Partitions that were stuck, although no member had reported them as stalled.
    unreported: usize,
    wrong: usize,
    /// The first ones.
    broken: Vec<String>,
}

/// The incidents of one kind.
#[derive(Debug, Default)]
struct Row {
    /// From the beginning until all partitions have their owners.
    settled: Vec<u64>,
    /// The longest times in which nothing of a partition was processed.
    silences: Vec<u64>,
    moved: usize,
}

/// The most complaints that are kept.
const MOST: usize = 20;

/// Reads the lines of a ledger, in any order.
pub(crate) fn check(mut lines: Vec<Line>, partitions: u32) -> Report {
    lines.sort_by_key(|line| line.time);
    let mut report = Report::default();
    messages(&lines, partitions, &mut report);
    let mut story = Story::new(partitions);
    lines.iter().for_each(|line| story.go_on(line, &mut report));
    report
}

/// Each confirmed message is processed, in the partition of its key, and for the first time in the order of its key.
fn messages(lines: &[Line], partitions: u32, report: &mut Report) {
    let (mut published, mut confirmed) = (HashSet::new(), Vec::new());
    let mut seen: HashMap<&Message, usize> = HashMap::new();
    let mut newest: HashMap<&str, u64> = HashMap::new();
    for line in lines {
        match &line.entry {
            Entry::Published(message) => drop(published.insert(message)),
            Entry::Confirmed(message) => confirmed.push(message),
            Entry::Processed { member, partition, message } => {
                let times = seen.entry(message).or_default();
                *times += 1;
                if *times > 1 {
                    report.duplicates += 1;
                    continue;
                }
                if partition_of(&message.key, partitions) != *partition {
                    report.complain(format!("{message:?} came in partition {partition}"));
                }
                if let Some(before) = newest.insert(&message.key, message.number) {
                    if before > message.number {
                        report.complain(format!("{message:?} came after {before}, at {member}"));
                    }
                }
                if !published.contains(message) {
                    report.complain(format!("{message:?} was never published"));
                }
            }
            _ => {}
        }
    }
    for message in &confirmed {
        if !seen.contains_key(message) {
            report.complain(format!("{message:?} was confirmed, and lost"));
        }
    }
    (report.published, report.confirmed) = (published.len(), confirmed.len());
    report.processed = seen.len();
}

/// What happens to the partitions, in the order of time.
struct Story {
    partitions: u32,
    members: Vec<(String, Kind)>,
    /// The incident since the last calm.
    incident: Option<Incident>,
    /// The owners, while it is calm.
    owners: Option<Vec<Option<String>>>,
    /// What was processed since that time: partition, member and time.
    recent: Vec<(u32, String, u64)>,
    /// When a partition was last processed.
    last: Vec<u64>,
    stalled: HashSet<u32>,
    /// When members were started that have processed nothing yet.
    started: HashMap<String, u64>,
}

struct Incident {
    name: String,
    begins: u64,
    /// The owners before it.
    before: Vec<Option<String>>,
    longest: Vec<u64>,
}

impl Story {
    fn new(partitions: u32) -> Self {
        Self {
            partitions,
            members: Vec::new(),
            incident: None,
            owners: None,
            recent: Vec::new(),
            last: vec![0; partitions as usize],
            stalled: HashSet::new(),
            started: HashMap::new(),
        }
    }

    fn go_on(&mut self, line: &Line, report: &mut Report) {
        match &line.entry {
            Entry::Started { member, kind } => {
                self.members.push((member.clone(), kind.clone()));
                self.started.insert(member.clone(), line.time);
            }
            Entry::Gone { member } => self.members.retain(|(name, _)| name != member),
            Entry::Begins { incident } => self.begin(incident, line.time),
            Entry::Processed { member, partition, .. } => {
                self.processed(member, *partition, line.time, report);
            }
            Entry::Calm { since } => self.calm(*since, line.time, report),
            Entry::Stalled { partition, .. } => drop(self.stalled.insert(*partition)),
            Entry::Stuck { partition } => {
                report.stuck += 1;
                report.unreported += usize::from(!self.stalled.remove(partition));
            }
            Entry::Published(_) | Entry::Confirmed(_) | Entry::Joined { .. } => {}
        }
    }

    fn expected(&self) -> Vec<Option<String>> {
        let name = |owner: Option<usize>| Some(self.members.get(owner?)?.0.clone());
        owners(&self.members, self.partitions).into_iter().map(name).collect()
    }

    fn begin(&mut self, incident: &str, time: u64) {
        let before = self.owners.take().unwrap_or_else(|| self.expected());
        self.recent.clear();
        let longest = vec![0; self.partitions as usize];
        self.incident = Some(Incident { name: incident.to_owned(), begins: time, before, longest });
        // A silence that began before counts from here.
        self.last.fill(time);
    }

    fn processed(&mut self, member: &str, partition: u32, time: u64, report: &mut Report) {
        report.joins.extend(self.started.remove(member).map(|started| time - started));
        let Some(last) = self.last.get_mut(partition as usize) else { return };
        let silence = time - std::mem::replace(last, time);
        if let Some(incident) = &mut self.incident {
            let longest = &mut incident.longest[partition as usize];
            *longest = silence.max(*longest);
        }
        match &self.owners {
            // Nothing moves without an incident.
            Some(owners) => {
                let owner = owners[partition as usize].as_deref();
                if owner != Some(member) {
                    report.complain(format!(
                        "{member} processes partition {partition} of {owner:?}, and nothing happened"
                    ));
                }
            }
            None => self.recent.push((partition, member.to_owned(), time)),
        }
    }

    fn calm(&mut self, since: u64, time: u64, report: &mut Report) {
        let owners = self.expected();
        for (partition, member, time) in std::mem::take(&mut self.recent) {
            let owner = owners[partition as usize].as_deref();
            let before = self.incident.as_ref().map(|it| it.before[partition as usize].as_deref());
            let is_own = owner == Some(&member);
            let may_be_old = time < since && before.flatten() == Some(&member);
            // Members and nodes that vanish and come back leave their partitions to anybody meanwhile.
            let is_simple =
                self.incident.as_ref().is_some_and(|incident| SIMPLE.contains(&&*incident.name));
            if !is_own && !may_be_old && (is_simple || time >= since) {
                let name = self.incident.as_ref().map_or("the start", |incident| &incident.name);
                report.complain(format!(
                    "{member} processes partition {partition} of {owner:?} after {name}"
                ));
            }
        }
        if let Some(incident) = self.incident.take() {
            let row = report.rows.entry(incident.name).or_default();
            row.settled.push(time - incident.begins);
            row.silences.extend(incident.longest.iter().max());
            row.moved +=
                incident.before.iter().zip(&owners).filter(|(one, other)| one != other).count();
        }
        self.owners = Some(owners);
    }
}

/// Incidents in which a partition is only with its owner before, or with the one after.
const SIMPLE: [&str; 3] = ["member joins", "member leaves", "member killed"];

impl Report {
    fn complain(&mut self, text: String) {
        self.wrong += 1;
        if self.broken.len() < MOST {
            self.broken.push(text);
        }
    }

    /// Returns why the run is no success, if it is none.
    pub(crate) fn complaint(&self) -> Option<String> {
        match () {
            () if self.wrong > 0 => {
                Some(format!("{} broken promises:\n{}", self.wrong, self.broken.join("\n")))
            }
            () if self.confirmed == 0 => Some("nothing was confirmed".to_owned()),
            () if self.rows.is_empty() => Some("nothing happened".to_owned()),
            () if self.unreported > 0 => {
                Some(format!("{} stuck partitions were not reported as stalled", self.unreported))
            }
            () => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, confirmed, processed, duplicates, .. } = self;
        writeln!(
            f,
            "{published} messages published, {confirmed} confirmed, {processed} processed, {duplicates} processed again"
        )?;
        let [join, slowest] = median_and_longest(&self.joins);
        writeln!(
            f,
            "{} members; from the start of the process to its first message: median {join:.2} s, longest {slowest:.2} s",
            self.joins.len()
        )?;
        writeln!(f, "{} partitions stuck, {} of them not reported\n", self.stuck, self.unreported)?;
        writeln!(
            f,
            "| incident           | times | partitions moved | settled, median | longest | silence, median | longest |"
        )?;
        writeln!(
            f,
            "|--------------------|------:|-----------------:|----------------:|--------:|----------------:|--------:|"
        )?;
        for (name, row) in &self.rows {
            let [settled, longest] = median_and_longest(&row.settled);
            let [silence, silent] = median_and_longest(&row.silences);
            writeln!(
                f,
                "| {name:<18} | {:>5} | {:>16} | {settled:>13.2} s | {longest:>5.2} s | {silence:>13.2} s | {silent:>5.2} s |",
                row.settled.len(),
                row.moved,
            )?;
        }
        Ok(())
    }
}

/// In seconds.
fn median_and_longest(times: &[u64]) -> [f64; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |index: usize| {
        times.get(index).copied().map_or(0.0, |time| Duration::from_nanos(time).as_secs_f64())
    };
    [at(times.len() / 2), at(times.len().saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members, of which the first one is alone at first. Returns a ledger in which nothing is wrong.
    fn good() -> Vec<Line> {
        let mut lines = Vec::new();
        let mut time = 0;
        let mut add = |entry| {
            time += 10;
            lines.push(Line { time, entry });
        };
        let member = |name: &str| (name.to_owned(), Kind::Named { weight: 1 });
        let [one, two] = [member("one"), member("two")];
        let mut number = 0;
        let round = |members: &[(String, Kind)], number: u64, add: &mut dyn FnMut(Entry)| {
            for partition in 0..4 {
                let message = Message { key: key(partition), number };
                let owner = owners(members, 4)[partition as usize].expect("an owner");
                let member = members[owner].0.clone();
                add(Entry::Published(message.clone()));
                add(Entry::Confirmed(message.clone()));
                add(Entry::Processed { member, partition, message });
            }
        };
        add(Entry::Started { member: one.0.clone(), kind: one.1.clone() });
        add(Entry::Joined { member: one.0.clone() });
        round(std::slice::from_ref(&one), number, &mut add);
        add(Entry::Calm { since: 0 });
        number += 1;
        add(Entry::Begins { incident: "member joins".to_owned() });
        add(Entry::Started { member: two.0.clone(), kind: two.1.clone() });
        round(std::slice::from_ref(&one), number, &mut add);
        number += 1;
        round(&[one.clone(), two.clone()], number, &mut add);
        add(Entry::Calm { since: 295 });
        number += 1;
        round(&[one, two], number, &mut add);
        lines
    }

    fn key(partition: u32) -> String {
        let mut keys = (0..).map(|key| format!("k{key}"));
        keys.find(|key| partition_of(key, 4) == partition).expect("each partition has keys")
    }

    fn complaint(change: impl FnOnce(&mut Vec<Line>)) -> Option<String> {
        let mut lines = good();
        change(&mut lines);
        check(lines, 4).complaint()
    }

    fn processed(lines: &mut [Line]) -> Vec<&mut Line> {
        let processed = |line: &&mut Line| matches!(line.entry, Entry::Processed { .. });
        lines.iter_mut().filter(processed).collect()
    }

    #[test]
    fn a_good_ledger_has_a_table() {
        let report = check(good(), 4);
        assert_eq!(report.complaint(), None, "{report}");
        assert_eq!((report.processed, report.duplicates), (16, 0));
        let row = &report.rows["member joins"];
        assert!((1..4).contains(&row.moved), "{row:?}");
    }

    #[test]
    fn each_broken_promise_is_found() {
        let lost = complaint(|lines| {
            let at = lines.iter().rposition(|line| matches!(line.entry, Entry::Processed { .. }));
            drop(lines.remove(at.expect("there is one")));
        });
        assert!(lost.as_ref().is_some_and(|text| text.contains("lost")), "{lost:?}");

        let swapped = complaint(|lines| {
            let mut all = processed(lines);
            // The first two messages of the first key.
            let (first, rest) = all.split_at_mut(4);
            std::mem::swap(&mut first[0].entry, &mut rest[0].entry);
        });
        assert!(swapped.as_ref().is_some_and(|text| text.contains("came after")), "{swapped:?}");

        let elsewhere = complaint(|lines| {
            if let Entry::Processed { partition, .. } = &mut processed(lines)[0].entry {
                *partition = 3;
            }
        });
        assert!(elsewhere.is_some_and(|text| text.contains("in partition")));

        let unknown =
            complaint(|lines| lines.retain(|line| !matches!(line.entry, Entry::Published(_))));
        assert!(unknown.is_some_and(|text| text.contains("never published")));
    }

    #[test]
    fn a_partition_with_another_member_is_found() {
        let set = |line: &mut Line| {
            if let Entry::Processed { member, .. } = &mut line.entry {
                let other = if member == "one" { "two" } else { "one" };
                other.clone_into(member);
            }
        };
        // While it is calm, in the last round before that, and one that nobody had or gets.
        let calm = complaint(|lines| set(processed(lines)[15]));
        assert!(calm.is_some_and(|text| text.contains("nothing happened")));
        let last = complaint(|lines| set(processed(lines)[11]));
        assert!(last.is_some_and(|text| text.contains("after member joins")));
        let needless = complaint(|lines| {
            let kept = owners(
                &[
                    ("one".into(), Kind::Named { weight: 1 }),
                    ("two".into(), Kind::Named { weight: 1 }),
                ],
                4,
            );
            let kept = kept.iter().position(|owner| *owner == Some(0)).expect("one keeps some");
            set(processed(lines)[4 + kept]);
        });
        assert!(needless.is_some_and(|text| text.contains("after member joins")));
    }

    #[test]
    fn stuck_partitions_have_to_be_reported() {
        let stuck = |time| Line { time, entry: Entry::Stuck { partition: 1 } };
        assert!(complaint(|lines| lines.push(stuck(1000))).is_some());
        let reported = complaint(|lines| {
            let entry = Entry::Stalled { member: "one".to_owned(), partition: 1 };
            lines.extend([Line { time: 999, entry }, stuck(1000)]);
        });
        assert_eq!(reported, None);
    }
}
