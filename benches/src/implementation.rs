use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Implementation {
    /// This project, as an application uses it.
    Ours,
    /// Minimal code for these events, as a careful author would write it.
    ByHand,
    /// The same, whose saves share statements.
    GroupedByHand,
    /// The same as by hand, with entries of one field.
    CompactByHand,
    /// Ours, in a store whose tables have no statistics: autovacuum has not come to it.
    NotAnalyzed,
}

impl Implementation {
    /// Returns the arguments of this program for a worker that measures it.
    pub fn worker_arguments(self) -> [String; 3] {
        let name = self.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
        ["worker".into(), "--implementation".into(), name]
    }

    /// Returns the workloads that it has; `None` if it has all of them.
    pub fn workloads(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Ours | Self::ByHand => None,
            Self::GroupedByHand => Some(&["save-1", "save-10", "sqlite-save-1"]),
            Self::CompactByHand => Some(&["publish-1", "publish-100", "consume"]),
            Self::NotAnalyzed => Some(&["load-10000", "rebuild-memory", "rebuild-rows", "rebuild-batches"]),
        }
    }
}
