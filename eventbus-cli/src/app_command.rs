//! The command in the binary of an application, where it knows the application's types.

use std::{ffi::OsString, future::Future, path::Path, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use eventbus::{Error, app::AppBuilder};

use crate::{
    app_source::AppSource,
    cli::{Command, EXIT_CODES, GlobalOptions, run_in, show_usage, without_empty_variables},
    command::{CatalogArgs, RebuildArgs, ReplayArgs},
    error::{CommandError, ExitStatus},
    session::Session,
};

/// A command in the binary of an application: a command of `eventbus`, or one that needs the application's types.
///
/// Made by [`from_args`].
#[derive(Debug)]
#[must_use = "a command does nothing before it is run"]
pub struct AppCommand {
    /// The name of the binary.
    name: String,
    parsed: Result<AppCli, clap::Error>,
}

/// Shows and operates what this application keeps in its store and on its bus.
///
/// The store and the bus are the application's own, except one that `--store` or `--bus` names. Without a command, the
/// application runs.
#[derive(Debug, Parser)]
#[command(about, max_term_width = 100, after_help = EXIT_CODES)]
struct AppCli {
    #[command(flatten)]
    options: GlobalOptions,
    #[command(subcommand)]
    command: AppSubcommand,
}

/// A subcommand of the binary of an application.
#[derive(Debug, Subcommand)]
enum AppSubcommand {
    Catalog(CatalogArgs),
    Rebuild(RebuildArgs),
    Replay(ReplayArgs),
    #[command(flatten)]
    Common(Command),
}

/// Returns the command that the arguments of this process name; `None` without arguments: the process then runs the
/// application.
///
/// Arguments that name no command are a mistake: the returned command reports it and ends with exit code 64. `--help`
/// shows the commands. A binary with arguments of its own calls [`AppCommand::parse_from`] instead.
///
/// # Examples
/// ```no_run
/// use std::process::ExitCode;
///
/// use eventbus::{App, Result, app::AppBuilder};
/// use eventstore_sqlite::SqliteEventStore;
///
/// async fn app() -> Result<AppBuilder> {
///     Ok(App::builder().store(SqliteEventStore::open("bank.db").await?).discover())
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<ExitCode> {
///     if let Some(command) = eventbus_cli::from_args() {
///         return Ok(command.run(app).await); // `bank rebuild balances`, `bank catalog`, `bank status`
///     }
///     app().await?.start().await?.run_until_signal().await?;
///     Ok(ExitCode::SUCCESS)
/// }
/// ```
#[must_use]
pub fn from_args() -> Option<AppCommand> {
    let arguments: Vec<_> = std::env::args_os().collect();
    (arguments.len() > 1).then(|| AppCommand::parse(arguments))
}

impl AppCommand {
    /// Returns the command that `arguments` name; the first argument is the name of the binary. Returns `None` if the
    /// next one, after options that all commands have, is not a command: the arguments are then the application's own.
    ///
    /// # Examples
    /// ```
    /// use eventbus_cli::AppCommand;
    /// let command = |arguments: &[&str]| AppCommand::parse_from(arguments.iter().map(Into::into));
    /// assert!(command(&["bank", "catalog"]).is_some());
    /// assert!(command(&["bank", "--json", "--timeout", "5s", "lag"]).is_some());
    /// assert!(command(&["bank"]).is_none());
    /// assert!(command(&["bank", "serve", "--port", "8000"]).is_none());
    /// assert!(command(&["bank", "--port", "8000", "lag"]).is_none());
    /// ```
    #[must_use]
    pub fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let command = AppCli::command();
        let named = after_options(&command, arguments.get(1..)?)?;
        let is_known = named == "help" || command.get_subcommands().any(|known| known.get_name() == named);
        is_known.then(|| Self::parse(arguments))
    }

    fn parse(arguments: Vec<OsString>) -> Self {
        let name = arguments.first().map(|path| Path::new(path).file_stem().unwrap_or_default().to_string_lossy());
        let name = name.filter(|name| !name.is_empty()).map_or_else(|| "app".to_owned(), |name| name.into_owned());
        let command = without_empty_variables(AppCli::command()).bin_name(&name);
        let parsed = command.try_get_matches_from(arguments);
        let parsed = parsed.and_then(|matches| AppCli::from_arg_matches(&matches));
        Self { name, parsed }
    }

    /// Runs the command until it ends or Ctrl-C is pressed, reports its error on standard error, and returns the exit
    /// code of the process.
    ///
    /// `app` makes the application, which is not started. Only commands that need its store, bus, handlers or
    /// projections call it, and at most once: `help`, and `catalog` without `--app`, need no server.
    pub async fn run<F, R, E>(self, app: F) -> ExitCode
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<AppBuilder, E>> + Send + 'static,
        E: Into<Error>,
    {
        let cli = match self.parsed {
            Ok(cli) => cli,
            Err(error) => return show_usage(&error).into(),
        };
        let session = cli.options.into_session(Some(AppSource::new(app)));
        let (name, command) = (self.name, cli.command);
        run_in(session, async |session| command.run(session, &name).await).await.into()
    }
}

/// Returns the first argument that is no option of `command`; `None` if there is none, or an option is unknown.
fn after_options<'a>(command: &clap::Command, arguments: &'a [OsString]) -> Option<&'a str> {
    let mut arguments = arguments.iter();
    loop {
        let argument = arguments.next()?.to_str()?;
        let Some(option) = argument.strip_prefix("--") else { return Some(argument) };
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let known = command.get_arguments().find(|known| known.get_long() == Some(name))?;
        if value.is_none() && known.get_action().takes_values() {
            arguments.next()?;
        }
    }
}

impl AppSubcommand {
    async fn run(&self, session: &Session, binary: &str) -> Result<ExitStatus, CommandError> {
        match self {
            Self::Catalog(args) => Box::pin(args.run(session)).await,
            Self::Rebuild(args) => Box::pin(args.run(session)).await,
            Self::Replay(args) => Box::pin(args.run(session)).await,
            Self::Common(Command::Completions(args)) => args.run(AppCli::command(), binary).map(|()| ExitStatus::Done),
            Self::Common(command) => command.run(session).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README of the crate that `eventbus new` makes.
    const README: &str = include_str!("../template/README.md");

    #[test]
    fn the_readme_of_a_new_crate_names_commands_that_exist() {
        let mut commands = Vec::new();
        for line in README.lines().filter_map(|line| line.strip_prefix("cargo run -- ")) {
            let (command, comment) = line.split_once('#').unwrap_or((line, ""));
            commands.push(command.to_owned());
            if let Some(options) = comment.strip_prefix(" with servers: ") {
                commands.push(format!("{} {options}", command.split(' ').next().unwrap()));
            }
        }
        let in_text = README.split('`').filter(|span| span.starts_with("rebuild ") || span.starts_with("replay "));
        commands.extend(in_text.map(|span| span.replace("POSITION", "0")));
        assert_eq!(commands.len(), 8, "{commands:?}");
        for command in commands {
            let parsed = AppCli::try_parse_from(["my-app"].into_iter().chain(command.split_whitespace()));
            if let Err(error) = parsed {
                // the help is an error that goes to standard output
                assert!(!error.use_stderr(), "`{command}`: {error}");
            }
        }
    }
}
