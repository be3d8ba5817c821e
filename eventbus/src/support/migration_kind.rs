//! The kinds of migrations: whether an older release can go on using the tables.

/// The effect of a migration on a release that does not know it.
///
/// # Examples
/// ```
/// use eventbus::support::MigrationKind;
/// assert_eq!(MigrationKind::Additive.as_str(), "additive");
/// assert_eq!(MigrationKind::parse("additive"), MigrationKind::Additive);
/// assert_eq!(MigrationKind::parse("of a later release"), MigrationKind::Breaking);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationKind {
    /// An older release can still read and write, for example with a new table, a new index, or a column that may be
    /// null.
    Additive,
    /// An older release would fail or do damage; it refuses the database.
    Breaking,
}

impl MigrationKind {
    /// Returns the kind as the table of migrations records it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Additive => "additive",
            Self::Breaking => "breaking",
        }
    }

    /// Parses a recorded kind. A kind that only a later release knows counts as breaking.
    #[must_use]
    pub fn parse(recorded: &str) -> Self {
        if recorded == Self::Additive.as_str() { Self::Additive } else { Self::Breaking }
    }
}
