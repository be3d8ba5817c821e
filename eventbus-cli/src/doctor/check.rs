//! A check: its name, its subject, and how it is made.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    config::DoctorConfig,
    outcome::{CheckError, Outcome},
    statement::Statement,
    subjects::{Subject, Subjects},
};

pub(crate) type Checking<'a> = BoxFuture<'a, Result<Outcome, CheckError>>;

/// How a check is made.
#[derive(Debug, Clone, Copy)]
enum Run {
    Statements(&'static [Statement]),
    Code(for<'a> fn(&'a Subjects<'a>) -> Checking<'a>),
}

/// A check of a server, or of the data that the project stores there.
///
/// Its name is stable: scripts select and skip checks by it.
#[derive(derive_more::Debug, Clone, Copy)]
pub struct Check {
    subject: Subject,
    name: &'static str,
    finds: &'static str,
    is_deep: bool,
    #[debug(skip)]
    run: Run,
}

/// The shortest time limit of a check.
const TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// The number of statements with the longest answers for which a check has time.
const SLOW_STATEMENTS: u32 = 3;
/// The time limit of a check that reads whole tables; by then even its statements have ended.
const DEEP_TIMEOUT: Duration = Duration::from_secs(3_600);

impl Check {
    /// A check by statements on the SQL database of the subject.
    pub(crate) const fn sql(
        subject: Subject,
        name: &'static str,
        finds: &'static str,
        statements: &'static [Statement],
    ) -> Self {
        Self { subject, name, finds, is_deep: false, run: Run::Statements(statements) }
    }

    /// A check by a function, as [`code!`] wraps it.
    pub(crate) const fn new(
        subject: Subject,
        name: &'static str,
        finds: &'static str,
        run: for<'a> fn(&'a Subjects<'a>) -> Checking<'a>,
    ) -> Self {
        Self { subject, name, finds, is_deep: false, run: Run::Code(run) }
    }

    /// Makes it a check that reads whole tables.
    pub(crate) const fn deep(self) -> Self {
        Self { is_deep: true, ..self }
    }

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
        match self.run {
            Run::Statements(statements) => on.run(self.subject, statements, self.is_deep).await,
            Run::Code(run) => run(on).await,
        }
    }
}

/// Wraps an async function for [`Check::new`].
macro_rules! code {
    ($check:expr) => {
        |on| Box::pin($check(on))
    };
}
pub(crate) use code;
