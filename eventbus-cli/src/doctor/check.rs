//! A check: its name, its subject, and how it is made: by statements or by code.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{
    config::DoctorConfig,
    outcome::{CheckError, Outcome, lacks_right},
    statement::{Row, Statement},
    subjects::{Subject, Subjects},
};

pub(crate) type Checking<'a> = BoxFuture<'a, Result<Outcome, CheckError>>;

/// The function of a check.
pub(crate) type Code = for<'a> fn(&'a Subjects<'a>) -> Checking<'a>;

/// A check of a server, or of the data that the project stores there.
///
/// Its name is stable: scripts select and skip checks by it.
#[derive(derive_more::Debug, Clone, Serialize)]
pub struct Check {
    pub(super) name: &'static str,
    pub(super) subject: Subject,
    pub(super) finds: &'static str,
    pub(super) is_deep: bool,
    /// The reason why the check belongs elsewhere, if the role may not run its statements.
    #[serde(skip)]
    pub(super) elsewhere: Option<&'static str>,
    #[debug(skip)]
    #[serde(skip)]
    pub(super) statements: Vec<Statement>,
    #[debug(skip)]
    #[serde(skip)]
    pub(super) code: Option<Code>,
}

/// The shortest time limit of a check.
const TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// The number of statements with the longest answers for which a check has time.
const SLOW_STATEMENTS: u32 = 3;
/// The time limit of a check that reads whole tables; by then even its statements have ended.
const DEEP_TIMEOUT: Duration = Duration::from_secs(3_600);

impl Check {
    /// Returns its name, such as `pg-sync-commit`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns a few words about what it finds, for lists.
    #[must_use]
    pub const fn finds(&self) -> &'static str {
        self.finds
    }

    /// Returns its subject.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    /// Returns its time limit; a check that takes longer counts as not made.
    #[must_use]
    pub fn timeout(&self, config: &DoctorConfig) -> Duration {
        match self.is_deep {
            true => DEEP_TIMEOUT,
            false => config.statement_timeout.saturating_mul(SLOW_STATEMENTS).max(TIMEOUT_MIN),
        }
    }

    /// Returns `true` if it reads whole tables or files; the doctor makes such a check only on request.
    #[must_use]
    pub const fn is_deep(&self) -> bool {
        self.is_deep
    }

    pub(crate) async fn make(&self, on: &Subjects<'_>) -> Result<Outcome, CheckError> {
        if let Some(code) = self.code {
            let mut outcome = code(on).await?;
            let rows: Vec<_> = outcome.take_rows().into_iter().map(Row::from).collect();
            self.statements.iter().for_each(|texts| texts.report(&rows, &mut outcome, |_| None));
            return Ok(outcome);
        }
        match (on.run(self.subject, &self.statements, self.is_deep).await, self.elsewhere) {
            (Err(CheckError::Postgres(error)), Some(elsewhere)) if lacks_right(&error) => {
                Err(CheckError::NotHere(elsewhere))
            }
            (checked, _) => checked,
        }
    }
}
