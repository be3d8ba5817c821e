//! The report of all checks.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    check::Check,
    finding::{Finding, Severity},
    outcome::{CheckError, Outcome},
};
use crate::output::{printable, serialize_time};

/// The version of the report's JSON: it rises when the meaning of a field changes.
const VERSION: u32 = 1;

/// A report of all checks: serde writes it as JSON, `Display` as text.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    version: u32,
    #[serde(serialize_with = "serialize_time")]
    as_of: OffsetDateTime,
    findings: Vec<CheckFinding>,
    not_checked: Vec<NotChecked>,
    healthy: Vec<&'static str>,
    skipped: Vec<NotChecked>,
    #[serde(skip)]
    has_silent_server: bool,
}

/// A finding, with the name of its check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckFinding {
    /// The name of the check.
    pub check: &'static str,
    /// Its finding.
    #[serde(flatten)]
    pub finding: Finding,
}

/// A check, or a part of it, that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// The name of the check.
    pub check: &'static str,
    /// The reason.
    pub reason: String,
}

impl Report {
    pub(crate) const fn new(as_of: OffsetDateTime) -> Self {
        Self {
            version: VERSION,
            as_of,
            findings: Vec::new(),
            not_checked: Vec::new(),
            healthy: Vec::new(),
            skipped: Vec::new(),
            has_silent_server: false,
        }
    }

    pub(crate) fn add(&mut self, check: &Check, outcome: Result<Outcome, CheckError>) {
        let check = check.name();
        let (findings, not_checked) = match outcome {
            Ok(outcome) => outcome.into_parts(),
            Err(error) => (Vec::new(), vec![error.to_string()]),
        };
        if findings.is_empty() && not_checked.is_empty() {
            self.healthy.push(check);
        }
        self.findings.extend(findings.into_iter().map(|finding| CheckFinding { check, finding }));
        self.findings.sort_by_key(|found| found.finding.severity);
        self.not_checked.extend(not_checked.into_iter().map(|reason| NotChecked { check, reason }));
    }

    pub(crate) fn skip(&mut self, check: &Check, reason: &str) {
        self.skipped.push(NotChecked { check: check.name(), reason: reason.into() });
    }

    pub(crate) const fn note_silent_server(&mut self) {
        self.has_silent_server = true;
    }

    /// Returns `true` if a server gave no answer: none of its checks was made.
    #[must_use]
    pub const fn has_silent_server(&self) -> bool {
        self.has_silent_server
    }

    /// Returns the findings, the worst first.
    #[must_use]
    pub fn findings(&self) -> &[CheckFinding] {
        &self.findings
    }

    /// Returns the checks, or parts of them, that the servers did not let the doctor make, and checks that
    /// [`only`](super::Doctor::only) names but that must run elsewhere.
    #[must_use]
    pub fn not_checked(&self) -> &[NotChecked] {
        &self.not_checked
    }

    /// Returns the names of the checks that found all well.
    #[must_use]
    pub fn healthy(&self) -> &[&'static str] {
        &self.healthy
    }

    /// Returns the checks that were not requested, whose subject the doctor does not have, or that must run elsewhere.
    #[must_use]
    pub fn skipped(&self) -> &[NotChecked] {
        &self.skipped
    }

    /// Returns the time of the report.
    #[must_use]
    pub const fn as_of(&self) -> OffsetDateTime {
        self.as_of
    }

    /// Returns the severity of the worst finding; `None` if there is none.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.first().map(|found| found.finding.severity)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|found| found.finding.severity == severity).count()
    }
}

/// The width of the column of severities.
const SEVERITY_WIDTH: usize = 11;

fn plural(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// The findings, the worst first, then what was not checked, then the numbers, at the end why checks were skipped.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.findings.iter().map(|found| found.check).chain(self.not_checked.iter().map(|not| not.check));
        let width = names.map(str::len).max().unwrap_or_default();
        let indent = SEVERITY_WIDTH + 1 + width + 2;
        for CheckFinding { check, finding } in &self.findings {
            let severity = finding.severity.as_str().to_uppercase();
            // any program may choose the names in it
            writeln!(f, "{severity:SEVERITY_WIDTH$} {check:width$}  {}", printable(&finding.finding))?;
            writeln!(f, "{:indent$}so {}", "", finding.consequence)?;
            writeln!(f, "{:indent$}to repair: {}", "", printable(&finding.repair))?;
        }
        for NotChecked { check, reason } in &self.not_checked {
            writeln!(f, "{:SEVERITY_WIDTH$} {check:width$}  {}", "NOT CHECKED", printable(reason))?;
        }
        let counts = [Severity::Fault, Severity::Warning, Severity::Note]
            .map(|severity| plural(self.count(severity), severity.as_str()));
        write!(f, "{} healthy, {}", plural(self.healthy.len(), "check"), counts.join(", "))?;
        if !self.not_checked.is_empty() {
            write!(f, ", {} not checked", self.not_checked.len())?;
        }
        if !self.skipped.is_empty() {
            write!(f, ", {} skipped", self.skipped.len())?;
        }
        writeln!(f)?;
        let reasons: BTreeSet<_> = self.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
        for reason in reasons {
            let skipped = self.skipped.iter().filter(|skipped| skipped.reason == reason);
            writeln!(f, "{:SEVERITY_WIDTH$} {}: {reason}", "SKIPPED", plural(skipped.count(), "check"))?;
        }
        Ok(())
    }
}
