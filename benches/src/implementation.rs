use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Implementation {
    /// This project, as an application uses it.
    Ours,
    /// Minimal code for these events, as a careful author would write it.
    ByHand,
    /// The same, whose saves share statements.
    GroupedByHand,
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
            Self::GroupedByHand => Some(&["save-1", "save-10"]),
        }
    }
}
