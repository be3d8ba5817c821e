//! A session: what one run of a command works with.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

use eventbus::{clock::SharedClock, store::EventStore};
use tokio::sync::OnceCell;

use crate::{
    connection::{ConnectionSettings, OpenBus, OpenStore},
    error::CommandError,
    output::Printer,
};

/// What one run of a command works with: connections, which it opens when first needed, the printer, and whether it may
/// change data.
#[derive(Debug)]
pub(crate) struct Session {
    settings: ConnectionSettings,
    printer: Printer,
    clock: SharedClock,
    is_confirmed: bool,
    is_dry_run: bool,
    store: OnceCell<OpenStore>,
    bus: OnceCell<OpenBus>,
}

/// Whether a change is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Make the change.
    Given,
    /// Only say what would be changed.
    DryRun,
}

impl Session {
    pub(crate) fn new(
        settings: ConnectionSettings,
        clock: SharedClock,
        (is_json, is_confirmed, is_dry_run): (bool, bool, bool),
    ) -> Self {
        let printer = Printer::new(is_json, clock.now());
        let (store, bus) = Default::default();
        Self { settings, printer, clock, is_confirmed, is_dry_run, store, bus }
    }

    pub(crate) const fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }

    pub(crate) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(crate) const fn printer(&self) -> Printer {
        self.printer
    }

    /// Returns a printer whose documents say the present time.
    pub(crate) fn printer_now(&self) -> Printer {
        Printer::new(self.printer.is_json(), self.clock.now())
    }

    /// Opens the store.
    pub(crate) async fn store(&self) -> Result<Arc<dyn EventStore>, CommandError> {
        let open = self.store.get_or_try_init(|| OpenStore::open(&self.settings));
        Ok(open.await?.shared())
    }

    /// Opens the store, if the settings name one.
    pub(crate) async fn optional_store(&self) -> Result<Option<Arc<dyn EventStore>>, CommandError> {
        match self.settings.store {
            Some(_) => self.store().await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens the bus, or the in-process bus of the store.
    pub(crate) async fn bus(&self) -> Result<&OpenBus, CommandError> {
        let open = async { OpenBus::open(&self.settings, self.optional_store().await?.as_ref()).await };
        self.bus.get_or_try_init(|| open).await
    }

    /// Closes what was opened.
    pub(crate) async fn close(self) {
        drop(self.bus);
        if let Some(store) = self.store.into_inner() {
            store.close().await;
        }
    }

    /// Asks whether to make the change that `question` describes, unless `--yes` or `--dry-run` answers.
    ///
    /// # Errors
    /// [`CommandError::NotConfirmed`] if the answer is no, or there is no terminal to ask on.
    pub(crate) async fn confirm(&self, question: &str) -> Result<Consent, CommandError> {
        if self.is_dry_run {
            self.printer.note(&format!("dry run: {question}? nothing is changed"));
            return Ok(Consent::DryRun);
        }
        if self.is_confirmed {
            return Ok(Consent::Given);
        }
        if !io::stdin().is_terminal() {
            self.printer.note(&format!("{question}?"));
            return Err(CommandError::NotConfirmed);
        }
        write!(io::stderr(), "{question}? [y/N] ")?;
        // on a thread that may block: Ctrl-C ends the command meanwhile
        let read = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).map(|_| answer)
        });
        let answer = read.await.map_err(io::Error::other)??;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(Consent::Given),
            _ => Err(CommandError::NotConfirmed),
        }
    }
}
