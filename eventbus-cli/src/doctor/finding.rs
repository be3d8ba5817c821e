//! Findings: the reports of a check, with their severity.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Severity of a finding, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A promise is broken, or will be by the next crash: events are lost, hidden or not handled.
    Fault,
    /// No promise is broken yet, but an operator must act.
    Warning,
    /// A fact that an operator should know, and may have chosen.
    Note,
}

impl Severity {
    /// Returns the name: `fault`, `warning` or `note`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A finding of one check: what is wrong, its consequence, and its repair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// The fact that the check found.
    pub finding: String,
    /// The consequence if it stays.
    pub consequence: String,
    /// The statement, command or act that repairs it.
    pub repair: String,
    /// The values that the check read from the server. Whole numbers that a reader may round are texts.
    pub observed: Value,
}
