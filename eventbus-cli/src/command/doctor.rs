//! `doctor`: checks the servers, and the data that eventbus keeps there.

use std::time::Duration;

use clap::Args;
use eventbus::support::redacted;
use eventbus_redis::redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
use eventstore_postgres::sqlx::postgres::PgPoolOptions;
use eventstore_sqlite::file_of_url;
use serde_json::json;

use super::parse_duration;
use crate::{
    catalog::CatalogView,
    connection::{ConnectionSettings, StoreUrl},
    doctor::{Check, Doctor, DoctorConfig, Report, Severity, Subject, UnknownCheck, checks},
    error::{CommandError, ExitStatus},
    output::{Progress, Table, optional},
    session::Session,
};

/// The longest wait for a connection to PostgreSQL: the driver adds it to the time.
const ACQUIRE_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Check the servers and what is stored there: each finding with its consequence and repair
///
/// In the binary of an application it also compares the stored event types with those that the application knows. It
/// needs the URLs of the servers there, too.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Make these checks only; deep ones too, and a check that cannot be made ends with 1
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these checks out
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    skip: Vec<String>,
    /// Make checks that read whole tables, too
    #[arg(long)]
    deep: bool,
    /// The retention that the application gives its inbox by `inbox_retention`, as `7d`; 30 days if this is not given
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    inbox_retention: Option<Duration>,
    /// The application's role on PostgreSQL, whose rights are checked; that of the URL if this is not given
    #[arg(long, value_name = "ROLE")]
    app_role: Option<String>,
    /// List all checks with what each finds, and make none; needs no server
    #[arg(long, conflicts_with_all = ["only", "skip", "deep"])]
    list: bool,
}

impl DoctorArgs {
    /// Exits with 2 if a check found a fault, with 3 if a server gave no answer, and with 1 if there were only lesser
    /// findings, or a server did not allow a check.
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        if self.list {
            let checks: Vec<_> = checks().collect();
            return session.show(&json!({ "checks": checks }), |_| {
                let row = |check: &&Check| {
                    [check.name().into(), optional(check.is_deep().then_some("yes")), check.finds().into()]
                };
                Table::new("CHECK, DEEP, FINDS").rows(&checks, row).to_text()
            });
        }
        let settings = session.settings();
        if !settings.names_a_server() {
            return Err(CommandError::Usage("what to check? pass `--store URL`, `--bus URL` or both".into()));
        }
        let doctor = new_doctor(session, self.config())
            .deep(self.deep)
            .only(&self.only)
            .and_then(|doctor| doctor.skip(&self.skip));
        let doctor = doctor
            .map_err(|unknown: UnknownCheck| CommandError::Usage(format!("{unknown}; `doctor --list` shows all")))?;
        let reports = {
            let line = Progress::of_unknown_size("checking")?;
            examine(settings, doctor, |check| line.set_subject(check)).await?
        };
        let mut status = ExitStatus::Done;
        for report in reports {
            session.printer().show_whole(&report).or_else(CommandError::unless_reader_left)?;
            status = match (report.worst(), status) {
                (Some(Severity::Fault), _) | (_, ExitStatus::Fault) => ExitStatus::Fault,
                (_, ExitStatus::Unreachable) => ExitStatus::Unreachable,
                _ if report.has_silent_server() => ExitStatus::Unreachable,
                (Some(Severity::Warning), _) => ExitStatus::Finding,
                _ if !report.not_checked().is_empty() => ExitStatus::Finding,
                (_, status) => status,
            };
        }
        Ok(status)
    }

    fn config(&self) -> DoctorConfig {
        let default = DoctorConfig::default();
        let inbox_retention = self.inbox_retention.unwrap_or(default.inbox_retention);
        DoctorConfig { inbox_retention, app_role: self.app_role.clone(), ..default }
    }
}

