//! The names under which a store keeps the progress of the readers of its feed, and the roles of their leases.

use crate::domain::name::Name;

/// A kind of reader of a feed, by the prefix of the names of its checkpoints and roles.
///
/// # Examples
/// ```
/// use eventbus::{Name, support::ReaderKind};
/// let checkpoint = ReaderKind::Projection.name_of(&Name::new("projection", "balances")?);
/// assert_eq!(checkpoint, "projection:balances");
/// assert_eq!(ReaderKind::parse(&checkpoint), Some((ReaderKind::Projection, "balances")));
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReaderKind {
    /// A projection, by its name: checkpoint, lease of the process that feeds it, and note of its event types.
    Projection,
    /// The rebuild of a projection, by its name: the lease of the process that rebuilds it.
    Rebuild,
    /// The relay, by its destination: checkpoint, and lease of the leader.
    Relay,
    /// A relay that stopped because the store went back, by its destination: a checkpoint at the published position.
    HaltedRelay,
}

impl ReaderKind {
    const ALL: [Self; 4] = [Self::Projection, Self::Rebuild, Self::Relay, Self::HaltedRelay];

    /// Returns the text that the names of its checkpoints and roles begin with; never changes.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Projection => "projection:",
            Self::Rebuild => "rebuild:",
            Self::Relay => "relay:",
            Self::HaltedRelay => "relay-halted:",
        }
    }

    /// Returns the name of the checkpoint, and of the role, of a reader.
    #[must_use]
    pub fn name_of(self, reader: &Name) -> Name {
        Name::prefixed(self.prefix(), reader)
    }

    /// Returns the kind and the name of the reader with this checkpoint or role; `None` for a name that an application
    /// made up.
    #[must_use]
    pub fn parse(name: &Name) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|kind| Some((kind, name.strip_prefix(kind.prefix())?)))
    }
}
