use std::fmt;
use std::str::FromStr;

/// Something that happens to members or nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incident {
    Join,
    Leave,
    Kill,
    Freeze,
    Cut,
    NodeKilled,
    NodeRestarted,
    NodeFrozen,
    NodeIsolated,
}

impl Incident {
    pub(crate) const ALL: [Self; 9] = [
        Self::Join,
        Self::Leave,
        Self::Kill,
        Self::Freeze,
        Self::Cut,
        Self::NodeKilled,
        Self::NodeRestarted,
        Self::NodeFrozen,
        Self::NodeIsolated,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Join => "member joins",
            Self::Leave => "member leaves",
            Self::Kill => "member killed",
            Self::Freeze => "member frozen",
            Self::Cut => "connections cut",
            Self::NodeKilled => "node killed",
            Self::NodeRestarted => "node restarted",
            Self::NodeFrozen => "node frozen",
            Self::NodeIsolated => "node cut off",
        }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Incident {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|incident| incident.name() == name);
        found.ok_or_else(|| format!("there is no incident {name:?}"))
    }
}