/// Makes a doctor with the clock and the time limit of the session; in the binary of an application it knows the
/// application's event types.
pub(super) fn new_doctor(session: &Session, config: DoctorConfig) -> Doctor {
    let (clock, statement_timeout) = (session.clock().clone(), session.settings().timeout);
    let doctor = Doctor::new().config(DoctorConfig { clock, statement_timeout, ..config });
    match session.is_in_app() {
        true => doctor.known_types(CatalogView::linked().known_types()),
        false => doctor,
    }
}

/// Gives a doctor the store and the bus of the settings and lets it examine them; calls `progress` with the name of
/// each check that begins.
pub(super) async fn examine(
    settings: &ConnectionSettings,
    doctor: Doctor,
    mut progress: impl FnMut(&'static str),
) -> Result<Vec<Report>, CommandError> {
    let of_store = doctor.clone();
    let doctor = add_bus(doctor, settings).await?;
    Ok(match settings.store.as_ref().map(|_| settings.store_url()).transpose()? {
        Some(StoreUrl::Redis(url)) if settings.bus.as_ref() != Some(&url) => {
            let of_redis = settings.redis_store_config(url.clone());
            let of_store = add_redis(of_store, connect_redis(&url, settings).await?).redis_store_with(of_redis.clone());
            if settings.bus.is_none() {
                return Ok(vec![of_store.run_reporting(progress).await]);
            }
            // a doctor examines one Redis, and store and bus are on two
            let of_store = of_store.leave(|subject| subject != Subject::Redis && !is_of_redis_store(subject));
            let of_bus = doctor.leave(is_of_redis_store).redis_store_beside(of_redis);
            vec![of_store.run_reporting(&mut progress).await, of_bus.run_reporting(progress).await]
        }
        store => vec![add_store(doctor, store, settings)?.run_reporting(progress).await],
    })
}

fn is_of_redis_store(subject: Subject) -> bool {
    matches!(subject, Subject::RedisStore | Subject::RedisTypes)
}

async fn add_bus(doctor: Doctor, settings: &ConnectionSettings) -> Result<Doctor, CommandError> {
    let Some(config) = settings.bus_config() else { return Ok(doctor) };
    Ok(add_redis(doctor, connect_redis(&config.redis_url, settings).await?).bus(config))
}

/// Adds a Redis server. If connecting failed, the report says why its checks were not made.
fn add_redis(doctor: Doctor, connected: Result<MultiplexedConnection, RedisError>) -> Doctor {
    match connected {
        Ok(connection) => doctor.redis(connection),
        Err(error) => doctor.without_redis(error.into()),
    }
}

fn add_store(doctor: Doctor, store: Option<StoreUrl>, settings: &ConnectionSettings) -> Result<Doctor, CommandError> {
    Ok(match store {
        None => doctor,
        Some(StoreUrl::Postgres(url)) => {
            // the driver only logs a parameter that it does not know: `?ssl_mode=verify-full` would connect without TLS
            settings.postgres_config(url.clone()).validate()?;
            // two connections: one of the checks compares two sessions
            let acquire_timeout = settings.timeout.min(ACQUIRE_TIMEOUT_MAX);
            let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(acquire_timeout);
            let pool =
                pool.connect_lazy(&url).map_err(|error| CommandError::Usage(format!("{}: {error}", redacted(&url))))?;
            doctor.postgres(pool, &settings.schema)
        }
        Some(StoreUrl::Sqlite(url)) => {
            let file = file_of_url(&url).map_err(|error| CommandError::Usage(error.to_string()))?;
            let in_memory = || CommandError::Usage("a database in memory ends with its process: pass a file".into());
            doctor.sqlite(file.ok_or_else(in_memory)?)
        }
        Some(StoreUrl::Redis(url)) => doctor.redis_store_with(settings.redis_store_config(url)),
    })
}

async fn connect_redis(
    url: &str,
    settings: &ConnectionSettings,
) -> Result<Result<MultiplexedConnection, RedisError>, CommandError> {
    let client = settings.redis_client(url)?;
    // the driver's own limit of a reply is too short for a busy server
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.timeout))
        .set_response_timeout(Some(settings.timeout));
    Ok(client.get_multiplexed_async_connection_with_config(&limits).await)
}
