//! Rebuilds of projections that were begun on a page.

use std::{collections::BTreeMap, sync::Arc};

use eventbus::{App, projection::RebuildProgress};
use parking_lot::Mutex;

use crate::error::CommandError;

/// The state of the last rebuild of a projection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RebuildState {
    /// It runs; holds its share, from 0 to 1, and its progress as text.
    Running(f64, String),
    /// It has ended.
    Done(String),
    /// It failed; the former state still serves.
    Failed(String),
}

/// The last rebuild of each projection that was begun on a page.
#[derive(Debug, Default)]
pub(super) struct Rebuilds(Mutex<BTreeMap<String, RebuildState>>);

impl Rebuilds {
    pub(super) fn state_of(&self, name: &str) -> Option<RebuildState> {
        self.0.lock().get(name).cloned()
    }

    /// Begins a rebuild in its own task, unless one runs. Returns `false` if the app has no such projection.
    pub(super) fn begin(self: &Arc<Self>, app: &App, name: &str) -> bool {
        if app.rebuild_by_name(name).is_none() {
            return false;
        }
        {
            let mut states = self.0.lock();
            if matches!(states.get(name), Some(RebuildState::Running(..))) {
                return true;
            }
            states.insert(name.to_owned(), RebuildState::Running(0.0, "begins".into()));
        }
        let running = tokio::spawn(Arc::clone(self).run(app.clone(), name.to_owned()));
        let (name, rebuilds) = (name.to_owned(), Arc::clone(self));
        tokio::spawn(async move {
            // code of the projection may panic, such as its factory
            let panicked = |error| RebuildState::Failed(format!("the rebuild has ended: {error}"));
            let ended = running.await.unwrap_or_else(panicked);
            rebuilds.set(&name, ended);
        });
        true
    }

    /// Rebuilds a projection, and returns the final state.
    async fn run(self: Arc<Self>, app: App, name: String) -> RebuildState {
        let Some(rebuild) = app.rebuild_by_name(&name) else {
            return RebuildState::Failed("the app has no such projection".into());
        };
        let report = |now: RebuildProgress| self.set(&name, RebuildState::Running(now.share(), now.to_string()));
        match rebuild.on_progress(report).await {
            Ok(rebuilt) => RebuildState::Done(format!(
                "rebuilt up to position {} from {} events in {:.1} s, {} skipped",
                rebuilt.position,
                rebuilt.events,
                rebuilt.took.as_secs_f64(),
                rebuilt.skipped
            )),
            Err(error) => RebuildState::Failed(CommandError::fault(error).to_line()),
        }
    }

    fn set(&self, name: &str, state: RebuildState) {
        self.0.lock().insert(name.to_owned(), state);
    }
}
