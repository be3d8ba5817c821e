//! The arguments of the command, and running it.

use std::{env, ffi::OsString, io::Write as _, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use eventbus::{clock::SharedClock, port::BoxFuture};

#[cfg(feature = "dashboard")]
use crate::command::DashboardArgs;
use crate::{
    app_source::AppSource,
    command::{
        CauseArgs, CompletionArgs, CopyArgs, DeadLetterArgs, DoctorArgs, ExportArgs, FollowArgs, GroupArgs, ImportArgs,
        LagArgs, MigrateArgs, NewArgs, ProjectionArgs, RelayArgs, SchemaArgs, StatusArgs, StreamArgs, parse_duration,
    },
    connection::ConnectionSettings,
    error::{CommandError, ExitStatus},
    session::Session,
};

/// Shows and operates what eventbus keeps in a store and on a bus.
///
/// Works while the application runs and while it is down. Commands that read create and migrate nothing.
#[derive(Debug, Parser)]
#[command(name = "eventbus", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    options: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

/// The last lines of the help.
pub(crate) const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 a finding, 2 a fault, 3 unreachable, 4 not confirmed, 64 usage, 130 Ctrl-C";

/// The options that every subcommand has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct GlobalOptions {
    #[command(flatten)]
    settings: ConnectionSettings,
    /// Show JSON: one object, or one a line
    #[arg(long, global = true)]
    json: bool,
    /// Make the change without asking
    #[arg(long, global = true)]
    yes: bool,
    /// Say what would be changed, and change nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// The limit of connecting and of each reply
    #[arg(long, global = true, value_name = "SECONDS", env = "EVENTBUS_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

/// A subcommand. Each has its arguments, with a `run`, in a file of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    New(NewArgs),
    Doctor(DoctorArgs),
    Status(StatusArgs),
    Streams(StreamArgs),
    Follow(FollowArgs),
    Projections(ProjectionArgs),
    Relay(RelayArgs),
    Groups(GroupArgs),
    DeadLetters(DeadLetterArgs),
    Lag(LagArgs),
    #[cfg(feature = "dashboard")]
    Dashboard(DashboardArgs),
    Schema(SchemaArgs),
    Migrate(MigrateArgs),
    #[command(name = "why")]
    Causes(CauseArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Copy(CopyArgs),
    Completions(CompletionArgs),
}

impl Command {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        // boxed: a compiler that optimizes limits how deep futures may be nested
        let running: BoxFuture<'_, Result<ExitStatus, CommandError>> = match self {
            Self::New(args) => return args.run(session),
            Self::Doctor(args) => Box::pin(args.run(session)),
            Self::Status(args) => Box::pin(args.run(session)),
            Self::Streams(args) => Box::pin(args.run(session)),
            Self::Follow(args) => Box::pin(args.run(session)),
            Self::Projections(args) => Box::pin(args.run(session)),
            Self::Relay(args) => Box::pin(args.run(session)),
            Self::Groups(args) => Box::pin(args.run(session)),
            Self::DeadLetters(args) => Box::pin(args.run(session)),
            Self::Lag(args) => Box::pin(args.run(session)),
            #[cfg(feature = "dashboard")]
            Self::Dashboard(args) => Box::pin(args.run(session)),
            Self::Schema(args) => Box::pin(args.run(session)),
            Self::Migrate(args) => Box::pin(args.run(session)),
            Self::Causes(args) => Box::pin(args.run(session)),
            Self::Export(args) => Box::pin(args.run(session)),
            Self::Import(args) => Box::pin(args.run(session)),
            Self::Copy(args) => Box::pin(args.run(session)),
            Self::Completions(args) => return args.run(Cli::command(), "eventbus").map(|()| ExitStatus::Done),
        };
        running.await
    }
}

impl GlobalOptions {
    /// Makes the session of a command; in the binary of an application, `app` is that application.
    pub(crate) fn into_session(self, app: Option<AppSource>) -> Session {
        // an empty file counts as none, as an empty variable does
        let file = |file: Option<PathBuf>| file.filter(|file| !file.as_os_str().is_empty());
        let settings = ConnectionSettings {
            tls_ca_file: file(self.settings.tls_ca_file),
            tls_cert_file: file(self.settings.tls_cert_file),
            tls_key_file: file(self.settings.tls_key_file),
            timeout: self.timeout,
            ..self.settings
        };
        Session::new(settings, SharedClock::SYSTEM, (self.json, self.yes, self.dry_run), app)
    }
}

/// Parses the arguments of a process, the first of which is its name, and runs the command.
pub async fn run_from(arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let parsed = without_empty_variables(Cli::command()).try_get_matches_from(arguments);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => run(cli).await,
        Err(error) => show_usage(&error),
    }
}

/// Makes empty environment variables count as unset, as applications do.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    let of_variable = |argument: clap::Arg| {
        let value = argument.get_env().and_then(env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(None::<&str>) } else { argument }
    };
    command.mut_args(of_variable).mut_subcommands(without_empty_variables)
}

/// Shows the help, or the mistake in the arguments.
pub(crate) fn show_usage(error: &clap::Error) -> ExitStatus {
    // a terminal that is gone reads no help
    let _ = error.print();
    if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done }
}

/// Runs a command until it ends or Ctrl-C is pressed, and reports its error on standard error.
pub async fn run(cli: Cli) -> ExitStatus {
    let session = cli.options.into_session(None);
    run_in(session, async |session| cli.command.run(session).await).await
}

/// Runs a command in its session until it ends or Ctrl-C is pressed, and reports its error on standard error.
pub(crate) async fn run_in(
    session: Session,
    command: impl AsyncFnOnce(&Session) -> Result<ExitStatus, CommandError>,
) -> ExitStatus {
    // each change of a command is made as a whole or not at all, so the command may end at any await
    let ended = tokio::select! {
        ended = command(&session) => ended,
        _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted),
    };
    if !matches!(ended, Err(CommandError::Interrupted)) {
        session.close().await;
    }
    match ended {
        Ok(status) => status,
        Err(error) => {
            let status = error.status();
            // the user who pressed Ctrl-C needs no message
            if !matches!(status, ExitStatus::Done | ExitStatus::Interrupted) {
                let _ = writeln!(std::io::stderr(), "error: {}", error.to_line());
            }
            status
        }
    }
}
