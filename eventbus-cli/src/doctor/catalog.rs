//! All checks, as `checks.sql` describes them.

use std::sync::LazyLock;

use serde::{
    Deserialize as _,
    de::{
        IntoDeserializer as _,
        value::{Error, StrDeserializer},
    },
};

use super::{
    check::Check,
    code::{code_of, comparison_of},
    finding::Severity,
    statement::{Statement, Texts},
    subjects::Subject,
};

static CHECKS: LazyLock<Vec<Check>> =
    LazyLock::new(|| parse(include_str!("checks.sql")).expect("the tests parse the same text"));

/// Returns all checks, in the order in which the doctor makes them.
///
/// # Examples
/// ```
/// let names: Vec<_> = eventbus_cli::doctor::checks().map(|check| check.name()).collect();
/// assert!(names.contains(&"pg-sync-commit") && names.contains(&"redis-eviction"));
/// ```
pub fn checks() -> impl Iterator<Item = &'static Check> {
    CHECKS.iter()
}

/// Parses descriptions of checks; the error is the line that is none.
fn parse(text: &'static str) -> Result<Vec<Check>, &'static str> {
    let mut parser = Parser::default();
    for line in text.lines() {
        parser.add(line).ok_or(line)?;
    }
    Ok(parser.checks)
}

/// What was parsed so far.
#[derive(Default)]
struct Parser {
    checks: Vec<Check>,
    /// Parts of statements, by their names in braces.
    parts: Vec<(String, String)>,
}

impl Parser {
    fn add(&mut self, line: &'static str) -> Option<()> {
        let Some(text) = line.strip_prefix("--! ") else { return self.add_sql(line) };
        match text.split_once(' ')? {
            ("define", name) => self.parts.push((format!("{{{name}}}"), String::new())),
            ("as", name) => {
                let statements = self.checks.iter().find(|check| check.name == name)?.statements.clone();
                self.checks.last_mut()?.statements = statements;
            }
            ("so", text) => self.texts()?.consequence = text,
            ("repair", text) => self.texts()?.repair = text,
            _ => {
                let (head, text) = text.split_once(": ")?;
                match *head.split(' ').collect::<Vec<_>>() {
                    ["check", name, "on", subject] => self.add_check(subject, name, (text, false))?,
                    ["deep", "check", name, "on", subject] => self.add_check(subject, name, (text, true))?,
                    ["elsewhere"] => self.checks.last_mut()?.elsewhere = Some(text),
                    ["not", "checked"] => self.add_texts(None, &[], text)?,
                    ["not", "checked", "if", ref columns @ ..] => self.add_texts(None, columns, text)?,
                    [severity] => self.add_texts(Some(severity), &[], text)?,
                    [severity, "if", ref columns @ ..] => self.add_texts(Some(severity), columns, text)?,
                    _ => return None,
                }
            }
        }
        Some(())
    }

    fn add_check(&mut self, subject: &str, name: &'static str, (finds, is_deep): (&'static str, bool)) -> Option<()> {
        let subject: StrDeserializer<'_, Error> = subject.into_deserializer();
        let (subject, code) = (Subject::deserialize(subject).ok()?, code_of(name));
        self.checks.push(Check { subject, name, finds, is_deep, elsewhere: None, statements: Vec::new(), code });
        Some(())
    }

    /// Adds a line to the last statement, to a new one, or to a part.
    fn add_sql(&mut self, line: &str) -> Option<()> {
        if line.is_empty() || line.trim_start().starts_with("--") {
            return Some(());
        }
        let Some(check) = self.checks.last_mut() else {
            self.parts.last_mut()?.1.extend([line, "\n"]);
            return Some(());
        };
        if check.statements.last().is_none_or(|last| !last.texts.is_empty()) {
            check.statements.push(Statement { comparison: comparison_of(check.name), ..Statement::default() });
        }
        let whole = |line: String, (name, part): &(String, String)| line.replace(name, part);
        check.statements.last_mut()?.sql.extend([self.parts.iter().fold(line.to_owned(), whole), "\n".to_owned()]);
        Some(())
    }

    fn add_texts(&mut self, severity: Option<&str>, columns: &[&'static str], finding: &'static str) -> Option<()> {
        let severity = match severity {
            None => None,
            Some("fault") => Some(Severity::Fault),
            Some("warning") => Some(Severity::Warning),
            Some("note") => Some(Severity::Note),
            Some(_) => return None,
        };
        let columns = columns.iter().copied().filter(|word| *word != "and").collect();
        let statements = &mut self.checks.last_mut()?.statements;
        if statements.is_empty() {
            statements.push(Statement::default());
        }
        statements.last_mut()?.texts.push(Texts { severity, columns, finding, consequence: "", repair: "" });
        Some(())
    }

    fn texts(&mut self) -> Option<&mut Texts> {
        self.checks.last_mut()?.statements.last_mut()?.texts.last_mut()
    }
}

/// No check has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no check `{name}`; the nearest is `{nearest}`")]
pub struct UnknownCheck {
    /// The name.
    pub name: String,
    /// The name of the check with the most similar spelling.
    pub nearest: &'static str,
}

/// Finds a check by its name.
pub(crate) fn find(name: &str) -> Result<&'static Check, UnknownCheck> {
    let similarity = |check: &&'static Check| strsim::jaro_winkler(name, check.name());
    match checks().find(|check| check.name() == name) {
        Some(check) => Ok(check),
        None => {
            let nearest = checks().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            Err(UnknownCheck { name: name.into(), nearest: nearest.map_or("", Check::name) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_check_has_a_name_of_its_own() {
        let names: BTreeSet<_> = checks().map(Check::name).collect();
        assert_eq!(names.len(), checks().count());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')), "{names:?}");
    }

    #[test]
    fn each_check_has_code_or_statements_and_texts_for_their_rows() {
        for check in checks() {
            let has_sql = check.statements.iter().all(|statement| !statement.sql.is_empty());
            assert!(check.code.is_some() || has_sql, "{}", check.name);
            assert!(
                !check.statements.is_empty() && check.statements.iter().all(|statement| !statement.texts.is_empty()),
                "{}",
                check.name
            );
            let texts = check.statements.iter().flat_map(|statement| &statement.texts);
            let of_finding = texts.filter(|texts| texts.severity.is_some());
            assert!(of_finding.flat_map(|texts| [texts.consequence, texts.repair]).all(|text| !text.is_empty()));
        }
    }

    #[test]
    fn a_line_that_describes_nothing_is_an_error() {
        for line in ["--! check pg-x on postgres", "--! check pg-x on mars: x", "--! hint: x", "SELECT 1"] {
            assert_eq!(parse(line).unwrap_err(), line);
        }
    }

    #[test]
    fn the_nearest_name_is_named() {
        let error = find("redis-evictions").unwrap_err();
        assert_eq!(error.to_string(), "there is no check `redis-evictions`; the nearest is `redis-eviction`");
    }
}
