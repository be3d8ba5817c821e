//! Progress of work that may take long, on standard error.

use std::{borrow::Cow, io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::CommandError;

/// A progress bar. It is drawn only if standard error is a terminal, and disappears when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Begins a bar with the name of the work and the unit in which it is counted.
    pub(crate) fn new(work: &'static str, unit: &'static str) -> Result<Self, CommandError> {
        let template =
            format!("{work} {{percent:>3}} %  {{human_pos}}/{{human_len}} {unit}  {{per_sec}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).map_err(CommandError::fault)?;
        Ok(Self(ProgressBar::new(0).with_style(style)))
    }

    /// Returns a bar that is never drawn.
    pub(crate) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Begins a line for work of unknown size, with the name of the work and the time since it began.
    pub(crate) fn of_unknown_size(work: &'static str) -> Result<Self, CommandError> {
        let template = format!("{{spinner}} {work} {{msg}}  {{elapsed}}");
        let style = ProgressStyle::with_template(&template).map_err(CommandError::fault)?;
        let line = ProgressBar::new_spinner().with_style(style);
        line.tick();
        // a statement of minutes reports nothing: the line shows that the command is alive
        line.enable_steady_tick(Duration::from_millis(200));
        Ok(Self(line))
    }

    /// Shows that the command reads until `reading` ends.
    pub(crate) async fn while_reading<T>(
        reading: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        Self::during("reading", reading).await
    }

    /// Shows that the command connects until `connecting` ends, as [`beside_output`](Self::beside_output) does: the command
    /// may be one that writes while it works.
    pub(crate) async fn while_connecting<T>(
        connecting: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        let _line = Self::beside_output("connecting")?;
        Box::pin(connecting).await
    }

    /// Shows the name of the work until `doing` ends.
    pub(crate) async fn during<T>(
        work: &'static str,
        doing: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        let _line = Self::of_unknown_size(work)?;
        Box::pin(doing).await
    }

    /// Shows the present subject of the work.
    pub(crate) fn set_subject(&self, subject: impl Into<Cow<'static, str>>) {
        self.0.set_message(subject);
    }

    /// Begins a line for a command that writes while it works; no line if it writes into a program, which may use the
    /// terminal.
    pub(crate) fn beside_output(work: &'static str) -> Result<Self, CommandError> {
        if std::io::stdout().is_terminal() { Self::of_unknown_size(work) } else { Ok(Self::hidden()) }
    }

    /// Hides the bar while `write` runs, which may write to the terminal.
    pub(crate) fn hide_while<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Shows how far the work is.
    pub(crate) fn set(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
