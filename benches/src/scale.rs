//! The sizes that the command `growth` varies.

use std::process::Command;

use clap::Args;
use eventbus::Result;
use uuid::Uuid;

use crate::items::Items;

/// The sizes of a workload that has one number of each; by default those of the command `table`.
#[derive(Debug, Clone, Args)]
pub struct Scale {
    /// Works on this database, which has orders already and may have other workers, instead of on a new one.
    #[arg(long)]
    pub database: Option<String>,
    /// Loads these orders of the database.
    #[arg(long, value_delimiter = ',')]
    pub orders: Vec<Uuid>,
    /// The bytes of the fields of an event, instead of about 300.
    #[arg(long)]
    pub event_bytes: Option<usize>,
    /// The handlers of an event in each group.
    #[arg(long, default_value_t = 1)]
    pub handlers: usize,
    #[arg(long, default_value_t = 1)]
    pub groups: usize,
    #[arg(long, default_value_t = 1)]
    pub projections: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Self { database: None, orders: Vec::new(), event_bytes: None, handlers: 1, groups: 1, projections: 1 }
    }
}

impl Scale {
    /// Returns what makes the items that a workload saves or publishes.
    pub fn items(&self) -> Result<Items> {
        self.event_bytes.map_or_else(|| Ok(Items::default()), Items::of_bytes)
    }

    /// Adds the arguments that differ from the default: an older build of this program does not know them.
    pub fn add_to(&self, command: &mut Command) {
        let Self { database, orders, event_bytes, handlers, groups, projections } = self;
        if let Some(database) = database {
            command.args(["--database", database]);
        }
        if !orders.is_empty() {
            let orders: Vec<_> = orders.iter().map(Uuid::to_string).collect();
            command.args(["--orders", &orders.join(",")]);
        }
        if let Some(bytes) = event_bytes {
            command.args(["--event-bytes", &bytes.to_string()]);
        }
        for (name, number) in [("--handlers", handlers), ("--groups", groups), ("--projections", projections)] {
            if *number != 1 {
                command.args([name, &number.to_string()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        scale: Scale,
    }

    fn arguments_of(scale: &Scale) -> Vec<String> {
        let mut command = Command::new("worker");
        scale.add_to(&mut command);
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_arguments_of_a_scale_are_read_back() {
        let scale = Scale {
            database: Some("postgres://localhost/orders".into()),
            orders: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
            event_bytes: Some(200),
            handlers: 2,
            groups: 3,
            projections: 4,
        };
        let arguments = arguments_of(&scale);
        let read = Cli::parse_from([vec!["worker".into()], arguments.clone()].concat()).scale;
        assert_eq!(arguments_of(&read), arguments);
        assert_eq!((read.database, read.orders), (scale.database, scale.orders));
    }

    #[test]
    fn the_default_needs_no_arguments() {
        assert!(arguments_of(&Scale::default()).is_empty());
    }
}
