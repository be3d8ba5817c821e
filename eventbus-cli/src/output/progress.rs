//! Progress of work that may take long, on standard error.

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::CommandError;

/// A bar of progress. It is drawn only if standard error is a terminal, and gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Begins a bar: what is done, and in what it is counted.
    pub(crate) fn new(work: &'static str, unit: &'static str) -> Result<Self, CommandError> {
        let template =
            format!("{work} {{percent:>3}} %  {{human_pos}}/{{human_len}} {unit}  {{per_sec}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).map_err(CommandError::fault)?;
        Ok(Self(ProgressBar::new(0).with_style(style)))
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
