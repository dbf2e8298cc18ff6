//! The ledger of a run: a text file. Each line has the time in nanoseconds, a word and its fields, with tabs in between.

use std::fmt;
use std::str::{FromStr, Split};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::oracle::Kind;

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// By the clock of the machine, which all processes share.
    pub(crate) time: u64,
    pub(crate) entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A message is about to be published.
    Published(Message),
    /// The broker has confirmed it.
    Confirmed(Message),
    /// A handler has returned. The acknowledgement follows.
    Processed { member: String, partition: u32, message: Message },
    /// A member was started.
    Started { member: String, kind: Kind },
    /// A member has joined.
    Joined { member: String },
    /// A member is told to leave, or was killed.
    Gone { member: String },
    /// A member reports that a partition is stalled.
    Stalled { member: String, partition: u32 },
    /// An incident begins, or its end does: a node comes back.
    Begins { incident: String },
    /// All partitions have had their owners since that time.
    Calm { since: u64 },
    /// The broker delivers nothing of a partition.
    Stuck { partition: u32 },
}

/// The key of a message, and its number among those of the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) number: u64,
}

impl Line {
    pub(crate) fn now(entry: Entry) -> Self {
        Self { time: now(), entry }
    }
}

/// The time in nanoseconds.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t", self.time)?;
        match &self.entry {
            Entry::Published(message) => write!(f, "published\t{message}"),
            Entry::Confirmed(message) => write!(f, "confirmed\t{message}"),
            Entry::Processed { member, partition, message } => {
                write!(f, "processed\t{member}\t{partition}\t{message}")
            }
            Entry::Started { member, kind: Kind::Named { weight } } => {
                write!(f, "started\t{member}\tweight\t{weight}")
            }
            Entry::Started { member, kind: Kind::Slot(slot) } => {
                write!(f, "started\t{member}\tslot\t{slot}")
            }
            Entry::Joined { member } => write!(f, "joined\t{member}"),
            Entry::Gone { member } => write!(f, "gone\t{member}"),
            Entry::Stalled { member, partition } => write!(f, "stalled\t{member}\t{partition}"),
            Entry::Begins { incident } => write!(f, "begins\t{incident}"),
            Entry::Calm { since } => write!(f, "calm\t{since}"),
            Entry::Stuck { partition } => write!(f, "stuck\t{partition}"),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}", self.key, self.number)
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut fields = line.split('\t');
        let mut parse = || {
            let (time, word) = (number(&mut fields)?, text(&mut fields)?);
            Some(Self { time, entry: entry(&word, &mut fields)? })
        };
        parse().ok_or_else(|| format!("the line is not one of a ledger: {line:?}"))
    }
}

fn entry(word: &str, fields: &mut Split<'_, char>) -> Option<Entry> {
    Some(match word {
        "published" => Entry::Published(message(fields)?),
        "confirmed" => Entry::Confirmed(message(fields)?),
        "processed" => Entry::Processed {
            member: text(fields)?,
            partition: number(fields)?,
            message: message(fields)?,
        },
        "started" => {
            let (member, kind) = (text(fields)?, text(fields)?);
            let kind = match &*kind {
                "weight" => Kind::Named { weight: number(fields)? },
                "slot" => Kind::Slot(number(fields)?),
                _ => return None,
            };
            Entry::Started { member, kind }
        }
        "joined" => Entry::Joined { member: text(fields)? },
        "gone" => Entry::Gone { member: text(fields)? },
        "stalled" => Entry::Stalled { member: text(fields)?, partition: number(fields)? },
        "begins" => Entry::Begins { incident: text(fields)? },
        "calm" => Entry::Calm { since: number(fields)? },
        "stuck" => Entry::Stuck { partition: number(fields)? },
        _ => return None,
    })
}

fn message(fields: &mut Split<'_, char>) -> Option<Message> {
    Some(Message { key: text(fields)?, number: number(fields)? })
}

fn text(fields: &mut Split<'_, char>) -> Option<String> {
    fields.next().map(str::to_owned)
}

fn number<T: FromStr>(fields: &mut Split<'_, char>) -> Option<T> {
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let message = Message { key: "k1".into(), number: 7 };
        let member = || "m 1".to_owned();
        let entries = [
            Entry::Published(message.clone()),
            Entry::Confirmed(message.clone()),
            Entry::Processed { member: member(), partition: 3, message },
            Entry::Started { member: member(), kind: Kind::Named { weight: 2 } },
            Entry::Started { member: member(), kind: Kind::Slot(4) },
            Entry::Joined { member: member() },
            Entry::Gone { member: member() },
            Entry::Stalled { member: member(), partition: 5 },
            Entry::Begins { incident: "node killed".into() },
            Entry::Calm { since: 8 },
            Entry::Stuck { partition: 0 },
        ];
        for entry in entries {
            let line = Line { time: 9, entry };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        assert!("1\tcalm".parse::<Line>().is_err());
        assert!("".parse::<Line>().is_err());
    }
}
