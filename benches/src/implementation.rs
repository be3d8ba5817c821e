use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Implementation {
    /// This project, as an application uses it.
    Ours,
    /// Minimal code for these events, as a careful author would write it.
    ByHand,
}

impl Implementation {
    /// Returns the arguments of this program for a worker that measures it.
    pub fn worker_arguments(self) -> [String; 3] {
        let name = self.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
        ["worker".into(), "--implementation".into(), name]
    }
}
