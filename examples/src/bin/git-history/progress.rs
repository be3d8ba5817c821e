//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Elsewhere than on a terminal: a line per tenth, unless they come faster than this.
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
    /// Begins; nothing is shown yet.
    pub fn new(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_message(what.to_owned());
            let template = "{msg:<20} {wide_bar} {human_pos}/{human_len} ({per_sec}, {eta})";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            what: what.to_owned(),
            total,
            done: 0,
            said: None,
            bar,
        }
    }

    /// So many more are done.
    pub fn add(&mut self, more: u64) {
        self.reach(self.done + more, self.total);
    }

    /// So many are done, of so many.
    pub fn reach(&mut self, done: u64, total: u64) {
        self.total = total;
        self.done = done;
        let tenth = done * 10 / total.max(1);
        let is_news = self.said.map_or(tenth > 0, |(said, at)| {
            tenth > said && at.elapsed() >= QUIET
        });
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if is_news && done < total {
            println!("{}: {done} of {total}", self.what);
            self.said = Some((tenth, Instant::now()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
