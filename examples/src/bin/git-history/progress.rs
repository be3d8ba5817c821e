//! The progress: a bar on a terminal, a line now and then without one.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// The shortest interval between lines without a terminal, which follow each tenth.
const QUIET: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    done: u64,
    said: Option<(u64, Instant)>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the progress; shows it with the first step.
    pub fn new(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        Self { what: what.to_owned(), total, done: 0, said: None, bar }
    }

    /// Adds finished steps.
    pub fn add(&mut self, more: u64) {
        self.reach(self.done + more, self.total);
    }

    /// Sets the finished steps and their total.
    pub fn reach(&mut self, done: u64, total: u64) {
        self.total = total;
        self.done = done;
        if total == 0 {
            return;
        }
        let tenth = done * 10 / total;
        let is_news = self.said.map_or(tenth > 0, |(said, at)| tenth > said && at.elapsed() >= QUIET);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if is_news && done < total {
            println!("{}: {done} of {total}", self.what);
            self.said = Some((tenth, Instant::now()));
        }
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        // writing to a string does not fail
        let _ = write!(text, "{:.0}/s", state.per_sec());
    };
    let template = "{msg:<20} {wide_bar} {human_pos}/{human_len} ({rate}, {eta})";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total).with_message(what.to_owned()).with_style(style.with_key("rate", rate))
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
