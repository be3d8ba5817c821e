//! The bank of the guide on PostgreSQL and Redis, as one binary that serves and operates: the tests of the chapters run
//! its commands.
//!
//! Under the name `eventbus` it is that command, so that a test of the chapters needs no second binary.
#![allow(clippy::print_stdout, reason = "the program shows what its handlers do")]

use std::{env, path::Path, process::ExitCode, time::Duration};

use eventbus::{App, HandlerError, Result, app::AppBuilder, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig, sqlx};
use guide::bank::{Account, Deposited};

/// Thanks for a deposit.
#[handler(group = "mail")]
async fn thank(event: &Deposited, id: &AggregateId) -> std::result::Result<(), HandlerError> {
    if event.cents > 1_000 && env::var_os("LONG_FORM").is_none() {
        return Err(HandlerError::permanent(format!("the form has no room for {} cents", event.cents)));
    }
    println!("thank you, {id}, for {} cents", event.cents);
    Ok(())
}

/// The balance of each account.
#[derive(Debug, Default)]
struct Balances;

#[projection(
    name = "balances",
    tables("balances"),
    key = "account",
    set_up = "CREATE TABLE IF NOT EXISTS balances (account text PRIMARY KEY, cents bigint NOT NULL)"
)]
impl Balances {
    async fn deposited(&self, event: &Deposited, id: &AggregateId, conn: &mut PgConnection) -> sqlx::Result<()> {
        let add = "INSERT INTO balances VALUES ($1, $2)
                   ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents";
        sqlx::query(add).bind(id.as_str()).bind(event.cents).execute(conn).await?;
        Ok(())
    }
}

/// Takes each deposit, if the builder has it.
#[handler(manual)]
async fn audit(_event: &Deposited) -> std::result::Result<(), HandlerError> {
    Ok(())
}

/// The number of deposits, if the builder has it.
#[derive(Debug, Default)]
struct Counted(u64);

#[projection(name = "counted", manual)]
impl Counted {
    fn deposited(&mut self, _event: &Deposited) {
        self.0 += 1;
    }
}

async fn app() -> Result<AppBuilder> {
    let store = PgEventStore::connect_with(PgEventStoreConfig::from_env()?).await?;
    let bus = RedisEventBus::lazy(RedisEventBusConfig {
        redis_url: env::var("REDIS_URL")?,
        stream_prefix: env::var("STREAM_PREFIX")?,
        consumer_group: "mail".into(),
        ..Default::default()
    })?;
    let app = App::builder().store(store).bus(bus).discover().lease(Duration::from_secs(1));
    Ok(match env::var_os("BANK_MANUAL") {
        Some(_) => app.handler::<audit>().projection_with(Counted::default),
        None => app,
    })
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_stem().is_some_and(|name| name == "eventbus") {
        return Ok(eventbus_cli::run_from(env::args_os()).await.into());
    }
    if let Some(command) = eventbus_cli::from_args() {
        return Ok(command.run(app).await);
    }
    let app = app().await?.start().await?;
    if env::var_os("BANK_DAY").is_none() {
        app.run_until_signal().await?;
        return Ok(ExitCode::SUCCESS);
    }
    spend_a_day(&app).await?;
    app.shutdown(Duration::from_secs(30)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Saves the events of a day, and waits for the handlers.
async fn spend_a_day(app: &App) -> Result<()> {
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse()?);
    accounts.create_with(&ada, "Ada".to_owned(), Account::open).await?;
    for cents in [120, 5_000] {
        accounts.update_with(&ada, cents, Account::deposit).await?;
    }
    let saved = accounts.update_with(&ada, 20, Account::withdraw).await?;
    app.projected::<Balances>(saved.position).await?;
    if let Err(error) = app.settled().await {
        eprintln!("{error}");
    }
    Ok(())
}
