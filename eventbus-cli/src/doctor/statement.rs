//! The statements of checks on SQL databases, each with the texts of its findings; `checks.sql` says how to write them.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    config::DoctorConfig,
    finding::{Finding, Severity},
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
};

/// A row of an answer, by the names of its columns.
#[derive(Debug, Clone)]
pub(crate) struct Row(pub(crate) Map<String, Value>);

impl From<Value> for Row {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(row) => Self(row),
            value => Self([("value".to_owned(), value)].into_iter().collect()),
        }
    }
}

impl Row {
    pub(crate) fn get<T: DeserializeOwned>(&self, column: &str) -> Result<T, CheckError> {
        read(self.0.get(column).cloned().unwrap_or_default())
    }

    /// Returns the text of a column; `{name:.1}` stands for a number with one decimal.
    fn text(&self, name: &str) -> Option<String> {
        let (name, decimals) = name.split_once(":.").map_or((name, None), |(name, number)| (name, number.parse().ok()));
        Some(match (self.0.get(name)?, decimals) {
            (Value::String(text), _) => text.clone(),
            (Value::Null, _) => String::new(),
            (value, Some(decimals)) => format!("{:.*}", decimals, value.as_f64().unwrap_or_default()),
            (value, None) => value.to_string(),
        })
    }

    fn is_true(&self, column: &str) -> bool {
        self.0.get(column) == Some(&Value::Bool(true))
    }

    /// Returns the values for the report. A column whose name begins with `_` is only for the texts.
    fn observed(&self) -> Value {
        let shown = self.0.iter().filter(|(name, _)| !name.starts_with('_'));
        let shown: Map<_, _> = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
        if shown.is_empty() { Value::Null } else { Value::Object(shown) }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, CheckError> {
    serde_json::from_value(value).map_err(|error| CheckError::Other(format!("a row cannot be read: {error}")))
}

/// Parses all rows of an answer.
pub(crate) fn parse_all<T: DeserializeOwned>(rows: &[Row]) -> Result<Vec<T>, CheckError> {
    rows.iter().map(|row| read(Value::Object(row.0.clone()))).collect()
}

/// What a statement and a comparison know beside the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) config: &'a DoctorConfig,
    pub(crate) types: Option<&'a KnownTypes>,
    /// Set for a check that reads whole tables.
    pub(crate) is_deep: bool,
}

impl Known<'_> {
    fn sql_value(&self, name: &str) -> Option<String> {
        match name {
            "sampled_streams" | "sampled_versions" if self.is_deep => Some(i64::MAX.to_string()),
            name => self.config.sql_value(name),
        }
    }
}

pub(crate) type Comparison = fn(&[Row], Known<'_>) -> Result<Outcome, CheckError>;

/// A statement of a check; without SQL, code makes the rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    /// What each row means.
    pub(crate) texts: Vec<Texts>,
    /// Makes other rows of the rows of the answer.
    pub(crate) comparison: Option<Comparison>,
}

/// The texts for a row.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    /// The severity of the finding; `None` for a part that was not checked.
    pub(crate) severity: Option<Severity>,
    /// The columns that are true for the rows that these texts are for.
    pub(crate) columns: Vec<&'static str>,
    pub(crate) finding: &'static str,
    pub(crate) consequence: &'static str,
    pub(crate) repair: &'static str,
}

/// A database that runs the statements of checks.
pub(crate) trait Database {
    /// Runs a statement without parameters.
    async fn rows(&mut self, sql: String) -> Result<Vec<Row>, CheckError>;

    /// Returns the text for a name in braces that differs between databases.
    fn expand(&self, name: &str) -> Option<String>;

    /// Runs a statement in which names in braces are replaced.
    async fn query(&mut self, sql: &str, config: &DoctorConfig) -> Result<Vec<Row>, CheckError> {
        let sql = fill(sql, |name| self.expand(name).or_else(|| config.sql_value(name)));
        self.rows(sql).await
    }

    /// Runs a statement that returns one row.
    async fn row(&mut self, sql: &str, config: &DoctorConfig) -> Result<Row, CheckError> {
        let row = self.query(sql, config).await?.into_iter().next();
        row.ok_or_else(|| CheckError::Other("the database returned no row".into()))
    }

    /// Runs the statements of a check, one after the other.
    async fn check(&mut self, statements: &[Statement], known: Known<'_>) -> Result<Outcome, CheckError> {
        let mut outcome = Outcome::default();
        for statement in statements {
            let sql = fill(&statement.sql, |name| self.expand(name).or_else(|| known.sql_value(name)));
            let mut rows = self.rows(sql).await?;
            if let Some(comparison) = statement.comparison {
                rows = comparison(&rows, known)?.take_rows().into_iter().map(Row::from).collect();
            }
            statement.report(&rows, &mut outcome, |name| self.expand(name));
        }
        Ok(outcome)
    }
}

impl Statement {
    /// Adds the findings that rows are.
    pub(crate) fn report(&self, rows: &[Row], outcome: &mut Outcome, expand: impl Fn(&str) -> Option<String>) {
        for texts in &self.texts {
            for row in rows.iter().filter(|row| texts.columns.iter().all(|column| row.is_true(column))) {
                let filled = |text| fill(text, |name| row.text(name).or_else(|| expand(name)));
                match texts.severity {
                    None => outcome.not_checked(filled(texts.finding)),
                    Some(severity) => outcome.add(Finding {
                        severity,
                        finding: filled(texts.finding),
                        consequence: filled(texts.consequence),
                        repair: filled(texts.repair),
                        observed: row.observed(),
                    }),
                }
            }
        }
    }
}

/// Replaces the names in braces by their values; those without one stay.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, (name, after))) = rest.split_once('{').and_then(|(a, b)| Some((a, b.split_once('}')?))) {
        filled.push_str(before);
        filled.push_str(&value(name).unwrap_or_else(|| format!("{{{name}}}")));
        rest = after;
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_in_braces_are_columns_and_a_value_is_no_template() {
        let Value::Object(row) = json!({ "name": "{age}", "age": 61.26, "_hint": "x" }) else { unreachable!() };
        let row = Row(row);
        let filled = fill("`{name}` is {age:.1} s old, {unknown}, {", |name| row.text(name));
        assert_eq!(filled, "`{age}` is 61.3 s old, {unknown}, {");
        assert_eq!(row.observed(), json!({ "name": "{age}", "age": 61.26 }));
    }
}
